"""Failed attempts at a run's training and evaluation, with their causes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from touchline.plan.recovery import Failure, RecoveryAction
from touchline.results.live import LiveRun
from touchline.results.live_status import evaluation_job
from touchline.run.failures import failures_of
from touchline.run.jobs import Job, is_training_complete, missing_evaluations, training_job
from touchline.run.ledger import read_ledger
from touchline.run.loaded_plan import LoadedPlan, read_started, selected


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
