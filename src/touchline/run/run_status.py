"""Run status, derived in one place from its job, its files and its evaluations."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from touchline.core.status import EXIT_ALREADY_RUNNING, KILLED, Attempt, JobState, RunStatus, TrainingOutcome, is_fresh
from touchline.experiment.runs import RunKind
from touchline.slurm.job_view import JobView

_WAITING = frozenset({JobState.PENDING, JobState.CONFIGURING, JobState.REQUEUED})
_ENDED_BY_ITSELF = frozenset({JobState.FAILED, JobState.OUT_OF_MEMORY})
_FROM_OUTSIDE = frozenset(
    {JobState.TIMEOUT, JobState.DEADLINE, JobState.NODE_FAIL, JobState.BOOT_FAIL, JobState.PREEMPTED}
)
ENDED_WELL = frozenset({RunStatus.TRAINED, RunStatus.COMPLETED, RunStatus.COMPLETED_FAILED_EXIT})
"""Statuses of runs whose training is complete."""
_SIGNALS_ABOVE = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusInputs:
    """Facts from which a run's status is derived."""

    kind: RunKind
    prepared: bool
    outcome: TrainingOutcome
    evaluated: bool
    """Whether an evaluation of these weights with these settings exists."""
    job: JobView | None
    """Training job, or evaluation job of a control; None if there was none."""
    cut: bool = False
    """Whether the strategy has ended the run by its validation loss."""


def drop_lock_conflicts(attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """Drop attempts that found another one active and did nothing."""
    return tuple(attempt for attempt in attempts if attempt.exit is None or attempt.exit.code != EXIT_ALREADY_RUNNING)


def training_outcome(
    kind: RunKind,
    *,
    steps_planned: int | None,
    marked_steps: int | None,
    last_export_whole: bool,
    begun: bool,
    paused: bool = False,
) -> TrainingOutcome:
    """Return the training outcome by its files.

    Args:
        marked_steps: steps in training.json of this plan; None without such a file.
        last_export_whole: whether the last checkpoint in training.json is valid.
        paused: whether its saved state is that of the step at which it is to pause.
    """
    if kind is RunKind.CONTROL:
        return TrainingOutcome.NOT_STARTED
    if marked_steps is not None and marked_steps == steps_planned and last_export_whole:
        return TrainingOutcome.COMPLETE
    if paused:
        return TrainingOutcome.PAUSED
    return TrainingOutcome.PARTIAL if begun else TrainingOutcome.NOT_STARTED


def run_status(standing: StatusInputs) -> RunStatus:
    """Return the run status."""
    job = standing.job
    if job is not None and job.active:
        # The executor cannot be queried about this job, so its own files decide whether it started.
        unseen = job.state is JobState.UNKNOWN and standing.outcome is TrainingOutcome.NOT_STARTED
        return RunStatus.QUEUED if unseen or job.state in _WAITING else RunStatus.RUNNING
    if standing.cut:
        return RunStatus.CUT
    waiting = RunStatus.PREPARED if standing.prepared else RunStatus.PLANNED
    if standing.kind is RunKind.CONTROL:
        if standing.evaluated:
            return RunStatus.COMPLETED
        return waiting if job is None else _unfinished(job)
    if standing.outcome is TrainingOutcome.COMPLETE:
        if not standing.evaluated:
            return RunStatus.TRAINED
        well = job is None or job.state in (JobState.COMPLETED, JobState.UNKNOWN)
        return RunStatus.COMPLETED if well else RunStatus.COMPLETED_FAILED_EXIT
    if standing.outcome is TrainingOutcome.PAUSED:
        return RunStatus.PAUSED
    if standing.outcome is TrainingOutcome.PARTIAL:
        return RunStatus.INTERRUPTED if job is None else _unfinished(job)
    # The job left no record of a start: it was cancelled in the queue, or failed before its script ran.
    if job is None or job.state not in _ENDED_BY_ITSELF | _FROM_OUTSIDE:
        return waiting
    return _unfinished(job)


def _unfinished(job: JobView) -> RunStatus:
    """Return the status of an ended job with unfinished work: failed by itself, or interrupted from outside."""
    return RunStatus.FAILED if job.state in _ENDED_BY_ITSELF and not is_killed(job) else RunStatus.INTERRUPTED


def started_and_completed(attempts: Sequence[Attempt], status: RunStatus) -> tuple[str | None, str | None]:
    """Return the start of the first attempt and the end of the last successful one, ISO 8601 in UTC.

    A run that has not ended well has no end.
    """
    well = [attempt.exit for attempt in attempts if attempt.exit is not None and attempt.state is JobState.COMPLETED]
    started = _iso(attempts[0].start.time_unix) if attempts else None
    return started, _iso(well[-1].time_unix) if well and status in ENDED_WELL else None


def _iso(unix: float) -> str | None:
    try:
        return datetime.datetime.fromtimestamp(int(unix), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return None


def is_killed(job: JobView) -> bool:
    """Return True if a job was killed: no exit code, or one above 128; out of memory is a failure."""
    if job.state is JobState.OUT_OF_MEMORY:
        return False
    return bool(job.signal) or job.exit_code is None or job.exit_code > _SIGNALS_ABOVE


def job_view_from_files(attempts: Sequence[Attempt], now_unix: float) -> JobView | None:
    """Build a JobView from a job's status files. Return None if it never started.

    An attempt on another machine without an exit file is alive while its heartbeat is fresh; after that its state is
    unknown.
    """
    if not attempts:
        return None
    last = attempts[-1]
    end = last.exit
    if end is None and last.alive is None:
        # A heartbeat from the future: the clock jumped, and no scheduler is asked here that knows better.
        beat = None if last.heartbeat_unix is None else min(last.heartbeat_unix, now_unix)
        state = JobState.RUNNING if is_fresh(beat, now_unix) else JobState.UNKNOWN
    else:
        state = last.state
    return view_of_attempt(last, state, end.reason if end is not None else KILLED if last.alive is False else "")


def view_of_attempt(attempt: Attempt, state: JobState, reason: str) -> JobView:
    """Return the view of a job that no scheduler knows."""
    start, end = attempt.start, attempt.exit
    return JobView(
        job_id=start.job_id,
        state=state,
        active=state is JobState.RUNNING,
        source="exit file" if end is not None else "heartbeat" if attempt.alive is None else "process",
        reason=reason,
        exit_code=None if end is None else end.code,
        restarts=start.restart,
        node=start.host,
        started_unix=start.time_unix,
        ended_unix=None if end is None else end.time_unix,
    )
