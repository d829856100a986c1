"""How many items or seeds show a difference, and the smallest difference that so many can show.

Items answer for two fixed models: paired when both answer the same items (McNemar's test; what counts is the share of
items that flip from right to wrong or back), unpaired otherwise (two shares). Seeds answer for the recipe: the means of
two levels over their seeds are compared, and the unit is the standard deviation between seeds.
All tests are two-sided at 1 - coverage.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Final

from touchline.statistics.proportion import normal_quantile
from touchline.statistics.student import t_quantile

POWER: Final = 0.8
"""The usual chance to see a difference that is there."""
COVERAGE: Final = 0.95
"""The usual level: 0.05 two-sided."""
USUAL_FLIPS: Final = 0.15
"""Share of items that two different trainings of one model often judge differently; stated with every use."""
ENOUGH_SEEDS: Final = 3
"""Seeds from which on a difference between levels of a usual size can be shown."""
_HALVINGS: Final = 60
"""Enough to halve any interval down to a float's precision."""
_FEWER: Final = 30
"""Enough for nine digits, where every question costs a thousand terms."""
_CERTAIN: Final = 0.999
"""Power beyond which a difference need not be looked at."""
_GRID: Final = 60
"""Differences at which the power is computed, the smaller the closer."""
_RATIOS: Final = 20
"""Points of the midpoint rule over the ratio of two variances."""
_SPREADS: Final = 40
"""Points of the midpoint rule over a standard deviation."""


def items_for_difference(
    difference: float, *, share: float = 0.5, power: float = POWER, coverage: float = COVERAGE
) -> int:
    """Items that each of two models needs, each its own, to tell shares `share` and `share` + `difference` apart.

    The normal approximation without continuity correction: Fleiss, Levin and Paik 2003, Statistical Methods for Rates
    and Proportions, 3rd edition, formula 4.14. The difference is taken towards the middle where it would leave 0 to 1.

    Raises:
        ValueError: difference or share are no shares.
    """
    other = share + difference if share + difference <= 1 else share - difference
    if not (0 < difference <= 1 and 0 <= share <= 1 and 0 <= other <= 1):
        raise ValueError(f"a difference of {difference} from {share} is not between shares")
    mean = (share + other) / 2
    z_level, z_power = _quantiles(power, coverage)
    root = z_level * math.sqrt(2 * mean * (1 - mean)) + z_power * math.sqrt(share * (1 - share) + other * (1 - other))
    return math.ceil((root / difference) ** 2)


def items_for_paired_difference(
    difference: float, flips: float, *, power: float = POWER, coverage: float = COVERAGE
) -> int:
    """Items that two models both answer, to show that the second is right on a share of `difference` more of them.

    Connor 1987, Biometrics 43:207-211, for McNemar's test, from the share `flips` of items that the two do not judge
    alike; no fewer than `difference` can.

    Raises:
        ValueError: not 0 < difference <= flips <= 1.
    """
    if not 0 < difference <= flips <= 1:
        raise ValueError(f"a difference of {difference} cannot come from a share of {flips} that flips")
    z_level, z_power = _quantiles(power, coverage)
    root = z_level * math.sqrt(flips) + z_power * math.sqrt(flips - difference * difference)
    return math.ceil((root / difference) ** 2)


def smallest_difference(items: int, *, share: float = 0.5, power: float = POWER, coverage: float = COVERAGE) -> float:
    """The smallest difference of two shares that so many items for each model show; 1 when none can."""
    return _smallest(
        lambda difference: items_for_difference(difference, share=share, power=power, coverage=coverage) <= items,
        max(share, 1 - share),
    )


def smallest_paired_difference(
    items: int, flips: float, *, power: float = POWER, coverage: float = COVERAGE
) -> float | None:
    """The smallest difference that so many items, answered by both, show; None when not even one way flips do."""
    if items_for_paired_difference(flips, flips, power=power, coverage=coverage) > items:
        return None
    return _smallest(
        lambda difference: items_for_paired_difference(difference, flips, power=power, coverage=coverage) <= items,
        flips,
    )


@functools.lru_cache(maxsize=256)
def smallest_seed_difference(seeds: int, *, power: float = POWER, coverage: float = COVERAGE) -> float | None:
    """The smallest difference of two levels' means over so many seeds each, in standard deviations between seeds.

    By the exact power of Welch's t-test, which the analysis makes: levels may differ in their spread too. None for one
    seed: nothing is known of the spread between seeds.
    """
    if seeds < 2:
        return None
    high = 1.0
    while welch_power(seeds, high, coverage=coverage) < power:
        high *= 2
    return _smallest(lambda difference: welch_power(seeds, difference, coverage=coverage) >= power, high, _FEWER)


