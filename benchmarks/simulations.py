"""What the report's statistics promise, by simulation: coverage of intervals, false claims, power.

Started by `statistics.py`. Every figure comes from `touchline.statistics.analysis.analyse`, which the report calls, and
what is called smallest from there or from the planner's own functions; behind it stands twice its simulation error.
The null sweeps over seeds are simulated by the thousand at once, through the very functions that `analyse` calls, and
the first of each cell are held against `analyse` itself.
Bounds, each but for two simulation errors: intervals of 95 % cover 92 to 98 % on 100 items at shares of 0.5, 0.9 and
0.97; at most 5 % of the sweeps in which nothing is there make any false claim; a difference of the smallest size
that was planned to be shown is shown in at least 80 %. Exit code 1 when one is broken. Rows without a bound are there
to be known.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

from touchline.core.levels import Level
from touchline.core.quantity import Quantity
from touchline.statistics.analysis import TaskScores, analyse_together
from touchline.statistics.closed_forms import smallest_seed_difference, smallest_shown
from touchline.statistics.conclusions import Analysis, Conclusion, ScoredRun, SeedTestKind
from touchline.statistics.contrasts import (
    Sample,
    freedom_with_items,
    seed_means,
    seed_test,
    units_of,
    wide_p_values,
    widened_variance,
)
from touchline.statistics.effects import is_established
from touchline.statistics.items import holm
from touchline.statistics.own_score import LEVEL

Floats = NDArray[np.float64]
SHARES = (0.5, 0.9, 0.97)
ITEMS = 100
COVERAGE = (0.92, 0.98)
POWER = 0.8
Kind = Literal["coverage", "false claims", "power"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One simulated figure."""

    kind: Kind
    """What is looked at."""
    what: str
    """The design."""
    share: float
    """Of the simulations."""
    simulations: int
    """How many."""
    is_bound: bool
    """Whether a bound is promised for it."""

    @property
    def error(self) -> float:
        """Simulation error of the share: the half-width of Wilson's interval at one standard error."""
        n, share = self.simulations, self.share
        return float((share * (1 - share) / n + 1 / (4 * n * n)) ** 0.5 / (1 + 1 / n))

    @property
    def holds(self) -> bool:
        """Whether it keeps its bound but for two simulation errors."""
        if self.kind == "coverage":
            return COVERAGE[0] - 2 * self.error <= self.share <= COVERAGE[1] + 2 * self.error
        if self.kind == "false claims":
            return self.share <= LEVEL + 2 * self.error
        return self.share >= POWER - 2 * self.error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the simulations")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulations")
    parser.add_argument("--only", choices=list(_parts()), help="one part alone")
    parser.add_argument("--json", action="store_true", help="the rows as JSON")
    options = parser.parse_args(arguments)
    started, scale = time.perf_counter(), 0.2 if options.quick else 1.0
    rows = []
    for row in (
        row
        for name, (simulate, count) in _parts().items()
        if options.only in (None, name)
        # Each part has chance of its own, so that it gives the same alone.
        for row in simulate(Generator(PCG64(options.seed)), max(50, int(count * scale)))
    ):
        rows.append(row)
        if not options.json:
            _print(row)
    if options.json:
        print(json.dumps([asdict(row) | {"error": row.error, "holds": row.holds} for row in rows], indent=2))
    broken = [row for row in rows if row.is_bound and not row.holds]
    print(
        f"{len(rows)} figures in {time.perf_counter() - started:.0f} s, seed {options.seed}; "
        + (f"{len(broken)} bounds are broken" if broken else "every bound holds"),
        file=sys.stderr,
    )
    return 1 if broken else 0


def _print(row: Row) -> None:
    verdict = ("" if row.holds else "BROKEN") if row.is_bound else "(no bound)"
    print(
        f"{row.kind:<13} {row.what:<94} {100 * row.share:6.2f} % +- {200 * row.error:.2f}  {verdict}".rstrip(),
        flush=True,
    )


