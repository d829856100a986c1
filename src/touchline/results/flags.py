"""Warnings about queued, running and recently ended runs, each with an action.

Clocks of different machines differ, so an age counts only if two clocks agree: that of the writing machine and that of
the disk.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from touchline.core.finding import Severity
from touchline.core.quantity import Measured, Quantity
from touchline.core.status import (
    EXIT_STOPPED,
    HEARTBEAT_STALE_SECONDS,
    KILLED,
    Attempt,
    EndReason,
    JobState,
    RunStatus,
    TrainingOutcome,
)
from touchline.core.units import format_bytes, format_seconds
from touchline.experiment.plan import PlannedRun
from touchline.experiment.training import AGAINST_DIVERGENCE
from touchline.lint.checked import FindingRow
from touchline.results.run_folder import RunFolderState
from touchline.run.progress import measured_pace, steady
from touchline.slurm.job_view import JobView

STALL_STEPS = 10
"""Multiple of the usual step time without a new step that counts as a stall."""
STALL_LEAST_SECONDS = 120.0
"""Shortest stall in seconds, because short steps are easily delayed."""
START_LEAST_SECONDS = 900.0
"""Seconds allowed for data, libraries and weights before the first step, unless the plan predicts more."""
NEVER = "DependencyNeverSatisfied"


@dataclass(frozen=True, kw_only=True, slots=True)
class FlagInputs:
    """Inputs from which the flags of one run are derived."""

    experiment: Path
    run: PlannedRun
    glance: RunFolderState
    status: RunStatus
    job: JobView | None
    evaluation: JobView | None
    left: Measured
    """Predicted seconds until the training ends."""
    limit_seconds: float | None
    disk_needed_bytes: float | None
    """Predicted bytes that all unfinished runs still write; None if unknown."""
    disk_free_bytes: float | None
    now_unix: float


def flags(seen: FlagInputs) -> tuple[FindingRow, ...]:
    """Return all flags of a run, errors first."""
    found = [*_queue(seen), *_losses(seen), *_progress(seen), *_limits(seen), *_ends(seen)]
    order = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
    return tuple(sorted(found, key=lambda row: (order[row.severity], row.code)))


def _queue(seen: FlagInputs) -> Iterator[FindingRow]:
    for job, what in ((seen.job, "its training"), (seen.evaluation, "its evaluation")):
        if job is None or not job.active or job.state is JobState.RUNNING:
            continue
        if NEVER in job.reason:
            message = f"{what} (job {job.job_id}) waits for a dependency that cannot be satisfied"
            yield _row(seen, "RN106", Severity.ERROR, message, f"touchline cancel {_target(seen)}, then run it again")


def _losses(seen: FlagInputs) -> Iterator[FindingRow]:
    steps = seen.glance.recent.steps
    broken = [step.step for step in steps if not math.isfinite(step.loss)]
    if broken:
        message = f"the loss is not finite (NaN or infinite) at step {broken[0]}"
        hint = f"use {AGAINST_DIVERGENCE}"
        yield _row(seen, "RN100", Severity.ERROR, message, hint, "metrics.jsonl")


def _progress(seen: FlagInputs) -> Iterator[FindingRow]:
    if seen.status is not RunStatus.RUNNING or seen.job is None or not seen.job.active:
        return
    attempt = seen.glance.attempts[-1] if seen.glance.attempts else None
    if attempt is None or attempt.exit is not None:
        return
    age = heartbeat_age(seen.glance, attempt, seen.now_unix)
    if age is not None and age > HEARTBEAT_STALE_SECONDS:
        message = f"no heartbeat for {format_seconds(age)}, but the scheduler reports it running"
        hint = f"check node {attempt.start.host!r}, and touchline logs {_target(seen)}"
        yield _row(seen, "RN108", Severity.WARNING, message, hint, "status")
        return
    yield from _stall(seen, attempt)


def _stall(seen: FlagInputs, attempt: Attempt) -> Iterator[FindingRow]:
    """Yield a flag if the process is alive but has produced no step for many times the usual step time."""
    recent, beat = seen.glance.recent, attempt.heartbeat_unix
    if beat is None:
        return
    pace = measured_pace(steady(recent))
    if pace is None or recent.last_row_unix is None or recent.last_row_unix < attempt.start.time_unix:
        quiet = beat - attempt.start.time_unix
        allowed = max(START_LEAST_SECONDS, 3 * _most(seen.run, ("start-up", "tokenising", "validation")))
        if quiet > allowed and _since_written(seen, "status", f"start.{_name(attempt)}.json") > allowed:
            message = f"no first step {format_seconds(quiet)} after its start"
            hint = f"touchline logs {_target(seen)}, or stop it with touchline cancel {_target(seen)}"
            yield _row(seen, "RN102", Severity.WARNING, message, hint, "metrics.jsonl")
        return
    quiet = beat - recent.last_row_unix
    allowed = max(STALL_LEAST_SECONDS, STALL_STEPS * pace.seconds + 2 * recent.longest_pause_seconds)
    if recent.validation_seconds == 0:
        # None was in sight yet, so it may be the first one that takes its time.
        allowed += _most(seen.run, ("validation", "saving"))
    if quiet > allowed and not recent.ended and _since_written(seen, "metrics.jsonl") > allowed:
        message = (
            f"no new step for {format_seconds(quiet)}, although the process is alive (a step usually takes "
            f"{format_seconds(pace.seconds)})"
        )
        hint = f"touchline logs {_target(seen)}, or touchline cancel {_target(seen)} and resume"
        yield _row(seen, "RN102", Severity.WARNING, message, hint, "metrics.jsonl")


def _limits(seen: FlagInputs) -> Iterator[FindingRow]:
    active = seen.job is not None and seen.job.active
    started = seen.job.started_unix if seen.job is not None else None
    if started is None and seen.glance.attempts:
        started = seen.glance.attempts[-1].start.time_unix
    if (
        active
        and seen.status is RunStatus.RUNNING
        and seen.limit_seconds is not None
        and started is not None
        and isinstance(seen.left, Quantity)
    ):
        remaining = seen.limit_seconds - max(seen.now_unix - started, 0.0)
        low = seen.left.low if seen.left.low is not None else seen.left.value
        if seen.left.value > remaining:
            sure = low > remaining
            message = (
                f"{'' if sure else 'probably '}not done at its time limit: {format_seconds(seen.left.value)} left, "
                f"the limit comes in {format_seconds(max(remaining, 0.0))}"
            )
            hint = "set a longer compute.time_limit, or resume it (it saves its state in time)"
            yield _row(seen, "RN104", Severity.ERROR if sure else Severity.WARNING, message, hint)
    needed, free = seen.disk_needed_bytes, seen.disk_free_bytes
    if (active or seen.status is RunStatus.QUEUED) and needed is not None and free is not None and needed > free:
        message = (
            f"the disk of {str(seen.experiment)!r} runs out: {format_bytes(free)} free, but the unfinished runs "
            f"still write {format_bytes(needed)}"
        )
        hint = "free space, or keep fewer checkpoints: train.checkpoint.keep: last 1"
        yield _row(seen, "RN105", Severity.ERROR, message, hint)


def _ends(seen: FlagInputs) -> Iterator[FindingRow]:
    """Yield flags of ended jobs whose exit does not match the state of the training."""
    yield from _evaluation_ends(seen)
    job, outcome = seen.job, seen.glance.outcome
    if job is None or job.active or seen.run.batches is None or seen.status in (RunStatus.PAUSED, RunStatus.CUT):
        return
    code = "" if job.exit_code is None else f", exit code {job.exit_code}"
    if outcome is TrainingOutcome.COMPLETE:
        if job.state not in (JobState.COMPLETED, JobState.UNKNOWN):
            message = f"job ended as {job.state.value}{code}, but training completed and no results are lost"
            yield _row(seen, "RN109", Severity.INFO, message, f"touchline logs {_target(seen)}")
        return
    again = f"touchline resume {_target(seen)}"
    if job.state is JobState.UNKNOWN:
        why = job.reason or "no exit record and no answer from the scheduler"
        message = f"job {job.job_id or '?'} is gone: {why}"
        yield _row(seen, "RN107", Severity.ERROR, message, again)
    elif job.state is JobState.COMPLETED:
        message = "its job succeeded, but its training is not complete"
        yield _row(seen, "RN110", Severity.ERROR, message, f"touchline logs {_target(seen)}, then {again}")
    elif seen.status is RunStatus.FAILED:
        reason = f": {job.reason}" if job.reason and job.reason != EndReason.FAILED else ""
        message = f"its last attempt failed{code}{reason}"
        yield _row(seen, "RN111", Severity.ERROR, message, f"touchline logs {_target(seen)}")
    elif seen.status is RunStatus.INTERRUPTED and job.exit_code != EXIT_STOPPED and job.state is JobState.FAILED:
        message = f"its last attempt was killed{code}: {job.reason or KILLED}"
        yield _row(seen, "RN107", Severity.ERROR, message, again)


def _evaluation_ends(seen: FlagInputs) -> Iterator[FindingRow]:
    job = seen.evaluation
    if job is None or job.active or seen.glance.evaluated or job.state in (JobState.COMPLETED, JobState.CANCELLED):
        return
    code = "" if job.exit_code is None else f", exit code {job.exit_code}"
    message = f"its evaluation ended as {job.state.value}{code}without scores"
    yield _row(seen, "RN111", Severity.ERROR, message, f"touchline logs {_target(seen)} --eval")


def heartbeat_age(glance: RunFolderState, attempt: Attempt, now_unix: float) -> float | None:
    """Return seconds since the last heartbeat, by the clock that makes it younger; None if there was none."""
    if attempt.heartbeat_unix is None:
        return None
    age = now_unix - attempt.heartbeat_unix
    written = _age(glance.folder / "status" / f"heartbeat.{_name(attempt)}", now_unix)
    return max(0.0, age if written is None else min(age, written))


def _since_written(seen: FlagInputs, *parts: str) -> float:
    return _age(seen.glance.folder.joinpath(*parts), seen.now_unix) or 0.0


def _age(path: Path, now_unix: float) -> float | None:
    try:
        return now_unix - path.stat().st_mtime
    except OSError:
        return None


def _name(attempt: Attempt) -> str:
    return f"{attempt.start.job_id}.{attempt.start.restart}"


def _most(run: PlannedRun, parts: tuple[str, ...]) -> float:
    found = [run.time_parts.get(part) for part in parts]
    return sum((part.high or part.value) for part in found if isinstance(part, Quantity))


def _target(seen: FlagInputs) -> str:
    return f"{shlex.quote(str(seen.experiment))} --run {shlex.quote(seen.run.name)}"


def _row(seen: FlagInputs, code: str, severity: Severity, message: str, hint: str, file: str = "") -> FindingRow:
    path = seen.glance.folder / file if file else seen.glance.folder
    return FindingRow(code=code, severity=severity, path=str(path), line=None, column=None, message=message, hint=hint)
