"""The t-test over the seeds' means of two levels: which one the design calls for, and what scipy gives for it.

Experiments cross seeds with levels, so that the same seeds train both and the means are pairs: `scipy.stats.ttest_rel`.
Its share of false claims is 5% whatever a seed does to both levels alike and however much their spreads differ, where
Welch's test on the same means makes 7 to 10% if a seed helps one level and harms the other, and 6% if only one
level varies (`benchmarks/statistics.py`). Levels without a seed in common are independent groups:
`scipy.stats.ttest_ind(equal_var=False)`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from touchline.statistics.conclusions import SeedTestKind

if TYPE_CHECKING:
    from touchline.statistics.bootstrap import Floats

_ROUNDING: Final = 1e-9
"""A spread of the means below this share of the largest of them is rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedTestValues:
    """Results of one test, or of many at once; NaN where the test is not defined."""

    error: Floats
    """Standard error of the difference; 0 where the seeds of each level do not differ."""
    statistic: Floats
    """Student's t."""
    freedom: Floats
    """Degrees of freedom; where the test is not defined, the fewest that it could have had."""
    p_value: Floats
    """Two-sided."""
    low: Floats
    """Lower end of the interval of the difference."""
    high: Floats
    """Upper end."""


def seed_test(second: Floats, first: Floats, kind: SeedTestKind, coverage: float) -> SeedTestValues:
    """Test whether two levels have the same mean over training seeds.

    Args:
        second: the level's mean of each seed, shape [..., seeds], at least two.
        first: the reference's; for the paired test of the same seeds in the same order.
        kind: which test.
        coverage: of the interval.

    Returns:
        Exactly what scipy gives. Where the seeds do not differ scipy divides by 0; then only `error` and `freedom` are
        numbers.

    Raises:
        ValueError: fewer than two seeds of either level, or pairs of different lengths.
    """
    seeds, others = second.shape[-1], first.shape[-1]
    if min(seeds, others) < 2 or (kind is SeedTestKind.PAIRED and seeds != others):
        raise ValueError(f"no {kind.value} for {seeds} and {others} seeds")
    from scipy import stats

    scale = np.maximum(np.abs(second).max(axis=-1), np.abs(first).max(axis=-1))
    found: Any
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Means that are all alike make scipy warn of lost precision.
        warnings.simplefilter("ignore")
        if kind is SeedTestKind.PAIRED:
            error = np.std(second - first, axis=-1, ddof=1) / np.sqrt(seeds)
            found = stats.ttest_rel(second, first, axis=-1)
        else:
            error = np.sqrt(np.var(second, axis=-1, ddof=1) / seeds + np.var(first, axis=-1, ddof=1) / others)
            found = stats.ttest_ind(second, first, axis=-1, equal_var=False)
        ends = found.confidence_interval(coverage)
    defined = (error > _ROUNDING * scale) & np.isfinite(found.statistic) & np.isfinite(found.pvalue)

    def where(values: object, otherwise: float = np.nan) -> NDArray[np.float64]:
        return np.where(defined, np.asarray(values, dtype=np.float64), otherwise)

    return SeedTestValues(
        error=np.where(defined, error, 0.0),
        statistic=where(found.statistic),
        freedom=where(found.df, float(min(seeds, others) - 1)),
        p_value=where(found.pvalue),
        low=where(ends.low),
        high=where(ends.high),
    )
