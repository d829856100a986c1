"""The smallest difference that the exact McNemar test shows, by the test's own distribution.

Connor's formula (`power.items_for_paired_difference`) is that of the normal approximation; the exact test is stricter
for few flips, and what a report says could have been shown must hold for the test that it makes.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
from numpy.typing import NDArray

from touchline.statistics.power import COVERAGE, POWER, smallest_paired_difference

_MANY_FLIPS: Final = 1000
"""Expected flips from which on the exact test and the normal approximation agree but for one item."""
_WIDE: Final = 7.0
"""Standard deviations of the number of flips that are looked at."""
_HALVINGS: Final = 24
"""Enough for a tenth of a millionth."""


@functools.lru_cache(maxsize=4096)
def smallest_shown(items: int, flips: float, *, power: float = POWER, coverage: float = COVERAGE) -> float | None:
    """Return the minimum detectable difference of two shares for the exact McNemar test.

    Where so few flips cannot show anything, as few as can are taken, all in one direction.

    Args:
        items: items that both models answer.
        flips: share of them that the two do not judge alike.
        power: chance to show it.
        coverage: one minus the level of the test, that of the family divided by the number of its tests.

    Returns:
        A share; None if so few items can show nothing.

    Raises:
        ValueError: no items, or flips that are no share.
    """
    if items < 1 or not 0 <= flips <= 1:
        raise ValueError(f"{items} items of which a share of {flips} flips")
    if items * flips > _MANY_FLIPS:
        approximate = smallest_paired_difference(items, flips, power=power, coverage=coverage)
        return None if approximate is None else min(approximate + 1 / items, flips)
    level = 1 - coverage
    if flips > 0 and mcnemar_power(items, flips, flips, level=level) >= power:
        low, high = 0.0, flips
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            enough = mcnemar_power(items, middle, flips, level=level) >= power
            low, high = (low, middle) if enough else (middle, high)
        return high
    if mcnemar_power(items, 1.0, 1.0, level=level) < power:
        return None
    low, high = flips, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = mcnemar_power(items, middle, middle, level=level) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def mcnemar_power(items: int, difference: float, flips: float, *, level: float) -> float:
    """Return the power of the exact McNemar test for a difference in its true direction.

    Summed over the number of flips, which is binomial, and over how many of them are losses.

    Args:
        items: items that both models answer.
        difference: true difference, above 0.
        flips: share of the items that the two do not judge alike, at least the difference.
        level: of the two-sided test.

    Raises:
        ValueError: not 0 <= difference <= flips <= 1, or no flips.
    """
    if not 0 <= difference <= flips <= 1 or not flips:
        raise ValueError(f"a difference of {difference} cannot come from a share of {flips} that flips")
    mean, spread = items * flips, (items * flips * (1 - flips)) ** 0.5
    fewest, most = max(int(mean - _WIDE * spread), 0), min(int(mean + _WIDE * spread) + 1, items)
    counts = np.arange(fewest, most + 1)
    factorials = _log_factorials(items)
    losing = (flips - difference) / (2 * flips)
    losses = np.arange(int(_most_losses(factorials, int(counts[-1]), level)) + 1)
    if not len(losses):
        return 0.0
    by_chance = _binomial(factorials, counts[:, None], losses, 0.5).cumsum(axis=1)
    shows = (2 * by_chance < level) & (losses <= counts[:, None])
    chance = (_binomial(factorials, counts[:, None], losses, losing) * shows).sum(axis=1)
    return float((_binomial(factorials, items, counts, flips) * chance).sum())


def _most_losses(factorials: NDArray[np.float64], count: int, level: float) -> int:
    """Return the most losses among the discordant items with which a gain is significant; -1 if there are none."""
    tails = _binomial(factorials, count, np.arange(count // 2 + 1), 0.5).cumsum()
    return int((2 * tails < level).sum()) - 1


def _binomial(
    factorials: NDArray[np.float64], count: int | NDArray[np.int64], hits: NDArray[np.int64], share: float
) -> NDArray[np.float64]:
    """Return the probabilities of numbers of hits; 0 for more hits than trials."""
    misses = np.maximum(count - hits, 0)
    log = factorials[count] - factorials[np.minimum(hits, len(factorials) - 1)] - factorials[misses]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_share = np.where(hits > 0, hits * np.log(share), 0.0) + np.where(misses > 0, misses * np.log1p(-share), 0.0)
    return np.where(hits <= count, np.exp(log + log_share), 0.0)


@functools.lru_cache(maxsize=16)
def _log_factorials(most: int) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
