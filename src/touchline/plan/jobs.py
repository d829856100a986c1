"""Runs of a plan as jobs to schedule: trainings and evaluations with their predicted minutes and resources."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from touchline.core.errors import InputError
from touchline.core.estimate import Estimate, EvidenceLevel
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import GIB, parse_duration, seconds_to_minutes
from touchline.estimate.coefficients import HOST_PROCESS_BYTES, HOST_SPREAD, HOST_WORKER_BYTES
from touchline.estimate.layers import size_of
from touchline.estimate.totals import sum_quantities
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.value_types import SlurmSite
from touchline.plan.placement.problem import Minutes, PlaceJob
from touchline.slurm.job_view import evaluation_name
from touchline.slurm.resources import GRAIN


def host_memory(weights_bytes: float, *, processes: int = 1, workers: int = 0, saved_bytes: float = 0.0) -> Estimate:
    """Estimate the host memory of a job.

    Args:
        weights_bytes: weights of the model, in the dtype in which they are read.
        processes: processes of the job, each of which reads all weights.
        saved_bytes: what one process gathers to save it, beyond an adapter.
    """
    each = weights_bytes + HOST_PROCESS_BYTES + workers * HOST_WORKER_BYTES
    value = (processes * each + saved_bytes) / GIB
    return Estimate(
        value=value,
        unit="GiB",
        low=value / HOST_SPREAD,
        high=value * HOST_SPREAD,
        method="loading the weights in each process" if processes > 1 else "loading the weights",
        rung=EvidenceLevel.NOTHING,
        aggregation="peak",
    )


CPUS_PER_PROCESS = 2
"""CPUs of a process on a GPU, besides its data workers: one feeds the GPU, one tokenises, saves and writes logs."""


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
        site: what the user's jobs hold where the experiment does not say.
        trainings: runs to train; all when None. A parent that is not among them is trained already.
        evaluations: runs to evaluate; all when None.
        evaluation_minutes: what an evaluation takes, by the user's word; as predicted when None.

    Raises InputError: with every job that has no estimate, and why.
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
            hint="touchline probe . measures a run's steps; --evaluation-minutes N sets the time of an evaluation",
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
    evaluates = name != run.name
    memory = memory_per_job(plan, site, run, evaluates=evaluates)
    return PlaceJob(
        id=name,
        after=tuple(after),
        gpus=gpus,
        cpus=cpus_per_job(plan, site, run, evaluates=evaluates),
        memory_gb=0.0 if isinstance(memory, Missing) else memory.value,
        minutes=Minutes(value=0),
    )


def cpus_per_job(plan: Plan, site: SlurmSite, run: PlannedRun, *, evaluates: bool) -> int:
    """Return the CPUs that a job's script requests, or 0 if it leaves them to the cluster."""
    given = plan.compute.cpus_per_run or site.cpus_per_run
    if given is not None:
        return given
    if plan.machine.kind == "cpu":
        return 0 if plan.gpus_per_run else plan.machine.threads_per_run or 0
    if evaluates or run.train is None:
        return CPUS_PER_PROCESS
    return plan.data_parallel_size * (CPUS_PER_PROCESS + run.train.dataloader_workers)


def memory_per_job(plan: Plan, site: SlurmSite, run: PlannedRun, *, evaluates: bool) -> Measured:
    """Return the host memory in GiB that a job's script requests, with its basis as the method."""
    given = plan.compute.memory_gb_per_run or site.memory_gb
    if given is not None:
        return Quantity(value=given, unit="GiB", method="memory_gb")
    if plan.machine.kind == "cpu":
        cohort = plan.cohort_of(run.name)
        size = run.peak_memory if cohort is None else cohort.peak_memory
        words = "the upper end of what is predicted for the process"
        processes = plan.processes_per_device
        if evaluates:
            memory, processes = run.evaluate_memory, 1
            size = memory if isinstance(memory, Missing) else memory.process.quantity()
        if isinstance(size, Missing):
            return size
        return Quantity(value=size.upper * processes, unit="GiB", method=words)
    found = _gpu_host_memory(plan, run, evaluates=evaluates)
    return Quantity(value=math.ceil(found.high), unit="GiB", method=f"{found.method}; the upper end of the estimate")


def _gpu_host_memory(plan: Plan, run: PlannedRun, *, evaluates: bool) -> Estimate:
    model, train = plan.models[run.model], run.train
    dtype = plan.machine.base_dtype if train is None or train.base_dtype == "auto" else train.base_dtype
    if train is not None and train.trains_all and not evaluates:
        dtype = train.trained_dtype
    weights = max(model.weight_bytes, model.num_parameters * size_of(dtype))
    if evaluates or train is None:
        return host_memory(weights)
    # A whole model is gathered by one process, with all weights trained its optimizer's state too.
    saved = 0 if train.saves == "adapter" else weights * (3 if train.trains_all else 1)
    return host_memory(weights, processes=plan.data_parallel_size, workers=train.dataloader_workers, saved_bytes=saved)


def with_planned_type(plan: Plan, site: SlurmSite) -> SlurmSite:
    """Return a cluster's settings with the type of GPU that was planned for, in the scheduler's word if it is known.

    A type or a constraint of the user's own comes first.
    """
    own = site.gpu_type or site.constraint or plan.compute.constraint
    return site if own or plan.machine.requested_type is None else replace(site, gpu_type=plan.machine.requested_type)


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
