"""Paired tests of two models on the same items: McNemar, sign flips, and Holm's adjustment for several tests.

Both answers to each item make a table of four counts. `gained` items are right in the second and wrong in the first,
`lost` the other way round; only these distinguish the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.random import Generator

from touchline.statistics.bootstrap import RESAMPLES, Floats
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


_ALL: Final = 13
"""Differences up to which all 2**n signs are tried instead of drawn ones."""
_BLOCK: Final = 500
"""Draws per block in memory."""
_ROUNDING: Final = 1e-9
"""Sums that differ by less, of the largest, are equal."""


def sign_flip_ps(differences: Floats, rng: Generator, *, resamples: int = RESAMPLES) -> list[float]:
    """Return two-sided p values of the columns' sums under random signs of their differences.

    If two models do equally well, which of them did better on an item is a coin's toss (Fisher 1935, The Design of
    Experiments, section 21). Exact for few differences; else by drawn signs, the observed ones counted among them so
    that the test stays valid (Phipson and Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9:39).
    Where drawn signs cannot resolve it, Hoeffding's bound 2 exp(-S^2 / 2 sum d^2) holds, which is never too small.

    Args:
        differences: second minus first of each item, or its sum over each cluster, shape [units, columns].
        rng: where chance comes from; all columns share the drawn signs.
    """
    sizes = np.abs(differences)
    observed = np.abs(differences.sum(axis=0)) - _ROUNDING * sizes.sum(axis=0)
    counts = (sizes > 0).sum(axis=0)
    as_far = np.zeros(sizes.shape[1])
    if (counts > _ALL).any():
        for start in range(0, resamples, _BLOCK):
            signs = rng.integers(0, 2, size=(min(_BLOCK, resamples - start), len(sizes)), dtype=np.int8) * 2.0 - 1.0
            as_far += (np.abs(signs @ sizes) >= observed).sum(axis=0)
    found = []
    for column, count in enumerate(counts):
        if count <= _ALL:
            found.append(_exact(sizes[sizes[:, column] > 0, column], float(observed[column])))
            continue
        drawn = float(as_far[column] + 1) / (resamples + 1)
        bound = 2 * math.exp(-(max(float(observed[column]), 0.0) ** 2) / (2 * float((sizes[:, column] ** 2).sum())))
        found.append(min(drawn, bound, 1.0))
    return found


def _exact(sizes: Floats, observed: float) -> float:
    """Return the p value over all signs; 1 if nothing differs."""
    signs = 1.0 - 2.0 * ((np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes))) & 1)
    return float((np.abs(signs @ sizes) >= observed).mean())


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return Holm's adjusted p values in the order given.

    Holm 1979, Scandinavian Journal of Statistics 6:65-70. Raises ValueError for a value outside 0 to 1.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"{list(p_values)} are not p values")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)
