"""Attempts at a training as rows, those before a re-plan included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.status import Attempt
from touchline.results.run_result import AttemptResult
from touchline.run.run_status import drop_lock_conflicts
from touchline.run.statusfiles import read_attempts


def attempt_results(folder: Path, attempts: Sequence[Attempt]) -> tuple[AttemptResult, ...]:
    """Return every attempt at a run's training that reached its own process, oldest first.

    Args:
        folder: run folder, searched for attempts before a re-plan.
        attempts: attempts since then.
    """
    earlier = [path for path in folder.glob("superseded/*/status") if path.parent.name.isdigit()]
    before = [
        _row(attempt, superseded=True)
        for status in sorted(earlier, key=lambda path: int(path.parent.name))
        for attempt in drop_lock_conflicts(read_attempts(status))
    ]
    return (*before, *(_row(attempt, superseded=False) for attempt in attempts))


def _row(attempt: Attempt, *, superseded: bool) -> AttemptResult:
    start, end = attempt.start, attempt.exit
    silent = "it runs" if attempt.alive else "killed (no exit record)"
    return AttemptResult(
        job_id=start.job_id,
        restart=start.restart,
        state=attempt.state,
        reason=silent if end is None else f"{end.reason}, exit code {end.code}" if end.code else end.reason,
        started_unix=start.time_unix,
        seconds=_seconds(attempt),
        superseded=superseded,
    )


def _seconds(attempt: Attempt) -> Measured:
    if attempt.exit is not None:
        return Quantity(value=max(attempt.exit.time_unix - attempt.start.time_unix, 0.0), unit="s", method="its clock")
    if attempt.heartbeat_unix is None:
        return Missing(missing="no heartbeat")
    lasted = max(attempt.heartbeat_unix - attempt.start.time_unix, 0.0)
    return Quantity(value=lasted, unit="s", method="until its last heartbeat")
