"""Placement of jobs on a cluster, lower bounds on the makespan, and the chance to meet a deadline.

Durations are log-normal with separate spreads below and above: the median is the predicted value, and the interval
contains 90% of the draws. Jobs start by priority on free GPUs, as in a real queue, not at their scheduled times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from touchline.core.quantity import Missing
from touchline.core.units import format_minutes, plural
from touchline.experiment.requests import Cluster
from touchline.plan.placement.problem import (
    TICKS,
    Bound,
    DeadlineVerdict,
    Minutes,
    PlaceJob,
    Placement,
    Problem,
    ScheduledJob,
    check_deadline,
    compile_problem,
    minutes_to_ticks,
    ticks_to_minutes,
)
from touchline.plan.placement.schedule import best_order, dispatch, name_gpus

SAMPLES = 400
"""Draws; a chance of one half then has a standard error of 2.5 points."""
_STANDARD_DEVIATIONS = 1.6448536269514722
"""Standard deviations within which a normal variable lies with probability 0.9."""
_LONGEST = math.log(1e12)
"""Logarithm of the largest factor on a predicted duration, which prevents overflow."""


def draw_ticks(problem: Problem, samples: int, generator: np.random.Generator) -> list[list[float]]:
    """Draw durations of all jobs, `samples` times, in ticks.

    Args:
        generator: where chance comes from; each draw is followed by its mirror image, which steadies their mean.
    """
    half = -(-samples // 2)
    normal = generator.standard_normal((half, problem.size))
    both = np.concatenate([normal, -normal])[:samples]
    columns = [_spread(job.minutes, both[:, j]) for j, job in enumerate(problem.jobs)]
    drawn: list[list[float]] = np.rint(np.stack(columns, axis=1) * TICKS).tolist()
    return drawn


def chance_within(minutes: Minutes, limit: float) -> float:
    """Return the chance that a time is within a limit, in minutes; without an interval, 0 or 1."""
    ends = (minutes.low, minutes.high)
    end = ends[0] if limit < minutes.value else ends[1]
    if end is None or min(end, limit, minutes.value) <= 0 or end == minutes.value:
        return float(minutes.value <= limit)
    spread = abs(math.log(end) - math.log(minutes.value)) / _STANDARD_DEVIATIONS
    return NormalDist(0, spread).cdf(math.log(limit) - math.log(minutes.value))


def drawn_ends(problem: Problem, ranks: Sequence[int], draws: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return the end of each job in each draw, in ticks; shape [draws, jobs]."""
    starts = np.array([dispatch(problem, ranks, ticks).starts for ticks in draws])
    ends: NDArray[np.float64] = starts + np.array(draws)
    return ends


def _spread(minutes: Minutes, normal: NDArray[np.float64]) -> NDArray[np.float64]:
    value = minutes.value
    low = value if minutes.low is None else minutes.low
    high = value if minutes.high is None else minutes.high
    above, below = np.maximum(normal, 0) / _STANDARD_DEVIATIONS, np.minimum(normal, 0) / _STANDARD_DEVIATIONS
    if value <= 0:
        return above * high
    # Quotients of very small numbers overflow; differences of their logarithms do not.
    longer = value * np.exp(np.minimum(above * (math.log(high) - math.log(value)), _LONGEST))
    if low > 0:
        return longer * np.exp(below * (math.log(value) - math.log(low)))
    # An interval that begins at zero has no logarithm there.
    return np.maximum(longer + below * value, 0.0)


CONFIDENT = 0.9
"""Chance from which on a deadline fits; equal to the coverage of the intervals."""


