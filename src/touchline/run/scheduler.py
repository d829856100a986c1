"""Jobs of a scheduler: their states are derived from run folders and the scheduler's queue.

It runs no daemon and keeps no state that another process could not reconstruct: ids and tokens are in the ledger,
starts and ends in run folders, the rest is queried. How jobs are submitted, listed and ended is each scheduler's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from touchline.core.clock import Clock, RealClock
from touchline.core.errors import (
    HostError,
    SubmissionLimitError,
    SubmissionRejectedError,
    SubmissionUnknownError,
)
from touchline.run.job_tracker import JobTracker, Queries
from touchline.run.ledger import Ledger, LedgerReader
from touchline.run.protocol import Job
from touchline.run.slurm_jobs import JobMatches, candidates
from touchline.slurm.answers import SbatchResult, Submission
from touchline.slurm.job_view import JobView
from touchline.slurm.local.commands import CommandResult, Commands
from touchline.slurm.schedulers import SCHEDULERS
from touchline.slurm.states import read_job_id

TICK_SECONDS = 2.0
_SUBMIT_SECONDS = 60.0
"""Timeout of a submission in seconds; its effect is then searched for."""
_IDS_AT_ONCE = 500
AnyQueries = TypeVar("AnyQueries", bound=Queries)


class SchedulerExecutor(ABC, Generic[AnyQueries]):
    """Executor on a cluster: what `SlurmExecutor` and `PbsExecutor` have in common."""

    name: str
    waits_itself = True
    make_queries: Callable[[Commands, Clock, float], AnyQueries]
    """Returns the scheduler's queries for its commands, a clock and the seconds between two of them."""

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
            commands: runner of the scheduler's commands.
            ledger_path: ledger of the experiment.
            clock: time and sleep functions.
            poll_seconds: minimum interval of queries, however often `query_jobs` is called.
            lock: descriptor of the experiment lock; a submission whose caller is killed holds it until it ends.
        """
        self._commands = commands
        self._clock: Clock = clock or RealClock()
        self._reader = LedgerReader(ledger_path)
        self._queries = self.make_queries(commands, self._clock, poll_seconds)
        self._lock = lock
        self._scheduler = SCHEDULERS[self.name]
        self._tracker = JobTracker(
            self._queries, Ledger(ledger_path, self.name), self._clock, scheduler=self._scheduler.title
        )
        # Exit files are seen at once, without asking anybody; the queue is asked no more often than that.
        self.tick_seconds = min(poll_seconds, TICK_SECONDS)

    @property
    def trouble(self) -> str:
        """Error of the last query; empty if it succeeded."""
        return self._queries.fault

    @abstractmethod
    def _refresh(self, jobs: Sequence[Job]) -> None:
        """Query the queue again unless its interval has not passed."""

    @abstractmethod
    def _submission_words(self, job: Job, token: str, after: Sequence[str]) -> list[str]:
        """Return the command that submits a job's script, without the script."""

    @abstractmethod
    def _read_submission(self, answer: CommandResult) -> Submission:
        """Return what the command that submits has answered."""

    @abstractmethod
    def _has_no_such_job(self, err: str) -> bool:
        """Return True if the command that ends jobs failed only because some have ended meanwhile."""

    def _ask_more(self, known: Sequence[JobMatches]) -> None:
        """Ask elsewhere about jobs that the queue does not list; nothing where there is no such place."""

    def find(self, tokens: Sequence[str], since_unix: float) -> Mapping[str, str]:
        """Return the ids of jobs submitted with these tokens.

        Args:
            tokens: tokens to search.
            since_unix: time of the last submission; a job may take some seconds to appear.

        Raises:
            SubmissionUnknownError: the scheduler gave no answer.
        """
        found = self._queries.find(tokens, since_unix)
        if found is None:
            fault = self._queries.fault or "the accounting gives no answer"
            raise SubmissionUnknownError(
                f"{self._scheduler.title} does not report whether a job was submitted: {fault}",
                hint="nothing was submitted again; rerun later to find it",
            )
        for job_id in found.values():
            self._took(job_id)
        return found

    def _accepted(self, submission: Submission, what: str) -> str | None:
        """Return the id of an accepted submission; None if it is unclear whether it was.

        Args:
            submission: the scheduler's answer.
            what: the submission in words.

        Raises:
            SubmissionRejectedError, SubmissionLimitError, HostError: nothing was started.
        """
        match submission.verdict:
            case SbatchResult.ACCEPTED:
                return self._took(submission.job_id)
            case SbatchResult.REFUSED:
                raise SubmissionRejectedError(f"{what} was refused: {submission.reason}", hint=submission.hint)
            case SbatchResult.LIMIT:
                raise SubmissionLimitError(f"{what} was not taken now: {submission.reason}", hint=submission.hint)
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
        submission = self._read_submission(answer)
        what = f"{words[0]} {str(job.folder / job.script)!r}"
        if (job_id := self._accepted(submission, what)) is not None:
            return job_id
        found = self._queries.find([token], begun)
        if found:
            return self._took(found[token])
        if found is not None and submission.is_limited:
            raise SubmissionLimitError(f"{what} was not taken now: too many jobs in the queue", hint=submission.hint)
        raise SubmissionUnknownError(f"{what} gave no clear answer: {submission.reason}", hint=submission.hint)

    def _took(self, job_id: str) -> str:
        self._tracker.submitted(job_id)
        return job_id

    def _active_ids(self, jobs: Sequence[Job]) -> list[str]:
        """Return the scheduler's ids of the jobs that are active."""
        ids = [view.job_id for view in self.query_jobs(jobs).values() if view.active]
        return [id_ for id_ in ids if read_job_id(id_) is not None]

    def stop(self, jobs: Sequence[Job]) -> None:
        """Send TERM to running jobs, which save within SLURM's KillWait or PBS's kill_delay, and remove
        queued ones.

        Raises:
            HostError: the scheduler's command failed.
        """
        ids = self._active_ids(jobs)
        command = self._scheduler.cancel
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[start : start + _IDS_AT_ONCE]
            answer = self._commands.run([command, *some], timeout_seconds=_SUBMIT_SECONDS)
            if not answer.ok and not self._has_no_such_job(answer.err):
                raise HostError(
                    f"{command}: {answer.err.strip() or f'it ended with {answer.code}'}",
                    expected=f"a {self._scheduler.server} that answers",
                    hint=f"later: {command} {' '.join(ids[:20])}",
                )

    def query_jobs(self, jobs: Sequence[Job]) -> Mapping[str, JobView]:
        """Return the view of the last job of each name, including jobs submitted by others."""
        if not jobs:
            return {}
        self._refresh(jobs)
        known = [candidates(job, self._reader.of(job.name), self._queries.queue, self.name) for job in jobs]
        self._ask_more(known)
        views = {each.job.name: self._tracker.view(each) for each in known}
        return {name: view for name, view in views.items() if view is not None}
