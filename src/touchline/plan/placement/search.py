"""Search for the shortest schedule: six priority rules, a fixed number of changed orders and, for few jobs, a proof.

No rule is best for all jobs, and all of them are cheap. Longest job first, the common choice, is the worst one for
chains: the length of the remaining chain counts, and for wide jobs the resources they need. Tries are counted in job
starts, not in seconds, and drawn from a seed, so results are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchline.plan.placement.exact import SearchLimitError, shortest
from touchline.plan.placement.problem import Problem
from touchline.plan.placement.schedule import Schedule, dispatch, makespan_of, ranks_from_order

LONGEST_CHAIN = "longest remaining chain first"
CHAIN_AND_WIDTH = "longest remaining chain x square root of GPUs first"
CHAIN_AND_AREA = "longest remaining chain x GPU minutes first"
WIDEST = "widest first, then longest remaining chain"
LONGEST_JOB = "longest job first"
FIRST_READY = "first ready first"

Weights = list[float]
"""Weight per job; the largest goes first."""


def _longest_chain(problem: Problem, widths: Sequence[float]) -> Weights:
    return list(problem.tails)


def _chain_and_width(problem: Problem, widths: Sequence[float]) -> Weights:
    return [tail * math.sqrt(width) for tail, width in zip(problem.tails, widths, strict=True)]


def _chain_and_area(problem: Problem, widths: Sequence[float]) -> Weights:
    areas = zip(problem.tails, problem.ticks, widths, strict=True)
    return [tail * ticks * width for tail, ticks, width in areas]


def _widest(problem: Problem, widths: Sequence[float]) -> Weights:
    longest = max(problem.tails)
    return [width * (longest + 1) + tail for tail, width in zip(problem.tails, widths, strict=True)]


def _longest_job(problem: Problem, widths: Sequence[float]) -> Weights:
    return list(problem.ticks)


def _first_ready(problem: Problem, widths: Sequence[float]) -> Weights:
    last = max(problem.heads)
    return [last - head for head in problem.heads]


RULES: dict[str, Callable[[Problem, Sequence[float]], Weights]] = {
    LONGEST_CHAIN: _longest_chain,
    CHAIN_AND_WIDTH: _chain_and_width,
    CHAIN_AND_AREA: _chain_and_area,
    WIDEST: _widest,
    LONGEST_JOB: _longest_job,
    FIRST_READY: _first_ready,
}
"""Priority rules by name."""


def job_weights(problem: Problem, rule: str) -> Weights:
    """Return the weights that a rule gives the jobs."""
    return RULES[rule](problem, problem.widths())


def order_by(weights: Sequence[float]) -> list[int]:
    """Return the jobs by descending weight; ties by name."""
    return sorted(range(len(weights)), key=lambda j: (-weights[j], j))


MOST_TRIES = 1500
"""Limit on changed orders per dispatch mode."""
FEW_TRIES = 150
"""The same if an exact search follows."""
STARTS = 120_000
"""Limit on job starts over all tries of plain dispatch, which take a microsecond each."""
STARTS_KEEPING_PLACES = 20_000
"""The same for backfill and for nodes, which take several microseconds each."""
NEAR = 1.002
"""Factor on the lower bound within which the search stops. Durations are less certain than that."""
MOST_KEEPING_PLACES = 200
"""Number of jobs above which backfill is not tried, since other jobs fill the gaps."""
EXACT_JOBS = 10
"""Number of jobs up to which an exact search runs."""
_FIRST = 4
"""One in this many tries starts from the best rules, the others from the best order so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateSchedule:
    """Order of the jobs with its schedule."""

    order: tuple[int, ...]
    """Jobs in order of priority."""
    kept: int | None
    """Dispatch mode; see `schedule.dispatch`."""
    table: Schedule
    """Schedule."""
    rule: str
    """Name of the rule that found it."""
    proved: bool = False
    """Whether it is proved to be the shortest."""


