"""Two models on the same items: the difference of their shares, and whether it can be chance.

Both answers to each item make a table of four counts. `gained` items are right in the second and wrong in the first,
`lost` the other way round; only these tell the two apart.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from touchline.statistics.proportion import wilson


class PairedDifference(NamedTuple):
    """The second share minus the first, -1 to 1, with its interval."""

    value: float
    low: float
    high: float


def newcombe_paired(both: int, gained: int, lost: int, neither: int, coverage: float = 0.95) -> PairedDifference:
    """Return Newcombe's interval for a difference of paired shares, from the Wilson intervals of the two.

    Method 10 of Newcombe 1998, Statistics in Medicine 17:2635-2650: the squares of the Wilson arms are added with
    the correlation phi of the table, which is corrected for continuity. Raises ValueError for negative counts or an
    empty table.
    """
    n = both + gained + lost + neither
    if min(both, gained, lost, neither) < 0 or n == 0:
        raise ValueError(f"({both}, {gained}, {lost}, {neither}) is not a table of counts")
    second, first = both + gained, both + lost
    phi = _phi_corrected(both, gained, lost, neither)
    share_second, share_first = second / n, first / n
    low_second, high_second = wilson(second, n, coverage)
    low_first, high_first = wilson(first, n, coverage)
    value = (gained - lost) / n
    below = correlated_sum(share_second - low_second, high_first - share_first, phi)
    above = correlated_sum(high_second - share_second, share_first - low_first, phi)
    return PairedDifference(value, max(-1.0, value - below), min(1.0, value + above))


def mcnemar_exact(gained: int, lost: int) -> float:
    """Return the exact two-sided p value of McNemar's test.

    Twice the smaller tail of the binomial distribution with one half, at most 1; 1 when no item turned. Integers
    throughout, so that no tail underflows before the last division. Raises ValueError for negative counts.
    """
    if min(gained, lost) < 0:
        raise ValueError(f"({gained}, {lost}) are not counts")
    n = gained + lost
    tail, term = 0, 1
    for i in range(min(gained, lost) + 1):
        tail += term
        term = term * (n - i) // (i + 1)
    return float(min(1.0, 2 * tail / 2**n))


def _phi_corrected(both: int, gained: int, lost: int, neither: int) -> float:
    """Return the table's correlation, with continuity correction if positive; 0 if a margin is empty."""
    n = both + gained + lost + neither
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    excess = float(both * neither - gained * lost)
    if excess > 0:
        excess = max(excess - n / 2, 0.0)
    return excess / math.sqrt(margins)


def correlated_sum(one: float, other: float, phi: float) -> float:
    """Return the interval arm of a difference from the arms of its parts."""
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))
