"""Spread of past scores: between training seeds, between the answers to an item, and of an effect between items.

Runs of one condition that differ in their seed alone show how far a mean score moves, and how many items flip. Their
variance holds the flips as well: with I items, flips alone move a mean by a variance of flips / (2 I), which is
subtracted. Intervals of the spread are those of a chi-square with the pooled degrees of freedom; with few seeds they
are wide. Those of flips are over items, by Student's t.

A design counts on own runs, the history, or a prior range. The prior range is not a measurement: seeds of a fine-tuned
model often differ by 0.3 to 3 points, and two runs judge 5 to 30% of the items differently, of which four fifths are
taken to be flips between seeds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np

from touchline.core.quantity import Missing, Quantity
from touchline.core.units import plural
from touchline.statistics.closed_forms import USUAL_FLIPS, SpreadInput, SpreadKind, SpreadSource, t_quantile
from touchline.statistics.items import Floats
from touchline.statistics.own_score import SATURATED
from touchline.statistics.sample_sizes import Spread

_NOTHING: Final = 1e-12
"""Variance that is rounding, of scores up to 1."""
SPREAD_COVERAGE: Final = 0.9
"""Coverage of the intervals, that of the predicted costs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemScores:
    """Scores of several conditions on the same items, asked in the same way."""

    conditions: Mapping[str, Floats]
    """Scores by condition, shape [seeds, items], from 0 to 1; every condition has the same items."""

    @property
    def items(self) -> int:
        """Number of items."""
        return int(next(iter(self.conditions.values())).shape[-1])

    @property
    def off_the_ends(self) -> ItemScores | None:
        """Return the conditions with headroom up and down; None without any. At an end of the scale nothing varies."""
        kept = {name: each for name, each in self.conditions.items() if 1 - SATURATED < each.mean() < SATURATED}
        return ItemScores(conditions=kept) if kept else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Value with its interval and the size of its sample."""

    value: float
    low: float
    high: float
    count: int
    """Degrees of freedom over seeds, or number of items."""


def seed_spread(found: Sequence[ItemScores]) -> Observed | None:
    """Return the standard deviation between seeds of a condition's mean score, without what flips of items make of it.

    None where no condition has two seeds.
    """
    squares, freedom, flips = 0.0, 0, 0.0
    for scores in found:
        share = _flips_of(scores)
        for matrix in scores.conditions.values():
            own = len(matrix) - 1
            if own > 0:
                squares += own * float(np.var(matrix.mean(axis=-1), ddof=1))
                freedom += own
                flips += own * share / (2 * scores.items)
    if freedom == 0:
        return None
    from scipy.special import gammaincinv

    ends = [
        2 * float(gammaincinv(freedom / 2, tail)) for tail in ((1 + SPREAD_COVERAGE) / 2, (1 - SPREAD_COVERAGE) / 2)
    ]
    low, value, high = (
        math.sqrt(left) if (left := squares / over - flips / freedom) > _NOTHING else 0.0
        for over in (ends[0], float(freedom), ends[1])
    )
    return Observed(value=value, low=low, high=high, count=freedom)


def seed_flips(found: Sequence[ItemScores]) -> Observed | None:
    """Return the share of items that two seeds of one condition do not judge alike; None without two seeds.

    Of shares it is the mean squared difference.
    """
    return _over_items([_seed_flips_by_item(scores) for scores in found])


def condition_flips(found: Sequence[ItemScores]) -> Observed | None:
    """Return the share of items that two conditions do not judge alike, each with one seed; None without two."""
    return _over_items([_squared_differences(scores) for scores in found])


def effect_variance(found: Sequence[ItemScores]) -> Observed | None:
    """Return the variance over items of the difference between two conditions, without what flips make of it.

    None where no two conditions have two seeds each.
    """
    per_item: list[Floats | None] = []
    for scores in found:
        several = ItemScores(conditions={name: each for name, each in scores.conditions.items() if len(each) > 1})
        if len(several.conditions) < 2:
            continue
        values = []
        for first, second in itertools.combinations(several.conditions.values(), 2):
            difference = second.mean(axis=0) - first.mean(axis=0)
            noise = sum(np.var(each, axis=0, ddof=1) / len(each) for each in (first, second))
            correction = scores.items / max(scores.items - 1, 1)
            values.append((difference - difference.mean()) ** 2 * correction - noise)
        per_item.append(np.mean(values, axis=0))
    return _over_items(per_item)


def _flips_of(scores: ItemScores) -> float:
    by_item = _seed_flips_by_item(scores)
    return 0.0 if by_item is None else float(by_item.mean())


def _seed_flips_by_item(scores: ItemScores) -> Floats | None:
    """Return twice the variance over seeds of each item, pooled over conditions; of rights and wrongs, the flips."""
    several = [matrix for matrix in scores.conditions.values() if len(matrix) > 1]
    if not several:
        return None
    freedom = sum(len(matrix) - 1 for matrix in several)
    return np.asarray(2 * sum((len(matrix) - 1) * np.var(matrix, axis=0, ddof=1) for matrix in several) / freedom)


def _squared_differences(scores: ItemScores) -> Floats | None:
    """Return the squared difference of conditions at each item, the mean over all pairs of their seeds."""
    pairs = [
        ((second[:, None, :] - first[None, :, :]) ** 2).mean(axis=(0, 1))
        for first, second in itertools.combinations(scores.conditions.values(), 2)
    ]
    return np.mean(pairs, axis=0) if pairs else None


def _over_items(per_item: Sequence[Floats | None]) -> Observed | None:
    """Return the mean over all items with its interval; the lower end is not below zero."""
    known = [values for values in per_item if values is not None]
    if not known:
        return None
    values = np.concatenate(known)
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return Observed(value=max(0.0, mean), low=0.0, high=1.0, count=count)
    error = float(values.std(ddof=1)) / math.sqrt(count)
    # No flip among n items leaves open a share of up to 3 / n (the rule of three), here at the wanted coverage.
    arm = max(t_quantile(0.5 + SPREAD_COVERAGE / 2, count - 1) * error, -math.log((1 - SPREAD_COVERAGE) / 2) / count)
    # Where none flips, half of all shares up to that of one chance in two are below it.
    value = max(mean, math.log(2) / count)
    return Observed(value=value, low=max(0.0, mean - arm), high=max(value, mean + arm), count=count)


class End(StrEnum):
    """End of the intervals that is counted with."""

    LOW = "low"
    VALUE = "value"
    HIGH = "high"


_OF_THE_EFFECT: Final = 0.2
"""Share of the items that two runs judge differently which is taken to be the level's, if only all are known."""
_PRIOR_SPREAD: Final = (0.3, 1.0, 3.0)
"""Standard deviations between seeds, in points."""
_PRIOR_FLIPS: Final = (0.05, USUAL_FLIPS, 0.3)
"""Shares of the items that two runs judge differently."""
_PRIOR_EFFECT: Final = (0.1, _OF_THE_EFFECT / (1 - _OF_THE_EFFECT), 0.5)
"""Items that a level changes, per item that flips between seeds."""
_NEVER_DIFFER: Final = "past runs agree on every item or have one item, so the spread is unknown"
_AT_AN_END: Final = (
    f"past scores are at the ceiling or the floor ({100 * SATURATED:g}% or more, {100 - 100 * SATURATED:g}% or less), "
    "so the spread is unknown"
)
_ONE_SEED: Final = "no run of this task and base model has a second seed"
_SINGLE_RUNS: Final = "no run of this task and base model has a second seed or condition"


