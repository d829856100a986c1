"""Placement of jobs on a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from touchline.core.quantity import Missing
from touchline.core.units import format_minutes
from touchline.plan.placement.bounds import lower_bounds
from touchline.plan.placement.deadline import SAMPLES, draw_ticks, drawn_ends, judge
from touchline.plan.placement.problem import Problem, compile_problem, minutes_to_ticks, ticks_to_minutes
from touchline.plan.placement.schedule import best_order, name_gpus
from touchline.plan.placement.types import Cluster, DeadlineVerdict, PlaceJob, Placement, ScheduledJob
from touchline.plan.placement.validation import check_deadline

_SEED = 0
"""Seed of the durations that are drawn."""


def place(jobs: Sequence[PlaceJob], cluster: Cluster, *, deadline_minutes: float | None) -> Placement:
    """Place jobs on GPUs. The result does not depend on the order of the jobs.

    Args:
        deadline_minutes: when all should have ended, from the start on; none: as soon as can be.

    Raises:
        InputError: with every fault of the jobs, the cluster and the deadline.
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
