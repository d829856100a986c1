"""Runs of a plan as jobs to schedule: trainings and evaluations with their predicted minutes and resources."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from touchline.core.errors import InputError
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import parse_duration, seconds_to_minutes
from touchline.plan.placement.types import Minutes, PlaceJob
from touchline.plan.totals import sum_quantities
from touchline.slurm.job_view import evaluation_name
from touchline.slurm.schedulers import GRAIN
from touchline.spec.plan import Plan, PlannedRun
from touchline.spec.site import SlurmSite


def place_jobs(
    plan: Plan,
    site: SlurmSite,
    *,
    trainings: Collection[str] | None = None,
    evaluations: Collection[str] | None = None,
    evaluation_minutes: float | None = None,
) -> list[PlaceJob]:
    """Return the jobs of a plan, parents before children.

    Args:
        plan: the plan.
        site: what the user's jobs hold where the experiment does not say.
        trainings: runs to train; all when None. A parent that is not among them is trained already.
        evaluations: runs to evaluate; all when None.
        evaluation_minutes: what an evaluation takes, by the user's word; as predicted when None.

    Raises:
        InputError: with every job that has no estimate, and why.
    """
    wanted = {run.name for run in plan.runs if run.train is not None and _among(run, trainings)}
    jobs: list[PlaceJob] = []
    unknown: dict[str, list[str]] = {}
    for run in plan.runs:
        if run.name in wanted:
            after = () if run.link is None or run.link.parent not in wanted else (run.link.parent,)
            found = training_minutes(plan, run)
            _place(jobs, unknown, _job(plan, site, run, run.name, after, plan.gpus_per_run), found)
        if _among(run, evaluations):
            after = (run.name,) if run.name in wanted else ()
            minutes = evaluation_minutes
            found = to_minutes(evaluation_seconds(run)) if minutes is None else Minutes(value=minutes)
            gpus = plan.compute.evaluation_gpus
            _place(jobs, unknown, _job(plan, site, run, evaluation_name(run.name), after, gpus), found)
    if unknown:
        raise InputError(
            f"{plan.experiment}: the duration of some jobs is unknown: {group_by_reason(unknown)}",
            expected="an estimate for each job, from past runs or from a known GPU (compute.gpu)",
            hint="touchline probe DIR measures a run's steps; --evaluation-minutes N sets the time of an evaluation",
        )
    return jobs


def training_limit(plan: Plan, run: PlannedRun) -> Measured:
    """Return the time limit of the job that trains a run: the experiment's, else what the plan asks for."""
    if plan.compute.time_limit is not None:
        return _given_limit(plan.compute.time_limit, "compute.time_limit")
    cohort = plan.cohort_of(run.name)
    return run.time_limit_seconds if cohort is None else cohort.time_limit_seconds


def evaluation_limit(plan: Plan, run: PlannedRun) -> Measured:
    """Return the time limit of the job that evaluates a run: the experiment's, else what the plan asks for."""
    if plan.compute.evaluation.time_limit is not None:
        return _given_limit(plan.compute.evaluation.time_limit, "compute.evaluation.time_limit")
    return run.evaluate_limit_seconds


def _given_limit(text: str, setting: str) -> Quantity:
    """Return a limit that the user has set, in the whole minutes that a scheduler counts."""
    whole = math.ceil(parse_duration(text) / GRAIN) * GRAIN
    return Quantity(value=whole, unit="s", method=setting)


def training_minutes(plan: Plan, run: PlannedRun) -> Minutes | Missing:
    """Return the predicted minutes of a training, or the experiment's time limit if nothing is predicted."""
    found = to_minutes(run.train_seconds)
    if isinstance(found, Missing) and plan.compute.time_limit is not None:
        return to_minutes(training_limit(plan, run))
    return found


def evaluation_seconds(run: PlannedRun) -> Measured:
    """Return the seconds of a run's evaluation job, including the start-up of its process if predicted."""
    if isinstance(run.evaluate_seconds, Missing) or isinstance(run.evaluate_startup_seconds, Missing):
        return run.evaluate_seconds
    return sum_quantities([run.evaluate_seconds, run.evaluate_startup_seconds], "s")


def to_minutes(seconds: Measured) -> Minutes | Missing:
    """Return a predicted time with its interval in minutes."""
    if isinstance(seconds, Missing):
        return seconds
    ends = [None if end is None else seconds_to_minutes(end) for end in (seconds.low, seconds.high)]
    return Minutes(value=seconds_to_minutes(seconds.value), low=ends[0], high=ends[1])


def upper_minutes(job: PlaceJob) -> float:
    """Return the upper end of a job's interval, or its value if it has none."""
    return job.minutes.value if job.minutes.high is None else job.minutes.high


def _among(run: PlannedRun, names: Collection[str] | None) -> bool:
    return names is None or run.name in names


def _job(plan: Plan, site: SlurmSite, run: PlannedRun, name: str, after: Sequence[str], gpus: int) -> PlaceJob:
    """Return a job with its resources. `_place` sets its minutes."""
    return PlaceJob(
        id=name,
        after=tuple(after),
        gpus=gpus,
        cpus=cpus_per_job(plan, site),
        memory_gb=_memory_of(plan, site, run, name),
        minutes=Minutes(value=0),
    )


def cpus_per_job(plan: Plan, site: SlurmSite) -> int:
    """Return the CPUs that a job's script requests, or 0 if it leaves them to the cluster."""
    cpus = plan.compute.cpus_per_run or site.cpus_per_run
    if cpus is None and plan.machine.kind == "cpu" and not plan.gpus_per_run:
        cpus = plan.machine.threads_per_run
    return cpus or 0


def _memory_of(plan: Plan, site: SlurmSite, run: PlannedRun, name: str) -> float:
    size = plan.compute.memory_gb_per_run or site.memory_gb
    if size is None and plan.machine.kind == "cpu" and name == run.name and not isinstance(run.peak_memory, Missing):
        size = run.peak_memory.value if run.peak_memory.high is None else run.peak_memory.high
        size *= plan.processes_per_device
    return size or 0.0


def _place(jobs: list[PlaceJob], unknown: dict[str, list[str]], job: PlaceJob, minutes: Minutes | Missing) -> None:
    if isinstance(minutes, Missing):
        unknown.setdefault(minutes.missing, []).append(job.id)
    else:
        jobs.append(replace(job, minutes=minutes))


def group_by_reason(unknown: Mapping[str, Sequence[str]]) -> str:
    """Return names grouped by reason: `a and 3 more (no evidence); b (...)`."""
    return "; ".join(
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} ({why})" for why, names in unknown.items()
    )
