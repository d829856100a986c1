"""Placement of an experiment's remaining jobs, and the script of one allocation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.core.errors import InputError, quoted
from touchline.core.units import minutes_to_seconds, parse_duration, plural, seconds_to_minutes
from touchline.experiment.plan import Plan
from touchline.experiment.requests import Cluster, PlaceRequest
from touchline.experiment.value_types import SlurmSite
from touchline.plan.jobs import place_jobs, upper_minutes, with_planned_type
from touchline.plan.placement.placing import place
from touchline.plan.placement.problem import PlaceJob, Placement
from touchline.run.jobs import evaluation_jobs, training_jobs
from touchline.run.loaded_plan import LoadedPlan
from touchline.run.scripts.mega import Allocation, MegaStage, mega_text
from touchline.slurm.job_view import JobName

MEGA = "mega_job.slurm"


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """Placement of the remaining jobs of an experiment."""

    planned: LoadedPlan
    jobs: tuple[PlaceJob, ...]
    cluster: Cluster
    placement: Placement
    notes: tuple[str, ...] = ()


def carry_out(planned: LoadedPlan, site: SlurmSite, request: PlaceRequest) -> tuple[Placement, list[Path], list[str]]:
    """Place an experiment, and write scripts if requested.

    Returns:
        The placement, the files that were written, and what the reader should know.
    """
    placed = place_experiment(planned, site, request)
    if not request.writes_script:
        return placed.placement, [], list(placed.notes)
    path, notes = write_allocation(placed, site, request.time_minutes)
    return placed.placement, [path], [*placed.notes, *notes]


def place_experiment(planned: LoadedPlan, site: SlurmSite, request: PlaceRequest) -> Placed:
    """Place the remaining training and evaluation jobs.

    Raises:
        InputError: nothing is left, or a job has no estimate.
    """
    plan, cluster = planned.plan, request.cluster
    trainings, evaluations = jobs_left(planned)
    if not trainings and not evaluations:
        raise InputError("no runs left", hint=f"touchline results {quoted(str(planned.folder.root))}")
    jobs = place_jobs(
        plan, site, trainings=trainings, evaluations=evaluations, evaluation_minutes=request.evaluation_minutes
    )
    given = plan.compute.cpus_per_run or site.cpus_per_run
    if cluster.cpus is not None and given is None:
        # Nothing asks for a number: each job has its share of the node by its GPUs.
        jobs = [replace(job, cpus=0) for job in jobs]
    placement = place(jobs, cluster, deadline_minutes=deadline_minutes(plan, request.deadline_minutes))
    notes = list(_workers_beyond(plan, cluster, given))
    if plan.machine.kind == "cpu" and plan.gpus_per_run:
        notes.insert(0, f"durations are for a CPU ({plan.machine.name}): to plan for a GPU, set compute.gpu=A100-80GB")
    return Placed(planned=planned, jobs=tuple(jobs), cluster=cluster, placement=placement, notes=tuple(notes))


def jobs_left(planned: LoadedPlan) -> tuple[set[str], set[str]]:
    """Return the runs that are to be trained, and those that are to be evaluated."""
    evaluations = evaluation_jobs(planned, planned.plan.runs)
    return (
        {job.name for job in training_jobs(planned, planned.plan.runs)},
        {JobName.parse(job.name).subject for job in evaluations},
    )


def deadline_minutes(plan: Plan, asked: float | None) -> float | None:
    """Return the deadline that was asked for, else that of the experiment."""
    if asked is not None or plan.deadline is None:
        return asked
    return seconds_to_minutes(parse_duration(plan.deadline))


def write_allocation(placed: Placed, site: SlurmSite, time_minutes: float | None = None) -> tuple[Path, list[str]]:
    """Write `mega_job.slurm` into the experiment folder.

    Args:
        time_minutes: time limit of the allocation; the deadline if None.

    Returns:
        The file, and what the reader should know.

    Raises:
        InputError: a stage could never start, a run's scripts are missing, or no time is given.
        SlurmValueError: a setting is not valid on an #SBATCH line.
    """
    plan, folder = placed.planned.plan, placed.planned.folder
    _require_scripts(placed)
    minutes = time_minutes if time_minutes is not None else placed.placement.deadline_minutes
    if minutes is None:
        raise InputError(
            "an allocation needs a time limit", expected="compute.deadline, or --deadline", hint="--deadline 6h"
        )
    allocation = allocation_of(placed.cluster, minutes, needs_gpus=any(job.gpus for job in placed.jobs))
    text = mega_text(plan.experiment, stages_of(placed), allocation, with_planned_type(plan, site), plan.compute)
    kept, own = folder.write_experiment({MEGA: text}), plan.compute.evaluation
    notes = [f"{name} differs from what touchline would write, and is not changed" for name in kept]
    if own.partition or own.constraint:
        notes.append(
            "evaluations run in the same allocation, so compute.evaluation.partition and constraint do not apply"
        )
    return folder.root / MEGA, notes


def stages_of(placed: Placed) -> list[MegaStage]:
    """Return the jobs as stages, in order of priority."""
    ranks = {slot.id: slot.priority for slot in placed.placement.schedule}
    return [_stage(placed.planned.plan, job) for job in sorted(placed.jobs, key=lambda job: ranks[job.id])]


def allocation_of(cluster: Cluster, minutes: float, *, needs_gpus: bool) -> Allocation:
    """Return one allocation of a whole cluster.

    Raises:
        InputError: its nodes differ.
    """
    size = min(cluster.gpus_per_node or cluster.gpus, cluster.gpus)
    if cluster.gpus % size:
        raise InputError(
            f"{cluster.gpus} GPUs on nodes of {size} are not whole nodes",
            expected="whole nodes, because an allocation requests the same from each node",
            hint=f"--gpus {cluster.gpus // size * size} or --gpus {-(-cluster.gpus // size) * size}",
        )
    return Allocation(
        nodes=cluster.gpus // size,
        gpus_per_node=size if needs_gpus else 0,
        cpus_per_node=cluster.cpus,
        memory_gb_per_node=cluster.memory_gb,
        seconds=minutes_to_seconds(minutes),
    )


def _stage(plan: Plan, job: PlaceJob) -> MegaStage:
    run = plan.run(JobName.parse(job.id).subject)
    assert run is not None, job.id
    training = job.id == run.name
    return MegaStage(
        name=job.id,
        folder=run.name,
        script="finetune.slurm" if training else "eval.slurm",
        after=job.after,
        gpus=job.gpus,
        cpus=job.cpus,
        memory_gb=job.memory_gb,
        upper_seconds=minutes_to_seconds(upper_minutes(job)),
        done="trained" if training else "evaluated",
        digest=run.digest if training else "",
        checkpoint=f"epoch_{run.train.epochs - 1}" if training and run.train is not None else "",
    )


def _require_scripts(placed: Placed) -> None:
    folder = placed.planned.folder
    missing = [
        f"{stage.folder}/{stage.script}"
        for stage in stages_of(placed)
        if not (folder.run(stage.folder) / stage.script).is_file()
    ]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{missing[0]}{more} missing", hint=f"touchline prepare {quoted(str(folder.root))}")


def _workers_beyond(plan: Plan, cluster: Cluster, given: int | None) -> Iterator[str]:
    """Yield a note if a run's data workers are more than the CPUs that it has while the node is full."""
    if cluster.cpus is None or not plan.gpus_per_run:
        return
    on_node = min(cluster.gpus_per_node or cluster.gpus, cluster.gpus)
    share = given or max(cluster.cpus * plan.gpus_per_run // on_node, 1)
    for workers in sorted({run.train.dataloader_workers for run in plan.runs if run.train is not None}):
        if (processes := plan.data_parallel_size * workers) > share:
            yield (
                f"train.dataloader_workers {workers} starts {plural(processes, 'worker process', 'worker processes')} "
                f"per run, but a run has {plural(share, 'CPU')} of a node's {cluster.cpus}: "
                f"train.dataloader_workers={max(share // plan.data_parallel_size - 1, 0)} fits"
            )
