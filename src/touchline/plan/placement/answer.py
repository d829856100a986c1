"""Placement of jobs on a cluster."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from touchline.core.quantity import Missing
from touchline.plan.placement.bounds import lower_bounds
from touchline.plan.placement.deadline import chance, draw_ticks, drawn_ends, samples_for
from touchline.plan.placement.problem import Problem, compile_problem, minutes_to_ticks, ticks_to_minutes
from touchline.plan.placement.schedule import makespan_of, name_gpus, ranks_from_order
from touchline.plan.placement.search import CandidateSchedule, find_schedules
from touchline.plan.placement.types import Bound, Cluster, DeadlineVerdict, PlaceJob, Placement, ScheduledJob
from touchline.plan.placement.validation import deadline_findings, raise_findings
from touchline.plan.placement.verdict import CONFIDENT, duration_text, judge

WORTH = 1.01
"""Factor on the makespan up to which a schedule with a better chance is preferred. A proved shortest schedule is
kept."""
_PART = 4
"""One draw in this many is used to choose between schedules."""


def place(
    jobs: Sequence[PlaceJob],
    cluster: Cluster,
    *,
    deadline_minutes: float | None,
    seed: int = 0,
    correlation: float = 0.0,
) -> Placement:
    """Place jobs on GPUs. The result does not depend on the order of the jobs.

    Args:
        jobs: what to run.
        cluster: where.
        deadline_minutes: when all should have ended, from the start on; none: as soon as can be.
        seed: seed of the orders that are tried and of the durations that are drawn.
        correlation: the share of their spread that the jobs of one chain have in common, 0 to 1.

    Raises:
        InputError: with every fault of the jobs, the cluster and the deadline.
    """
    problem = compile_problem(jobs, cluster)
    raise_findings(deadline_findings(deadline_minutes, correlation), "the deadline")
    bounds = lower_bounds(problem)
    found = find_schedules(problem, minutes_to_ticks(bounds[0].minutes), seed)
    draws = _draws(problem, seed, correlation)
    best = (
        found[0] if deadline_minutes is None else _likeliest(problem, found, minutes_to_ticks(deadline_minutes), draws)
    )
    ends = drawn_ends(problem, ranks_from_order(best.order), best.kept, draws)
    probability = (
        None if deadline_minutes is None else float((ends.max(axis=1) <= minutes_to_ticks(deadline_minutes)).mean())
    )
    makespan = ticks_to_minutes(best.table.makespan)
    if best.proved and makespan > bounds[0].minutes:
        bounds = (Bound(minutes=makespan, why=f"every order of the {problem.size} jobs was tried"), *bounds)
    judged = judge(problem, bounds[0], makespan, deadline_minutes, probability)
    return Placement(
        verdict=judged.verdict,
        verdict_reason=judged.reason,
        makespan_minutes=makespan,
        # The sums behind a bound may round up in their last digit.
        lower_bound_minutes=min(bounds[0].minutes, makespan),
        bounds=bounds,
        deadline_minutes=deadline_minutes,
        probability=Missing(missing="no deadline was given") if probability is None else probability,
        rule=best.rule,
        schedule=_slots(problem, best, ends),
        kept_gpus=best.kept,
        notes=tuple(_notes(problem, best, judged.verdict, seed, correlation)),
    )


def _draws(problem: Problem, seed: int, correlation: float) -> list[list[float]]:
    """Return drawn durations; a single draw if no duration has an interval."""
    if not _spreads(problem):
        return [list(problem.ticks)]
    generator = np.random.Generator(np.random.PCG64(seed))
    return draw_ticks(problem, samples_for(problem), generator, correlation)


def _spreads(problem: Problem) -> bool:
    return any(job.minutes.low is not None or job.minutes.high is not None for job in problem.jobs)


def _likeliest(
    problem: Problem, found: Sequence[CandidateSchedule], deadline: float, draws: Sequence[Sequence[float]]
) -> CandidateSchedule:
    """Return the shortest schedule, or a slightly longer one with a better chance."""
    shortest = found[0].table.makespan
    near = [each for each in found if each.table.makespan <= (shortest if found[0].proved else WORTH * shortest)]
    if len(near) == 1:
        return near[0]
    # A part of the draws tells which is better.
    some = draws[: max(len(draws) // _PART, 1)]
    chances = [chance(problem, ranks_from_order(each.order), each.kept, deadline, some) for each in near]
    return near[max(range(len(near)), key=lambda k: (chances[k], -k))]


def _slots(problem: Problem, found: CandidateSchedule, ends: NDArray[np.float64]) -> tuple[ScheduledJob, ...]:
    ranks = ranks_from_order(found.order)
    held = name_gpus(problem, found.table, problem.ticks)
    late = np.quantile(ends, CONFIDENT, axis=0).tolist() if _spreads(problem) else None
    slots = (
        ScheduledJob(
            id=problem.jobs[j].id,
            start_minutes=ticks_to_minutes(start),
            end_minutes=ticks_to_minutes(start + problem.ticks[j]),
            gpus=held[j],
            node=found.table.nodes[j],
            priority=ranks[j],
            late_end_minutes=None if late is None else ticks_to_minutes(late[j]),
        )
        for j, start in enumerate(found.table.starts)
    )
    return tuple(sorted(slots, key=lambda slot: (slot.start_minutes, slot.id)))


def _notes(
    problem: Problem, best: CandidateSchedule, verdict: DeadlineVerdict, seed: int, correlation: float
) -> Iterator[str]:
    nodes = problem.nodes
    if len(nodes[-1].gpus) < len(nodes[0].gpus):
        yield f"the last of {len(nodes)} nodes has {len(nodes[-1].gpus)} GPUs, the others {len(nodes[0].gpus)}"
    if best.kept == 0:
        yield "jobs start strictly in order: a GPU may stay idle for a job that needs it more"
    elif best.kept is not None:
        yield (
            f"a waiting job with {best.kept} or more GPUs is not delayed: later jobs start only if they are predicted "
            "not to delay it"
        )
    started = makespan_of(problem, ranks_from_order(best.order), problem.ticks, best.kept)
    if started > best.table.makespan:
        ends = duration_text(ticks_to_minutes(started))
        yield f"dispatched by priority with predicted durations, the last job ends after {ends}"
    certain = sum(job.minutes.low is None and job.minutes.high is None for job in problem.jobs)
    if verdict is not DeadlineVerdict.NO_DEADLINE:
        if certain < problem.size:
            how = "independently" if not correlation else f"with correlation {correlation:.2g} within a chain"
            yield f"durations drawn from their 90% intervals, {how}; {samples_for(problem)} draws"
        if certain:
            yield f"{certain} of {problem.size} jobs have no interval and count as certain"
    if verdict is not DeadlineVerdict.FITS and any(pin is not None for pin in problem.pins):
        yield _without_pins(problem, seed)


def _without_pins(problem: Problem, seed: int) -> str:
    free = problem.unpinned()
    bounds = lower_bounds(free)
    found = find_schedules(free, minutes_to_ticks(bounds[0].minutes), seed)[0]
    makespan = ticks_to_minutes(found.table.makespan)
    least = makespan if found.proved else min(bounds[0].minutes, makespan)
    shortest = (
        "and no schedule is shorter"
        if math.isclose(least, makespan)
        else f"and no schedule is shorter than {duration_text(least)}"
    )
    return f"without pins, the last job ends after {duration_text(makespan)}, {shortest}"
