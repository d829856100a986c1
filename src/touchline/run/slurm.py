"""SLURM executor: submits run scripts with sbatch, and queries one squeue for all jobs and one sacct for the others.

It runs no daemon and keeps no state that another process could not reconstruct: ids and tokens are in the ledger,
starts and ends in run folders, the rest is queried.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from touchline.core.clock import Clock, RealClock
from touchline.core.errors import (
    HostError,
    SubmissionLimitError,
    SubmissionRejectedError,
    SubmissionUnknownError,
    TouchlineError,
)
from touchline.core.status import HEARTBEAT_STALE_SECONDS, KILLED, Attempt, JobState
from touchline.core.units import format_seconds
from touchline.run.jobs import Job
from touchline.run.ledger import Ledger, LedgerReader
from touchline.run.run_status import view_of_attempt
from touchline.run.scripts.header import slurm_time
from touchline.run.slurm_jobs import (
    JobEvidence,
    JobMatches,
    candidates,
    exited_on_its_own,
    is_alive,
    last_view,
    view_of,
)
from touchline.run.slurm_queries import SlurmQueries
from touchline.run.tails import read_text_tail
from touchline.slurm.answers import SbatchResult, Submission, read_submission
from touchline.slurm.job_view import JOB_ID, JobView, output_pattern, read_job_id
from touchline.slurm.local.commands import Commands
from touchline.slurm.queue import QueueRow

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
            ledger: records jobs that the queue lacks, so that later processes continue counting.
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
        by_hand = [
            _by_hand(attempt, is_alive(attempt, self._clock.now(), beats=self._has_moved(each.job, attempt)))
            for attempt in each.by_hand
        ]
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
        attempt = each.attempts.get(job_id)
        identity = read_job_id(job_id)
        known = JobEvidence(
            job_id=job_id,
            is_step=identity is not None and identity.step is not None,
            attempt=attempt,
            # Of an array, a living task, else one that failed.
            row=min(rows, key=lambda row: (row.state.ended, row.state is JobState.COMPLETED), default=None),
            accounted=each.accounted(self._queries.accounted(job_id), job_id),
            recorded=each.recorded.get(job_id),
            beats=attempt is not None and self._has_moved(each.job, attempt),
            log=lambda: read_text_tail(each.job.output_path(job_id.partition(".")[0]), _TAIL_BYTES),
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


def _by_hand(attempt: Attempt, alive: bool) -> JobView:
    """Return the view of an attempt without the scheduler, `bash finetune.slurm` on a login node."""
    end = attempt.exit
    if alive:
        return view_of_attempt(attempt, JobState.RUNNING, "started without SLURM")
    state, reason = (JobState.UNKNOWN, KILLED) if end is None else (end.state, end.reason)
    return view_of_attempt(attempt, state, reason)


TICK_SECONDS = 2.0
_SUBMIT_SECONDS = 60.0
"""Timeout of a submission in seconds; its effect is then searched for."""
_IDS_AT_ONCE = 500


class SlurmExecutor:
    """Executor that submits with sbatch, and asks squeue and sacct."""

    name = "slurm"
    waits_itself = True

    def __init__(
        self,
        commands: Commands,
        ledger_path: Path,
        *,
        clock: Clock | None = None,
        poll_seconds: float = 30.0,
        lock: int | None = None,
    ) -> None:
        """Create an executor for one experiment; nothing is queried yet.

        Args:
            poll_seconds: minimum interval of queries, however often `query_jobs` is called.
            lock: descriptor of the experiment lock; a submission whose caller is killed holds it until it ends.
        """
        self._commands = commands
        self._clock: Clock = clock or RealClock()
        self._reader = LedgerReader(ledger_path)
        self._queries = SlurmQueries(commands, self._clock, poll_seconds)
        self._lock = lock
        self._tracker = JobTracker(self._queries, Ledger(ledger_path, self.name), self._clock)
        # Exit files are seen at once, without asking anybody; the queue is asked no more often than that.
        self.tick_seconds = min(poll_seconds, TICK_SECONDS)

    @property
    def trouble(self) -> str:
        """Error of the last query; empty if it succeeded."""
        return self._queries.fault

    def find(self, tokens: Sequence[str], since_unix: float) -> Mapping[str, str]:
        """Return the ids of jobs submitted with these tokens.

        Args:
            since_unix: time of the last submission; a job may take some seconds to appear.

        Raises:
            SubmissionUnknownError: the scheduler gave no answer.
        """
        found = self._queries.find(tokens, since_unix)
        if found is None:
            fault = self._queries.fault or "no answer from the accounting"
            raise SubmissionUnknownError(
                f"SLURM does not report whether a job was submitted: {fault}",
                hint="no second submission was made (rerun later to find the job)",
            )
        for job_id in found.values():
            self._took(job_id)
        return found

    def _accepted(self, submission: Submission, what: str) -> str | None:
        """Return the id of an accepted submission; None if it is unclear whether it was.

        Raises:
            SubmissionRejectedError, SubmissionLimitError, HostError: nothing was started.
        """
        match submission.verdict:
            case SbatchResult.ACCEPTED:
                return self._took(submission.job_id)
            case SbatchResult.REFUSED:
                raise SubmissionRejectedError(f"{what} was rejected: {submission.reason}", hint=submission.hint)
            case SbatchResult.LIMIT:
                raise SubmissionLimitError(f"{what} was not accepted now: {submission.reason}", hint=submission.hint)
            case SbatchResult.ABSENT:
                raise HostError(f"{what} cannot be run here: {submission.reason}", expected=submission.hint)
        return None

    def start(self, job: Job, token: str, gpus: tuple[str, ...], after: Sequence[str] = ()) -> str:
        """Submit a job's script from its folder. Return its id. The scheduler chooses the GPUs.

        Raises:
            SubmissionRejectedError, SubmissionLimitError, SubmissionUnknownError, HostError: as the protocol says.
        """
        del gpus
        assert job.script is not None, job.name
        words = self._submission_words(job, token, after)
        begun = self._clock.now()
        answer = self._commands.run(
            [*words, job.script],
            timeout_seconds=_SUBMIT_SECONDS,
            cwd=job.folder,
            keep=() if self._lock is None else (self._lock,),
        )
        submission = read_submission(answer.out, answer.err, answer.code)
        what = f"{words[0]} {str(job.folder / job.script)!r}"
        if (job_id := self._accepted(submission, what)) is not None:
            return job_id
        found = self._queries.find([token], begun)
        if found:
            return self._took(found[token])
        if found is not None and submission.is_limited:
            raise SubmissionLimitError(f"{what} was not accepted now: too many jobs in the queue", hint=submission.hint)
        raise SubmissionUnknownError(f"{what} gave no clear answer: {submission.reason}", hint=submission.hint)

    def _submission_words(self, job: Job, token: str, after: Sequence[str]) -> list[str]:
        words = ["sbatch", "--parsable", f"--comment={token}", f"--job-name={job.name}"]
        output = output_pattern(str(job.folder.resolve()), job.output.format(job=JOB_ID))
        if output is not None:
            words.append(f"--output={output}")
        if job.time_limit_seconds is not None:
            words.append(f"--time={slurm_time(job.time_limit_seconds)}")
        if job.is_limit_strict:
            words.append("--no-requeue")
        # sbatch knows no steps: what waits for one of an allocation waits for the allocation.
        parents = dict.fromkeys(parent.whole for each in after if (parent := read_job_id(each)) is not None)
        if parents:
            words.append(f"--dependency=afterany:{':'.join(parents)}")
        variables = ",".join(
            f"{name}={value}" for name, value in ({"TOUCHLINE_TOKEN": token} | job.environment).items()
        )
        return [*words, f"--export=ALL,{variables}"]

    def _took(self, job_id: str) -> str:
        self._tracker.submitted(job_id)
        return job_id

    def _active_ids(self, jobs: Sequence[Job]) -> list[str]:
        ids = [view.job_id for view in self.query_jobs(jobs).values() if view.active]
        return [id_ for id_ in ids if read_job_id(id_) is not None]

    def stop(self, jobs: Sequence[Job]) -> None:
        """Send TERM to running jobs, which save within SLURM's KillWait, and remove queued ones.

        Raises:
            HostError: the scheduler's command failed.
        """
        ids = self._active_ids(jobs)
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[start : start + _IDS_AT_ONCE]
            answer = self._commands.run(["scancel", *some], timeout_seconds=_SUBMIT_SECONDS)
            # Of a job that has ended meanwhile scancel says nothing, or names it.
            if not answer.ok and "invalid job id" not in answer.err.lower():
                raise HostError(
                    f"scancel: {answer.err.strip() or f'it ended with {answer.code}'}",
                    expected="an answer from the SLURM controller",
                    hint=f"later: scancel {' '.join(ids[:20])}",
                )

    def query_jobs(self, jobs: Sequence[Job]) -> Mapping[str, JobView]:
        """Return the view of the last job of each name, including jobs submitted by others."""
        if not jobs:
            return {}
        self._queries.refresh()
        known = [candidates(job, self._reader.of(job.name), self._queries.queue, self.name) for job in jobs]
        self._ask_more(known)
        views = {each.job.name: self._tracker.view(each) for each in known}
        return {name: view for name, view in views.items() if view is not None}

    def _ask_more(self, known: Sequence[JobMatches]) -> None:
        """Query sacct once for jobs that squeue does not list and that have no exit record."""
        wanted: dict[str, None] = {}
        for each in known:
            for job_id in each.without_held(self._queries.queue)[-1:]:
                identity = read_job_id(job_id)
                attempt = each.attempts.get(job_id)
                over = attempt is not None and attempt.exit is not None and attempt.exit.code == 0
                if over or identity is None or job_id in each.recorded:
                    continue
                if identity.step is not None or not each.rows(self._queries.queue, job_id):
                    wanted[identity.whole] = None
        if wanted:
            submitted = [entry.job_id for entry in self._reader.entries() if entry.event == "submitted"]
            self._queries.account(wanted, [each for each in submitted if each not in self._queries.queue.by_id])
