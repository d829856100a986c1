"""The difference of two levels' mean scores, and how far it would be another one with other seeds and other items.

Training seeds are the unit. Every seed's mean at a level, over conditions and items, is one value, and the two levels'
values are compared by Welch's t-test, since levels may differ in their spread too. Two things are added, because seeds
are few and items are a sample:

- Two or three seeds may agree by luck. The variance is never taken for smaller than what the flips of items from seed
  to seed alone make of it, which all the items tell.
- What another sample of items would change: the variance over items of the mean difference, as far as it is more than
  those same flips. Where a level helps some kinds of items and harms others, other items give another difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator

from touchline.statistics.bootstrap import QUICK_RESAMPLES, Floats, crossed_bootstrap
from touchline.statistics.clustered import clustered_difference, clustered_error
from touchline.statistics.own_score import is_share
from touchline.statistics.paired import newcombe_paired
from touchline.statistics.proportion import Interval, normal_quantile
from touchline.statistics.strata import Strata, Stratum
from touchline.statistics.student import t_quantile, t_tail

_NOTHING: Final = 1e-18
"""Variance that is rounding."""
CROSSED_FROM: Final = 3
"""Seeds from which on seeds are drawn again; two give three different draws."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Two levels' difference."""

    value: float
    """Mean at the level minus that at the reference."""
    error: float | None
    """Its standard error over seeds and items; none with one seed."""
    freedom: float | None
    """Degrees of freedom of the error."""
    seeds: int
    """Training seeds of each level."""
    items: Interval
    """Over items alone, for these checkpoints."""
    crossed: Interval | None
    """Seeds and items drawn again; none with fewer than three seeds, or where conditions have items of their own."""

    @property
    def p_value(self) -> float | None:
        """Two-sided; none with one seed."""
        if self.error is None or self.freedom is None:
            return None
        if not self.error:
            return float(not self.value)
        return min(1.0, 2 * t_tail(abs(self.value) / self.error, self.freedom))

    def interval(self, coverage: float) -> Interval | None:
        """Over seeds and items; none with one seed."""
        if self.error is None or self.freedom is None:
            return None
        arm = t_quantile(0.5 + coverage / 2, self.freedom) * self.error
        return Interval(self.value - arm, self.value + arm)

    @property
    def spread(self) -> float | None:
        """The standard deviation between seeds that this error comes from, were there no other source of it."""
        return None if self.error is None else self.error * math.sqrt(self.seeds / 2)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Conditions that were asked the same items: their mean scores."""

    second: Floats
    """Shape [seeds, items]."""
    first: Floats
    """Shape [seeds, items]."""
    clusters: tuple[str, ...] | None
    """What the items belong to."""
    weight: float
    """Their share of all conditions."""
    conditions: int
    """How many they are."""


def estimate(strata: Strata, rng: Generator, coverage: float) -> Estimate:
    """The difference of two levels, averaged over conditions and seeds.

    Args:
        strata: at least one condition.
        rng: where the bootstrap's chance comes from.
        coverage: of the intervals over items, and over seeds and items drawn again.
    """
    samples = _samples(strata.strata, strata.seeds)
    value = sum(sample.weight * float(sample.second.mean() - sample.first.mean()) for sample in samples)
    error = freedom = crossed = None
    if strata.seeds > 1:
        error, freedom = _error(samples, strata.seeds)
        if strata.seeds >= CROSSED_FROM and len(samples) == 1 and samples[0].clusters is None:
            crossed = crossed_bootstrap(
                samples[0].second, samples[0].first, rng, resamples=QUICK_RESAMPLES, coverage=coverage
            )
    return Estimate(
        value=value,
        error=error,
        freedom=freedom,
        seeds=strata.seeds,
        items=_over_items(samples, value, coverage),
        crossed=crossed,
    )


def _samples(strata: Sequence[Stratum], seeds: int) -> list[_Sample]:
    groups: dict[tuple[str, tuple[str, ...]], list[Stratum]] = {}
    for stratum in strata:
        run = next(iter(stratum.second.values()))
        groups.setdefault((run.data, run.items), []).append(stratum)
    found = []
    for group in groups.values():
        second, first = (
            np.mean([[side[seed].scores for seed in sorted(side)] for side in sides], axis=0)
            if seeds > 1
            # Without seeds in common each condition is the mean of its own.
            else np.mean([np.mean([run.scores for run in side.values()], axis=0) for side in sides], axis=0)[None, :]
            for sides in ([stratum.second for stratum in group], [stratum.first for stratum in group])
        )
        clusters = next(iter(group[0].second.values())).clusters
        found.append(_Sample(second, first, clusters, len(group) / len(strata), len(group)))
    return found


def _error(samples: Sequence[_Sample], seeds: int) -> tuple[float, float]:
    """Standard error of the difference over seeds and items, and Satterthwaite's degrees of freedom."""
    of_levels = [
        float(np.var(sum(sample.weight * getattr(sample, side).mean(axis=1) for sample in samples), ddof=1)) / seeds
        for side in ("second", "first")
    ]
    of_seeds = sum(of_levels)
    of_flips = sum(sample.weight**2 * _flips(sample, seeds) for sample in samples)
    of_items = sum(
        sample.weight**2 * clustered_error((sample.second - sample.first).mean(axis=0), sample.clusters) ** 2
        for sample in samples
        if _units(sample) > 1
    )
    beyond = max(0.0, of_items - of_flips)
    freedom = 2.0 * (seeds - 1)
    if of_seeds > of_flips:
        freedom = of_seeds**2 / (sum(variance**2 for variance in of_levels) / (seeds - 1))
    of_seeds = max(of_seeds, of_flips)
    variance = of_seeds + beyond
    if variance < _NOTHING:
        # Every item of every seed turned the same way: what so many items leave open.
        over = _over_items(samples, 0.0, 0.95)
        return (over.high - over.low) / 2 / normal_quantile(0.95), freedom
    units = min(_units(sample) for sample in samples)
    parts = of_seeds**2 / freedom + (beyond**2 / (units - 1) if units > 1 else 0.0)
    return math.sqrt(variance), max(variance**2 / parts, float(seeds - 1))


