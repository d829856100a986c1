"""Jobs of an experiment: runs, parents first, and evaluations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from touchline.core.errors import InputError
from touchline.core.units import parse_duration
from touchline.data.checkpoints import export_state, read_checkpoints, training_complete
from touchline.data.evaluations import finished_evaluation
from touchline.data.scores import CheckpointInfo
from touchline.data.training_state import paused_step, read_pause
from touchline.experiment.evaluation import asked_epochs
from touchline.experiment.plan import Cohort, Plan, PlannedRun
from touchline.experiment.runs import RunKind
from touchline.run.folders import ExperimentFolder
from touchline.run.planning import LoadedPlan
from touchline.run.protocol import Job
from touchline.run.run_jobs import model_evaluation, run_evaluation, run_training
from touchline.run.scripts.folder import evaluation_config


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
    """Return the existing checkpoints selected by `evaluate.epochs` or the option."""
    wanted = run.evaluate.epochs
    if epochs is not None:
        if not re.fullmatch(r"last|all|\d+(,\d+)*", epochs):
            raise InputError(f"--epoch {epochs!r}", expected="last, all, or epochs counted from 0: 0,2")
        wanted = "last" if epochs == "last" else "all" if epochs == "all" else tuple(int(p) for p in epochs.split(","))
    asked = asked_epochs(wanted, run.train.epochs if run.train is not None else 0)
    return [item for item in complete if item.epoch in asked]