def spread_inputs(own: Sequence[ItemScores], past: Sequence[ItemScores] | Missing) -> tuple[SpreadInput, ...]:
    """Return the spread between seeds, the flips, and the variation of an effect, each from its best source.

    Args:
        past: scores of the history's runs of the same task and base; Missing with the reason where there are none.
    """
    known, reason = ((), past.missing) if isinstance(past, Missing) else (past, "")
    if own:
        reason = ""
    # Scores at an end of the scale cannot vary: no spread there is no sign of precision.
    sources: Sources = tuple(
        (source, [each for one in found if (each := one.off_the_ends) is not None])
        for source, found in ((SpreadSource.OWN_RUNS, own), (SpreadSource.HISTORY, known))
    )
    if (own or known) and not any(found for _, found in sources):
        reason = _AT_AN_END
    if any(_proves_nothing(found) for _, found in sources):
        reason = _NEVER_DIFFER
        sources = tuple((source, () if _proves_nothing(found) else found) for source, found in sources)
    flips = _flips(sources, reason)
    return _seeds(sources, reason), flips, _effect(sources, flips)


def _proves_nothing(found: Sequence[ItemScores]) -> bool:
    """Return whether all past runs agree on every item, or have one item: no spread there is no sign of precision."""
    several = [scores for scores in found if sum(map(len, scores.conditions.values())) > 1]
    return bool(several) and not any(
        scores.items > 1 and np.ptp(np.concatenate(list(scores.conditions.values())), axis=0).any()
        for scores in several
    )


