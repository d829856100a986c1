"""Numbers of seeds and items that `touchline design` chooses, against the best of an exhaustive simulation.

    python benchmarks/sample_sizes.py [--quick] [--seed 1] [--json]

For each made truth (variances and costs) the tests of the report are simulated for every number of seeds and a grid of
items; the cheapest pair with 80% simulated power is the best. `design` chooses from the same variances and costs by its
formulas. Printed: both costs, and the simulated power of the choice with its simulation error. Exit code 1 if a choice
costs over 5% more than the best, or its power is below 80% by more than two simulation errors.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray
from scipy.special import ndtri

from touchline.statistics.conclusions import SeedTestKind
from touchline.statistics.contrasts import (
    Sample,
    freedom_with_items,
    seed_means,
    seed_test,
    units_of,
    wide_p_values,
    widened_variance,
)
from touchline.statistics.own_score import FEWEST_UNITS
from touchline.statistics.sample_sizes import Cost, Spread, cheapest

Floats = NDArray[np.float64]
LEVEL = 0.05
POWER = 0.8
WITHIN = 1.05
"""Cost of the choice over that of the best which is allowed."""
MOST_SEEDS = 16
COARSE = 1.5
"""Ratio between neighbouring numbers of items on the grid."""
_AT_ONCE = 4_000_000
"""Scores that are simulated at once."""
_DRAWS = 150
"""Draws of right and wrong answers from which their variances are taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """Made variances and costs."""

    name: str
    """What it stands for."""
    delta: float
    """True difference, as a share."""
    spread: Spread
    """Variances that normal scores are made with."""
    training: float
    """Cost of a seed at both levels."""
    item: float
    """Cost of an item of a seed at both levels."""
    most_items: int = 600
    """Items that there are."""
    binary: bool = False
    """Whether scores are right and wrong; the variances are then those that they have."""

    def cost(self) -> Cost:
        return lambda seeds, items: np.asarray(seeds * (self.training + self.item * items))


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A choice beside the best."""

    name: str
    """The truth."""
    seeds: int
    """Chosen seeds."""
    items: int
    """Chosen items."""
    power: float
    """Simulated power of the choice."""
    error: float
    """Simulation error of it."""
    best_seeds: int
    """Seeds of the best."""
    best_items: int
    """Items of the best."""
    cost_ratio: float
    """Cost of the choice over that of the best."""

    @property
    def holds(self) -> bool:
        """Whether it keeps both bounds."""
        return self.cost_ratio <= WITHIN and self.power >= POWER - 2 * self.error


TRUTHS = (
    Truth(name="equal parts", delta=0.06, spread=Spread(seeds=4e-4, items=0.03, flips=0.12), training=60, item=1),
    Truth(name="dear trainings", delta=0.05, spread=Spread(seeds=2e-4, items=0.02, flips=0.15), training=400, item=1),
    Truth(name="dear items", delta=0.06, spread=Spread(seeds=2e-4, items=0.01, flips=0.2), training=10, item=1),
    Truth(name="wide seeds", delta=0.08, spread=Spread(seeds=2e-3, items=0.02, flips=0.1), training=100, item=1),
    Truth(name="no flips", delta=0.05, spread=Spread(seeds=4e-4, items=0.03, flips=0.0), training=60, item=1),
    Truth(name="effect everywhere", delta=0.05, spread=Spread(seeds=4e-4, items=0.0, flips=0.2), training=60, item=1),
    Truth(
        name="right and wrong", delta=0.08, spread=Spread(seeds=4e-4, items=0.02, flips=0.0), training=60, item=1,
        binary=True,
    ),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the simulations")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulations")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    rows = []
    for row in choices(Generator(PCG64(chosen.seed)), repeats=1000 if chosen.quick else 4000):
        rows.append(row)
        if not chosen.json:
            print(row_text(row), flush=True)
    if chosen.json:
        print(json.dumps([{**asdict(row), "holds": row.holds} for row in rows]))
    return 0 if all(row.holds for row in rows) else 1


def row_text(row: Choice) -> str:
    """Return a row as text."""
    return (
        f"{'  ' if row.holds else '! '}{row.name:18} chosen {row.seeds:2} seeds x {row.items:4} items, power "
        f"{100 * row.power:.1f}% (+- {100 * 2 * row.error:.1f}); best {row.best_seeds:2} x {row.best_items:4}, "
        f"cost ratio {row.cost_ratio:.3f}"
    )


def choices(rng: Generator, repeats: int) -> Iterator[Choice]:
    """Yield the choice for each truth beside the best of the exhaustive simulation.

    Args:
        rng: of the simulations.
        repeats: simulated experiments per number of seeds.
    """
    for each in TRUTHS:
        truth = as_answered(each, rng) if each.binary else each
        cost = truth.cost()
        found = cheapest(truth.delta, truth.spread, cost, most_items=truth.most_items)
        assert found is not None
        seeds_chosen, items_chosen = found
        best = (np.inf, 0, 0)
        for seeds in range(2, MOST_SEEDS + 1):
            if float(cost(np.array(seeds), np.array(1))) >= best[0]:
                break
            first = _fewest(seeds, each, repeats, rng)
            if first is not None:
                best = min(best, (float(cost(np.array(seeds), np.array(first))), seeds, round(first)))
        share = float(_powers(seeds_chosen, np.array([items_chosen]), each, 2 * repeats, rng)[0])
        yield Choice(
            name=truth.name,
            seeds=seeds_chosen,
            items=items_chosen,
            power=share,
            error=float(np.sqrt(share * (1 - share) / (2 * repeats))),
            best_seeds=best[1],
            best_items=best[2],
            cost_ratio=float(cost(np.array(seeds_chosen), np.array(items_chosen))) / best[0],
        )


def simulated_power(
    seeds: int, items: int, delta: float, spread: Spread, *, repeats: int, rng: Generator
) -> tuple[float, float]:
    """Return the share of simulated experiments in which the report's tests establish the difference, and its error."""
    truth = Truth(name="", delta=delta, spread=spread, training=1.0, item=1.0)
    share = float(_powers(seeds, np.array([items]), truth, repeats, rng)[0])
    return share, float(np.sqrt(max(share * (1 - share), 1 / repeats) / repeats))