def judge(
    bound: Bound, makespan_minutes: float, deadline_minutes: float | None, chance: float | None
) -> tuple[DeadlineVerdict, str]:
    """Return whether the deadline can be met, and why."""
    span, least = format_minutes(makespan_minutes), format_minutes(bound.minutes)
    if deadline_minutes is None or chance is None:
        return DeadlineVerdict.NO_DEADLINE, f"no deadline was given; the last job ends after {span}"
    limit = format_minutes(deadline_minutes)
    if bound.minutes > deadline_minutes:
        return DeadlineVerdict.IMPOSSIBLE, f"no schedule ends within {limit} as predicted: {bound.why} ({least})"
    if makespan_minutes > deadline_minutes:
        return DeadlineVerdict.TIGHT, (
            f"the best schedule found ends after {span}, past {limit}; none is shorter than {least}: {bound.why}"
        )
    reason = f"ends after {span} as predicted, within {limit}; the chance to meet it is {100 * chance:.0f}%"
    if chance >= CONFIDENT:
        return DeadlineVerdict.FITS, reason
    return DeadlineVerdict.TIGHT, f"{reason}, below {100 * CONFIDENT:.0f}%, because durations vary"


_NAMED = 6
"""Jobs that a bound names."""
_TOGETHER = 8
"""Number of jobs side by side up to which a bound is computed. The area covers more."""


def lower_bounds(problem: Problem) -> tuple[Bound, ...]:
    """Return all bounds, the largest first."""
    found = [Bound(minutes=ticks_to_minutes(ticks), why=why) for ticks, why in _all(problem)]
    return tuple(sorted(found, key=lambda bound: -bound.minutes))


def _all(problem: Problem) -> Iterator[tuple[float, str]]:
    # Of equal bounds the first is reported: a pin is a decision that the user can change.
    yield from _pinned(problem)
    yield _longest_chain(problem)
    gpus = problem.cluster.gpus
    yield _area(problem, problem.gpus, gpus), f"all GPU minutes over {plural(gpus, 'GPU')}"
    nodes = len(problem.nodes)
    first = problem.nodes[0]
    over = "" if nodes == 1 else f" of {nodes} nodes"
    if first.cpus is not None:
        yield _area(problem, problem.cpus, first.cpus * nodes), f"all CPU minutes over {first.cpus * nodes} CPUs{over}"
    if first.memory is not None:
        memory = _area(problem, problem.memory, first.memory * nodes)
        yield memory, f"all memory over the {problem.cluster.memory_gb:g} GiB{' of each node' if nodes > 1 else ''}"
    yield from _side_by_side(problem)


def _longest_chain(problem: Problem) -> tuple[float, str]:
    j = max(range(problem.size), key=lambda j: (problem.tails[j], -j))
    chain = [j]
    while problem.children[chain[-1]]:
        chain.append(max(problem.children[chain[-1]], key=lambda child: (problem.tails[child], -child)))
    one = len(chain) == 1
    return problem.tails[j], f"the longest {'job' if one else 'chain'}: {_names(problem, chain)}"


def _area(problem: Problem, amounts: Sequence[int], there: int) -> float:
    return sum(ticks * amount for ticks, amount in zip(problem.ticks, amounts, strict=True)) / there


def _side_by_side(problem: Problem) -> Iterator[tuple[float, str]]:
    """Yield bounds from jobs that take more than 1/(k+1) of a node, of which at most k run at once per node."""
    first = problem.nodes[0]
    for amounts, there, what in (
        (problem.gpus, len(first.gpus), "GPUs"),
        (problem.cpus, first.cpus, "CPUs"),
        (problem.memory, first.memory, "memory"),
    ):
        reported = 0
        for side in range(1, min(_TOGETHER, there or 0) + 1):
            wide = [j for j, amount in enumerate(amounts) if there is not None and amount * (side + 1) > there]
            lanes = side * len(problem.nodes)
            # The same jobs with more room are a weaker bound.
            if len(wide) > max(lanes, reported):
                reported = len(wide)
                yield _lanes_bound(problem, wide, lanes), _lanes_words(problem, wide, lanes, what)


def _lanes_bound(problem: Problem, jobs: Sequence[int], lanes: int) -> float:
    work = sum(problem.ticks[j] for j in jobs) / lanes
    return min(problem.heads[j] for j in jobs) + work + min(problem.tails[j] - problem.ticks[j] for j in jobs)


def _lanes_words(problem: Problem, jobs: Sequence[int], lanes: int, what: str) -> str:
    names = _names(problem, jobs)
    if lanes == 1:
        return f"jobs too large to run at the same time ({what}), one after the other: {names}"
    return f"{len(jobs)} jobs of which at most {lanes} run at once (limited by {what}): {names}"