def _flips(sample: _Sample, seeds: int) -> float:
    """Variance of the difference that flips of items from seed to seed make: what seed and item do not explain."""
    if _units(sample) < 2:
        return 0.0
    total = 0.0
    for scores in (sample.second, sample.first):
        residuals = scores - scores.mean(axis=0, keepdims=True) - scores.mean(axis=1, keepdims=True) + scores.mean()
        total += sum(clustered_error(row, sample.clusters) ** 2 for row in residuals) / (seeds - 1) / seeds
    return total


def _over_items(samples: Sequence[_Sample], value: float, coverage: float) -> Interval:
    """The interval over items alone."""
    if len(samples) == 1 and _units(samples[0]) > 1:
        (sample,) = samples
        second, first = sample.second.mean(axis=0), sample.first.mean(axis=0)
        if sample.clusters is None and set(np.unique([second, first])) <= {0.0, 1.0}:
            both, gained, lost = ((second * first).sum(), (second > first).sum(), (second < first).sum())
            table = (int(both), int(gained), int(lost), len(second) - int(both + gained + lost))
            return Interval(*newcombe_paired(*table, coverage)[1:])
        if is_share(second) and is_share(first):
            return Interval(*clustered_difference(second, first, sample.clusters, coverage)[1:])
    units = min(_units(sample) for sample in samples)
    if units < 2:
        return Interval(value, value)
    variance = sum(
        sample.weight**2 * clustered_error((sample.second - sample.first).mean(axis=0), sample.clusters) ** 2
        for sample in samples
    )
    arm = t_quantile(0.5 + coverage / 2, units - 1) * math.sqrt(variance)
    return Interval(value - arm, value + arm)


def _units(sample: _Sample) -> int:
    return sample.second.shape[1] if sample.clusters is None else len(set(sample.clusters))
