"""Intervals and tests over items, alone, in clusters or in pairs.

A column is one run's scores, or the differences of two runs' scores on the same items: drawing items and not scores
keeps the pairs together. All columns share their draws, so that a thousand runs on a thousand items are one product of
matrices. Draws are made in blocks, so that memory stays small however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from touchline.statistics.closed_forms import Interval, normal_quantile, t_quantile, wilson, wilson_of_share

Floats = NDArray[np.float64]

RESAMPLES: Final = 10_000
"""Draws of an interval that is reported."""
QUICK_RESAMPLES: Final = 2_000
"""Draws where many runs wait."""
MANY_RUNS: Final = 100
"""Runs from which on they wait."""
_BLOCK: Final = 250
"""Draws per block in memory."""


def resamples_for(runs: int) -> int:
    """Return the number of bootstrap draws for so many runs."""
    return RESAMPLES if runs < MANY_RUNS else QUICK_RESAMPLES


def bootstrap_means(
    values: Floats, rng: Generator, *, resamples: int = RESAMPLES, clusters: Sequence[str] | None = None
) -> Floats:
    """Return the means of the columns over resampled items, shape [resamples, columns].

    Args:
        values: shape [items, columns].
        clusters: what each item belongs to; then whole clusters are drawn, and a draw has as many items as they have.

    Raises ValueError: no items, no resamples, or other than one cluster for each item.
    """
    codes = cluster_codes(clusters if clusters is not None else [str(i) for i in range(len(values))], len(values))
    units = int(codes.max()) + 1
    sums = np.zeros((units, values.shape[1]))
    np.add.at(sums, codes, values)
    sizes = np.bincount(codes, minlength=units).astype(np.float64)
    return np.concatenate(
        [(counts @ sums) / (counts @ sizes)[:, None] for counts in _draws(units, resamples, rng)], axis=0
    )


def bootstrap_intervals(
    values: Floats,
    rng: Generator,
    *,
    resamples: int = RESAMPLES,
    clusters: Sequence[str] | None = None,
    coverage: float = 0.95,
) -> list[Interval]:
    """Return intervals of the columns' means by the expanded percentile bootstrap.

    The percentiles lie as far out as Student's t with n - 1 degrees of freedom and the unbiased variance would have
    them (Hesterberg 2015, The American Statistician 69:371-386, section 5.3); plain percentiles are too narrow for few
    items. A column whose values are all alike has no width: what to say of it is for the caller.

    Args:
        values: shape [items, columns].
        clusters: what each item belongs to; n is the number of clusters then.

    Raises ValueError: fewer than two items or clusters, no resamples, or other than one cluster for each item.
    """
    units = len(values) if clusters is None else len(set(clusters))
    if units < 2:
        raise ValueError("one item or cluster has no spread")
    tail = NormalDist().cdf(-math.sqrt(units / (units - 1)) * t_quantile(0.5 + coverage / 2, units - 1))
    means = bootstrap_means(values, rng, resamples=resamples, clusters=clusters)
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def cluster_codes(clusters: Sequence[str], items: int) -> NDArray[np.intp]:
    """Return the number of each item's cluster, from 0, shape [items].

    Raises ValueError: other than one cluster for each item, or no items.
    """
    if len(clusters) != items or not items:
        raise ValueError(f"{items} items, but {len(clusters)} cluster names")
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in clusters], dtype=np.intp)


def _draws(units: int, resamples: int, rng: Generator) -> Iterator[Floats]:
    """Yield the draw counts of the units, in blocks of shape [draws, units]; each row sums to `units`."""
    if resamples < 1:
        raise ValueError(f"{resamples} draws")
    for start in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - start)
        drawn = rng.integers(0, units, size=(rows, units)) + units * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float64)


def newcombe_paired(both: int, gained: int, lost: int, neither: int, coverage: float = 0.95) -> Interval:
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
    return Interval(max(-1.0, value - below), min(1.0, value + above))


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
_SIGNS_BLOCK: Final = 500
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
        for start in range(0, resamples, _SIGNS_BLOCK):
            signs = (
                rng.integers(0, 2, size=(min(_SIGNS_BLOCK, resamples - start), len(sizes)), dtype=np.int8) * 2.0 - 1.0
            )
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


def squared_errors(values: Floats, clusters: Sequence[str] | None = None) -> Floats:
    """Return the squared standard errors of the means of clustered items, shape [...], of values shape [..., items].

    The sum over clusters of the squared sum of their residuals, times C / (C - 1), over the squared number of items:
    Miller 2024, "Adding Error Bars to Evals", with the correction that Inspect's `stderr(cluster=)` has. Items that
    stand alone are clusters of one each, and it is the usual standard error.

    Raises ValueError: other than one cluster for each item, or fewer than two of them.
    """
    totals = values - values.mean(axis=-1, keepdims=True)
    items = values.shape[-1]
    if clusters is not None:
        codes = cluster_codes(clusters, items)
        totals = totals @ (codes[:, None] == np.arange(codes.max() + 1)).astype(np.float64)
    units = totals.shape[-1]
    if units < 2:
        raise ValueError("one cluster has no spread between clusters")
    # Divided before it is multiplied: scores of a scale of 1e150 have squares that are no floats any more.
    return np.asarray(np.square(totals / items).sum(axis=-1) * (units / (units - 1)))


def clustered_share(values: Floats, clusters: Sequence[str] | None = None, coverage: float = 0.95) -> Interval:
    """Return Wilson's interval of a mean of scores between 0 and 1 that are partly right or clustered.

    Wilson's interval for as many independent items, right or wrong each, as would have this standard error, fewer still
    for the few clusters that it was found from: the square of z over that of Student's t (Korn and Graubard 1998,
    Survey Methodology 24:193-201). Where nothing varies, as near 100%, each cluster counts as one item.

    Raises ValueError: other than one cluster for each item, or fewer than two of them.
    """
    units = len(values) if clusters is None else len(set(clusters))
    error, mean = math.sqrt(float(squared_errors(values, clusters))), float(np.clip(values.mean(), 0, 1))
    # Rounding leaves a little where all is alike.
    varies = error > 1e-9
    effective = mean * (1 - mean) / error**2 if varies else float(units)
    if clusters is not None and varies and set(np.unique(values)) <= {0.0, 1.0}:
        # Right or wrong, items cannot tell more than if they stood alone; a handful of clusters may look as if.
        effective = min(effective, float(len(values)))
    small = normal_quantile(coverage) / t_quantile(0.5 + coverage / 2, units - 1)
    return wilson_of_share(mean, effective * small**2, coverage)


def clustered_difference(
    second: Floats, first: Floats, clusters: Sequence[str] | None = None, coverage: float = 0.95
) -> Interval:
    """Return Newcombe's interval for a difference of two means between 0 and 1 on the same items, clustered or not.

    The arms of both intervals of `clustered_share` are squared and added with the correlation of the clusters' totals:
    Donner and Zou 2012, Statistical Methods in Medical Research 21:347-359, which Newcombe's method 10 is a case of.

    Raises ValueError: the two are not equally many, or as for `clustered_share`.
    """
    if second.shape != first.shape:
        raise ValueError(f"{second.shape} and {first.shape} are not scores of the same items")
    one, other = clustered_share(second, clusters, coverage), clustered_share(first, clusters, coverage)
    mean_one, mean_other = float(second.mean()), float(first.mean())
    totals_one, totals_other = (
        each - each.mean() if clusters is None else cluster_totals(each - each.mean(), clusters)
        for each in (second, first)
    )
    spread = math.sqrt(float((totals_one**2).sum()) * float((totals_other**2).sum()))
    together = float((totals_one * totals_other).sum()) / spread if spread > 0 else 0.0
    value = mean_one - mean_other
    below = correlated_sum(mean_one - one.low, other.high - mean_other, together)
    above = correlated_sum(one.high - mean_one, mean_other - other.low, together)
    return Interval(max(-1.0, value - below), min(1.0, value + above))


def cluster_totals(values: Floats, clusters: Sequence[str]) -> Floats:
    """Return the sum of the values in each cluster, shape [clusters]."""
    return np.bincount(cluster_codes(clusters, len(values)), weights=values).astype(np.float64)
