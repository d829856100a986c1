"""Bootstrap intervals of means: items drawn again, or whole clusters of them.

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

from touchline.statistics.proportion import Interval
from touchline.statistics.student import t_quantile

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

    Raises:
        ValueError: no items, no resamples, or other than one cluster for each item.
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
        coverage: how often such intervals hold the truth.

    Raises:
        ValueError: fewer than two items or clusters, no resamples, or other than one cluster for each item.
    """
    units = len(values) if clusters is None else len(set(clusters))
    if units < 2:
        raise ValueError("one item or cluster has no spread")
    tail = _expanded_tail(units, coverage)
    means = bootstrap_means(values, rng, resamples=resamples, clusters=clusters)
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def cluster_codes(clusters: Sequence[str], items: int) -> NDArray[np.intp]:
    """Return the number of each item's cluster, from 0, shape [items].

    Raises:
        ValueError: other than one cluster for each item, or no items.
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


def _expanded_tail(units: int, coverage: float) -> float:
    """Return the share of draws outside an interval at each end."""
    stretch = math.sqrt(units / (units - 1)) * t_quantile(0.5 + coverage / 2, units - 1)
    return NormalDist().cdf(-stretch)
