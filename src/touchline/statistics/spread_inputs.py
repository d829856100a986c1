"""Spread that a design counts on, each value with its source: own runs, the history, or a prior range.

The first source that has measured a value gives it. The prior range is not a measurement: seeds of a fine-tuned model
often differ by 0.3 to 3 points, and two runs judge 5 to 30% of the items differently, of which four fifths are
taken to be flips between seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Final

import numpy as np

from touchline.core.quantity import Missing, Quantity
from touchline.core.units import plural
from touchline.statistics.own_score import SATURATED
from touchline.statistics.power import USUAL_FLIPS
from touchline.statistics.sample_sizes import Spread
from touchline.statistics.spread import (
    SPREAD_COVERAGE,
    ItemScores,
    Observed,
    condition_flips,
    effect_variance,
    seed_flips,
    seed_spread,
)
from touchline.statistics.spread_types import SpreadInput, SpreadKind, SpreadSource


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
        own: scores of this experiment's finished runs.
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
    ends = (known.value if end is None else end for end in (known.low, known.value, known.high))
    low, value, high = (share * end for share, end in zip(_PRIOR_EFFECT, ends, strict=True))
    quantity = Quantity(value=value, unit="%", low=low, high=high)
    basis = "no two levels have two seeds each: assumed 25% (10% to 50%) of the flips"
    return SpreadInput(kind=kind, quantity=quantity, source=SpreadSource.PRIOR, basis=basis)


def spread_at(inputs: Sequence[SpreadInput], end: End, conditions: int) -> Spread:
    """Return the variances of two levels' difference that a design counts on.

    Seeds of different conditions are taken as independent, so that a mean over conditions varies less. Where a seed
    moves all conditions alike, both levels move alike, and less than this is left.

    Args:
        inputs: those of `spread_inputs`.
        conditions: conditions of the other factors that a level is averaged over.
    """
    values = {each.kind: _at(each.quantity, end) / 100 for each in inputs}
    return Spread(
        seeds=2 * values[SpreadKind.SEEDS] ** 2 / conditions,
        items=values[SpreadKind.EFFECT],
        flips=values[SpreadKind.FLIPS] / conditions,
    )


def _at(quantity: Quantity, end: End) -> float:
    ends = {End.LOW: quantity.low, End.VALUE: quantity.value, End.HIGH: quantity.high}
    chosen = ends[end]
    return quantity.value if chosen is None else chosen


def _counted(found: Sequence[ItemScores]) -> str:
    """Return `4 conditions x 3 seeds`, of the conditions with two seeds or more."""
    seeds = [len(matrix) for scores in found for matrix in scores.conditions.values() if len(matrix) > 1]
    several = f"{min(seeds)} to {max(seeds)}" if min(seeds) != max(seeds) else str(seeds[0])
    return f"{plural(len(seeds), 'condition')} x {several} seeds"


def _measured(kind: SpreadKind, observed: Observed, unit: str, source: SpreadSource, basis: str) -> SpreadInput:
    low, value, high = (100 * each for each in (observed.low, observed.value, observed.high))
    quantity = Quantity(value=value, unit=unit, low=low, high=high, coverage=SPREAD_COVERAGE)
    return SpreadInput(kind=kind, quantity=quantity, source=source, basis=basis)
