"""Numbers of training seeds and test items: power, detectable difference, and the cheapest of either.

Two levels' difference at seed s and item i is D = delta + a_s + b_i + e_si, with variances `seeds`, `items` and
`flips`. With S seeds and I items the mean of D has variance (seeds + flips / I) / S + items / I. The report claims a
difference where both tests of `contrasts` reject, after Holm:

- the paired t-test over seeds, whose squared error has the mean (seeds + flips / I) / S and S - 1 degrees of freedom;
- the wider test with the smaller of S - 1 and I - 1 degrees of freedom; fewer than six items establish nothing. Its
  squared error is max(that over seeds, flips / (S I)) + items / I.

The wider test's error is never the smaller one, so the claim is its rejection. Seeds' means are taken as normal, their
squared error as chi-square; the errors over items, which many items estimate, are taken at their means. With `items`
and `flips` at 0 the power is that of the noncentral t. `benchmarks/sample_sizes.py` compares it with simulated tests.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from touchline.statistics.closed_forms import COVERAGE, POWER
from touchline.statistics.items import Floats
from touchline.statistics.own_score import FEWEST_UNITS

Cost = Callable[[Floats, Floats], Floats]
"""Cost of numbers of seeds and items, elementwise; it does not fall as either grows."""

FEWEST_SEEDS: Final = 2
"""Fewest seeds that a test of a setting has."""
MOST_SEEDS: Final = 32
"""Most seeds that are looked at."""
_NODES: Final = 160
"""Nodes of the quadrature over the chi-square; power is exact to about 0.0005."""
_HALVINGS: Final = 40
"""Enough to halve any interval down to a millionth of a millionth."""
_DOUBLINGS: Final = 60
_TINY: Final = 1e-12
"""Variance, of scores up to 1, below which nothing varies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Variances of two levels' difference, of scores from 0 to 1."""

    seeds: float
    """Over seeds, of what a seed does to all items of a level."""
    items: float
    """Over items, of the effect itself: some items gain from the level and others lose."""
    flips: float
    """Of what neither seed nor item explains: answers that change from seed to seed."""


def power(seeds: Floats, items: Floats, delta: Floats, spread: Spread, *, coverage: float = COVERAGE) -> Floats:
    """Return the chance that the report establishes a difference, in its true direction.

    Args:
        seeds: training seeds per level, at least 2, else a ValueError; broadcast against the items.
        delta: true difference, as a share; broadcast against both.
        coverage: one minus the level of the test, that of the family divided by its contrasts for Holm's first step.
    """
    seeds, items, delta = np.broadcast_arrays(*(np.asarray(each, dtype=np.float64) for each in (seeds, items, delta)))
    if seeds.size and (seeds.min() < FEWEST_SEEDS or items.min() < 1):
        raise ValueError("power needs at least two seeds and one item")
    from scipy.special import ndtr, stdtrit

    numbers, place = np.unique(seeds, return_inverse=True)
    place = place.reshape(seeds.shape)
    # One row of nodes per number of seeds: chi-square over its degrees of freedom, at the quadrature's probabilities.
    shares, weights = _nodes(tuple(numbers))
    critical = stdtrit(np.maximum(np.minimum(seeds, items) - 1, 1), 0.5 + coverage / 2)
    between = _between(seeds, items, spread)
    discordant, over_items = spread.flips / (seeds * items), _added_over_items(seeds, items, spread)
    errors = np.sqrt(
        np.maximum(between[..., None] * shares[place], discordant[..., None]) + over_items[..., None] + _TINY**2
    )
    deviation = np.sqrt(between + spread.items / items + _TINY**2)
    reach = (delta[..., None] - critical[..., None] * errors) / deviation[..., None]
    return np.where(items < FEWEST_UNITS, 0.0, (ndtr(reach) * weights).sum(axis=-1))


