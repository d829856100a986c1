"""Difference between two levels' mean scores, tested over training seeds; variation between items can only widen it.

A seed's mean at a level, over conditions and items, is one value, and the values of two levels are compared by the
t-test of `seed_test`. Seeds are few and items are a sample, so a claim also needs a second, wider test. Its squared
standard error is max(seeds, discordant) + max(0, items - discordant). Its degrees of freedom are those of the first
test or the independent items less 1, whichever is smaller. Fewer than `FEWEST_UNITS` of these establish nothing.

- `discordant`: what flips of items from seed to seed alone make of the variance. Two or three seeds may agree by luck;
  all the items show how far apart they could have been.
- `items`: the variance over items of the mean difference. Where a level helps some items and harms others, other items
  would give another difference.

Experiments cross seeds with levels, so the means of two levels are pairs: `scipy.stats.ttest_rel`. Its false positive
rate is 5% whatever a seed does to both levels alike and however much their spreads differ. Welch's test on the same
means makes 7 to 10% if a seed helps one level and harms the other, and 6% if only one level varies
(`benchmarks/statistics.py`). Levels without a common seed are independent: `scipy.stats.ttest_ind(equal_var=False)`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from touchline.statistics.closed_forms import Interval, normal_quantile, t_quantile
from touchline.statistics.conclusions import SeedTest, SeedTestKind
from touchline.statistics.items import Floats, clustered_difference, newcombe_paired, squared_errors
from touchline.statistics.own_score import is_share

_NOTHING = 1e-18
"""Variance that is rounding, of scores up to 1."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Conditions that were asked the same items: their mean scores at two levels."""

    second: Floats
    """At the level that is asked about, shape [..., seeds, items]."""
    first: Floats
    clusters: tuple[str, ...] | None
    """What the items belong to; None if they stand alone."""
    weight: float

    @property
    def units(self) -> int:
        """Items or clusters that are independent."""
        return int(self.second.shape[-1]) if self.clusters is None else len(set(self.clusters))


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastEstimate:
    """Two levels' difference."""

    value: float
    items: Interval
    """Over items alone, for these checkpoints."""
    test: SeedTest | None = None
    """Over training seeds; none with fewer than two of either level."""
    interval: Interval | None = None
    p_value: float | None = None
    wide_error: float = math.nan
    """Standard error with the variation between items."""
    wide_freedom: float = math.nan
    units: int = 0
    wide_p_value: float = math.nan


def difference(
    samples: Sequence[Sample], kind: SeedTestKind, seeds: Sequence[int], reference_seeds: Sequence[int], coverage: float
) -> ContrastEstimate:
    """Return the difference of two levels, averaged over conditions and seeds, with its tests.

    Args:
        samples: at least one; weights sum to 1; the seeds are in the order of their rows.
    """
    second, first = seed_means(samples)
    value = float(second.mean() - first.mean())
    items = _over_items(samples, value, coverage)
    if min(len(seeds), len(reference_seeds)) < 2:
        return ContrastEstimate(value=value, items=items, units=units_of(samples))
    tested = seed_test(second, first, kind, coverage)
    freedom, variance = float(tested.freedom), float(widened_variance(samples, tested))
    wide_freedom = float(freedom_with_items(tested.freedom, units_of(samples)))
    is_defined = bool(np.isfinite(tested.statistic))
    if variance > _NOTHING * max(1.0, float(np.abs(second).max()), float(np.abs(first).max())) ** 2:
        wide = math.sqrt(variance)
    else:
        # Every item of every seed has the same score at a level: what so many items leave open.
        over = _over_items(samples, 0.0, 0.95)
        wide = (over.high - over.low) / 2 / normal_quantile(0.95)
    return ContrastEstimate(
        value=value,
        items=items,
        test=SeedTest(
            kind=kind,
            seeds=tuple(seeds),
            reference_seeds=tuple(reference_seeds),
            means=tuple(float(mean) for mean in second),
            reference_means=tuple(float(mean) for mean in first),
            statistic=float(tested.statistic) if is_defined else None,
            freedom=freedom if is_defined else None,
            error=float(tested.error),
        ),
        interval=Interval(float(tested.low), float(tested.high)) if is_defined else None,
        p_value=float(tested.p_value) if is_defined else None,
        wide_error=wide,
        wide_freedom=wide_freedom,
        wide_p_value=float(wide_p_values(np.asarray(value), np.asarray(wide**2), np.asarray(wide_freedom))),
        units=units_of(samples),
    )


