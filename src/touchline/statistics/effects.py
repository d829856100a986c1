"""Effects of factors: two levels against each other, everything else averaged over, training seeds as the unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np

from touchline.core.finding import Note, NoteCode
from touchline.core.levels import factor_words, level_words
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import plural
from touchline.statistics.closed_forms import POWER, detectable_errors, t_quantile
from touchline.statistics.conclusions import Conclusion, Contrast, FactorEffect, ScoredRun, SeedScore, WithItems
from touchline.statistics.contrasts import ContrastEstimate, Sample, difference
from touchline.statistics.items import holm
from touchline.statistics.own_score import FEWEST_UNITS, LEVEL, TOO_FEW, named
from touchline.statistics.strata import DATASET, SEEDS, Strata, Stratum, settings_of, strata_of

ONE_SEED: Final = "one seed: describes these checkpoints, not the setting"
NO_SPREAD: Final = "the seeds' means do not differ, so the t-test over seeds is not defined"
_COVERAGE: Final = 1 - LEVEL
_UNKNOWN_SPREAD: Final = Missing(missing="one seed: the spread between seeds is unknown")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tested:
    """Comparison and its result, before the family is known."""

    factor: str
    level: str
    reference: str
    strata: Strata
    difference: ContrastEstimate | None
    """None where there is no condition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effects:
    """Effects of all factors on one score."""

    effects: tuple[FactorEffect, ...]
    family: int
    notes: tuple[Note, ...]


def factor_effects(
    groups: Sequence[Sequence[ScoredRun]], factors: Mapping[str, Sequence[str]], tied: Sequence[Sequence[str]] = ()
) -> list[Effects]:
    """Return the effect of every factor in each group; the contrasts of all groups are one family.

    Args:
        groups: runs at one checkpoint each, by score or test set; only those of the family count.
        tied: groups of factors that change together by design; the first of each stands for all.
    """
    owned = [own_runs(runs) for runs in groups]
    tested = [_tests(own, factors, tied) for own in owned]
    contrasts, family = adjusted([test for found in tested for tests in found.values() for test in tests])
    remaining = iter(contrasts)
    made = []
    for own, found in zip(owned, tested, strict=True):
        effects = tuple(
            FactorEffect(
                factor=factor,
                levels=(each[0].reference, *(one.level for one in each)),
                points=tuple(_points(own, factor, tied_to(factor, tied))),
                contrasts=tuple(next(remaining) for _ in each),
                tied=tuple(tied_to(factor, tied)),
                tied_levels=_tied_levels(own, factor, (each[0].reference, *(one.level for one in each)), tied),
                confounded_with=tuple(dict.fromkeys(key for one in each for key in one.strata.confounded_with)),
            )
            for factor, each in found.items()
        )
        notes = _notes(effects, [one for each in found.values() for one in each])
        made.append(Effects(effects=effects, family=family, notes=tuple(notes)))
    return made


def _tests(
    own: Sequence[ScoredRun], factors: Mapping[str, Sequence[str]], tied: Sequence[Sequence[str]]
) -> dict[str, list[Tested]]:
    found: dict[str, list[Tested]] = {}
    for factor, levels in levels_of(own, factors, tied).items():
        reference, *later = levels
        for level in later:
            strata = strata_of(own, factor, level, reference, tied_to(factor, tied))
            found.setdefault(factor, []).append(
                Tested(
                    factor=factor,
                    level=level,
                    reference=reference,
                    strata=strata,
                    difference=compare(strata) if strata.strata else None,
                )
            )
    return found


