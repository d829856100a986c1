"""The smallest difference that the exact McNemar test shows, by the test's own distribution.

Connor's formula (`power.items_for_paired_difference`) is that of the normal approximation; the exact test is stricter
for few flips, and what a report says could have been shown must hold for the test that it makes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import numpy as np

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
        return _smallest(0.0, flips, lambda share: mcnemar_power(items, share, flips, level=level) >= power)
    if mcnemar_power(items, 1.0, 1.0, level=level) < power:
        return None
    return _smallest(flips, 1.0, lambda share: mcnemar_power(items, share, share, level=level) >= power)


def smallest_in_points(items: int, flips: float, *, coverage: float = COVERAGE) -> str:
    """Return the minimum detectable difference as check and plan print it."""
    found = smallest_shown(items, flips, coverage=coverage)
    if found is None:
        return "not detectable"
    return f"{100 * found:.1f} points{', if all discordant items agree' if found > flips else ''}"


def _smallest(low: float, high: float, is_enough: Callable[[float], bool]) -> float:
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def mcnemar_power(items: int, difference: float, flips: float, *, level: float) -> float:
    """Return the power of the exact McNemar test for a difference in its true direction.

    Summed over the number of flips, which is binomial; as many of them are losses as leave a gain significant.

    Args:
        items: items that both models answer.
        difference: true difference, above 0.
        flips: share of the items that the two do not judge alike, at least the difference.
        level: of the two-sided test.

    Raises:
        ValueError: not 0 <= difference <= flips <= 1, or no flips.
    """
    from scipy.special import bdtr

    if not 0 <= difference <= flips <= 1 or not flips:
        raise ValueError(f"a difference of {difference} cannot come from a share of {flips} that flips")
    mean, spread = items * flips, (items * flips * (1 - flips)) ** 0.5
    fewest, most = max(int(mean - _WIDE * spread), 0), min(int(mean + _WIDE * spread) + 1, items)
    counts = np.arange(fewest, most + 1)
    allowed = np.array([_significant_losses(int(count), level) for count in counts]) - 1
    chance = np.where(allowed < 0, 0.0, bdtr(np.maximum(allowed, 0), counts, (flips - difference) / (2 * flips)))
    below = np.append(0.0 if fewest == 0 else bdtr(fewest - 1, items, flips), bdtr(counts, items, flips))
    return float((np.diff(below) * chance).sum())


@functools.lru_cache(maxsize=65536)
def _significant_losses(count: int, level: float) -> int:
    """Return how many numbers of losses among the discordant items, from 0 on, leave a gain significant."""
    from scipy.special import bdtr

    return int((2 * bdtr(np.arange(count // 2 + 1), count, 0.5) < level).sum())
