"""Live state of every run, from its folder and one queue query; fast, because it is polled."""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic_core import from_json

from touchline.core.errors import TouchlineError
from touchline.core.files import open_regular
from touchline.core.quantity import Measured, Missing, Quantity, number_of
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.core.units import in_unit
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import RunKind
from touchline.lint.checked import FindingRow
from touchline.plan.jobs import training_limit
from touchline.results.flags import FlagInputs, flags
from touchline.results.run_folder import RunFolderState, evaluation_settings, read_run_folder
from touchline.run.folders import ExperimentFolder
from touchline.run.jobs import Job, model_evaluation, run_evaluation, run_training
from touchline.run.progress import seconds_left, tokens_per_second
from touchline.run.resources import read_resources, resource_figures
from touchline.run.run_status import StatusInputs, job_view_from_files, run_status
from touchline.run.tails import read_tail
from touchline.slurm.job_view import JobView, evaluation_name


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRun:
    """State of a run, from its folder and a queue query."""

    name: str
    """Run name."""
    kind: RunKind
    """Fine-tuned or control."""
    status: RunStatus
    """Derived from files and jobs."""
    job_state: JobState | None
    """State of its last job of any kind; None if there was none."""
    job: JobView | None
    """Training job; None if there was none."""
    evaluation: JobView | None
    """Evaluation job; None if there was none or if it shares a process with other runs."""
    attempts: int
    """Number of training attempts."""
    steps_done: int | None
    """Optimizer steps done; None for a control."""
    steps_planned: int | None
    """Optimizer steps planned; None for a control."""
    loss: Measured
    """Last training loss."""
    tokens_per_second: Measured
    """Non-padding tokens per second over the last steps."""
    memory: Measured
    """Peak memory so far."""
    seconds_left: Measured
    """Predicted seconds until the training ends, with an interval."""
    queue_reason: str
    """Pending reason of the scheduler; empty if not queued."""
    flags: tuple[FindingRow, ...]
    """Warnings: NaN, zero loss, stall, far slower than planned, insufficient time limit or disk space."""
    items_done: int | None = None
    """Test items answered by the active evaluation; None if none is active."""
    items_planned: int | None = None
    """Test items of the active evaluation."""


_EVALUATED = re.compile(rb"^(\S+) (\S+): (\d+)/(\d+)\s*$", re.MULTILINE)
_OUTPUT_TAIL_BYTES = 8192
_REQUEST_LIMIT_BYTES = 1 << 24


