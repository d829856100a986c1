"""Jobs of an experiment: runs, parents first, and evaluations."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.errors import InputError
from touchline.core.status import EXIT_DIVERGED
from touchline.core.units import parse_duration
from touchline.data.checkpoints import export_state, paused_step, read_checkpoints, read_pause, training_complete
from touchline.data.scores import CheckpointInfo
from touchline.experiment.evaluation import asked_epochs
from touchline.experiment.plan import Cohort, Plan, PlannedRun
from touchline.experiment.runs import RunKind
from touchline.run.folders import ExperimentFolder
from touchline.run.run_status import drop_lock_conflicts
from touchline.run.statusfiles import read_attempts
from touchline.slurm.job_view import EVALUATION_SCRIPT, JOB_ID, TRAINING_SCRIPT, JobKind, JobName, evaluation_name

if TYPE_CHECKING:
    from touchline.run.loaded_plan import LoadedPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Unit of work in one folder, run under the supervisor `run.attempt`."""

    name: str
    """Name in messages and the ledger: the run, `evaluate 135M_rank4`, or `evaluate SmolLM2-135M-Instruct`."""
    folder: Path
    status: Path
    """Folder of its attempts' start, heartbeat and exit files: `<run>/status`, of an evaluation `<run>/eval/status`."""
    script: str | None
    """Script in `folder` for bash and the scheduler, `finetune.slurm`; None for local-only work."""
    command: tuple[str, ...]
    """Local command: `bash finetune.slurm`, or the supervisor itself."""
    output: str
    """Name of the local output file; `{job}` becomes the job id."""
    after: tuple[str, ...] = ()
    """Names of jobs that must have ended first, successfully or not; it checks their files itself."""
    time_limit_seconds: float | None = None
    """Time limit in the place of the one in its script, which only a cluster reads; None for that one."""
    is_limit_strict: bool = False
    """Whether the limit holds for the job as a whole: a cluster never requeues it."""
    cohort: tuple[str, ...] = ()
    """Other runs that this training covers, side by side."""

    @property
    def is_evaluation(self) -> bool:
        """Return whether it evaluates, by its name."""
        return JobName.parse(self.name).kind is JobKind.EVALUATION

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the job."""
        cohort = {"TOUCHLINE_COHORT": ":".join(self.cohort)} if self.cohort else {}
        return cohort | ({"TOUCHLINE_STRICT_LIMIT": "1"} if self.is_limit_strict else {})

    def output_path(self, job_id: str) -> Path:
        """Return the path of a job's output file."""
        named = self.folder / self.output.format(job=job_id)
        # Below a folder with a backslash SLURM replaces no pattern.
        unnamed = self.folder / self.output.format(job=JOB_ID)
        return unnamed if not named.exists() and unnamed.exists() else named


def training_in(folder: Path, name: str) -> Job:
    """Return the training job of a run in its folder."""
    return _scripted(name, folder, TRAINING_SCRIPT, folder / "status", "slurm-{job}.out")


def run_training(folder: ExperimentFolder, run: str) -> Job:
    """Return the training job of a run."""
    return training_in(folder.run(run), run)


def run_evaluation(folder: ExperimentFolder, run: str) -> Job:
    """Return the evaluation job of a run by its own script."""
    place = folder.run(run)
    return _scripted(evaluation_name(run), place, EVALUATION_SCRIPT, place / "eval" / "status", "slurm-eval-{job}.out")


def model_evaluation(folder: ExperimentFolder, model: str, request: Path) -> Job:
    """Return the local evaluation job of all runs of one base model listed in `request`."""
    place = folder.evaluation(model)
    work = ("-m", "touchline.evaluate", "--experiment", str(folder.root), "--request", str(request))
    return Job(
        name=evaluation_name(model),
        folder=place,
        status=place / "status",
        script=None,
        command=(sys.executable, "-m", "touchline.run.attempt", "--", sys.executable, *work),
        output="{job}.out",
    )


def _scripted(name: str, folder: Path, script: str, status: Path, output: str) -> Job:
    return Job(name=name, folder=folder, status=status, script=script, command=("bash", script), output=output)


def is_training_complete(folder: ExperimentFolder, run: PlannedRun) -> bool:
    """Return True if a run has nothing left to train."""
    return run.batches is None or training_complete(folder.run(run.name), run.digest)


def is_training_done(folder: ExperimentFolder, run: PlannedRun) -> bool:
    """Return True if a run has nothing to train now: it is complete, or paused where its strategy asks for it."""
    return is_training_complete(folder, run) or paused_step(folder.run(run.name), run.digest) is not None


def is_training_to_end(folder: ExperimentFolder, run: PlannedRun) -> bool:
    """Return True if a run's training is complete, or continues to its end without a pause."""
    return is_training_complete(folder, run) or read_pause(folder.run(run.name)) is None


def training_jobs(planned: LoadedPlan, runs: Sequence[PlannedRun]) -> list[Job]:
    """Return the runs that are not done, each stage after its parent."""
    leads = _leads(planned, runs)
    jobs = [_training(planned, run, leads) for run in runs if leads.get(run.name) == run.name]
    return [
        replace(job, cohort=tuple(name for name, lead in leads.items() if lead == job.name != name)) for job in jobs
    ]