Sources = Sequence[tuple[SpreadSource, Sequence[ItemScores]]]


def _seeds(sources: Sources, reason: str) -> SpreadInput:
    kind = SpreadKind.SEEDS
    for source, found in sources:
        observed = seed_spread(found)
        if observed is not None and observed.high == 0:
            reason = "the mean scores of past seeds are equal, so the spread is unknown"
        elif observed is not None:
            basis = f"{_counted(found)}, {plural(observed.count, 'degree')} of freedom"
            if observed.value == 0:
                observed = replace(observed, value=min(_PRIOR_SPREAD[1] / 100, observed.high))
                basis += ", no more spread than flips make: counted as that of the prior range"
            return _measured(kind, observed, "points", source, basis)
    low, value, high = _PRIOR_SPREAD
    quantity = Quantity(value=value, unit="points", low=low, high=high)
    return SpreadInput(kind=kind, quantity=quantity, source=SpreadSource.PRIOR, basis=reason or _ONE_SEED)


def _flips(sources: Sources, reason: str) -> SpreadInput:
    kind = SpreadKind.FLIPS
    for source, found in sources:
        if (observed := seed_flips(found)) is not None:
            return _measured(kind, observed, "%", source, f"{_counted(found)}, {observed.count:,} items")
    for source, found in sources:
        if (observed := condition_flips(found)) is not None:
            share = 1 - _OF_THE_EFFECT
            ends = {name: share * getattr(observed, name) for name in ("value", "low", "high")}
            own = replace(observed, **ends)
            basis = (
                f"one seed each: conditions differ on {100 * observed.value:.3g}% of {observed.count:,} items, "
                f"{100 * (1 - _OF_THE_EFFECT):.0f}% of them assumed to flip between seeds"
            )
            return _measured(kind, own, "%", source, basis)
    low, value, high = (100 * (1 - _OF_THE_EFFECT) * each for each in _PRIOR_FLIPS)
    quantity = Quantity(value=value, unit="%", low=low, high=high)
    return SpreadInput(kind=kind, quantity=quantity, source=SpreadSource.PRIOR, basis=reason or _SINGLE_RUNS)


def _effect(sources: Sources, flips: SpreadInput) -> SpreadInput:
    kind = SpreadKind.EFFECT
    for source, found in sources:
        if (observed := effect_variance(found)) is not None:
            return _measured(kind, observed, "%", source, f"{_counted(found)}, {observed.count:,} items")
    known = flips.quantity
    ends = zip(_PRIOR_EFFECT, (known.lower, known.value, known.upper), strict=True)
    low, value, high = (share * end for share, end in ends)
    quantity = Quantity(value=value, unit="%", low=low, high=high)
    basis = "no two levels have two seeds each: assumed 25% (10% to 50%) of the flips"
    return SpreadInput(kind=kind, quantity=quantity, source=SpreadSource.PRIOR, basis=basis)


def spread_at(inputs: Sequence[SpreadInput], end: End, conditions: int) -> Spread:
    """Return the variances of two levels' difference that a design counts on.

    Seeds of different conditions are taken as independent, so that a mean over conditions varies less. Where a seed
    moves all conditions alike, both levels move alike, and less than this is left.

    Args:
        conditions: conditions of the other factors that a level is averaged over.
    """
    values = {each.kind: _at(each.quantity, end) / 100 for each in inputs}
    return Spread(
        seeds=2 * values[SpreadKind.SEEDS] ** 2 / conditions,
        items=values[SpreadKind.EFFECT],
        flips=values[SpreadKind.FLIPS] / conditions,
    )


def _at(quantity: Quantity, end: End) -> float:
    return {End.LOW: quantity.lower, End.VALUE: quantity.value, End.HIGH: quantity.upper}[end]


def _counted(found: Sequence[ItemScores]) -> str:
    """Return `4 conditions x 3 seeds`, of the conditions with two seeds or more."""
    seeds = [len(matrix) for scores in found for matrix in scores.conditions.values() if len(matrix) > 1]
    several = f"{min(seeds)} to {max(seeds)}" if min(seeds) != max(seeds) else str(seeds[0])
    return f"{plural(len(seeds), 'condition')} x {several} seeds"


def _measured(kind: SpreadKind, observed: Observed, unit: str, source: SpreadSource, basis: str) -> SpreadInput:
    low, value, high = (100 * each for each in (observed.low, observed.value, observed.high))
    quantity = Quantity(value=value, unit=unit, low=low, high=high, coverage=SPREAD_COVERAGE)
    return SpreadInput(kind=kind, quantity=quantity, source=source, basis=basis)
