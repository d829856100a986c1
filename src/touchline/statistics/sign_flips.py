"""Sign-flip test of paired score differences; McNemar's test is a special case."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.random import Generator

from touchline.statistics.bootstrap import RESAMPLES, Floats

_ALL: Final = 13
"""Differences up to which all 2**n signs are tried instead of drawn ones."""
_BLOCK: Final = 500
"""Draws per block in memory."""
_ROUNDING: Final = 1e-9
"""Sums that differ by less, of the largest, are equal."""


def sign_flip_p(differences: Floats, rng: Generator, *, resamples: int = RESAMPLES) -> float:
    """Return the p value of one comparison: `sign_flip_ps` of a single column."""
    return sign_flip_ps(differences[:, None], rng, resamples=resamples)[0]


def sign_flip_ps(differences: Floats, rng: Generator, *, resamples: int = RESAMPLES) -> list[float]:
    """Return two-sided p values of the columns' sums under random signs of their differences.

    If two models do equally well, which of them did better on an item is a coin's toss (Fisher 1935, The Design of
    Experiments, section 21). Exact for few differences; else by drawn signs, the observed ones counted among them so
    that the test stays valid (Phipson and Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9:39).
    Where drawn signs cannot resolve it, Hoeffding's bound 2 exp(-S^2 / 2 sum d^2) holds, which is never too small.

    Args:
        differences: second minus first of each item, or its sum over each cluster, shape [units, columns].
        rng: where chance comes from; all columns share the drawn signs.
        resamples: draws.
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
