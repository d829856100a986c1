"""Strategies by simulation: false claims of sequential looks, power, expected seeds, and the cost of exploring first.

    python benchmarks/strategies.py [--quick] [--seed 1] [--only "null sweeps"] [--json] > benchmarks/strategies.txt

Every decision comes from touchline's own functions. Families of contrasts are decided by the thousand at once with the
bounds of `group_sequential`; the first of every cell are decided by `take_look` as well, and must be the same.
Behind each figure stands twice its simulation error. Limits, each but for two simulation errors; exit code 1 when one
is broken, rows without a limit are there to be known:

- at most 5 % of the families in which nothing is there make any false claim (the bounds promise 2.5 %, one-sided);
- the promised difference is established in at least 80 %;
- corrected claims of the promised difference or a larger one overstate it by at most 3 %;
- expected seeds are at most 60 % of the fixed design's without a difference, and 75 % with twice the promised one;
- `design` chooses seeds and items with 80 % power whose cost is within 5 % of the best of an exhaustive simulation;
- explore + confirm find the true best level at least as often as the fixed grid, for at most half of its runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Final, Literal

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray
from sample_sizes import WITHIN, choices
from scipy.special import stdtr, stdtrit

from touchline.statistics.conclusions import SeedTestKind, Verdict
from touchline.statistics.contrasts import Sample, seed_means, seed_test, widened_variance
from touchline.statistics.own_score import FEWEST_UNITS
from touchline.strategy.decisions import SeedPair
from touchline.strategy.design import ChosenLooks, choose_looks
from touchline.strategy.evidence import Evidence, divergence_variance, take_look
from touchline.strategy.explore import halving
from touchline.strategy.group_sequential import (
    LEVEL,
    corrected_effect,
    efficacy_bounds,
    futility_bounds,
    shown_effect,
)

Floats = NDArray[np.float64]
FALSE_CLAIMS: Final = 0.05
POWER: Final = 0.8
OVERSTATED: Final = 0.03
"""Share by which corrected claims of the promised difference, or a larger one, may be too large on average."""
_CHECKED: Final = 3
"""Families of each cell that `take_look` decides as well."""
Kind = Literal["false claims", "power", "seeds", "overstated", "best level", "cost"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One simulated figure."""

    kind: Kind
    """Subject."""
    what: str
    """Design."""
    value: float
    """Share of the simulations, or a ratio."""
    error: float
    """Standard error of the simulation."""
    limit: float | None = None
    """Promised limit; None if nothing is promised."""
    is_upper: bool = True
    """Whether the limit is the largest value, not the smallest."""

    @property
    def holds(self) -> bool:
        """Return whether it keeps its limit but for two simulation errors."""
        if self.limit is None:
            return True
        room = 2 * self.error
        return self.value <= self.limit + room if self.is_upper else self.value >= self.limit - room


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate and print; return 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the simulations")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulations")
    parser.add_argument("--only", choices=list(_parts()), help="one part alone")
    parser.add_argument("--json", action="store_true", help="the rows as JSON")
    options = parser.parse_args(arguments)
    started, scale = time.perf_counter(), 0.05 if options.quick else 1.0
    rows: list[Row] = []
    if not options.json:
        print(f"Strategies by simulation; behind each figure two simulation errors. Seed {options.seed}.")
    for name, (simulate, count) in _parts().items():
        if options.only not in (None, name):
            continue
        simulations = max(50, int(count * scale))
        if not options.json:
            print(f"\n== {name}: {simulations:,} simulations per figure", flush=True)
        # Each part has chance of its own, so that it gives the same alone.
        for row in simulate(Generator(PCG64(options.seed)), simulations):
            rows.append(row)
            if not options.json:
                _print(row)
    if options.json:
        print(json.dumps([asdict(row) | {"holds": row.holds} for row in rows], indent=2))
    broken = [row for row in rows if not row.holds]
    print(
        f"{len(rows)} figures in {time.perf_counter() - started:.0f} s, seed {options.seed}; "
        + (f"{len(broken)} limits are broken" if broken else "every limit holds"),
        file=sys.stderr,
    )
    return 1 if broken else 0


