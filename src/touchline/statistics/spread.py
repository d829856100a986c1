"""Spread of past scores: between training seeds, between the answers to an item, and of an effect between items.

Runs of one condition that differ in their seed alone show how far a mean score moves, and how many items flip. Their
variance holds the flips as well: with I items, flips alone move a mean by a variance of flips / (2 I), which is
subtracted. Intervals of the spread are those of a chi-square with the pooled degrees of freedom; with few seeds they
are wide. Those of flips are over items, by Student's t.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from touchline.statistics.bootstrap import Floats
from touchline.statistics.own_score import SATURATED
from touchline.statistics.student import t_quantile

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
    """Lower end of its interval."""
    high: float
    """Upper end of its interval."""
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
