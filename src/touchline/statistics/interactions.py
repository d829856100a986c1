"""Interactions: whether the effect of one factor differs between two levels of another, tested over training seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from touchline.statistics.conclusions import Interaction, ScoredRun, SeedTestKind
from touchline.statistics.contrasts import Sample, difference, seed_means
from touchline.statistics.effects import Tested, adjusted, levels_of, own_runs, samples_of, tied_to
from touchline.statistics.own_score import LEVEL
from touchline.statistics.strata import MODELS, Strata, Stratum, settings_of, strata_of


@dataclass(frozen=True, kw_only=True, slots=True)
class _Effects:
    """The effect of two levels of a factor at two levels of another."""

    other: str
    other_level: str
    other_reference: str
    effect: float
    other_effect: float
    test: Tested


def interactions(
    groups: Sequence[Sequence[ScoredRun]], factors: Mapping[str, Sequence[str]], tied: Sequence[Sequence[str]] = ()
) -> tuple[list[tuple[Interaction, ...]], int]:
    """Return the differences between effects at levels of other factors, by group, and how many were tested.

    Of each pair of factors the effect of one's levels, against its first level, is compared between the other's levels
    and the other's first. Only conditions whose four cells were trained with the same seeds answer: each seed gives
    one effect at either level, and these are pairs. The p values are a family of their own, over all groups.

    Args:
        groups: runs at one checkpoint each, by score or test set; only those of the family count.
        tied: groups of factors that change together by design; the first of each stands for all.
    """
    found = [list(_of_group(own_runs(runs), factors, tied)) for runs in groups]
    contrasts, family = adjusted([each.test for group in found for each in group])
    remaining = iter(contrasts)
    return [
        tuple(
            Interaction(
                factor=each.test.factor,
                other_factor=each.other,
                other_level=each.other_level,
                other_reference=each.other_reference,
                effect=each.effect,
                other_effect=each.other_effect,
                difference=next(remaining),
            )
            for each in group
        )
        for group in found
    ], family


def _of_group(
    own: Sequence[ScoredRun], factors: Mapping[str, Sequence[str]], tied: Sequence[Sequence[str]]
) -> Iterator[_Effects]:
    levels = levels_of(own, factors, tied)
    # The effect of a setting at each base model is what one asks for, not that of the model at each setting.
    ordered = sorted(levels, key=lambda factor: factor == MODELS)
    for one, other in itertools.combinations(ordered, 2):
        for level, other_level in itertools.product(levels[one][1:], levels[other][1:]):
            yield from _effects(own, (one, level, levels[one][0]), (other, other_level, levels[other][0]), tied)


def _effects(
    runs: Sequence[ScoredRun], asked: tuple[str, str, str], at: tuple[str, str, str], tied: Sequence[Sequence[str]]
) -> Iterator[_Effects]:
    """Yield the two effects and their test; nothing where no condition has all four cells."""
    (factor, level, reference), (other, other_level, other_reference) = asked, at
    held = (factor, *tied_to(factor, tied), other, *tied_to(other, tied))
    sides = [
        strata_of(
            [run for run in runs if settings_of(run).get(other) == value],
            factor,
            level,
            reference,
            tied_to(factor, tied),
        )
        for value in (other_level, other_reference)
    ]
    if any(not side.strata or side.confounded_with or side.kind is not SeedTestKind.PAIRED for side in sides):
        return
    by_condition = [{_condition(stratum, held): stratum for stratum in side.strata} for side in sides]
    shared = [condition for condition in by_condition[0] if condition in by_condition[1]]
    if not shared:
        return
    chosen = [[each[condition] for condition in shared] for each in by_condition]
    sides_of = (side for stratum in (*chosen[0], *chosen[1]) for side in (stratum.second, stratum.first))
    seeds = frozenset.intersection(*map(frozenset, sides_of))
    is_seeded = len(seeds) > 1
    samples = [
        samples_of([_only(stratum, seeds) for stratum in each] if is_seeded else each, is_seeded=is_seeded)
        for each in chosen
    ]
    second, first = (float(np.mean(np.subtract(*seed_means(sample)))) for sample in samples)
    used = Strata(
        strata=tuple(chosen[0]),
        kind=SeedTestKind.PAIRED,
        seeds=tuple(sorted(seeds)) if is_seeded else (),
        reference_seeds=tuple(sorted(seeds)) if is_seeded else (),
        confounded_with=(),
        left_out=0,
        reason="",
    )
    compared = difference(
        _joined(samples[0], samples[1], chosen[0], chosen[1]), used.kind, used.seeds, used.reference_seeds, 1 - LEVEL
    )
    test = Tested(factor=factor, level=level, reference=reference, strata=used, difference=compared)
    yield _Effects(
        other=other,
        other_level=other_level,
        other_reference=other_reference,
        effect=second,
        other_effect=first,
        test=test,
    )


def _condition(stratum: Stratum, held: Sequence[str]) -> tuple[tuple[str, str], ...]:
    settings = settings_of(next(iter(stratum.second.values())))
    return tuple(sorted((key, value) for key, value in settings.items() if key not in held))


def _only(stratum: Stratum, seeds: Set[int]) -> Stratum:
    return replace(
        stratum,
        second={seed: run for seed, run in stratum.second.items() if seed in seeds},
        first={seed: run for seed, run in stratum.first.items() if seed in seeds},
    )


def _joined(
    second: Sequence[Sample], first: Sequence[Sample], strata: Sequence[Stratum], others: Sequence[Stratum]
) -> list[Sample]:
    """Return the effects by seed and item at the two levels; items of their own stand by themselves."""
    if len(second) == len(first) == 1 and _items(strata[0]) == _items(others[0]):
        (one,), (other,) = second, first
        return [Sample(one.second - one.first, other.second - other.first, one.clusters, 1.0)]
    apart = [Sample(each.second - each.first, 0 * each.second, each.clusters, each.weight) for each in second]
    return apart + [Sample(0 * each.second, each.second - each.first, each.clusters, each.weight) for each in first]


def _items(stratum: Stratum) -> tuple[str, tuple[str, ...]]:
    run = next(iter(stratum.second.values()))
    return run.data, run.items