def units_of(samples: Sequence[Sample]) -> int:
    """Return the independent items or clusters; of samples with items of their own the fewest."""
    return min(sample.units for sample in samples)


def freedom_with_items(freedom: Floats | float, units: int) -> Floats:
    """Return the degrees of freedom of the wider test: neither seeds nor items may lend the other precision."""
    return np.minimum(freedom, max(units - 1, 1))


def seed_means(samples: Sequence[Sample]) -> tuple[Floats, Floats]:
    """Return each seed's mean at the level and at the reference, over conditions and items, shape [..., seeds]."""
    second = sum(sample.weight * sample.second.mean(axis=-1) for sample in samples)
    first = sum(sample.weight * sample.first.mean(axis=-1) for sample in samples)
    return np.asarray(second), np.asarray(first)


def widened_variance(samples: Sequence[Sample], tested: SeedTestValues) -> Floats:
    """Return the squared standard error with the variation between items, never less than that over seeds."""
    discordant: Floats = np.zeros(tested.error.shape)
    items: Floats = np.zeros(tested.error.shape)
    for sample in samples:
        if sample.units > 1:
            discordant = discordant + sample.weight**2 * (
                _discordant(sample.second, sample.clusters) + _discordant(sample.first, sample.clusters)
            )
            mean = sample.second.mean(axis=-2) - sample.first.mean(axis=-2)
            items = items + sample.weight**2 * squared_errors(mean, sample.clusters)
    return np.maximum(tested.error**2, discordant) + np.maximum(0.0, items - discordant)


def _discordant(scores: Floats, clusters: Sequence[str] | None) -> Floats:
    """Return the variance of a level's mean that flips of items make: what neither seed nor item explains."""
    seeds = scores.shape[-2]
    residuals = (
        scores
        - scores.mean(axis=-2, keepdims=True)
        - scores.mean(axis=-1, keepdims=True)
        + scores.mean(axis=(-2, -1), keepdims=True)
    )
    return np.asarray(squared_errors(residuals, clusters).sum(axis=-1) / (seeds - 1) / seeds)


def wide_p_values(values: Floats, variances: Floats, freedoms: Floats) -> Floats:
    """Return two-sided p values of differences with these squared standard errors; 1 where there is no error."""
    from scipy.special import stdtr

    errors = np.sqrt(variances)
    statistics = np.divide(np.abs(values), errors, out=np.zeros(np.shape(errors)), where=errors > 0)
    # Scores that are no numbers show nothing.
    return np.asarray(np.nan_to_num(2 * stdtr(freedoms, -statistics), nan=1.0))


def _over_items(samples: Sequence[Sample], value: float, coverage: float) -> Interval:
    if len(samples) == 1 and samples[0].units > 1:
        (sample,) = samples
        second, first = sample.second.mean(axis=0), sample.first.mean(axis=0)
        if sample.clusters is None and set(np.unique([second, first])) <= {0.0, 1.0}:
            both, gained, lost = ((second * first).sum(), (second > first).sum(), (second < first).sum())
            table = (int(both), int(gained), int(lost), len(second) - int(both + gained + lost))
            return newcombe_paired(*table, coverage)
        if is_share(second) and is_share(first):
            return clustered_difference(second, first, sample.clusters, coverage)
    units = units_of(samples)
    if units < 2:
        return Interval(value, value)
    variance = sum(
        sample.weight**2
        * float(squared_errors(sample.second.mean(axis=0) - sample.first.mean(axis=0), sample.clusters))
        for sample in samples
    )
    arm = t_quantile(0.5 + coverage / 2, units - 1) * math.sqrt(variance)
    return Interval(value - arm, value + arm)


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
    low: Floats
    high: Floats


def seed_test(second: Floats, first: Floats, kind: SeedTestKind, coverage: float) -> SeedTestValues:
    """Test whether two levels have the same mean over training seeds.

    Args:
        second: the level's mean of each seed, shape [..., seeds], at least two.
        first: the reference's; for the paired test of the same seeds in the same order.

    Returns:
        Exactly what scipy gives. Where the seeds do not differ scipy divides by 0; then only `error` and `freedom` are
        numbers.

    Raises ValueError: fewer than two seeds of either level, or pairs of different lengths.
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