def own_runs(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """Return the fine-tuned runs that the experiment asks about."""
    return [run for run in runs if run.in_family and not run.is_control]


def tied_to(factor: str, tied: Sequence[Sequence[str]]) -> Sequence[str]:
    """Return the factors that change with this one by design."""
    return next((group[1:] for group in tied if group[0] == factor), ())


def levels_of(
    runs: Sequence[ScoredRun], factors: Mapping[str, Sequence[str]], tied: Sequence[Sequence[str]]
) -> dict[str, list[str]]:
    """Return the evaluated levels of each factor that has two of them; first those that the design names."""
    settings = [settings_of(run) for run in runs]
    followers = {factor for group in tied for factor in group[1:]}
    found: dict[str, list[str]] = {}
    for factor, designed in factors.items():
        there = dict.fromkeys(setting[factor] for setting in settings if factor in setting)
        levels = [*(level for level in designed if level in there), *(each for each in there if each not in designed)]
        if factor != SEEDS and factor not in followers and len(levels) > 1:
            found[factor] = levels
    return found


def compare(strata: Strata) -> ContrastEstimate:
    """Compare two levels over the conditions that both have; at least one."""
    return difference(
        samples_of(strata.strata, is_seeded=bool(strata.seeds)),
        strata.kind,
        strata.seeds,
        strata.reference_seeds,
        _COVERAGE,
    )


def samples_of(strata: Sequence[Stratum], *, is_seeded: bool) -> list[Sample]:
    """Return mean scores by seed and item, conditions with the same items together."""
    groups: dict[tuple[str, tuple[str, ...]], list[Stratum]] = {}
    for stratum in strata:
        run = next(iter(stratum.second.values()))
        groups.setdefault((run.data, run.items), []).append(stratum)
    found = []
    for group in groups.values():
        second, first = (
            np.mean([[side[seed].scores for seed in sorted(side)] for side in sides], axis=0)
            if is_seeded
            # Without seeds in common each condition is the mean of its own.
            else np.mean([np.mean([run.scores for run in side.values()], axis=0) for side in sides], axis=0)[None, :]
            for sides in ([stratum.second for stratum in group], [stratum.first for stratum in group])
        )
        clusters = next(iter(group[0].second.values())).clusters
        found.append(Sample(second, first, clusters, len(group) / len(strata)))
    return found


def adjusted(tests: Sequence[Tested]) -> tuple[list[Contrast], int]:
    """Return the contrasts with Holm's adjustment over all that were tested, and how many these are.

    A test that is not defined because seeds do not differ stays in the family, with a p value of 1.
    """
    tested = [test.difference for test in tests if test.difference is not None and test.difference.test is not None]
    by_seeds = iter(holm([1.0 if comparison.p_value is None else comparison.p_value for comparison in tested]))
    by_items = iter(holm([min(comparison.wide_p_value, 1.0) for comparison in tested]))
    contrasts = []
    for test in tests:
        is_tested = test.difference is not None and test.difference.test is not None
        adjusted_p = (next(by_seeds), next(by_items)) if is_tested else None
        contrasts.append(_contrast(test, adjusted_p, len(tested)))
    return contrasts, len(tested)


def is_established(by_seeds: float | None, with_items: float, units: int) -> bool:
    """Return True if items or clusters are enough for a claim and the adjusted p values allow it.

    These are those of both tests, or of the wider one where seeds do not differ.
    """
    return units >= FEWEST_UNITS and with_items < LEVEL and (by_seeds is None or by_seeds < LEVEL)


def _contrast(tested: Tested, adjusted_p: tuple[float, float] | None, family: int) -> Contrast:
    """Return the contrast. `adjusted_p` is that of both tests; None where seeds or conditions are too few for them."""
    strata, found = tested.strata, tested.difference
    shown, with_items, by_seeds = Conclusion.NOT_TESTABLE, None, None
    reason = strata.reason if found is None else ONE_SEED
    smallest: Measured = Missing(missing=strata.reason) if found is None else _UNKNOWN_SPREAD
    if found is not None and adjusted_p is not None:
        smallest, shown = _smallest(found, family), Conclusion.NOT_ESTABLISHED
        by_seeds = None if found.p_value is None else adjusted_p[0]
        with_items = _with_items(found, adjusted_p[1])
        if is_established(by_seeds, adjusted_p[1], found.units):
            shown = Conclusion.HIGHER if found.value > 0 else Conclusion.LOWER
        reason = _reason(strata, found, smallest, shown)
    interval = None if found is None else found.interval
    return Contrast(
        factor=tested.factor,
        level=tested.level,
        reference=tested.reference,
        value=None if found is None else found.value,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        p_value=None if found is None else found.p_value,
        p_adjusted=by_seeds,
        test=None if found is None else found.test,
        with_items=with_items,
        seeds=min(len(strata.seeds), len(strata.reference_seeds)) or min(len(strata.strata), 1),
        strata=len(strata.strata),
        items_low=None if found is None else found.items.low,
        items_high=None if found is None else found.items.high,
        shown=shown,
        reason=reason,
        smallest=smallest,
        coverage=_COVERAGE,
    )


def _with_items(found: ContrastEstimate, p_adjusted: float) -> WithItems:
    arm = t_quantile(0.5 + _COVERAGE / 2, found.wide_freedom) * found.wide_error
    return WithItems(
        error=found.wide_error,
        freedom=found.wide_freedom,
        units=found.units,
        p_value=found.wide_p_value,
        p_adjusted=p_adjusted,
        low=found.value - arm,
        high=found.value + arm,
    )


def _smallest(found: ContrastEstimate, family: int) -> Measured:
    units = detectable_errors(found.wide_freedom, power=POWER, coverage=1 - LEVEL / max(family, 1))
    if found.units < FEWEST_UNITS:
        return Missing(missing=f"{found.units} independent items or clusters: {TOO_FEW}")
    if units is None or not found.wide_error > 0:
        return Missing(missing="no difference between seeds or items, so the spread is unknown")
    among = f" in a family of {family}" if family > 1 else ""
    return Quantity(
        value=units * found.wide_error,
        unit="1",
        method=f"{100 * POWER:g}% power{among}, noncentral t, spread estimated from these seeds",
    )


def _reason(strata: Strata, found: ContrastEstimate, smallest: Measured, shown: Conclusion) -> str:
    parts = []
    if strata.confounded_with:
        parts.append(f"{_changing(strata.confounded_with)} with it, so the effect is of both")
    if found.p_value is None:
        parts.append(NO_SPREAD)
    if found.units < FEWEST_UNITS:
        parts.append(f"{found.units} independent items or clusters: {TOO_FEW}")
    if shown is Conclusion.NOT_ESTABLISHED and isinstance(smallest, Quantity):
        seeds = min(len(strata.seeds), len(strata.reference_seeds))
        parts.append(f"{seeds} seeds with this spread detect a difference of {smallest.value:.3g} or more")
    return "; ".join(parts)


def _points(runs: Sequence[ScoredRun], factor: str, tied: Sequence[str]) -> Iterator[SeedScore]:
    """Yield every run that has a level of the factor; the group is what else varies."""
    settings = [(run, settings_of(run)) for run in runs]
    keys = dict.fromkeys(key for _, each in settings for key in each if key not in (factor, DATASET, *tied))
    varied = [key for key in keys if len({each.get(key) for _, each in settings}) > 1]
    for run, each in settings:
        if factor in each:
            parts = [f"{factor_words(key)} {each[key]}" for key in varied if key != "models" and key in each]
            yield SeedScore(
                run=run.name,
                level=each[factor],
                group=", ".join([run.model, *parts]),
                seed=run.seed,
                score=fmean(run.scores),
            )


def _tied_levels(
    runs: Sequence[ScoredRun], factor: str, levels: Sequence[str], tied: Sequence[Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    settings = [settings_of(run) for run in runs]
    return {
        other: tuple(
            next((setting[other] for setting in settings if setting.get(factor) == level and other in setting), "")
            for level in levels
        )
        for other in tied_to(factor, tied)
    }


def _changing(factors: Sequence[str]) -> str:
    """Return `the rank changes` or `the rank and the alpha change`."""
    return f"{named([f'the {factor_words(factor)}' for factor in factors])} change{'s' if len(factors) == 1 else ''}"


def _notes(effects: Sequence[FactorEffect], found: Sequence[Tested]) -> Iterator[Note]:
    contrasts = [contrast for effect in effects for contrast in effect.contrasts]
    if any(contrast.shown is Conclusion.NOT_TESTABLE and contrast.value is not None for contrast in contrasts):
        yield Note(NoteCode.ONE_SEED)
    for effect in effects:
        if effect.confounded_with:
            yield Note.stated(
                f"{_changing(effect.confounded_with)} with the {factor_words(effect.factor)}, so the effect is of both"
            )
    for one in found:
        if one.strata.left_out and one.strata.strata:
            left_out = one.strata.left_out
            yield Note.stated(
                f"{plural(left_out, 'run')} not used for {level_words(one.factor, one.level)} against {one.reference}, "
                "because the same seed and condition was not evaluated at the other level"
            )
