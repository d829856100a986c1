"""Totals over all runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from touchline.core.machine import TargetMachine
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import plural, seconds_to_hours
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.plan import Cohort, Plan, PlannedRun, devices_of


class Totals(TypedDict):
    """Fields of a plan that hold totals."""

    gpu_hours: Measured
    wall_seconds: Measured
    disk: Measured


def totals(
    runs: Sequence[PlannedRun],
    machine: TargetMachine,
    compute: ComputeConfig,
    *,
    shared: bool,
    cohorts: Sequence[Cohort] = (),
) -> Totals:
    """Return device-hours, time from start to end, and disk usage of all runs.

    Prediction errors of runs of one model are correlated, so the ends of the intervals are added, not their squares.

    Args:
        compute: GPUs of one training, and of one evaluation.
        shared: whether all evaluations on one base share a process, as on this machine.
    """
    together = {name: cohort for cohort in cohorts for name in cohort.runs}
    training = [run.train_seconds for run in runs if run.train is not None and run.name not in together]
    training += [cohort.train_seconds for cohort in cohorts]
    evaluations = [run.evaluate_seconds for run in runs]
    starts = {run.model if shared else run.name: run.evaluate_startup_seconds for run in runs}
    known = [value for value in (*evaluations, *starts.values()) if isinstance(value, Quantity)]
    unknown = dict.fromkeys(value.missing for value in evaluations if isinstance(value, Missing))
    devices, evaluating = (devices_of(machine, gpus) for gpus in (compute.gpus, compute.evaluation_gpus))
    at_once = max(machine.count // devices, 1)
    if machine.slots > 1:
        # A run in a slot holds its share of the CPU; evaluations follow, one at a time.
        seconds = sum_quantities([time_of_queue(queued_jobs(runs, together), machine.slots), *known], "s")
        on_devices = sum_quantities([*(scale_quantity(each, 1 / machine.slots, "s") for each in training), *known], "s")
    else:
        seconds = sum_quantities([*training, *known], "s")
        on_devices = sum_quantities([*training * devices, *known * evaluating], "s")
    if unknown:
        count = sum(isinstance(value, Missing) for value in evaluations)
        note = f"{plural(count, 'evaluation')} not counted: {', '.join(unknown)}"
        seconds, on_devices = _noted(seconds, note), _noted(on_devices, note)
    jobs = len(runs) - len(together) + len(cohorts)
    return Totals(
        gpu_hours=scale_quantity(on_devices, seconds_to_hours(1), "h"),
        wall_seconds=_no_less(
            scale_quantity(seconds, 1 / min(at_once, max(jobs, 1)), "s"), _longest_chain(runs, together)
        ),
        disk=sum_quantities([run.disk for run in runs if run.train is not None], "MB"),
    )


def totals_of(plan: Plan, runs: Sequence[PlannedRun], *, side_by_side: bool = True) -> Totals:
    """Return the totals of some runs of a plan.

    Args:
        side_by_side: whether cohorts that are whole among the runs train as such; otherwise runs count one by one.
    """
    names = {run.name for run in runs}
    cohorts = [cohort for cohort in plan.cohorts if side_by_side and names.issuperset(cohort.runs)]
    return totals(runs, plan.machine, plan.compute, shared=plan.executor == "local", cohorts=cohorts)


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuedJob:
    """Training that waits for a slot."""

    name: str
    """Name of the run, or of the first one of a cohort."""
    after: str | None
    seconds: Measured


def queued_jobs(runs: Sequence[PlannedRun], together: Mapping[str, Cohort]) -> list[QueuedJob]:
    """Return the training jobs of runs in order. A parent that is not among them has ended."""
    jobs: dict[str, QueuedJob] = {}
    for run in runs:
        cohort = together.get(run.name)
        lead = run.name if cohort is None else cohort.runs[0]
        if run.train is not None and lead not in jobs:
            seconds = run.train_seconds if cohort is None else cohort.train_seconds
            parent = "" if run.link is None else run.link.parent
            first = parent if parent not in together else together[parent].runs[0]
            after = first if first in jobs else None
            jobs[lead] = QueuedJob(name=lead, after=after, seconds=seconds)
    return list(jobs.values())


def time_of_queue(jobs: Sequence[QueuedJob], at_once: int) -> Measured:
    """Return the time until the last job has ended, where each starts in the first free slot, in order."""
    for job in jobs:
        if isinstance(job.seconds, Missing):
            return job.seconds
    known = [job.seconds for job in jobs if isinstance(job.seconds, Quantity)]
    value, low, high = (
        _end_of_queue(jobs, [getattr(each, end) for each in known], at_once) for end in ("value", "lower", "upper")
    )
    coverage = next((each.coverage for each in known if each.coverage is not None), None)
    return Quantity(value=value, unit="s", low=low, high=high, coverage=coverage, aggregation="sum")


def _end_of_queue(jobs: Sequence[QueuedJob], seconds: Sequence[float], at_once: int) -> float:
    free = [0.0] * max(at_once, 1)
    ends: dict[str, float] = {}
    waiting = list(zip(jobs, seconds, strict=True))
    while waiting:
        names = {job.name for job, _ in waiting}
        now = min(free)
        ready = [each for each in waiting if each[0].after not in names]
        begins = [max(now, ends.get(job.after or "", 0.0)) for job, _ in ready]
        begin = min(begins)
        job, duration = chosen = ready[begins.index(begin)]
        free[free.index(now)] = ends[job.name] = begin + duration
        waiting.remove(chosen)
    return max(ends.values(), default=0.0)


def runs_at_once(machine: TargetMachine, gpus_per_run: int) -> int:
    """Return how many runs a machine runs at the same time."""
    return max(machine.count // devices_of(machine, gpus_per_run), machine.slots)


def _noted(value: Measured, note: str) -> Measured:
    return value if isinstance(value, Missing) else replace(value, method=note)


def sum_quantities(parts: Iterable[Measured], unit: str) -> Measured:
    """Return the sum. Missing if any part is missing."""
    found: list[Quantity] = []
    for part in parts:
        if isinstance(part, Missing):
            return part
        found.append(part)
    return Quantity(
        value=math.fsum(part.value for part in found),
        unit=unit,
        low=math.fsum(part.lower for part in found),
        high=math.fsum(part.upper for part in found),
        coverage=next((part.coverage for part in found if part.coverage is not None), None),
        aggregation="sum",
    )


def _longest_chain(runs: Sequence[PlannedRun], together: Mapping[str, Cohort]) -> Quantity | None:
    """Return the time of the longest chain of stages, with the evaluation of its last. None if no run has a parent.

    A stage starts when its parent has ended, however many devices there are.
    """
    until: dict[str, Measured] = {}
    longest: Quantity | None = None
    for run in runs:
        if run.train is None:
            continue
        before = [] if run.link is None else [until[run.link.parent]]
        own = together[run.name].train_seconds if run.name in together else run.train_seconds
        until[run.name] = sum_quantities([*before, own], "s")
        # An evaluation whose time is not known is left out here as it is in the sum.
        known = [run.evaluate_seconds] if isinstance(run.evaluate_seconds, Quantity) else []
        ended = sum_quantities([until[run.name], *known], "s")
        if run.link is not None and isinstance(ended, Quantity):
            longest = ended if longest is None else _larger(longest, ended)
    return longest


def _no_less(value: Measured, bound: Quantity | None) -> Measured:
    return value if bound is None or isinstance(value, Missing) else _larger(value, bound)


def _larger(one: Quantity, other: Quantity) -> Quantity:
    first, second = (one, other) if one.value >= other.value else (other, one)
    ends = [
        None if first_end is None or second_end is None else max(first_end, second_end)
        for first_end, second_end in ((first.low, second.low), (first.high, second.high))
    ]
    return replace(first, low=ends[0], high=ends[1])


def collect_evidence(values: Iterable[Measured]) -> tuple[str, ...]:
    """Return the past runs that estimates are based on."""
    named: dict[str, None] = {}
    for value in values:
        if isinstance(value, Quantity) and value.where:
            named |= dict.fromkeys(value.where.split(", "))
    return tuple(named)


def scale_quantity(value: Measured, factor: float, unit: str) -> Measured:
    """Return a value and its interval times a factor, in another unit. A missing value stays missing."""
    if isinstance(value, Missing):
        return value
    low, high = (None if end is None else end * factor for end in (value.low, value.high))
    return replace(value, value=value.value * factor, unit=unit, low=low, high=high)