def find_schedules(problem: Problem, bound: float, seed: int) -> list[CandidateSchedule]:
    """Return good schedules, the shortest first, at most one per dispatch mode.

    Args:
        problem: what there is to place.
        bound: no schedule is shorter, in ticks; where it is met, nothing more is tried.
        seed: seed of the changed orders.
    """
    found: list[CandidateSchedule] = []
    few = problem.size <= EXACT_JOBS
    enough = bound if few else NEAR * bound
    for kept in _ways(problem):
        generator = np.random.Generator(np.random.PCG64([seed, 0 if kept is None else kept]))
        found.append(_climb(problem, kept, enough, generator))
        if found[-1].table.makespan <= enough:
            break
    found.sort(key=lambda each: each.table.makespan)
    return _proved(problem, found, bound) if few else found


def _ways(problem: Problem) -> Iterator[int | None]:
    """Yield the dispatch modes to try: plain, then backfill for the widest and the narrowest wide jobs."""
    yield None
    if problem.size <= MOST_KEEPING_PLACES:
        wide = sorted({gpus for gpus in problem.gpus if gpus > 1})
        # On nodes every try costs more, and what is in the way is mostly a job as wide as a node.
        yield from dict.fromkeys(wide[-1:] + wide[:1] if problem.pooled else wide[-1:])


def _climb(problem: Problem, kept: int | None, enough: float, generator: np.random.Generator) -> CandidateSchedule:
    """Search from the best rules for the best order near them."""
    rules = []
    for number, rule in enumerate(RULES):
        order = order_by(job_weights(problem, rule))
        rules.append((makespan_of(problem, ranks_from_order(order), problem.ticks, kept), number, rule, order))
    rules.sort()
    best, _, rule, order = rules[0]
    starts = STARTS if kept is None and problem.pooled else STARTS_KEEPING_PLACES
    tries = min(FEW_TRIES if problem.size <= EXACT_JOBS else MOST_TRIES, starts // problem.size)
    keys = _keys(order)
    tops = [_keys(each[3]) for each in rules[:3]]
    name = rule
    for number in range(tries):
        if best <= enough or problem.size == 1:
            break
        if number < tries // _FIRST:
            changed = _shaken(tops[number % 3], (number // 3) % 4, generator)
        else:
            changed = _changed(keys, number % 6, generator)
        order_now = np.argsort(changed, kind="stable").tolist()
        span = makespan_of(problem, ranks_from_order(order_now), problem.ticks, kept)
        if span <= best:
            if span < best:
                name = f"{rules[0][2]}, then changed {tries:,} times"
            best, keys, order = span, changed, order_now
    return CandidateSchedule(
        order=tuple(order),
        kept=kept,
        table=dispatch(problem, ranks_from_order(order), problem.ticks, kept),
        rule=name,
    )


def _keys(order: Sequence[int]) -> NDArray[np.float64]:
    keys = np.empty(len(order))
    keys[list(order)] = np.arange(len(order), dtype=np.float64)
    return keys


def _shaken(keys: NDArray[np.float64], strength: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Move every job slightly from its position."""
    return keys + generator.standard_normal(len(keys)) * len(keys) * (0.02, 0.05, 0.1, 0.25)[strength]


def _changed(keys: NDArray[np.float64], kind: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Move a few jobs in front of others, swap two, or shake all slightly."""
    changed = keys.copy()
    if kind == 5:
        return _shaken(changed, 0, generator)
    for moved, other in generator.integers(0, len(keys), (1 if kind < 3 else 3, 2)).tolist():
        if kind == 2:
            changed[moved], changed[other] = changed[other], changed[moved]
        else:
            changed[moved] = changed[other] - 1e-6 * (1 + generator.random())
    return changed


def _proved(problem: Problem, found: list[CandidateSchedule], bound: float) -> list[CandidateSchedule]:
    """Return the candidates with the shortest schedule proved, if the exact search completes."""
    best = found[0]
    try:
        shorter = shortest(problem, best.order, best.table.makespan, bound)
    except SearchLimitError:
        return found
    if shorter is None:
        return [_with(each, proved=each.table.makespan == best.table.makespan) for each in found]
    order = sorted(range(problem.size), key=lambda j: (shorter.starts[j], problem.order.index(j)))
    exact = CandidateSchedule(
        order=tuple(order), kept=0, table=shorter, rule="every order of the jobs was tried", proved=True
    )
    return [exact, *found]


def _with(found: CandidateSchedule, *, proved: bool) -> CandidateSchedule:
    return CandidateSchedule(order=found.order, kept=found.kept, table=found.table, rule=found.rule, proved=proved)
