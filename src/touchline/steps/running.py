"""Training and evaluating, step by step: what is missing, as jobs for the executor."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from touchline.domain.plan import Plan, PlannedRun
from touchline.domain.results import CheckpointInfo
from touchline.domain.runs import RunKind
from touchline.domain.status import JobState
from touchline.errors import EnvironmentFault, InputFault, PolicyFault
from touchline.files import try_lock
from touchline.launch.folders import ExperimentFolder
from touchline.launch.gpus import slots, visible_gpus
from touchline.launch.ledger import Ledger
from touchline.launch.local import LocalExecutor
from touchline.launch.progress import JobProgress, evaluation_progress, training_progress
from touchline.launch.protocol import Job
from touchline.launch.queue import run_jobs
from touchline.results.checkpoints import read_checkpoints, training_complete
from touchline.results.evaluations import finished_evaluation
from touchline.scaffold.folder import evaluation_config
from touchline.steps.planning import Planned

Say = Callable[[Sequence[JobProgress]], None]


@contextmanager
def alone(folder: ExperimentFolder) -> Iterator[None]:
    """Hold the experiment: two commands that start jobs on one folder would do things twice.

    Raises:
        PolicyFault: another command holds it.
    """
    descriptor = try_lock(folder.lock)
    if descriptor is None:
        raise PolicyFault(
            f"another touchline command is at work on {str(folder.root)!r}",
            expected="one at a time",
            hint=f"touchline status {str(folder.root)!r}",
        )
    try:
        yield
    finally:
        os.close(descriptor)


def train(planned: Planned, runs: Sequence[PlannedRun], say: Say | None) -> dict[str, JobState]:
    """Train every run that is not trained; give those that did not end well."""
    folder = planned.folder
    todo = [run for run in runs if run.batches is not None and not training_complete(folder.run(run.name), run.digest)]
    if not todo:
        return {}
    require_training()
    steps = {run.name: run.batches.steps for run in todo if run.batches is not None}
    jobs = [
        Job(
            name=run.name,
            folder=folder.run(run.name),
            status=folder.run(run.name) / "status",
            script="finetune.slurm",
            command=("bash", "finetune.slurm"),
            output="slurm-{job}.out",
        )
        for run in todo
    ]
    ended = run_jobs(
        jobs,
        LocalExecutor(),
        Ledger(folder.ledger, planned.plan.executor),
        slots(visible_gpus(), planned.plan.gpus_per_run),
        lambda running: say and say([training_progress(job, steps[job.name]) for job in running]),
    )
    done = {run.name for run in todo if training_complete(folder.run(run.name), run.digest)}
    return {name: state for name, state in ended.items() if name not in done or state is not JobState.COMPLETED}


def evaluate(planned: Planned, runs: Sequence[PlannedRun], epochs: str | None, say: Say | None) -> dict[str, JobState]:
    """Evaluate every checkpoint that is asked for and not evaluated; one process for each base model.

    Controls and all adapters of a base share one loaded model, so they are evaluated by the same process.
    """
    folder, plan = planned.folder, planned.plan
    failed: dict[str, JobState] = {}
    jobs: list[Job] = []
    for model in plan.models:
        wanted = [
            {"run": run.name, "checkpoint": checkpoint}
            for run in runs
            if run.model == model
            for checkpoint in _missing_evaluations(plan, run, folder.run(run.name), epochs)
        ]
        if wanted:
            request = folder.write_request(model, wanted)
            work = (
                sys.executable,
                "-m",
                "touchline.evaluate",
                "--experiment",
                str(folder.root),
                "--request",
                str(request),
            )
            command = (sys.executable, "-m", "touchline.launch.attempt", "--", *work)
            jobs.append(
                Job(
                    name=f"evaluate {model}",
                    folder=request.parent,
                    status=request.parent / "status",
                    script=None,
                    command=command,
                    output="{job}.out",
                )
            )
    if jobs:
        require_training()
        ended = run_jobs(
            jobs,
            LocalExecutor(),
            Ledger(folder.ledger, plan.executor),
            slots(visible_gpus(), 1),
            lambda running: say and say([evaluation_progress(job) for job in running]),
        )
        failed = {name: state for name, state in ended.items() if state is not JobState.COMPLETED}
    return failed


def _missing_evaluations(plan: Plan, run: PlannedRun, folder: Path, epochs: str | None) -> list[str]:
    """Names of the checkpoints of a run that should be evaluated and are not."""
    config = evaluation_config(plan, run)
    if run.kind is RunKind.CONTROL:
        return [] if finished_evaluation(folder, config, "base", None) else ["base"]
    complete = [item for item in read_checkpoints(folder) if item.complete and item.epoch is not None]
    return [
        item.name
        for item in _chosen(complete, run, epochs)
        if not finished_evaluation(folder, config, item.name, item.adapter_sha256)
    ]


def _chosen(complete: Sequence[CheckpointInfo], run: PlannedRun, epochs: str | None) -> list[CheckpointInfo]:
    """The checkpoints that `evaluate.epochs`, or the option, names; those that are not there yet are left out."""
    wanted: str | tuple[int, ...] = run.evaluate.epochs
    if epochs is not None:
        if not re.fullmatch(r"last|all|\d+(,\d+)*", epochs):
            raise InputFault(f"--epoch {epochs!r}", expected="last, all, or epochs counted from 0: 0,2")
        wanted = epochs if epochs in ("last", "all") else tuple(int(part) for part in epochs.split(","))
    if wanted == "all":
        return list(complete)
    if wanted == "last":
        last = (run.train.epochs if run.train is not None else 0) - 1
        return [item for item in complete if item.epoch == last]
    return [item for item in complete if item.epoch in wanted]


def selected(plan: Plan, only: str | None) -> list[PlannedRun]:
    """The runs to work on.

    Raises:
        InputFault: there is no such run.
    """
    if only is None:
        return list(plan.runs)
    found = plan.run(only)
    if found is None:
        raise no_such_run(only, plan)
    return [found]


def no_such_run(name: str, plan: Plan) -> InputFault:
    """The fault for a run that the plan does not have."""
    names = [run.name for run in plan.runs]
    near = difflib.get_close_matches(name, names, n=1)
    return InputFault(
        f"the plan has no run {name!r}",
        expected=f"one of {', '.join(names)}",
        hint=f"--run {near[0]}" if near else None,
    )


def require_training() -> None:
    """Refuse early, and in words, where the packages that train are not installed.

    Raises:
        EnvironmentFault: they are not.
    """
    absent = [
        name for name in ("torch", "transformers", "peft", "inspect_ai") if importlib.util.find_spec(name) is None
    ]
    if absent:
        raise EnvironmentFault(
            f"this environment plans but cannot train: {', '.join(absent)} not installed",
            hint="pip install 'touchline[train,eval]'",
        )