def _pinned(problem: Problem) -> Iterator[tuple[float, str]]:
    by_gpu: dict[int, list[int]] = {}
    for j, pin in enumerate(problem.pins):
        if pin is not None:
            by_gpu.setdefault(pin, []).append(j)
    for gpu, jobs in sorted(by_gpu.items()):
        if len(jobs) == 1:
            continue
        inner = sorted(jobs, key=lambda j: (problem.heads[j], -problem.tails[j], j))
        yield _lanes_bound(problem, jobs, 1), f"GPU {gpu} runs {len(jobs)} jobs in a row: {_names(problem, inner)}"


def _names(problem: Problem, jobs: Sequence[int]) -> str:
    shown = [problem.jobs[j].id for j in jobs[:_NAMED]]
    return ", ".join(shown) + (f" and {len(jobs) - _NAMED} more" if len(jobs) > _NAMED else "")


_SEED = 0
"""Seed of the durations that are drawn."""


def place(jobs: Sequence[PlaceJob], cluster: Cluster, *, deadline_minutes: float | None) -> Placement:
    """Place jobs on GPUs. The result does not depend on the order of the jobs.

    Raises InputError: with every fault of the jobs, the cluster and the deadline.
    """
    problem = compile_problem(jobs, cluster)
    check_deadline(deadline_minutes)
    bounds = lower_bounds(problem)
    ranks, table = best_order(problem)
    probability = None if deadline_minutes is None else _chance(problem, ranks, deadline_minutes)
    makespan = ticks_to_minutes(table.makespan)
    verdict, reason = judge(bounds[0], makespan, deadline_minutes, probability)
    held = name_gpus(problem, table)
    slots = (
        ScheduledJob(
            id=problem.jobs[j].id,
            start_minutes=ticks_to_minutes(start),
            end_minutes=ticks_to_minutes(start + problem.ticks[j]),
            gpus=held[j],
            node=table.nodes[j],
            priority=ranks[j],
        )
        for j, start in enumerate(table.starts)
    )
    return Placement(
        verdict=verdict,
        verdict_reason=reason,
        makespan_minutes=makespan,
        # The sums behind a bound may round up in their last digit.
        lower_bound_minutes=min(bounds[0].minutes, makespan),
        bounds=bounds,
        deadline_minutes=deadline_minutes,
        probability=Missing(missing="no deadline was given") if probability is None else probability,
        schedule=tuple(sorted(slots, key=lambda slot: (slot.start_minutes, slot.id))),
        notes=tuple(_notes(problem, verdict)),
    )


def _chance(problem: Problem, ranks: Sequence[int], deadline_minutes: float) -> float:
    """Return the share of drawn durations with which all jobs end in time; of a single draw if none has an interval."""
    draws = [list(problem.ticks)]
    if any(job.minutes.low is not None or job.minutes.high is not None for job in problem.jobs):
        draws = draw_ticks(problem, SAMPLES, np.random.Generator(np.random.PCG64(_SEED)))
    ends = drawn_ends(problem, ranks, draws)
    return float((ends.max(axis=1) <= minutes_to_ticks(deadline_minutes)).mean())


def _notes(problem: Problem, verdict: DeadlineVerdict) -> Iterator[str]:
    nodes = problem.nodes
    if len(nodes[-1].gpus) < len(nodes[0].gpus):
        yield f"the last of {len(nodes)} nodes has {len(nodes[-1].gpus)} GPUs, the others {len(nodes[0].gpus)}"
    certain = sum(job.minutes.low is None and job.minutes.high is None for job in problem.jobs)
    if verdict is not DeadlineVerdict.NO_DEADLINE:
        if certain < problem.size:
            yield f"durations drawn from their 90% intervals, independently; {SAMPLES} draws"
        if certain:
            yield f"{certain} of {problem.size} jobs have no interval and count as certain"
    if verdict is not DeadlineVerdict.FITS and any(pin is not None for pin in problem.pins):
        free = compile_problem([replace(job, pin=None) for job in problem.jobs], problem.cluster)
        ends = ticks_to_minutes(best_order(free)[1].makespan)
        yield f"without pins, the last job ends after {format_minutes(ends)}"
