"""How mixed the lengths in a pack are: what packing by length does to the company of an example."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from touchline.data.packing.assign import PackPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthSpread:
    """Differences of length within packs that hold two examples or more."""

    packs: int
    """Such packs."""
    median_range_tokens: float
    """Longest minus shortest example of a pack, in tokens, the middle one of all packs; 0 without such packs."""
    mixing: float
    """Mean variance within a pack over the variance of all its examples: about 1 where packs are as mixed as random
    groups, 0 where each holds equal lengths, above 1 where long ones meet short ones. 1 where all lengths are equal."""


def length_spread(plan: PackPlan, lengths: ArrayLike) -> LengthSpread:
    """The spread of a plan; `lengths` as they were given to `pack`."""
    array = np.asarray(lengths).astype(np.int64)
    sizes = np.diff(plan.offsets)
    several = sizes > 1
    if not several.any():
        return LengthSpread(packs=0, median_range_tokens=0.0, mixing=1.0)
    ordered = array[plan.indices]
    begins = plan.offsets[:-1]
    ranges = (np.maximum.reduceat(ordered, begins) - np.minimum.reduceat(ordered, begins))[several]
    deviations = ordered - ordered.mean()
    sums, squares = np.add.reduceat(deviations, begins), np.add.reduceat(deviations**2, begins)
    within = ((squares - sums**2 / sizes) / np.maximum(sizes - 1, 1))[several]
    overall = float(np.var(ordered[np.repeat(several, sizes)], ddof=1))
    return LengthSpread(
        packs=int(several.sum()),
        median_range_tokens=float(np.median(ranges)),
        mixing=float(np.average(within, weights=sizes[several] - 1)) / overall if overall else 1.0,
    )