def as_answered(truth: Truth, rng: Generator) -> Truth:
    """Return a truth with the difference and the variances of its right and wrong answers, from many of them.

    One draw leaves an error of 2% in the difference, and so of 4% in the cost: the means of many draws are taken.
    """
    delta, seeds, items, flips = np.mean([_variances(truth, rng) for _ in range(_DRAWS)], axis=0)
    return replace(truth, delta=float(delta), spread=Spread(seeds=float(seeds), items=float(items), flips=float(flips)))


def _variances(truth: Truth, rng: Generator) -> tuple[float, float, float, float]:
    """Return the difference and the variances over seeds, over items and of flips of one draw."""
    second, first = (chances[0] for chances in _chances(1, 200, 10_000, truth, rng))
    difference = second - first
    by_seed, by_item = difference.mean(axis=1), difference.mean(axis=0)
    residual = difference - by_seed[:, None] - by_item[None, :] + difference.mean()
    noise = (second * (1 - second)).mean() + (first * (1 - first)).mean() + residual.var()
    return float(difference.mean()), float(by_seed.var(ddof=1)), float(by_item.var(ddof=1)), float(noise)


def _fewest(seeds: int, truth: Truth, repeats: int, rng: Generator) -> float | None:
    """Return the items at which the simulated power crosses 80%; None if all items are too few.

    The whole grid is simulated first; then four numbers near the crossing, through which a line is laid (probit of the
    power against the logarithm of the items).
    """
    coarse = _grid(4, truth.most_items, COARSE)
    shares = np.maximum.accumulate(_powers(seeds, coarse, truth, repeats // 4, rng))
    if shares[-1] < POWER - 0.05:
        return None
    start = float(np.exp(np.interp(POWER, shares, np.log(coarse))))
    near = np.unique(np.round(start * np.array([0.85, 0.95, 1.05, 1.2])).astype(np.int64).clip(2, truth.most_items))
    shares = _powers(seeds, near, truth, repeats, rng)
    if len(near) < 2:
        return float(near[0]) if shares[0] >= POWER else None
    slope, level = np.polyfit(np.log(near), ndtri(shares.clip(0.01, 0.99)), 1)
    if slope <= 0:
        return None
    crossing = float(np.exp((ndtri(POWER) - level) / slope))
    return crossing if crossing <= truth.most_items else None


def _grid(low: int, high: int, ratio: float) -> NDArray[np.int64]:
    count = int(np.log(high / low) / np.log(ratio)) + 1
    return np.unique([*np.round(low * ratio ** np.arange(count)).astype(np.int64), high])


def _powers(seeds: int, items: NDArray[np.int64], truth: Truth, repeats: int, rng: Generator) -> Floats:
    """Return the share of simulated claims for the first items of each experiment, as many as each of `items`."""
    most, done = int(items.max()), 0
    claims = np.zeros(len(items))
    while done < repeats:
        batch = min(repeats - done, max(1, _AT_ONCE // (seeds * most)))
        second, first = _scores(batch, seeds, most, truth, rng)
        for place, count in enumerate(items):
            claims[place] += _claims(second[..., :count], first[..., :count]).sum()
        done += batch
    return claims / repeats


def _claims(second: Floats, first: Floats) -> NDArray[np.bool_]:
    """Return where both tests of the report reject, in the true direction."""
    samples = [Sample(second, first, None, 1.0)]
    means, references = seed_means(samples)
    tested = seed_test(means, references, SeedTestKind.PAIRED, 1 - LEVEL)
    value = means.mean(axis=-1) - references.mean(axis=-1)
    freedom = freedom_with_items(tested.freedom, units_of(samples))
    wide = wide_p_values(value, widened_variance(samples, tested), freedom)
    # Where all seeds have one mean the t-test is not defined, and the second decides.
    narrow = np.where(np.isnan(tested.p_value), 0.0, tested.p_value)
    is_enough = units_of(samples) >= FEWEST_UNITS
    return np.asarray(is_enough & (wide <= LEVEL) & (narrow <= LEVEL) & (value > 0))


def _scores(count: int, seeds: int, items: int, truth: Truth, rng: Generator) -> tuple[Floats, Floats]:
    """Return scores at the level and at the reference, shape [count, seeds, items]."""
    if truth.binary:
        second, first = _chances(count, seeds, items, truth, rng)
        return (
            (rng.random(second.shape) < second).astype(np.float64),
            (rng.random(first.shape) < first).astype(np.float64),
        )
    spread = truth.spread
    between = rng.normal(0, np.sqrt(spread.seeds / 2), (2, count, seeds, 1))
    flips = rng.normal(0, np.sqrt(spread.flips / 2), (2, count, seeds, items))
    effect = truth.delta + rng.normal(0, np.sqrt(spread.items), (count, 1, items))
    hardness = rng.normal(0.5, 0.3, (count, 1, items))
    return hardness + between[0] + flips[0] + effect, hardness + between[1] + flips[1]


def _chances(count: int, seeds: int, items: int, truth: Truth, rng: Generator) -> tuple[Floats, Floats]:
    """Return the chances that items are right: a third can go either way, the others are easy or hard."""
    open_items = rng.random((count, 1, items)) < 1 / 3
    sure = np.where(rng.random((count, 1, items)) < 0.6, 0.85, 0.05)
    hardness = np.where(open_items, rng.uniform(0.2, 0.8, (count, 1, items)), sure)
    between = rng.normal(0, np.sqrt(truth.spread.seeds / 2), (2, count, seeds, 1))
    effect = truth.delta + rng.normal(0, np.sqrt(truth.spread.items), (count, 1, items))
    return np.clip(hardness + between[0] + effect, 0, 1), np.clip(hardness + between[1], 0, 1)


if __name__ == "__main__":
    sys.exit(main())
