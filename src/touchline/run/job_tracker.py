"""Views of SLURM's jobs over many looks: of those that its queue lists, and of those that it no longer does."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from touchline.core.clock import Clock
from touchline.core.errors import TouchlineError
from touchline.core.files import open_regular
from touchline.core.status import HEARTBEAT_STALE_SECONDS, KILLED, Attempt, JobState
from touchline.core.units import format_seconds
from touchline.run.ledger import Ledger
from touchline.run.protocol import Job
from touchline.run.run_status import view_of_attempt
from touchline.run.slurm_jobs import JobMatches
from touchline.run.slurm_queries import SlurmQueries
from touchline.run.slurm_views import JobEvidence, exited_on_its_own, is_alive, last_view, view_of
from touchline.slurm.job_view import JobView
from touchline.slurm.queue import QueueRow
from touchline.slurm.states import read_job_id

_LOST_SECONDS = 300.0
"""Seconds without an entry in the queue or a heartbeat after which a job is lost."""
_LOST_LOOKS = 3
_NOTED_SECONDS = 60.0
_TAIL_BYTES = 1 << 16


class JobTracker:
    """Views of jobs by the scheduler's last answers and the run folders, and what earlier looks have seen."""

    def __init__(self, queries: SlurmQueries, ledger: Ledger, clock: Clock) -> None:
        """Create a tracker for one experiment.

        Args:
            queries: the scheduler's queries, with their last answers.
            ledger: records jobs that the queue lacks, so that later processes continue counting.
            clock: time functions.
        """
        self._queries = queries
        self._ledger = ledger
        self._clock = clock
        self._submitted: dict[str, float] = {}
        self._beats: dict[tuple[Path, str], tuple[float | None, float]] = {}
        self._missing: dict[str, list[float]] = {}
        self._seen: dict[str, int] = {}
        self._forgotten: set[str] = set()

    def view(self, each: JobMatches) -> JobView | None:
        """Return the view of one of our jobs; None if there was none."""
        by_hand = [_by_hand(attempt, self._is_alive(each.job, attempt)) for attempt in each.by_hand]
        if not each.ids:
            return max(by_hand, key=lambda view: view.active, default=None)
        queue = self._queries.queue
        ids = each.without_held(queue)
        rows = {job_id: each.rows(queue, job_id) for job_id in ids}
        # Older jobs than the last one are over, unless squeue says otherwise: the last was begun for that reason.
        views = [
            self._view_of(each, job_id, rows[job_id])
            for job_id in ids
            if job_id == ids[-1] or any(not row.state.ended for row in rows[job_id])
        ]
        active = [view for view in (*by_hand, *views) if view.active]
        # Of a job that works and a twin that waits, the one that works tells more.
        return next((view for view in active if view.state is not JobState.PENDING), active[0] if active else views[-1])

    def _view_of(self, each: JobMatches, job_id: str, rows: tuple[QueueRow, ...]) -> JobView:
        """Return the view of one job of the scheduler."""
        attempt = each.attempts.get(job_id)
        identity = read_job_id(job_id)
        known = JobEvidence(
            job_id=job_id,
            is_step=identity is not None and identity.step is not None,
            attempt=attempt,
            row=_foremost(rows),
            accounted=each.accounted(self._queries.accounted(job_id), job_id),
            recorded=each.recorded.get(job_id),
            beats=attempt is not None and self._has_moved(each.job, attempt),
            log=partial(_tail, each.job, job_id),
        )
        now = self._clock.now()
        view = view_of(known, now)
        if rows or not view.active:
            self._found(each, job_id)
            return view
        if view.source in ("process", "heartbeat"):
            return view
        return self._missed(each, known, view)

    def _missed(self, each: JobMatches, known: JobEvidence, view: JobView) -> JobView:
        """Return the view of a job that the queue does not list, without an exit record or heartbeat."""
        job_id = known.job_id
        queries = self._queries
        submitted = self._submitted.get(job_id)
        if submitted is not None and submitted >= queries.queue.asked:
            return replace(view, state=JobState.PENDING, source="ledger", reason="submitted a moment ago")
        if queries.is_absent and exited_on_its_own(known):  # read where there is no scheduler
            return last_view(known, "")
        if queries.fault or not queries.queue.number:
            return replace(view, reason="; ".join(filter(None, (view.reason, queries.fault))))
        if exited_on_its_own(known) and self._is_forgotten(job_id.partition(".")[0]):
            return last_view(known, "")
        identity = read_job_id(job_id)
        if identity is not None and not queries.is_unaccounted(identity.whole):
            kept = known.accounted
            # No answer yet, or an end whose exit code is not reported yet. A row without an end does not show that it
            # is alive.
            if kept is None or kept.row.state.ended:
                return replace(view, reason=view.reason or "not in squeue, end not yet reported by sacct")
        gone = self._gone_seconds(each, job_id)
        if gone is not None and gone >= _LOST_SECONDS and self._is_forgotten(job_id.partition(".")[0]):
            reason = f"lost: not in SLURM for {format_seconds(gone)}, and no heartbeat"
            return last_view(known, reason)
        return replace(view, reason=f"not in SLURM{(f', {view.reason}' if view.reason else '')}")

    def submitted(self, job_id: str) -> None:
        """Note a submission: the queue may list the job only after some seconds."""
        self._submitted[job_id] = self._clock.monotonic()

    def _is_forgotten(self, job_id: str) -> bool:
        """Return True if the controller itself does not know a job; squeue hides other users' jobs."""
        if job_id not in self._forgotten and self._queries.knows(job_id) is False:
            self._forgotten.add(job_id)
        return job_id in self._forgotten

    def _gone_seconds(self, each: JobMatches, job_id: str) -> float | None:
        """Return the seconds for which complete answers have lacked a job; None after too few answers.

        Each is recorded in the ledger, at most one per minute, so that later processes continue counting.
        """
        clock = self._clock
        looks = self._missing.get(job_id)
        if looks is None:
            looks = self._missing[job_id] = []
            for entry in each.events:
                if entry.job_id == job_id and entry.event in ("missing", "found"):
                    age = max(clock.now() - entry.time_unix, 0.0)
                    looks[:] = [*looks, clock.monotonic() - age] if entry.event == "missing" else []
        number = self._queries.queue.number
        is_new = self._seen.get(job_id) != number
        self._seen[job_id] = number
        if is_new and (not looks or clock.monotonic() - looks[-1] >= _NOTED_SECONDS):
            looks.append(clock.monotonic())
            with contextlib.suppress(OSError, TouchlineError):  # somebody who may only read looks too
                self._ledger.record("missing", each.job.name, job_id=job_id, time_unix=clock.now())
        return clock.monotonic() - looks[0] if len(looks) >= _LOST_LOOKS else None

    def _found(self, each: JobMatches, job_id: str) -> None:
        """Record that a missing job was found, or its end is known."""
        noted = [entry.event for entry in each.events if entry.job_id == job_id and entry.event in ("missing", "found")]
        self._missing.pop(job_id, None)
        self._forgotten.discard(job_id)
        if noted and noted[-1] == "missing":
            with contextlib.suppress(OSError, TouchlineError):
                self._ledger.record("found", each.job.name, job_id=job_id, time_unix=self._clock.now())

    def _has_moved(self, job: Job, attempt: Attempt) -> bool:
        """Return True if a heartbeat changed between two recent readings, so other nodes' clocks do not matter."""
        key = (job.status, f"{attempt.start.job_id}.{attempt.start.restart}")
        now = self._clock.monotonic()
        before = self._beats.get(key)
        if before is None:
            self._beats[key] = (attempt.heartbeat_unix, float("-inf"))
            return False
        if before[0] != attempt.heartbeat_unix:
            self._beats[key] = (attempt.heartbeat_unix, now)
        return now - self._beats[key][1] <= HEARTBEAT_STALE_SECONDS

    def _is_alive(self, job: Job, attempt: Attempt) -> bool:
        return is_alive(attempt, self._clock.now(), beats=self._has_moved(job, attempt))


def _foremost(rows: Sequence[QueueRow]) -> QueueRow | None:
    """Return a living task of an array, else one that failed."""
    if not rows:
        return None
    return min(rows, key=lambda row: (row.state.ended, row.state is JobState.COMPLETED))


def _by_hand(attempt: Attempt, alive: bool) -> JobView:
    """Return the view of an attempt without the scheduler, `bash finetune.slurm` on a login node."""
    end = attempt.exit
    if alive:
        return view_of_attempt(attempt, JobState.RUNNING, "started without SLURM")
    state, reason = (JobState.UNKNOWN, KILLED) if end is None else (end.state, end.reason)
    return view_of_attempt(attempt, state, reason)


def _tail(job: Job, job_id: str) -> str:
    """Return the end of a job's output; empty if there is none."""
    path = job.output_path(job_id.partition(".")[0])
    try:
        with open_regular(path) as stream:
            stream.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
            return stream.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""