def detectable(seeds: Floats, items: Floats, spread: Spread, *, coverage: float = COVERAGE) -> Floats:
    """Return the smallest difference that is established with 80% power, as a share; at least that of one answer.

    It is infinite where so few items establish nothing.
    """
    seeds, items = np.broadcast_arrays(np.asarray(seeds, dtype=np.float64), np.asarray(items, dtype=np.float64))
    high = np.sqrt(_between(seeds, items, spread) + spread.items / items) + _TINY
    for _ in range(_DOUBLINGS):
        short = (power(seeds, items, high, spread, coverage=coverage) < POWER) & (items >= FEWEST_UNITS)
        if not short.any():
            break
        high = np.where(short, 2 * high, high)
    low = np.zeros_like(high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = power(seeds, items, middle, spread, coverage=coverage) >= POWER
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(items < FEWEST_UNITS, np.inf, np.maximum(high, 1 / (seeds * items)))


def fewest_items(seeds: Floats, delta: float, spread: Spread, most: int, *, coverage: float = COVERAGE) -> Floats:
    """Return the fewest items with which each number of seeds has 80% power; NaN where `most` are too few."""
    seeds = np.asarray(seeds, dtype=np.float64)

    def is_enough(items: Floats) -> Floats:
        return np.asarray(power(seeds, items, np.asarray(delta), spread, coverage=coverage) >= POWER)

    low, high = np.zeros(seeds.shape), np.full(seeds.shape, float(most))
    possible = is_enough(high)
    while (high - low > 1).any():
        middle = np.maximum(np.floor((low + high) / 2), 1.0)
        enough = is_enough(middle)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(possible, high, np.nan)


def cheapest(
    delta: float, spread: Spread, cost: Cost, *, most_items: int, coverage: float = COVERAGE
) -> tuple[int, int] | None:
    """Return the cheapest numbers of seeds and items that establish a difference; None if none are enough.

    Every number of seeds is looked at, with the fewest items that are enough for it: power grows with items and the
    cost does not fall, so no cheaper pair is left out.
    """
    seeds = np.arange(FEWEST_SEEDS, MOST_SEEDS + 1.0)
    items = fewest_items(seeds, delta, spread, most_items, coverage=coverage)
    costs = np.where(np.isnan(items), np.inf, cost(seeds, np.nan_to_num(items, nan=1.0)))
    best = int(np.argmin(costs))
    return (int(seeds[best]), int(items[best])) if math.isfinite(costs[best]) else None


def best_within(
    budget: float, spread: Spread, cost: Cost, *, most_items: int, coverage: float = COVERAGE
) -> tuple[int, int] | None:
    """Return the numbers of seeds and items whose detectable difference is the smallest within a budget.

    None if two seeds with one item cost more.
    """
    seeds = np.arange(FEWEST_SEEDS, MOST_SEEDS + 1.0)
    items = _most_items(seeds, budget, cost, most_items)
    seeds, items = seeds[items > 0], items[items > 0]
    if not seeds.size:
        return None
    best = int(np.argmin(detectable(seeds, items, spread, coverage=coverage)))
    return int(seeds[best]), int(items[best])


def _between(seeds: Floats, items: Floats, spread: Spread) -> Floats:
    return np.asarray((spread.seeds + spread.flips / items) / seeds)


def _added_over_items(seeds: Floats, items: Floats, spread: Spread) -> Floats:
    """Return the mean of what the wider test adds: the variance over items above that of flips, never below zero.

    Both variances are estimated from the items, so that without any effect of items half of the differences are above
    zero: the mean of the positive part of a normal variable with the variance of both estimates.
    """
    from scipy.special import ndtr

    mean, freedom = spread.items / items, np.maximum(items - 1, 1.0)
    flips = spread.flips / (seeds * items)
    error = np.sqrt(2 / freedom * (mean + flips) ** 2 + flips**2 / ((seeds - 1) * freedom)) + _TINY**2
    return np.asarray(mean * ndtr(mean / error) + error * np.exp(-((mean / error) ** 2) / 2) / math.sqrt(2 * math.pi))


def _most_items(seeds: Floats, budget: float, cost: Cost, most: int) -> Floats:
    """Return the most items that each number of seeds can have within a budget; 0 where it cannot have one."""
    low, high = np.zeros(seeds.shape), np.full(seeds.shape, float(most + 1))
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        within = cost(seeds, np.maximum(middle, 1.0)) <= budget
        low, high = np.where(within & (middle >= 1), middle, low), np.where(within, high, middle)
        high = np.maximum(high, low + 1)
    return low


@functools.lru_cache(maxsize=256)
def _nodes(numbers: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Return chi-square over its degrees of freedom at each node, [numbers, nodes], and the nodes' weights, [nodes]."""
    from scipy.special import gammaincinv

    points, weights = _legendre()
    freedom = np.asarray(numbers) - 1
    shares = gammaincinv(freedom[:, None] / 2, (points + 1) / 2) * 2 / freedom[:, None]
    return shares, weights / 2


@functools.cache
def _legendre() -> tuple[Floats, Floats]:
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    return np.asarray(points), np.asarray(weights)
