"""SLURM executor: submits run scripts with sbatch, and queries one squeue for all jobs and one sacct for the others.

It runs no daemon and keeps no state that another process could not reconstruct: ids and tokens are in the ledger,
starts and ends in run folders, the rest is queried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from touchline.core.clock import Clock, RealClock
from touchline.core.errors import (
    HostError,
    SubmissionLimitError,
    SubmissionRejectedError,
    SubmissionUnknownError,
)
from touchline.run.job_tracker import JobTracker
from touchline.run.ledger import Ledger, LedgerReader
from touchline.run.protocol import Job
from touchline.run.scripts.header import slurm_time
from touchline.run.slurm_jobs import JobMatches, candidates
from touchline.run.slurm_queries import SlurmQueries
from touchline.slurm.answers import SbatchResult, Submission, read_submission
from touchline.slurm.job_view import JobView
from touchline.slurm.local.commands import Commands
from touchline.slurm.output import JOB_ID, output_pattern
from touchline.slurm.states import read_job_id

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
            commands: runner of the scheduler's commands.
            clock: time and sleep functions.
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

        Args:
            submission: the scheduler's answer.

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
        """Return the scheduler's ids of the jobs that are active."""
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