def _parts() -> dict[str, tuple[Callable[[Generator, int], Iterator[Row]], int]]:
    """Parts of the benchmark and how many simulations each makes of a figure."""
    return {
        "coverage of items": (_coverage_of_items, 4000),
        "claims of items": (_false_claims_of_items, 2000),
        "power of items": (_power_of_items, 2000),
        "coverage of seeds": (_coverage_of_seeds, 1000),
        "claims of seeds": (_false_claims_of_seeds, 500),
        "null sweeps": (_null_sweeps, 4000),
        "null sweeps of clusters": (_null_sweeps_of_clusters, 4000),
        "choice of test": (_choice_of_test, 100_000),
        "power of seeds": (_power_of_seeds, 1000),
    }


# ------------------------------------------------------------------------------------------------- what is simulated
def _chances(rng: Generator, share: float, items: int, columns: int = 1) -> Floats:
    """Chance of a right answer to each item, easy and hard ones, with that mean over all items there are."""
    return rng.beta(4 * share, 4 * (1 - share), size=(items, columns))


def _answers(rng: Generator, chances: Floats, answers: int = 1) -> Floats:
    """Mean score of so many answers to each item."""
    return rng.binomial(answers, chances) / answers


def _run(name: str, scores: Floats, *, control: bool = False, seed: int = 1, **levels: str) -> ScoredRun:
    return ScoredRun(
        name=name,
        model="base",
        dataset="data",
        is_control=control,
        in_family=not control,
        levels=tuple(Level(factor=factor, value=value) for factor, value in levels.items()),
        seed=seed,
        checkpoint="epoch_0",
        comparable="same",
        data="same",
        items=tuple(str(i) for i in range(len(scores))),
        scores=tuple(float(score) for score in scores),
    )


def _clustered(run: ScoredRun, size: int) -> ScoredRun:
    return replace(run, clusters=tuple(f"document {i // size}" for i in range(len(run.items))))


def _analysis(runs: Sequence[ScoredRun], rng: Generator, **factors: Sequence[str]) -> Analysis:
    return analyse_together([TaskScores(task="task", score="score", runs=runs, rng=rng)], factors)[0]


# ------------------------------------------------------------------------------------------------- coverage
def _coverage_of_items(rng: Generator, count: int) -> Iterator[Row]:
    """Intervals of own scores and of differences to the control, on 100 items."""
    for name, answers, size in (
        ("right or wrong", 1, 1),
        ("mean of 4 answers", 4, 1),
        ("right or wrong, 20 clusters of 5", 1, 5),
    ):
        few = count if answers == 1 and size == 1 else count // 4
        for share in SHARES:
            gain = 0.02
            own = paired = 0
            for _ in range(few):
                units = ITEMS // size
                first = np.repeat(_chances(rng, share, units)[:, 0], size)
                # Half of what makes an item easy is the same for both.
                other = np.repeat(_chances(rng, share, units)[:, 0], size)
                second = (first + other) / 2
                second = second + (1 - second) * gain / (1 - share)
                runs = [
                    _run("control", _answers(rng, first, answers), control=True),
                    _run("run", _answers(rng, second, answers)),
                ]
                if size > 1:
                    runs = [_clustered(run, size) for run in runs]
                found = _analysis(runs, rng)
                own += found.scores[0].low <= share <= found.scores[0].high
                difference = found.comparisons[0].difference
                paired += difference.low <= gain <= difference.high
            what = f"n = {ITEMS}, p = {share}, {name}"
            yield Row(kind="coverage", what=f"score, {what}", share=own / few, simulations=few, is_bound=True)
            yield Row(
                kind="coverage",
                what=f"difference of {gain} to the control, {what}",
                share=paired / few,
                simulations=few,
                is_bound=True,
            )