def _print(row: Row) -> None:
    if row.limit is None:
        verdict = "(no limit)"
    else:
        verdict = f"{'<=' if row.is_upper else '>='} {100 * row.limit:g} %{'' if row.holds else '  BROKEN'}"
    print(f"{row.kind:<13} {row.what:<96} {100 * row.value:6.2f} % +- {200 * row.error:.2f}  {verdict}", flush=True)


def _parts() -> dict[str, tuple[Callable[[Generator, int], Iterator[Row]], int]]:
    """Parts of the benchmark and how many simulations each makes of a figure."""
    return {
        "null sweeps": (_null_sweeps, 20_000),
        "null sweeps of items": (_null_sweeps_of_items, 4_000),
        "null sweeps of other seeds": (_null_sweeps_of_other_seeds, 20_000),
        "power and seeds": (_power_and_seeds, 40_000),
        "claimed differences": (_claimed_differences, 20_000),
        "families": (_families, 20_000),
        "few seeds": (_few_seeds, 40_000),
        "explore and confirm": (_explore_and_confirm, 4_000),
        "design": (_design, 4_000),
    }


def _design(rng: Generator, simulations: int) -> Iterator[Row]:
    """Yield the simulated power of each choice of `design`, and its cost over that of the best (`sample_sizes.py`)."""
    for each in choices(rng, simulations):
        what = f"design, {each.name}: {each.seeds} seeds x {each.items} items"
        yield Row(kind="power", what=what, value=each.power, error=each.error, limit=POWER, is_upper=False)
        best = f"{what}, of the best ({each.best_seeds} x {each.best_items})"
        yield Row(kind="cost", what=best, value=each.cost_ratio, error=0.0, limit=WITHIN)