@functools.lru_cache(maxsize=256)
def smallest_seed_difference_by_pilot(seeds: int, *, power: float = POWER, coverage: float = COVERAGE) -> float | None:
    """The smallest difference of two levels' means, in standard deviations as so many seeds have estimated them.

    Few seeds know little of their spread. So that a difference of this size is shown with that power by an equal
    experiment, the power is averaged over what the estimate may have been: the root of chi^2 over its 2 x (seeds - 1)
    degrees of freedom. None for one seed.
    """
    if seeds < 2:
        return None
    highest = 1.0
    while welch_power(seeds, highest, coverage=coverage) < _CERTAIN:
        highest *= 2
    grid = [highest * (i / _GRID) ** 2 for i in range(_GRID + 1)]
    powers = [welch_power(seeds, difference, coverage=coverage) for difference in grid]
    spreads = _spread_nodes(2 * (seeds - 1))

    def is_enough(units: float) -> bool:
        return sum(weight * _between(units * spread / highest, powers) for spread, weight in spreads) >= power

    high = highest
    while not is_enough(high):
        high *= 2
    return _smallest(is_enough, high, _FEWER)


def _between(place: float, powers: Sequence[float]) -> float:
    """The power at a share of the highest difference, between the points of the grid."""
    at = math.sqrt(place) * _GRID
    if at >= _GRID:
        return powers[-1]
    below = int(at)
    return powers[below] + (at - below) * (powers[below + 1] - powers[below])


def welch_power(seeds: int, difference: float, *, coverage: float = COVERAGE) -> float:
    """The chance that Welch's t-test shows a difference of two levels with so many seeds each, in its true direction.

    Both levels spread alike. Then the sum of the two variances, which makes the statistic a noncentral t with
    2 x (seeds - 1) degrees of freedom, and their ratio, which decides on Welch's degrees of freedom, are independent:
    the power is the mean over the ratio of that of the one t at the critical value of the other. Both means are taken
    by the midpoint rule.

    Args:
        seeds: of each level, at least 2.
        difference: of the means, in standard deviations between seeds.
        coverage: one minus the level of the test.

    Raises:
        ValueError: fewer than two seeds.
    """
    if seeds < 2:
        raise ValueError("one seed tells nothing of the spread between seeds")
    shift = difference * math.sqrt(seeds / 2)
    spreads = _spread_nodes(2 * (seeds - 1))
    return sum(
        ratio_weight * weight * math.erfc((critical * spread - shift) / math.sqrt(2)) / 2
        for critical, ratio_weight in _welch_nodes(seeds, coverage)
        for spread, weight in spreads
    )


@functools.lru_cache(maxsize=64)
def _welch_nodes(seeds: int, coverage: float) -> tuple[tuple[float, float], ...]:
    """Critical values of Welch's test and their weights, over the ratio of two levels' variances.

    The share of one variance in the sum is Beta((seeds - 1) / 2, (seeds - 1) / 2): sin^2 of an angle whose density is
    (sin 2 angle)^(seeds - 2).
    """
    step = math.pi / 4 / _RATIOS
    angles = [(i + 0.5) * step for i in range(_RATIOS)]
    weights = [math.sin(2 * angle) ** (seeds - 2) for angle in angles]
    shares = [math.sin(angle) ** 2 for angle in angles]
    freedoms = [(seeds - 1) / (share**2 + (1 - share) ** 2) for share in shares]
    whole = sum(weights)
    return tuple(
        (t_quantile(0.5 + coverage / 2, freedom), weight / whole)
        for freedom, weight in zip(freedoms, weights, strict=True)
    )


@functools.lru_cache(maxsize=64)
def _spread_nodes(freedom: int) -> tuple[tuple[float, float], ...]:
    """Values of sqrt(chi^2 / freedom) and their weights."""
    widest = 1 + 6 / math.sqrt(freedom)
    nodes = [(i + 0.5) * widest / _SPREADS for i in range(_SPREADS)]
    logs = [(freedom - 1) * math.log(node) - freedom * node * node / 2 for node in nodes]
    highest = max(logs)
    weights = [math.exp(log - highest) for log in logs]
    whole = sum(weights)
    return tuple((node, weight / whole) for node, weight in zip(nodes, weights, strict=True))


def _smallest(is_enough: Callable[[float], bool], high: float, halvings: int = _HALVINGS) -> float:
    """The smallest difference that is enough, up to `high`."""
    low = 0.0
    for _ in range(halvings):
        middle = (low + high) / 2
        if middle <= 0:
            break
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _quantiles(power: float, coverage: float) -> tuple[float, float]:
    if not 0.5 <= power < 1:
        raise ValueError(f"a power of {power}; it must lie between 0.5 and 1")
    return normal_quantile(coverage), NormalDist().inv_cdf(power)