def _seeds(
    rng: Generator,
    *,
    share: float,
    items: int,
    seeds: int,
    spread: float,
    effect: float = 0.0,
    ratio: float = 1.0,
    taste: float = 0.0,
) -> list[ScoredRun]:
    """Two levels of a factor, two of another, and seeds; each seed shifts the chances of all items.

    Args:
        share: mean score.
        items: how many.
        seeds: of each condition.
        spread: standard deviation between seeds, of the chance of a right answer.
        effect: of level b of the first factor.
        ratio: spread at level b over that at level a.
        taste: standard deviation over items of what level b changes: it helps some and harms others.
    """
    easy = np.clip(share + rng.uniform(-0.03, 0.03, size=items), 0, 1)
    liked = rng.normal(0, taste, size=items) if taste else np.zeros(items)
    runs = []
    for rank in ("a", "b"):
        for rate in ("x", "y"):
            for seed in range(seeds):
                scale = spread * (ratio if rank == "b" else 1.0)
                shift = rng.normal(0, scale) if scale else 0.0
                chances = easy + shift + (effect + liked if rank == "b" else 0.0)
                scores = _answers(rng, np.clip(chances, 0, 1)[:, None])[:, 0]
                runs.append(_run(f"{rank}{rate}{seed}", scores, seed=seed, rank=rank, rate=rate))
    return runs


def _coverage_of_seeds(rng: Generator, count: int) -> Iterator[Row]:
    """Intervals of a factor's effect over seeds."""
    for seeds in (2, 3, 5):
        for share, spread, taste in ((0.6, 0.03, 0.0), (0.9, 0.02, 0.0), (0.5, 0.01, 0.3)):
            held = 0
            for _ in range(count):
                runs = _seeds(rng, share=share, items=200, seeds=seeds, spread=spread, effect=0.03, taste=taste)
                found = _analysis(runs, rng, rank=("a", "b")).effects[0].contrasts[0]
                # Seeds that do not differ have no interval of their own; then that with items stands in the report.
                assert found.with_items is not None
                low, high = (
                    (found.with_items.low, found.with_items.high) if found.low is None else (found.low, found.high)
                )
                assert high is not None
                held += low <= 0.03 <= high
            kinds = ", effect differs from item to item" if taste else ""
            what = f"{seeds} seeds, p = {share}, spread {spread}{kinds}"
            yield Row(
                kind="coverage", what=f"effect, paired t, {what}", share=held / count, simulations=count, is_bound=False
            )


# ------------------------------------------------------------------------------------------------- false claims
def _claims(analysis: Analysis) -> tuple[bool, bool]:
    """Whether anything is claimed of a checkpoint, and of a setting."""
    claims = (Conclusion.HIGHER, Conclusion.LOWER)
    of_checkpoints = any(each.shown in claims for each in analysis.comparisons)
    of_settings = any(each.shown in claims for effect in analysis.effects for each in effect.contrasts)
    return of_checkpoints, of_settings