def training_job(planned: LoadedPlan, run: PlannedRun) -> Job:
    """Return the training job of a run alone, complete or not."""
    return _training(planned, run, {each.name: each.name for each in planned.plan.runs})


def _leads(planned: LoadedPlan, runs: Sequence[PlannedRun]) -> dict[str, str]:
    """Return the run whose job trains each run that is not done: its own, or of its cohort the first such run."""
    first: dict[Cohort, str] = {}
    leads: dict[str, str] = {}
    for run in runs:
        if not is_training_done(planned.folder, run):
            cohort = planned.plan.cohort_of(run.name)
            leads[run.name] = run.name if cohort is None else first.setdefault(cohort, run.name)
    return leads


def _training(planned: LoadedPlan, run: PlannedRun, leads: Mapping[str, str]) -> Job:
    # A cluster has the limit from the script.
    limit = planned.plan.compute.time_limit if planned.plan.executor == "local" else None
    return replace(
        run_training(planned.folder, run.name),
        after=(leads[run.link.parent],) if run.link is not None and run.link.parent in leads else (),
        time_limit_seconds=None if limit is None else parse_duration(limit),
    )


def evaluation_job(planned: LoadedPlan, run: PlannedRun, lead: str | None = None) -> Job:
    """Return the job that evaluates one run by its own script.

    Args:
        lead: job that trains it; None for its own.
    """
    after = () if is_training_complete(planned.folder, run) else (lead or run.name,)
    return replace(run_evaluation(planned.folder, run.name), after=after)


def evaluation_jobs(planned: LoadedPlan, runs: Sequence[PlannedRun]) -> list[Job]:
    """Return one evaluation job per run with pending or future checkpoints; none of a training that pauses first."""
    leads = _leads(planned, runs)
    return [
        evaluation_job(planned, run, leads.get(run.name))
        for run in runs
        if is_training_to_end(planned.folder, run)
        and run.is_evaluated
        and (not is_training_complete(planned.folder, run) or missing_evaluations(planned, run, None))
    ]


def shared_evaluation_jobs(planned: LoadedPlan, runs: Sequence[PlannedRun], epochs: str | None) -> list[Job]:
    """Return one evaluation job per base model: controls and all adapters share one loaded model."""
    folder = planned.folder
    jobs: list[Job] = []
    for model in planned.plan.models:
        wanted = [
            {"run": run.name, "checkpoint": checkpoint}
            for run in runs
            if run.model == model and is_training_to_end(folder, run)
            for checkpoint in missing_evaluations(planned, run, epochs)
        ]
        if wanted:
            job = model_evaluation(folder, model, folder.write_request(model, wanted))
            each = planned.plan.compute.evaluation.time_limit
            limit = None if each is None else parse_duration(each) * len({item["run"] for item in wanted})
            jobs.append(replace(job, time_limit_seconds=limit))
    return jobs


def missing_evaluations(planned: LoadedPlan, run: PlannedRun, epochs: str | None) -> list[str]:
    """Names of the checkpoints of a run that should be evaluated and are not.

    Raises:
        InputError: `epochs` names none.
    """
    return _missing(planned.plan, run, planned.folder.run(run.name), epochs)


def _missing(plan: Plan, run: PlannedRun, folder: Path, epochs: str | None) -> list[str]:
    # Tables of trainers and templates load where something may be started, and not with `status`.
    from touchline.data.evaluations import finished_evaluation
    from touchline.run.scripts.folder import evaluation_config

    config = evaluation_config(plan, run)
    if run.kind is RunKind.CONTROL:
        name = config.control_checkpoint
        adapter = None if config.no_op is None else export_state(folder, name)[1]
        return [] if finished_evaluation(folder, config, name, adapter) is not None else [name]
    complete = [item for item in read_checkpoints(folder) if item.complete and item.epoch is not None]
    return [
        item.name
        for item in _chosen(complete, run, epochs)
        if finished_evaluation(folder, config, item.name, item.adapter_sha256) is None
    ]


def _chosen(complete: Sequence[CheckpointInfo], run: PlannedRun, epochs: str | None) -> list[CheckpointInfo]:
    wanted = run.evaluate.epochs
    if epochs is not None:
        if not re.fullmatch(r"last|all|\d+(,\d+)*", epochs):
            raise InputError(f"--epoch {epochs!r}", expected="last, all, or epochs counted from 0: 0,2")
        wanted = "last" if epochs == "last" else "all" if epochs == "all" else tuple(int(p) for p in epochs.split(","))
    asked = asked_epochs(wanted, run.train.epochs if run.train is not None else 0)
    return [item for item in complete if item.epoch in asked]


def has_diverged(folder: ExperimentFolder, run: PlannedRun) -> bool:
    """Return True if the last attempt at a run's training ended because it diverged; it would diverge again."""
    if is_training_complete(folder, run):
        return False
    attempts = drop_lock_conflicts(read_attempts(folder.run(run.name) / "status"))
    last = attempts[-1].exit if attempts else None
    return last is not None and last.code == EXIT_DIVERGED