def _share(hits: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the share and its error: half of Wilson's interval at one standard error."""
    n, share = len(hits), float(hits.mean())
    return share, float((share * (1 - share) / n + 1 / (4 * n * n)) ** 0.5 / (1 + 1 / n))


# ------------------------------------------------------------------------------------------------- families at once
@dataclass(frozen=True, slots=True)
class Decided:
    """Ends of all contrasts of many families."""

    established: NDArray[np.bool_]
    """Shape [families, contrasts]."""
    seeds: NDArray[np.int64]
    """Seeds at the look at which each contrast ended."""


def decide(t: Floats, looks: tuple[int, ...], *, gives_up: bool, effect: float | None = None) -> Decided:
    """Decide many families at all looks, as `take_look` does it.

    Args:
        t: of every contrast at every look, shape [looks, families, contrasts]; NaN where it is undefined.
        looks: seeds at each look.
        gives_up: whether contrasts are given up as out of reach.
        effect: promised difference in standard deviations, for the futility bounds; None for that of the looks.
    """
    _, families, contrasts = t.shape
    bounds = np.array([efficacy_bounds(looks, LEVEL / left) for left in range(1, contrasts + 1)])
    futility = futility_bounds(looks, effect, level=LEVEL / contrasts)
    established = np.zeros((families, contrasts), dtype=bool)
    active = np.ones((families, contrasts), dtype=bool)
    seeds = np.full((families, contrasts), looks[-1])
    for number, now in enumerate(t):
        value = np.where(active & ~np.isnan(now), now, -np.inf)
        order = np.argsort(-value, axis=1, kind="stable")
        left = contrasts - established.sum(axis=1, keepdims=True) - np.arange(contrasts)
        needed = bounds[np.maximum(left, 1) - 1, number]
        is_open = np.logical_and.accumulate(np.take_along_axis(value, order, axis=1) >= needed, axis=1)
        claimed = np.zeros_like(active)
        np.put_along_axis(claimed, order, is_open, axis=1)
        ended = claimed.copy()
        if gives_up and number < len(looks) - 1:
            ended |= now <= futility[number]
        seeds[active & ended] = looks[number]
        established |= claimed & active
        active &= ~ended
    return Decided(established, seeds)


def t_at_looks(differences: Floats, looks: tuple[int, ...]) -> Floats:
    """Return Student's t of each contrast at each look, from differences of shape [families, contrasts, seeds]."""
    found = []
    for seeds in looks:
        part = differences[..., :seeds]
        error = part.std(axis=-1, ddof=1) / seeds**0.5
        found.append(np.divide(part.mean(axis=-1), error, out=np.full(error.shape, np.nan), where=error > 1e-12))
    return np.array(found)


def _pairs(differences: Floats) -> tuple[SeedPair, ...]:
    return tuple(SeedPair(seed=seed, level=each, against=0.0) for seed, each in enumerate(differences.tolist()))


def _same_as_take_look(
    differences: Floats,
    looks: tuple[int, ...],
    decided: Decided,
    *,
    gives_up: bool,
    effect: float | None = None,
    wide_errors: Floats | None = None,
    units: int | None = None,
) -> None:
    """Raise unless `take_look` decides the first families alike.

    Wide errors have shape [looks, families, contrasts].
    """
    for family in range(min(_CHECKED, len(differences))):
        verdicts: dict[str, Verdict] = {}
        seeds = {}
        for number, count in enumerate(looks):
            evidence = [
                Evidence(
                    contrast=str(at),
                    pairs=_pairs(differences[family, at, :count]),
                    wide_error=None if wide_errors is None else float(wide_errors[number, family, at]),
                    units=units,
                )
                for at in range(differences.shape[1])
                if str(at) not in verdicts
            ]
            for result in take_look(evidence, looks, number, verdicts, 1.0 if gives_up else None, effect=effect):
                if result.verdict is not Verdict.UNDECIDED:
                    verdicts[result.contrast], seeds[result.contrast] = result.verdict, count
        for at in range(differences.shape[1]):
            claimed = verdicts[str(at)] is Verdict.ESTABLISHED
            if (claimed, seeds[str(at)]) != (decided.established[family, at], decided.seeds[family, at]):
                raise AssertionError("the simulation does not decide as take_look does")


# ------------------------------------------------------------------------------------------------- false claims
NULL_LOOKS: Final = ((2,), (2, 3), (2, 3, 4), (3, 4, 6), (4, 8), (2, 3, 5, 8), (2, 4, 6, 9, 12))
CONTRASTS: Final = (2, 4, 8)


def _effects(rng: Generator, kind: str, shape: tuple[int, ...]) -> Floats:
    """Return seed effects: normal, or Student's with 3 degrees of freedom."""
    return rng.normal(size=shape) if kind == "normal" else rng.standard_t(3, size=shape)


def _null_sweeps(rng: Generator, count: int) -> Iterator[Row]:
    """Families in which no level differs; nothing is given up, which makes the most claims."""
    for contrasts, looks, kind, spreads, shared in product(
        CONTRASTS, NULL_LOOKS, ("normal", "heavy-tailed"), ("equal", "unequal"), (True, False)
    ):
        levels = np.ones(contrasts) if spreads == "equal" else np.geomspace(0.1, 10, contrasts)
        own = _effects(rng, kind, (count, contrasts, looks[-1])) * levels[:, None]
        others = _effects(rng, kind, (count, 1 if shared else contrasts, looks[-1]))
        # What a seed does to every level alike is no part of a paired difference.
        differences = own - others
        decided = decide(t_at_looks(differences, looks), looks, gives_up=False)
        _same_as_take_look(differences, looks, decided, gives_up=False)
        value, error = _share(decided.established.any(axis=1))
        reference = "one reference" if shared else "own references"
        what = f"any of {contrasts} contrasts, looks at {_text(looks)} seeds, {kind}, {spreads} spreads, {reference}"
        yield Row(kind="false claims", what=what, value=value, error=error, limit=FALSE_CLAIMS)


def _null_sweeps_of_items(rng: Generator, count: int) -> Iterator[Row]:
    """Right and wrong answers to items, with the wider error: seeds may agree by luck."""
    contrasts = 3
    cells = [(share, spread, items, 0.0) for share, spread, items in product((0.6, 0.97), SPREADS, (50, 200))]
    # Levels that do as well as each other over all items, and not at each, whose items are asked 30 times.
    cells += [(0.6, 0.01, items, 0.05) for items in (2, 3, 5, 6, 8, 20)]
    for (share, spread, items, taste), looks in product(cells, ((2, 3, 4, 6), (4, 8, 12))):
        if not taste and looks[-1] > 6:
            continue
        shape = (count, contrasts + 1, looks[-1], 1)
        easy = rng.beta(4 * share, 4 * (1 - share), size=(count, 1, 1, items))
        likes = rng.normal(0, taste, size=(count, contrasts + 1, 1, items))
        chances = np.clip(easy + likes + rng.normal(0, spread, size=shape), 0, 1)
        asked = 30 if taste else 1
        scores = rng.binomial(asked, np.broadcast_to(chances, (*shape[:-1], items))) / asked
        t, wide, pairs = [], [], []
        for at in range(1, contrasts + 1):
            statistics, errors = [], []
            for seeds in looks:
                samples = [Sample(scores[:, at, :seeds], scores[:, 0, :seeds], None, 1.0)]
                second, first = seed_means(samples)
                tested = seed_test(second, first, SeedTestKind.PAIRED, 1 - 2 * LEVEL)
                error = np.sqrt(widened_variance(samples, tested))
                mean = second.mean(axis=-1) - first.mean(axis=-1)
                statistics.append(_t_of_both(mean, tested.error, error, seeds, items))
                errors.append(error)
            second, first = scores[:, at].mean(axis=-1), scores[:, 0].mean(axis=-1)
            t.append(statistics), wide.append(errors), pairs.append(second - first)
        wide_errors = np.moveaxis(np.array(wide), 0, -1)
        differences = np.stack(pairs, axis=1)
        decided = decide(np.moveaxis(np.array(t), 0, -1), looks, gives_up=False)
        _same_as_take_look(differences, looks, decided, gives_up=False, wide_errors=wide_errors, units=items)
        value, error = _share(decided.established.any(axis=1))
        cell = f"{items} items{' of 30, levels differ' if taste else ''}, p = {share}, sd {100 * spread:g} points"
        what = f"any of {contrasts} contrasts, looks at {_text(looks)} seeds, {cell}"
        yield Row(kind="false claims", what=what, value=value, error=error, limit=FALSE_CLAIMS)


def _t_of_both(means: Floats, error: Floats, wide: Floats, seeds: int, units: int) -> Floats:
    """Return the t of each look as `evidence` has it, NaN where nothing is to be claimed."""
    if units < FEWEST_UNITS:
        return np.full(means.shape, np.nan)
    over, with_items = (
        np.divide(means, each, out=np.full(means.shape, np.inf), where=each > 1e-12) for each in (error, wide)
    )
    freedom = min(seeds, units) - 1
    if freedom < seeds - 1:
        with_items = np.copysign(stdtrit(seeds - 1, stdtr(freedom, -np.abs(with_items))), with_items)
    smaller = np.where(np.abs(over) < np.abs(with_items), over, with_items)
    return np.where(np.isfinite(smaller), smaller, np.nan)


SPREADS: Final = (0.0, 0.01, 0.05)
"""Standard deviations between seeds of the null sweeps of items."""
DIVERGING: Final = (0.1, 0.3, 0.5)
"""Chances of a run to diverge, the same for every level."""


def _null_sweeps_of_other_seeds(rng: Generator, count: int) -> Iterator[Row]:
    """Seed effects of other shapes: skewed alike at every level, diverging alike, and skewed at one side alone.

    The last ones have equal means and no limit: where no seed of a look fails, no test can know of the rare failure.
    Nothing is claimed in sweeps whose looks have seen it: with failures counted as divergence the rows are the same.
    """
    for contrasts, looks in product((2, 8), ((3, 4, 6), (2, 3, 5, 8), (2, 4, 6, 9, 12))):
        shape, many = (count, contrasts + 1, looks[-1]), f"any of {contrasts} contrasts, looks at {_text(looks)} seeds"
        for skew in (1.0, 2.0):
            scores = np.exp(skew * rng.normal(size=shape))
            what = f"{many}, log-normal at every level, log sd {skew:g}"
            yield _false_claims(scores[:, 1:] - scores[:, :1], looks, what, FALSE_CLAIMS)
        for chance in DIVERGING:
            is_lost = rng.random(shape) < chance
            scores = np.where(is_lost, 0.0, 0.95 + 0.01 * rng.normal(size=shape))
            errors = _divergence_errors(scores, is_lost, looks)
            what = f"{many}, {100 * chance:g} % of all runs diverge"
            yield _false_claims(scores[:, 1:] - scores[:, :1], looks, what, FALSE_CLAIMS, errors)
        levels, reference = -rng.exponential(size=shape)[:, 1:] + 1, 0.3 * rng.normal(size=shape)[:, :1]
        yield _false_claims(levels - reference, looks, f"{many}, levels with rare low scores, the same mean", None)
        # One level is 10 points better but for runs that fail, 90 points worse: a score of 0, as of a divergence.
        fails = np.zeros(shape, dtype=bool)
        fails[:, 1] = rng.random((count, looks[-1])) < 0.1
        for spread in (0.01, 0.03, 0.05):
            scores = np.where(
                fails, 0.0, 0.9 + spread * rng.normal(size=shape) + 0.1 * (np.arange(shape[1]) == 1)[:, None]
            )
            what = f"{many}, 10 % of the runs of one level diverge, the same mean, sd {100 * spread:g} points"
            errors = _divergence_errors(scores, fails, looks)
            yield _false_claims(scores[:, 1:] - scores[:, :1], looks, what, None, errors)


def _divergence_errors(scores: Floats, is_lost: NDArray[np.bool_], looks: tuple[int, ...]) -> Floats:
    """Return the wider error of each contrast with the first level at each look, as `evidence` has it."""
    errors = []
    for seeds in looks:
        lost, total = is_lost[..., :seeds].sum(axis=-1), scores[..., :seeds].sum(axis=-1)
        variance = np.array([divergence_variance(number, seeds) for number in range(seeds + 1)])[lost]
        finished, both = 2 * seeds - lost[:, 1:] - lost[:, :1], total[:, 1:] + total[:, :1]
        cost = np.divide(both, finished, out=np.zeros(both.shape), where=finished > 0)
        is_any = lost[:, 1:] + lost[:, :1] > 0
        errors.append(np.where(is_any, cost * np.sqrt(variance[:, 1:] + variance[:, :1]), 0.0))
    return np.array(errors)


def _false_claims(
    differences: Floats, looks: tuple[int, ...], what: str, limit: float | None, wide_errors: Floats | None = None
) -> Row:
    """Return the share of families with any claim."""
    t = t_at_looks(differences, looks)
    if wide_errors is not None:
        means = np.array([differences[..., :seeds].mean(axis=-1) for seeds in looks])
        over = np.array([differences[..., :seeds].std(axis=-1, ddof=1) / seeds**0.5 for seeds in looks])
        larger = np.maximum(over, wide_errors)
        t = np.divide(means, larger, out=np.full(t.shape, np.nan), where=larger > 1e-12)
    decided = decide(t, looks, gives_up=False)
    _same_as_take_look(differences, looks, decided, gives_up=False, wide_errors=wide_errors)
    value, error = _share(decided.established.any(axis=1))
    return Row(kind="false claims", what=what, value=value, error=error, limit=limit)


# ------------------------------------------------------------------------------------------------- power and seeds
def _simulated(
    rng: Generator, count: int, chosen: ChosenLooks, times: float, kind: str = "normal"
) -> tuple[NDArray[np.bool_], Floats]:
    """Return which contrasts are established, and their seeds over those of the fixed design."""
    noise = _effects(rng, kind, (count, 1, chosen.looks[-1]))
    if kind != "normal":
        noise /= 3**0.5
    differences = noise + times * chosen.effect
    decided = decide(t_at_looks(differences, chosen.looks), chosen.looks, gives_up=True, effect=chosen.effect)
    _same_as_take_look(differences, chosen.looks, decided, gives_up=True, effect=chosen.effect)
    return decided.established[:, 0], decided.seeds[:, 0] / chosen.fixed_seeds


def _rows(rng: Generator, count: int, chosen: ChosenLooks, *, is_promised: bool) -> Iterator[Row]:
    """Simulate looks without a difference, with the promised one and with twice it."""
    design = f"{chosen.fixed_seeds} fixed seeds for {chosen.effect:.2f} sd, looks at {_text(chosen.looks)}"
    for times, name, limit in ((1.0, "the promised", None), (0.0, "no", 0.6), (2.0, "twice the promised", 0.75)):
        established, seeds = _simulated(rng, count, chosen, times)
        if times == 1:
            value, error = _share(established)
            yield Row(kind="power", what=design, value=value, error=error, limit=POWER, is_upper=False)
        yield Row(
            kind="seeds",
            what=f"{design}, {name} difference",
            value=float(seeds.mean()),
            error=float(seeds.std() / count**0.5),
            limit=limit if is_promised else None,
        )


def _power_and_seeds(rng: Generator, count: int) -> Iterator[Row]:
    """Looks that were chosen for effects which one test alone shows with 6 to 14 seeds."""
    for fixed in (6, 7, 8, 10, 12, 14):
        yield from _rows(rng, count, choose_looks(shown_effect((fixed,))), is_promised=True)
    chosen = choose_looks(shown_effect((8,)))
    value, error = _share(_simulated(rng, count, chosen, 1.0, "heavy-tailed")[0])
    yield Row(kind="power", what=f"heavy-tailed differences, looks at {_text(chosen.looks)}", value=value, error=error)


def _claimed_differences(rng: Generator, count: int) -> Iterator[Row]:
    """By how much claims overstate a difference on average, as they are and as `take_look` corrects them."""
    for looks in ((3, 4, 6), (2, 3, 5, 8), (6,)):
        bounds = np.array(efficacy_bounds(looks))
        # In standard deviations; between its places the correction is interpolated.
        places = np.concatenate([np.linspace(0.2, 6, 60), np.geomspace(6.5, 60, 20)])
        corrections = np.array([corrected_effect(looks, float(each)) for each in places])
        for times in (0.75, 1.0, 1.5):
            effect = times * shown_effect(looks)
            differences = rng.normal(effect, 1.0, size=(count, 1, looks[-1]))
            t = t_at_looks(differences, looks)[..., 0]
            first = np.argmax(t >= bounds[:, None], axis=0)
            at = np.flatnonzero((t >= bounds[:, None]).any(axis=0))
            means = np.array([differences[:, 0, :seeds].mean(axis=-1) for seeds in looks])[first[at], at]
            t, root = t[first[at], at], np.array(looks)[first[at]] ** 0.5
            deviation = means / t * root
            lowest = means * (1 - bounds[first[at]] / t)
            corrected = np.maximum(deviation * np.interp(t / root, places, corrections, right=np.inf), lowest)
            corrected = np.where(t / root > places[-1], means, corrected)
            _same_correction(differences[at, 0], looks, first[at], corrected)
            for name, found in (("as claimed", means), ("corrected", corrected)):
                over = found / effect - 1
                what = f"looks at {_text(looks)} seeds, {times:g} times the promised difference, {name}"
                error = float(over.std() / len(over) ** 0.5)
                limit = OVERSTATED if name == "corrected" and times >= 1 else None
                yield Row(kind="overstated", what=what, value=float(over.mean()), error=error, limit=limit)


def _same_correction(differences: Floats, looks: tuple[int, ...], number: NDArray[np.int64], corrected: Floats) -> None:
    """Raise unless `take_look` corrects the first claims alike."""
    for own, at, found in list(zip(differences, number, corrected, strict=True))[:_CHECKED]:
        evidence = Evidence(contrast="one", pairs=_pairs(own[: looks[at]]), wide_error=None)
        (result,) = take_look([evidence], looks, int(at), {}, None)
        if result.corrected is None or abs(result.corrected - found) > 0.01:
            raise AssertionError("the simulation does not correct as take_look does")


def _few_seeds(rng: Generator, count: int) -> Iterator[Row]:
    """Effects that 4 or 5 seeds show: too few places for looks to keep the limits of seeds in every case."""
    for effect in (shown_effect((5,)), 1.9, 2.0, shown_effect((4,)), 2.6, 3.2):
        yield from _rows(rng, count, choose_looks(effect), is_promised=False)


def _families(rng: Generator, count: int) -> Iterator[Row]:
    """Power of one true contrast among others that share its reference, by Holm's rule over looks."""
    for contrasts, true in ((2, 1), (4, 1), (4, 4), (8, 2)):
        chosen = choose_looks(1.2, contrasts=contrasts)
        # Differences with one standard deviation, of levels and reference that have the same.
        scores = rng.normal(0, 0.5**0.5, size=(count, contrasts + 1, chosen.looks[-1]))
        scores[:, 1 : true + 1] += chosen.effect
        differences = scores[:, 1:] - scores[:, :1]
        decided = decide(t_at_looks(differences, chosen.looks), chosen.looks, gives_up=True, effect=chosen.effect)
        _same_as_take_look(differences, chosen.looks, decided, gives_up=True, effect=chosen.effect)
        design = f"{contrasts} contrasts, {true} of them true, {chosen.effect:.2f} sd, looks at {_text(chosen.looks)}"
        value, error = _share(decided.established[:, 0])
        yield Row(kind="power", what=f"{design}, a true one", value=value, error=error, limit=POWER, is_upper=False)
        if true < contrasts:
            value, error = _share(decided.established[:, true:].any(axis=1))
            yield Row(kind="false claims", what=f"{design}, any other", value=value, error=error, limit=FALSE_CLAIMS)


# ------------------------------------------------------------------------------------------------- explore and confirm
@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Synthetic sweep of one factor, in points. A level has a true score, a run of it a quality around that.

    The score of a run is its quality and the flips of its items; the validation loss is the quality and noise that
    becomes less while the run trains.
    """

    levels: int = 8
    """Levels of the factor; the first is the reference."""
    spread: float = 3.0
    """Standard deviation of the levels' true scores."""
    seed_spread: float = 0.5
    """Standard deviation of the quality between seeds of a level."""
    flips: float = 1.9
    """Standard deviation of a score around the quality: 15 % of 200 items flip between two trainings."""
    noise: tuple[float, float, float] = (1.5, 0.8, 0.4)
    """Standard deviation of the validation loss around the quality at both points and at the end, in points."""
    grid_seeds: int = 5
    """Seeds of the fixed grid."""
    confirmed: int = 1
    """Levels that explore hands to confirm."""

    @property
    def design(self) -> str:
        """Short description, with the correlation of losses and true scores over runs at the points and at the end."""
        each = [self.spread / (self.spread**2 + self.seed_spread**2 + noise**2) ** 0.5 for noise in self.noise]
        correlations = ", ".join(f"{value:.2f}" for value in each)
        confirmed = f", {self.confirmed} confirmed" if self.confirmed > 1 else ""
        return f"{self.levels} levels, sd {self.spread:g}, losses correlate {correlations}{confirmed}"

    def scores(self, rng: Generator, truth: Floats, seeds: int) -> Floats:
        """Draw the scores of all levels with so many seeds, shape [levels, seeds]."""
        return truth[:, None] + rng.normal(0, np.hypot(self.seed_spread, self.flips), size=(self.levels, seeds))


AT: Final = (0.25, 0.5)
"""Points of explore, as shares of a training."""
KEEP: Final = 0.5
"""Share that halving continues with."""
CONFIRM_LOOKS: Final = (2, 3, 4, 6)
"""Seeds at the looks of confirm."""
SWEEPS: Final = (
    (Sweep(), True),
    (Sweep(noise=(1.0, 0.6, 0.4)), True),
    (Sweep(levels=12, grid_seeds=4), True),
    (Sweep(spread=2.0, levels=16, grid_seeds=3), True),
    (Sweep(confirmed=2), False),
    (Sweep(noise=(3.0, 2.0, 1.0)), False),
    (Sweep(noise=(6.0, 5.0, 4.0)), False),
)
"""Sweeps, and whether the strategy is promised to find the best level in them as often as the fixed grid."""


def _explore_and_confirm(rng: Generator, count: int) -> Iterator[Row]:
    """How often the true best level is found, and the runs that it costs, against a fixed grid."""
    for sweep, is_promised in SWEEPS:
        found, fixed, cost = np.zeros(count, bool), np.zeros(count, bool), np.zeros(count)
        for at in range(count):
            truth = rng.normal(0, sweep.spread, size=sweep.levels)
            best = int(np.argmax(truth))
            fixed[at] = int(np.argmax(sweep.scores(rng, truth, sweep.grid_seeds).mean(axis=1))) == best
            chosen, explored = _explored(rng, sweep, truth)
            level, confirmed = _confirmed(rng, sweep, truth, chosen)
            found[at], cost[at] = level == best, explored + confirmed
        runs = sweep.levels * sweep.grid_seeds
        for who, hits in ((f"grid of {runs} runs", fixed), ("strategy", found)):
            value, error = _share(hits)
            yield Row(kind="best level", what=f"{sweep.design}, {who}", value=value, error=error)
        difference = found.astype(float) - fixed
        yield Row(
            kind="best level",
            what=f"{sweep.design}, difference",
            value=float(difference.mean()),
            error=float(difference.std() / count**0.5),
            limit=0.0 if is_promised else None,
            is_upper=False,
        )
        yield Row(
            kind="cost",
            what=f"{sweep.design}, of {runs} runs",
            value=float(cost.mean() / runs),
            error=float(cost.std() / count**0.5 / runs),
            limit=0.5 if is_promised else None,
        )


def _explored(rng: Generator, sweep: Sweep, truth: Floats) -> tuple[list[int], float]:
    """Return the levels with the lowest final losses of those that are not cut, and the cost in whole trainings."""
    quality = truth + rng.normal(0, sweep.seed_spread, size=sweep.levels)
    active = list(range(sweep.levels))
    cost, before = 0.0, 0.0
    for point, noise in zip(AT, sweep.noise, strict=False):
        cost += (point - before) * len(active)
        before = point
        losses = {str(level): float(rng.normal(-quality[level], noise)) for level in active}
        kept = halving(losses, KEEP)
        # The reference is never cut.
        active = [level for level in active if level == 0 or str(level) in kept]
    cost += (1 - before) * len(active)
    final = {level: float(rng.normal(-quality[level], sweep.noise[-1])) for level in active if level != 0}
    return sorted(final, key=final.__getitem__)[: sweep.confirmed], cost


def _confirmed(rng: Generator, sweep: Sweep, truth: Floats, chosen: list[int]) -> tuple[int, float]:
    """Confirm levels against the reference on fresh seeds; return the one that scores highest, and the cost."""
    scores = sweep.scores(rng, truth, CONFIRM_LOOKS[-1])
    verdicts: dict[str, Verdict] = {}
    differences = {0: 0.0}
    trained = dict.fromkeys(chosen, 0)
    for number, count in enumerate(CONFIRM_LOOKS):
        active = [level for level in chosen if str(level) not in verdicts]
        trained |= dict.fromkeys(active, count)
        evidence = [
            Evidence(
                contrast=str(level),
                pairs=_pairs(scores[level, :count] - scores[0, :count]),
                wide_error=None,
            )
            for level in active
        ]
        for result in take_look(evidence, CONFIRM_LOOKS, number, verdicts, 2.0):
            differences[int(result.contrast)] = result.difference
            if result.verdict is not Verdict.UNDECIDED:
                verdicts[result.contrast] = result.verdict
    return max(differences, key=differences.__getitem__), float(sum(trained.values()) + max(trained.values()))


def _text(looks: tuple[int, ...]) -> str:
    return ", ".join(map(str, looks))


if __name__ == "__main__":
    sys.exit(main())