def _false_claims_of_items(rng: Generator, count: int) -> Iterator[Row]:
    """Sweeps of eight runs that do exactly as well as their control, on the whole population of items."""
    for name, answers, size, items in (
        ("right or wrong", 1, 1, 100),
        ("right or wrong", 1, 1, 1000),
        ("mean of 4 answers", 4, 1, 100),
        ("right or wrong, 20 clusters of 5", 1, 5, 100),
    ):
        few = count if answers == 1 and size == 1 else count // 4
        for share in SHARES:
            claimed = 0
            for _ in range(few):
                easy = np.repeat(_chances(rng, share, items // size)[:, 0], size)
                runs = []
                for number in range(9):
                    own = np.repeat(_chances(rng, share, items // size)[:, 0], size)
                    scores = _answers(rng, (easy + own) / 2, answers)
                    run = _run(f"run {number}", scores, control=number == 0)
                    runs.append(_clustered(run, size) if size > 1 else run)
                claimed += _claims(_analysis(runs, rng))[0]
            yield Row(
                kind="false claims",
                what=f"any of 8 runs differs from its control, n = {items}, p = {share}, {name}",
                share=claimed / few,
                simulations=few,
                is_bound=True,
            )


def _false_claims_of_seeds(rng: Generator, count: int) -> Iterator[Row]:
    """Two factors of two levels that do nothing, beside seeds that do."""
    for seeds in (2, 3, 5):
        for share, spread, ratio, taste, items in (
            (0.6, 0.03, 1.0, 0.0, 200),
            (0.9, 0.0, 1.0, 0.0, 200),
            (0.9, 0.02, 1.0, 0.0, 1000),
            (0.6, 0.08, 0.05, 0.0, 1000),
            (0.5, 0.01, 1.0, 0.3, 200),
        ):
            claimed = 0
            for _ in range(count):
                runs = _seeds(rng, share=share, items=items, seeds=seeds, spread=spread, ratio=ratio, taste=taste)
                claimed += _claims(_analysis(runs, rng, rank=("a", "b"), rate=("x", "y")))[1]
            kinds = ", one level spreads 20 times as much" if ratio != 1 else ""
            kinds += ", effect differs from item to item" if taste else ""
            yield Row(
                kind="false claims",
                what=f"any of 2 factors has an effect, {seeds} seeds, n = {items}, p = {share}, spread {spread}{kinds}",
                share=claimed / count,
                simulations=count,
                is_bound=True,
            )


SPREADS, SEEDS, MANY_ITEMS, CONDITIONS = (0, 1, 3, 10), (2, 3, 5), (100, 1000), (1, 4)
"""The grid of null sweeps: points of standard deviation between seeds, seeds, items, levels of a second factor."""
_CHECKED = 3
"""Sweeps of each cell that are held against `analyse`."""
_BLOCK = 4_000_000
"""Answers that are held at once."""


def _null_sweeps(rng: Generator, count: int) -> Iterator[Row]:
    """Sweeps in which only seeds differ: 1 condition is one contrast; 4 are four contrasts and three interactions."""
    for conditions, items, seeds, points in product(CONDITIONS, MANY_ITEMS, SEEDS, SPREADS):
        claims, interactions, done = 0, 0, 0
        while done < count:
            sweeps = min(count - done, max(_CHECKED, _BLOCK // (2 * conditions * seeds * items)))
            shape = (sweeps, 2, conditions, seeds, 1)
            easy = rng.beta(2.4, 1.6, size=(sweeps, 1, 1, 1, items))
            chances = np.clip(easy + rng.normal(0, points / 100, size=shape), 0, 1)
            scores = (rng.random((*shape[:-1], items)) < chances).astype(np.float64)
            by_effects, by_interactions = _claimed(_contrasts(scores)), _claimed(_interactions(scores))
            if done == 0:
                _same_as_analyse(scores, by_effects, by_interactions, rng)
            claims, interactions, done = claims + by_effects.sum(), interactions + by_interactions.sum(), done + sweeps
        cell = f"{seeds} seeds, sd {points} points, n = {items}, {conditions} condition{'s' if conditions > 1 else ''}"
        yield Row(
            kind="false claims",
            what=f"null sweep: any of {1 if conditions == 1 else 4} contrasts, {cell}",
            share=float(claims / count),
            simulations=count,
            is_bound=True,
        )
        if conditions > 1:
            yield Row(
                kind="false claims",
                what=f"null sweep: any of {conditions - 1} interactions, {cell}",
                share=float(interactions / count),
                simulations=count,
                is_bound=True,
            )


TASTE = 0.05
"""Standard deviation over clusters of a level's chance of a right answer, which is the same over all clusters."""


def _null_sweeps_of_clusters(rng: Generator, count: int) -> Iterator[Row]:
    """Levels that do as well as each other over all clusters, and not in each: few clusters may agree by luck."""
    for units, size, seeds in product((2, 3, 5, 6, 8, 20), (1, 30), (3, 12)):
        claims, old, done, items = 0, 0, 0, units * size
        clusters = None if size == 1 else tuple(str(at // size) for at in range(items))
        while done < count:
            sweeps = min(count - done, max(_CHECKED, _BLOCK // (2 * seeds * items)))
            easy = rng.beta(2.4, 1.6, size=(sweeps, 1, 1, 1, units)) + rng.normal(0, TASTE, (sweeps, 2, 1, 1, units))
            shifts = rng.normal(0, 0.01, size=(sweeps, 2, 1, seeds, 1))
            chances = np.repeat(np.clip(easy + shifts, 0, 1), size, axis=-1)
            scores = (rng.random(chances.shape) < chances).astype(np.float64)
            found = _claimed(_contrasts(scores), clusters)
            if done == 0:
                _same_as_analyse(scores, found, found[:0], rng, size)
            claims, done = claims + found.sum(), done + sweeps
            old += _claimed(_contrasts(scores), clusters, is_old=True).sum()
        what = f"{units} clusters of {size} items" if size > 1 else f"{units} items"
        for claimed, rest, is_bound in ((claims, "", True), (old, ", degrees of freedom of the seeds", False)):
            what_of = f"levels differ from cluster to cluster, {what}, {seeds} seeds{rest}"
            share = float(claimed / count)
            yield Row(kind="false claims", what=what_of, share=share, simulations=count, is_bound=is_bound)


def _contrasts(scores: Floats) -> list[tuple[Floats, Floats]]:
    """Scores by seed and item at two levels, shape [sweeps, seeds, items], of every contrast of both factors."""
    conditions = range(1, scores.shape[2])
    first = [(scores[:, 1].mean(axis=1), scores[:, 0].mean(axis=1))]
    return first + [(scores[:, :, at].mean(axis=1), scores[:, :, 0].mean(axis=1)) for at in conditions]


def _interactions(scores: Floats) -> list[tuple[Floats, Floats]]:
    effects = scores[:, 1] - scores[:, 0]
    return [(effects[:, at], effects[:, 0]) for at in range(1, scores.shape[2])]


def _claimed(
    pairs: Sequence[tuple[Floats, Floats]], clusters: tuple[str, ...] | None = None, *, is_old: bool = False
) -> NDArray[np.bool_]:
    """Whether each sweep claims anything, shape [sweeps], as `effects.adjusted` decides it.

    Args:
        clusters: what each item belongs to; None if they stand alone.
        is_old: with the seeds' degrees of freedom, whatever the number of items, for comparison.
    """
    if not pairs:
        return np.zeros(0, dtype=np.bool_)
    by_seeds, with_items = [], []
    for second, first in pairs:
        samples = [Sample(second, first, clusters, 1.0)]
        own, other = seed_means(samples)
        tested = seed_test(own, other, SeedTestKind.PAIRED, 1 - LEVEL)
        by_seeds.append(tested.p_value)
        values = own.mean(axis=-1) - other.mean(axis=-1)
        freedom = tested.freedom if is_old else freedom_with_items(tested.freedom, units_of(samples))
        with_items.append(wide_p_values(values, widened_variance(samples, tested), freedom))
    found = np.zeros(len(by_seeds[0]), dtype=np.bool_)
    for sweep, (raw, wide) in enumerate(zip(np.transpose(by_seeds), np.transpose(with_items), strict=True)):
        if min(wide) < LEVEL:
            adjusted = holm([1.0 if np.isnan(p) else float(p) for p in raw])
            found[sweep] = any(
                is_established(None if np.isnan(p) else a, w, ITEMS if is_old else units_of(samples))
                for p, a, w in zip(raw, adjusted, holm(wide.tolist()), strict=True)
            )
    return found


def _same_as_analyse(
    scores: Floats, by_effects: NDArray[np.bool_], by_interactions: NDArray[np.bool_], rng: Generator, size: int = 1
) -> None:
    """Raise unless the report's own function says the same of the first sweeps."""
    rates = [str(at) for at in range(scores.shape[2])]
    for sweep in range(_CHECKED):
        runs = [
            _run(f"{rank}{rate}{seed}", scores[sweep, at, place, seed], seed=seed, rank=rank, rate=rate)
            for (at, rank), (place, rate), seed in product(enumerate("ab"), enumerate(rates), range(scores.shape[3]))
        ]
        if size > 1:
            runs = [_clustered(run, size) for run in runs]
        found = _analysis(runs, rng, rank=("a", "b"), rate=rates)
        told = any(each.is_shown for effect in found.effects for each in effect.contrasts)
        differ = any(each.difference.is_shown for each in found.interactions)
        if (told, differ) != (by_effects[sweep], by_interactions[sweep] if len(by_interactions) else False):
            raise AssertionError("the simulation does not decide as the report does")


def _choice_of_test(rng: Generator, count: int) -> Iterator[Row]:
    """Why shared seeds are paired: false claims of both tests where a seed moves the levels alike, or apart."""
    for seeds, (together, ratio) in product((2, 3, 5), ((0.0, 1.0), (0.5, 1.0), (0.9, 1.0), (-0.5, 1.0), (0.0, 0.05))):
        second = rng.normal(size=(count, seeds))
        first = ratio * (together * second + (1 - together**2) ** 0.5 * rng.normal(size=(count, seeds)))
        for kind in SeedTestKind:
            share = (seed_test(second, first, kind, 1 - LEVEL).p_value < LEVEL).mean()
            what = f"{kind.value} on shared seeds, {seeds} seeds, correlation {together:+g}, spreads 1 to {ratio:g}"
            yield Row(kind="false claims", what=what, share=float(share), simulations=count, is_bound=False)


# ------------------------------------------------------------------------------------------------- power
def _power_of_items(rng: Generator, count: int) -> Iterator[Row]:
    """A run that is better than its control by the smallest difference that was said to be shown."""
    for items, flips, family in ((100, 0.15, 1), (200, 0.15, 1), (200, 0.15, 8), (1000, 0.06, 8), (200, 0.02, 1)):
        planned = smallest_shown(items, flips, coverage=1 - LEVEL / family)
        assert planned is not None
        for name, smallest in (("as planned", planned), ("as reported by an equal sweep before", None)):
            shown = told = 0
            while told < count:
                effect = smallest
                if effect is None:
                    found = _analysis(_flipping(rng, items, 0.0, flips, family), rng).comparisons[0].smallest
                    assert isinstance(found, Quantity)
                    effect = found.value
                analysis = _analysis(_flipping(rng, items, effect, max(flips, effect), family), rng)
                shown += analysis.comparisons[0].shown is Conclusion.HIGHER
                told += 1
            yield Row(
                kind="power",
                what=f"one run of {family}, n = {items}, {100 * flips:g} % flip, {name}",
                share=shown / count,
                simulations=count,
                is_bound=True,
            )


def _flipping(rng: Generator, items: int, effect: float, flips: float, family: int) -> list[ScoredRun]:
    """A control, a run that is better by `effect`, and others that are as good as the control."""
    control = rng.random(items) < 0.5
    runs = [_run("control", control.astype(float), control=True)]
    for number in range(family):
        gain = effect if number == 0 else 0.0
        # Of right answers some get lost, of wrong ones some are gained; half of the items are right.
        lost = (rng.random(items) < flips - gain) & control
        gained = (rng.random(items) < flips + gain) & ~control
        runs.append(_run(f"run {number}", ((control & ~lost) | gained).astype(float)))
    return runs


def _power_of_seeds(rng: Generator, count: int) -> Iterator[Row]:
    """A level that is better by the smallest difference that so many seeds were said to show."""
    items, share, spread = 1000, 0.5, 0.02
    # What a seed's mean over two conditions spreads by: the seeds' own spread, and the flips of that many items.
    deviation = ((spread**2 + share * (1 - share) / items) / 2) ** 0.5
    for seeds in (2, 3, 5, 10):
        unit = smallest_seed_difference(seeds)
        assert unit is not None
        for name in ("as planned", "as reported by an equal sweep before"):
            shown = 0
            for _ in range(count):
                effect = unit * deviation
                if name != "as planned":
                    pilot = _seeds(rng, share=share, items=items, seeds=seeds, spread=spread)
                    found = _analysis(pilot, rng, rank=("a", "b")).effects[0].contrasts[0].smallest
                    assert isinstance(found, Quantity)
                    effect = min(found.value, 0.3)
                runs = _seeds(rng, share=share, items=items, seeds=seeds, spread=spread, effect=effect)
                shown += _analysis(runs, rng, rank=("a", "b")).effects[0].contrasts[0].shown is Conclusion.HIGHER
            size = f"{unit:.2f} standard deviations between seeds, " if name == "as planned" else ""
            yield Row(
                kind="power",
                what=f"effect of a level, {size}{seeds} seeds, n = {items}, {name}",
                share=shown / count,
                simulations=count,
                # What few seeds estimate of their own spread may be far too little: told, and no promise.
                is_bound=name == "as planned",
            )
