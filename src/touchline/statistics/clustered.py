"""Means of items that are not independent: several from one document, one template, one source."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from touchline.statistics.bootstrap import Floats, cluster_codes
from touchline.statistics.paired import PairedDifference, correlated_sum
from touchline.statistics.proportion import Interval, normal_quantile, wilson_of_share
from touchline.statistics.student import t_quantile


def squared_errors(values: Floats, clusters: Sequence[str] | None = None) -> Floats:
    """Return the squared standard errors of the means of clustered items, shape [...], of values shape [..., items].

    The sum over clusters of the squared sum of their residuals, times C / (C - 1), over the squared number of items:
    Miller 2024, "Adding Error Bars to Evals", with the correction that Inspect's `stderr(cluster=)` has. Items that
    stand alone are clusters of one each, and it is the usual standard error.

    Raises:
        ValueError: other than one cluster for each item, or fewer than two of them.
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

    Raises:
        ValueError: other than one cluster for each item, or fewer than two of them.
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
) -> PairedDifference:
    """Return Newcombe's interval for a difference of two means between 0 and 1 on the same items, clustered or not.

    The arms of both intervals of `clustered_share` are squared and added with the correlation of the clusters' totals:
    Donner and Zou 2012, Statistical Methods in Medical Research 21:347-359, which Newcombe's method 10 is a case of.

    Raises:
        ValueError: the two are not equally many, or as for `clustered_share`.
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
    return PairedDifference(value, max(-1.0, value - below), min(1.0, value + above))


def cluster_totals(values: Floats, clusters: Sequence[str]) -> Floats:
    """Return the sum of the values in each cluster, shape [clusters]."""
    return np.bincount(cluster_codes(clusters, len(values)), weights=values).astype(np.float64)
