"""Effects of factors: two levels against each other, everything else averaged over, training seeds as the unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

from numpy.random import Generator

from touchline.domain.analysis import Contrast, FactorEffect, ScoredRun, SeedScore, Shown
from touchline.domain.quantity import Measured, Missing, Quantity
from touchline.statistics.contrasts import Estimate, estimate
from touchline.statistics.own_score import LEVEL, named
from touchline.statistics.power import POWER, smallest_seed_difference_by_pilot
from touchline.statistics.several import holm
from touchline.statistics.strata import DATASET, SEEDS, Strata, settings_of, strata_of

ONE_SEED: Final = "one seed: describes these checkpoints, not the setting"
_COVERAGE: Final = 1 - LEVEL


@dataclass(frozen=True, slots=True)
class _Found:
    """Two levels and what was found of them."""

    factor: str
    level: str
    reference: str
    strata: Strata
    estimate: Estimate | None


def factor_effects(
    runs: Sequence[ScoredRun], factors: Mapping[str, Sequence[str]], rng: Generator
) -> tuple[tuple[FactorEffect, ...], list[str]]:
    """The effect of every factor with two levels or more among the runs, and what a reader must know of them.

    Args:
        runs: at one checkpoint each; only those of the family count.
        factors: what varies, with its levels in the design's order.
        rng: where the bootstrap's chance comes from.
    """
    own = [run for run in runs if run.in_family and not run.is_control]
    found: dict[str, list[_Found]] = {}
    for factor, levels in _levels(own, factors).items():
        reference, *later = levels
        for level in later:
            strata = strata_of(own, factor, level, reference)
            difference = estimate(strata, rng, _COVERAGE) if strata.strata else None
            found.setdefault(factor, []).append(_Found(factor, level, reference, strata, difference))
    p_values = [p for each in found.values() for one in each if (p := _p_value(one)) is not None]
    adjusted = iter(holm(p_values))
    effects = tuple(
        FactorEffect(
            factor=factor,
            levels=(each[0].reference, *(one.level for one in each)),
            points=tuple(_points(own, factor)),
            contrasts=tuple(
                _contrast(one, None if _p_value(one) is None else next(adjusted), len(p_values)) for one in each
            ),
            confounded_with=tuple(dict.fromkeys(key for one in each for key in one.strata.confounded_with)),
        )
        for factor, each in found.items()
    )
    return effects, list(_notes(effects, [one for each in found.values() for one in each]))


def _levels(runs: Sequence[ScoredRun], factors: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Levels that were evaluated, of each factor that has two of them; first those that the design names."""
    settings = [settings_of(run) for run in runs]
    found: dict[str, list[str]] = {}
    for factor, designed in factors.items():
        there = dict.fromkeys(each[factor] for each in settings if factor in each)
        levels = [*(level for level in designed if level in there), *(each for each in there if each not in designed)]
        if factor != SEEDS and len(levels) > 1:
            found[factor] = levels
    return found


def _p_value(found: _Found) -> float | None:
    return None if found.estimate is None else found.estimate.p_value


def _contrast(found: _Found, p_adjusted: float | None, family: int) -> Contrast:
    empty = Contrast(
        factor=found.factor,
        level=found.level,
        reference=found.reference,
        value=None,
        low=None,
        high=None,
        p_value=None,
        p_adjusted=None,
        seeds=found.strata.seeds,
        strata=len(found.strata.strata),
        items_low=None,
        items_high=None,
        shown=Shown.NOT_TESTABLE,
        reason=found.strata.reason,
        smallest=Missing(missing=found.strata.reason),
        coverage=_COVERAGE,
    )
    if found.estimate is None:
        return empty
    difference = found.estimate
    over_seeds, crossed = difference.interval(_COVERAGE), difference.crossed
    described = replace(
        empty,
        value=difference.value,
        items_low=difference.items.low,
        items_high=difference.items.high,
        reason=ONE_SEED,
        smallest=Missing(missing="one seed: nothing is known of the spread between seeds"),
    )
    if over_seeds is None or p_adjusted is None:
        return described
    smallest = _smallest(difference, family)
    shown = Shown.NOT_ESTABLISHED
    if p_adjusted < LEVEL:
        shown = Shown.HIGHER if difference.value > 0 else Shown.LOWER
    return replace(
        described,
        low=over_seeds.low,
        high=over_seeds.high,
        p_value=difference.p_value,
        p_adjusted=p_adjusted,
        crossed_low=None if crossed is None else crossed.low,
        crossed_high=None if crossed is None else crossed.high,
        shown=shown,
        reason=_reason(found.strata, smallest, shown),
        smallest=smallest,
    )


def _smallest(difference: Estimate, family: int) -> Measured:
    """The smallest effect that would have been shown at 80 % power, at the first step of Holm's procedure."""
    unit = smallest_seed_difference_by_pilot(difference.seeds, coverage=1 - LEVEL / max(family, 1))
    if unit is None or difference.spread is None:
        return Missing(missing="one seed: nothing is known of the spread between seeds")
    among = f" in a family of {family}" if family > 1 else ""
    return Quantity(
        value=unit * difference.spread,
        unit="1",
        method=f"{100 * POWER:g} % power{among}; spread estimated from these seeds",
    )


def _reason(strata: Strata, smallest: Measured, shown: Shown) -> str:
    parts = []
    if strata.confounded_with:
        parts.append(f"{named(strata.confounded_with)} changes with it: the effect is of both")
    if shown is Shown.NOT_ESTABLISHED and isinstance(smallest, Quantity):
        parts.append(f"{strata.seeds} seeds that spread like these show a difference of {smallest.value:.3g} or more")
    return "; ".join(parts)


def _points(runs: Sequence[ScoredRun], factor: str) -> Iterator[SeedScore]:
    """Every run that has a level of the factor; the group tells what else varies."""
    settings = [(run, settings_of(run)) for run in runs]
    keys = dict.fromkeys(key for _, each in settings for key in each if key not in (factor, DATASET))
    varied = [key for key in keys if len({each.get(key) for _, each in settings}) > 1]
    for run, each in settings:
        if factor in each:
            parts = [f"{_words(key)} {each[key]}" for key in varied if key != "models" and key in each]
            yield SeedScore(
                run=run.name,
                level=each[factor],
                group=", ".join([run.model, *parts]),
                seed=run.seed,
                score=fmean(run.scores),
            )


def _words(factor: str) -> str:
    """`train.learning_rate` as `learning rate`."""
    return factor.rsplit(".", 1)[-1].replace("_", " ")


def _notes(effects: Sequence[FactorEffect], found: Sequence[_Found]) -> Iterator[str]:
    if any(contrast.reason == ONE_SEED for effect in effects for contrast in effect.contrasts):
        yield "one seed: differences between levels describe these checkpoints, not the settings"
    for effect in effects:
        if effect.confounded_with:
            yield f"{effect.factor}: {named(effect.confounded_with)} changes with it, so that the effect is of both"
    for one in found:
        if one.strata.left_out and one.strata.strata:
            left_out = one.strata.left_out
            yield (
                f"{one.factor}, {one.level} against {one.reference}: {left_out} run{'s' if left_out > 1 else ''} left "
                "out, since the same seed and condition was not evaluated at the other level"
            )