class Opened(Protocol):
    """Plan with its folder; implemented by `LoadedPlan`."""

    @property
    def plan(self) -> Plan:
        """Plan of the experiment."""
        ...

    @property
    def folder(self) -> ExperimentFolder:
        """Experiment folder."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Evaluating:
    view: JobView
    runs: frozenset[str]
    output: bytes


def glances(opened: Opened, known: Mapping[str, RunFolderState] | None = None) -> dict[str, RunFolderState]:
    """Read every run folder, by run; `known` ones are not read again."""
    plan, folder = opened.plan, opened.folder
    # Kept beside the plan on disk, which has all runs.
    settings = evaluation_settings(folder.planned(), folder.plan_json, folder.internal)
    kept = known or {}
    return {
        run.name: kept[run.name] if run.name in kept else read_run_folder(plan, run, folder.root / run.name, settings)
        for run in plan.runs
    }


def jobs_to_ask(opened: Opened, seen: Mapping[str, RunFolderState]) -> list[Job]:
    """Return the jobs whose state only the executor knows.

    A trained and evaluated run has none. A local job that is active or was killed has left a start file; a job that
    waits in a queue has left nothing.
    """
    local = opened.plan.executor == "local"
    jobs: list[Job] = []
    for run in opened.plan.runs:
        found = seen[run.name]
        over = found.outcome is TrainingOutcome.COMPLETE or run.kind is RunKind.CONTROL
        begun = bool(found.attempts) and found.attempts[-1].exit is None
        if run.batches is not None and (begun or not (local or (over and found.evaluated))):
            jobs.append(run_training(opened.folder, run.name))
        evaluating = bool(found.evaluation_attempts) and found.evaluation_attempts[-1].exit is None
        if evaluating or not (local or found.evaluated):
            jobs.append(run_evaluation(opened.folder, run.name))
    if local:
        jobs += [job for model in opened.plan.models if (job := _shared(opened.folder, model)) is not None]
    return jobs


def evaluation_job(plan: Plan, folder: ExperimentFolder, run: PlannedRun) -> Job:
    """Return the job that evaluates a run: its own on a cluster, that of the base model locally."""
    if plan.executor == "local" and (shared := _shared(folder, run.model)) is not None:
        return shared
    return run_evaluation(folder, run.name)


def live(
    opened: Opened,
    executor_look: Mapping[str, JobView],
    seen: Mapping[str, RunFolderState] | None = None,
    now_unix: float | None = None,
) -> list[LiveRun]:
    """Return every run of the plan, in its order.

    Args:
        executor_look: job states by name, of runs and evaluations (`evaluate 135M_rank4`); others are derived from
            files.
    """
    now = time.time() if now_unix is None else now_unix
    found = glances(opened) if seen is None else seen
    shared = {
        model: at_work
        for model in opened.plan.models
        if (at_work := _evaluating(opened.folder, model, executor_look)) is not None
    }
    free = _free_bytes(opened.folder.root)
    cut = opened.folder.strategy().cut
    needed = _needed_bytes([run for run in opened.plan.runs if run.name not in cut], found)
    return [
        _live(
            opened,
            run,
            found[run.name],
            executor_look,
            shared.get(run.model),
            (needed, free),
            now,
            cut=run.name in cut,
        )
        for run in opened.plan.runs
    ]


def _live(
    opened: Opened,
    run: PlannedRun,
    found: RunFolderState,
    views: Mapping[str, JobView],
    shared: _Evaluating | None,
    disk: tuple[float | None, float | None],
    now: float,
    *,
    cut: bool,
) -> LiveRun:
    trains = run.batches is not None
    job = _known(views.get(run.name), job_view_from_files(found.attempts, now)) if trains else None
    evaluation = _known(views.get(evaluation_name(run.name)), job_view_from_files(found.evaluation_attempts, now))
    here = shared if shared is not None and run.name in shared.runs and not found.evaluated else None
    at_evaluation = evaluation if evaluation is not None else None if here is None else here.view
    status = run_status(
        StatusInputs(
            kind=run.kind,
            prepared=found.prepared,
            outcome=found.outcome,
            evaluated=found.evaluated,
            job=job if trains else at_evaluation,
            cut=cut,
        )
    )
    # The evaluation comes after the training, so its job is the later one as soon as the training is over.
    over = job is None or not job.active
    last = at_evaluation if at_evaluation is not None and (over or at_evaluation.state is JobState.RUNNING) else job
    started = found.attempts[-1].start.time_unix if found.attempts else None
    waited = now - started if started is not None and status is RunStatus.RUNNING else None
    left = Missing(missing="cut by its validation loss") if cut else _left(run, found, waited)
    done, planned = _items(found, evaluation, here, run)
    return LiveRun(
        name=run.name,
        kind=run.kind,
        status=status,
        job_state=None if last is None else last.state,
        job=job,
        evaluation=evaluation,
        attempts=len(found.attempts) + found.superseded_attempts,
        steps_done=found.recent.steps_done if trains else None,
        steps_planned=run.batches.steps if run.batches is not None else None,
        loss=_loss(run, found),
        tokens_per_second=tokens_per_second(found.recent) if trains else Missing(missing="not trained"),
        memory=_memory(found) if trains else Missing(missing="not trained"),
        seconds_left=left,
        queue_reason=_reason(job, evaluation),
        flags=flags(
            FlagInputs(
                experiment=opened.folder.root,
                run=run,
                glance=found,
                status=status,
                job=job,
                evaluation=evaluation,
                left=left,
                limit_seconds=_limit(opened.plan, run, job),
                disk_needed_bytes=disk[0],
                disk_free_bytes=disk[1],
                now_unix=now,
            )
        ),
        items_done=done,
        items_planned=planned,
    )


def _known(view: JobView | None, files: JobView | None) -> JobView | None:
    """Return the executor's view; if it is absent or unknown, an active view from files replaces it."""
    if view is None or (view.state is JobState.UNKNOWN and files is not None and files.active):
        return files
    return view


