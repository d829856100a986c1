"""Command `logs`: newest output of a run, optionally followed across attempts; and why its jobs failed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from touchline.core.errors import InputError, TouchlineError, quoted
from touchline.core.status import TrainingOutcome
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import RunKind
from touchline.plan.recovery import Failure, RecoveryAction
from touchline.results.live_status import LiveRun, evaluation_job
from touchline.results.run_folder import evaluation_settings, read_run_folder
from touchline.results.watching import GRACE_SECONDS
from touchline.run.executors import Executor, executor_for
from touchline.run.failures import failures_of
from touchline.run.folders import ExperimentFolder
from touchline.run.jobs import Job, is_training_complete, missing_evaluations, run_training, training_job
from touchline.run.ledger import read_ledger
from touchline.run.loaded_plan import LoadedPlan, one_run, read_started, selected
from touchline.run.statusfiles import read_attempts
from touchline.run.tails import Follower, last_lines
from touchline.slurm.local.commands import RealCommands

FOLLOW_SECONDS = 0.5
"""Seconds between two reads of a followed file."""
_EVALUATIONS = "slurm-eval-"


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputLine:
    """Element of the output: a file header, a line or an unfinished line."""

    file: Path | None = None
    """File that the following lines come from."""
    line: str | None = None
    """Whole line, as a terminal shows it."""
    unfinished: str | None = None
    """Line still being written, mostly a progress bar; the next one replaces it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Output:
    plan: Plan
    folder: ExperimentFolder
    run: PlannedRun
    job: Job

    @property
    def is_evaluation(self) -> bool:
        return self.job.name != self.run.name


def logs(
    source: Path,
    settings: UserConfig,
    *,
    run: str | None = None,
    evaluation: bool = False,
    lines: int = 50,
    follow: bool = False,
) -> Iterator[OutputLine]:
    """Yield the last lines of a run's newest output, then added lines.

    Args:
        source: experiment.yaml, its folder, or a run folder.
        run: run name, if `source` is not a run folder.
        evaluation: show the evaluation's output instead of the training's; a control has no other.

    Raises:
        InputError: there is no plan, no such run, or no output.
    """
    output = _open(source, run, evaluation)
    path = newest(output)
    if path is None and not follow:
        raise InputError(
            f"{output.job.name} has no output yet", hint=f"touchline status {quoted(str(output.folder.root))}"
        )
    follower: Follower | None = None
    if path is not None:
        yield OutputLine(file=path)
        shown, end = last_lines(path, lines)
        yield from (OutputLine(line=line) for line in shown)
        follower = Follower(path, end)
    if follow:
        yield from _follow(output, follower, settings)


def newest(output: _Output) -> Path | None:
    """Return the output of the running attempt, else the file written last."""
    place = output.job.folder
    if output.is_evaluation:
        pattern = f"{_EVALUATIONS}*.out" if output.job.script is not None else "*.out"
        found = list(place.glob(pattern))
    else:
        found = [path for path in place.glob("slurm-*.out") if not path.name.startswith(_EVALUATIONS)]
    attempts = read_attempts(output.job.status)
    if attempts and attempts[-1].exit is None:
        job_id = attempts[-1].start.job_id
        own = [path for path in found if path.stem.removeprefix(_EVALUATIONS).removeprefix("slurm-") == job_id]
        if own:
            return own[0]
    return max(found, key=_written, default=None)


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _open(source: Path, run: str | None, evaluation: bool) -> _Output:
    folder, plan, one = one_run(source, run)
    whole = evaluation or one.kind is RunKind.CONTROL
    return _Output(
        plan=plan,
        folder=folder,
        run=one,
        job=evaluation_job(plan, folder, one) if whole else run_training(folder, one.name),
    )


def _follow(output: _Output, follower: Follower | None, settings: UserConfig) -> Iterator[OutputLine]:
    executor = executor_for(output.plan, output.folder, settings.slurm.poll_seconds, RealCommands())
    pause = 1.0 if output.plan.executor == "local" else settings.slurm.poll_seconds
    asked, quiet_since, active, last = float("-inf"), time.monotonic(), True, ""
    while True:
        path = newest(output)
        if path is not None and (follower is None or path != follower.path):
            if follower is not None:
                yield from (OutputLine(line=line) for line in _drain(follower))
            follower = Follower(path, 0)
            yield OutputLine(file=path)
        lines, unfinished = follower.read() if follower is not None else ([], "")
        yield from (OutputLine(line=line) for line in lines)
        if unfinished != last and unfinished:
            yield OutputLine(unfinished=unfinished)
        last = unfinished
        now = time.monotonic()
        if now - asked >= pause:
            asked, active = now, _is_active(executor, output.job)
        if active or lines:
            quiet_since = now
        elif _is_over(output) or now - quiet_since >= GRACE_SECONDS:
            # What was written between the last look at the file and the job's end.
            if follower is not None:
                yield from (OutputLine(line=line) for line in _drain(follower))
            return
        if not lines:
            time.sleep(FOLLOW_SECONDS)


def _drain(follower: Follower) -> list[str]:
    lines: list[str] = []
    unfinished = ""
    while True:
        more, unfinished = follower.read()
        if not more:
            break
        lines += more
    return [*lines, unfinished] if unfinished else lines


def _is_active(executor: Executor, job: Job) -> bool:
    """Return True if the job may still produce output, also if the executor cannot be queried."""
    try:
        view = executor.query_jobs([job]).get(job.name)
    except TouchlineError:
        return True
    return view is not None and view.active


def _is_over(output: _Output) -> bool:
    """Return True if the work is complete, so that no other attempt follows."""
    settings = evaluation_settings(output.plan, output.folder.plan_json, output.folder.internal)
    found = read_run_folder(output.plan, output.run, output.folder.run(output.run.name), settings)
    return found.evaluated if output.is_evaluation else found.outcome is TrainingOutcome.COMPLETE


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedJob:
    """Job with failed attempts."""

    job: str
    failures: tuple[Failure, ...]
    """Failed attempts, oldest first."""
    decision: RecoveryAction | None
    """Last decision about it; None if there was none."""
    reason: str


def failures(source: Path, run: LiveRun) -> list[FailedJob]:
    """Return the jobs of a run that have failed attempts."""
    planned = read_started(source)
    return list(_failures(planned, run))


def _failures(planned: LoadedPlan, live: LiveRun) -> Iterator[FailedJob]:
    (run,) = selected(planned.plan, live.name)
    if run.batches is not None:
        ended = live.job is not None and not live.job.active
        found = failures_of(training_job(planned, run), live.job if ended else None)
        # The attempt that completed the training did not fail.
        found = found[:-1] if is_training_complete(planned.folder, run) or not ended else found
        if found:
            yield _failed(planned, live.name, found)
    if is_training_complete(planned.folder, run) and missing_evaluations(planned, run, None):
        job: Job = evaluation_job(planned.plan, planned.folder, run)
        if found := failures_of(job, None):
            yield _failed(planned, job.name, found)


def _failed(planned: LoadedPlan, job: str, found: list[Failure]) -> FailedJob:
    decided = [each for each in read_ledger(planned.folder.ledger) if each.event == "decided" and each.job == job]
    last = decided[-1] if decided else None
    return FailedJob(
        job=job,
        failures=tuple(found),
        decision=None if last is None else RecoveryAction(last.state),
        reason="" if last is None else last.reason,
    )