def _shared(folder: ExperimentFolder, model: str) -> Job | None:
    """Return the local evaluation process of a base model; None if there never was one."""
    try:
        place = folder.evaluation(model)
    except TouchlineError:
        return None
    if not (place / "status").is_dir():
        return None
    return model_evaluation(folder, model, place / "request.json")


def _evaluating(folder: ExperimentFolder, model: str, views: Mapping[str, JobView]) -> _Evaluating | None:
    view, job = views.get(evaluation_name(model)), _shared(folder, model)
    if view is None or job is None or not view.active:
        return None
    try:
        with open_regular(job.folder / "request.json") as stream:
            asked = from_json(stream.read(_REQUEST_LIMIT_BYTES))["jobs"]
        runs = frozenset(str(each["run"]) for each in asked)
    except (OSError, ValueError, KeyError, TypeError):
        runs = frozenset()
    output, _ = read_tail(job.output_path(view.job_id), _OUTPUT_TAIL_BYTES)
    return _Evaluating(view=view, runs=runs, output=output)


def _items(
    found: RunFolderState, evaluation: JobView | None, shared: _Evaluating | None, run: PlannedRun
) -> tuple[int | None, int | None]:
    """Return (items answered, items to answer) of the active evaluation of this run."""
    output = b"" if shared is None else shared.output
    if evaluation is not None and evaluation.active and evaluation.job_id:
        output, _ = read_tail(found.folder / f"slurm-eval-{evaluation.job_id}.out", _OUTPUT_TAIL_BYTES)
    told_items = [match for match in _EVALUATED.findall(output) if match[0].decode(errors="replace") == run.name]
    return (int(told_items[-1][2]), int(told_items[-1][3])) if told_items else (None, None)


def _left(run: PlannedRun, found: RunFolderState, waited: float | None) -> Measured:
    if run.batches is None:
        return Missing(missing="not trained")
    if found.outcome is TrainingOutcome.COMPLETE:
        return Missing(missing="the training is complete")
    return seconds_left(run, found.recent, waited)


def _loss(run: PlannedRun, found: RunFolderState) -> Measured:
    if run.batches is None:
        return Missing(missing="not trained")
    if not found.recent.steps:
        return Missing(missing="no step has been measured")
    last = found.recent.steps[-1]
    if not math.isfinite(last.loss):
        return Missing(missing=f"not a number at step {last.step}")
    return Quantity(value=last.loss, unit="1", aggregation="last", token_unit="label", method=f"step {last.step}")


def _memory(found: RunFolderState) -> Measured:
    own = found.recent.peak_memory
    if isinstance(own, Quantity) or not found.attempts:
        return own
    sampled = resource_figures(read_resources(found.folder / "status"))
    known = [fact for name in ("gpu_peak", "tree_peak") if isinstance(fact := sampled[name], Quantity)]
    return known[0] if known else own


def _reason(job: JobView | None, evaluation: JobView | None) -> str:
    """Return the pending reason of the next job; SLURM's `None` becomes empty."""
    following = next((each for each in (job, evaluation) if each is not None and each.active), None)
    if following is None or following.state in (JobState.RUNNING, JobState.UNKNOWN) or following.reason == "None":
        return ""
    return following.reason


def _limit(plan: Plan, run: PlannedRun, job: JobView | None) -> float | None:
    """Return the time limit of a run's job: the scheduler's value, else the planned one."""
    if job is not None and job.time_limit_seconds is not None:
        return job.time_limit_seconds
    if plan.executor == "local" and plan.compute.time_limit is None:
        return None
    return number_of(training_limit(plan, run))


def _free_bytes(root: Path) -> float | None:
    try:
        return float(shutil.disk_usage(root).free)
    except OSError:
        return None


def _needed_bytes(runs: Sequence[PlannedRun], seen: Mapping[str, RunFolderState]) -> float | None:
    """Return the bytes that the unfinished runs still write, by plan and completed steps; None if unknown."""
    needed, known = 0.0, False
    for run in runs:
        found = seen[run.name]
        size = in_unit(run.disk, "B")
        if run.batches is None or found.outcome is TrainingOutcome.COMPLETE or isinstance(size, Missing):
            continue
        share = 1 - min(found.recent.steps_done / max(run.batches.steps, 1), 1.0)
        needed += size.value * share
        known = True
    return needed if known else None
