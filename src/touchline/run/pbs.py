"""PBS executor: submits run scripts with qsub, asks qselect and qstat, and ends jobs with qdel.

PBS has no signal before a job's end, and only its operators queue a job again: the job script ends the training in time
(`TOUCHLINE_TIME_LIMIT_SECONDS`), and the next `touchline submit` or `resume` submits it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from touchline.core.clock import Clock, RealClock
from touchline.core.errors import HostError, SubmissionUnknownError
from touchline.run.pbs_queries import PbsQueries
from touchline.run.protocol import Job
from touchline.run.scheduler import IDS_AT_ONCE, SUBMIT_SECONDS, SchedulerExecutor
from touchline.run.scripts.header import slurm_time
from touchline.run.statusfiles import read_attempts
from touchline.slurm.local.commands import Commands
from touchline.slurm.pbs import TOKEN_PREFIX, TOKEN_VARIABLE, are_unknown, job_name, read_number, read_submission


class PbsExecutor(SchedulerExecutor):
    """Executor that submits with qsub, and asks qstat."""

    name = "pbs"

    def __init__(
        self,
        commands: Commands,
        ledger_path: Path,
        *,
        clock: Clock | None = None,
        poll_seconds: float = 30.0,
        lock: int | None = None,
    ) -> None:
        """Create an executor for one experiment; nothing is queried yet. The arguments are the base class's."""
        clock = clock or RealClock()
        self._pbs = PbsQueries(commands, clock, poll_seconds)
        super().__init__(commands, ledger_path, self._pbs, clock=clock, poll_seconds=poll_seconds, lock=lock)

    def start(self, job: Job, token: str, gpus: tuple[str, ...], after: Sequence[str] = ()) -> str:
        """Submit a job's script from its folder. Return the number of its id. PBS chooses the GPUs.

        Raises:
            SubmissionRejectedError, SubmissionLimitError, SubmissionUnknownError, HostError: as the protocol says.
        """
        del gpus
        assert job.script is not None, job.name
        words = ["qsub", "-N", job_name(job.name)]
        if job.is_limit_strict and job.time_limit_seconds is not None:
            words += ["-l", f"walltime={slurm_time(job.time_limit_seconds)}", "-r", "n"]
        # A parent that was deleted before it began would keep its children from running for ever (qsub(1B)).
        parents = dict.fromkeys(number for each in after if (number := read_number(each)) is not None)
        if parents:
            words += ["-W", f"depend=afterany:{':'.join(parents)}"]
        variables = {"TOUCHLINE_TOKEN": token, TOKEN_VARIABLE: TOKEN_PREFIX + token} | job.environment
        begun = self._clock.now()
        answer = self._commands.run(
            [*words, "-v", ",".join(f"{name}={value}" for name, value in variables.items()), job.script],
            timeout_seconds=SUBMIT_SECONDS,
            cwd=job.folder,
            keep=() if self._lock is None else (self._lock,),
        )
        submission = read_submission(answer.out, answer.err, answer.code)
        what = f"qsub {str(job.folder / job.script)!r}"
        if (job_id := self._accepted(submission, what)) is not None:
            return job_id
        found = self._pbs.find([token], begun)
        if found:
            return self._took(found[token])
        raise SubmissionUnknownError(f"{what} gave no clear answer: {submission.reason}", hint=submission.hint)

    def _refresh(self, jobs: Sequence[Job]) -> None:
        ids = [entry.job_id for job in jobs for entry in self._reader.of(job.name) if entry.executor == self.name]
        ids += [attempt.start.job_id for job in jobs for attempt in read_attempts(job.status)]
        self._pbs.refresh(dict.fromkeys(id_ for id_ in ids if id_.isdigit()))

    def stop(self, jobs: Sequence[Job]) -> None:
        """End with qdel: TERM to running jobs, which save within the server's kill_delay; queued jobs leave the queue.

        Raises:
            HostError: qdel failed.
        """
        ids = self._active_ids(jobs)
        for start in range(0, len(ids), IDS_AT_ONCE):
            answer = self._commands.run(["qdel", *ids[start : start + IDS_AT_ONCE]], timeout_seconds=SUBMIT_SECONDS)
            if not answer.ok and not are_unknown(answer.err):
                raise HostError(
                    f"qdel: {answer.err.strip() or f'it ended with {answer.code}'}",
                    expected="a server that answers",
                    hint=f"later: qdel {' '.join(ids[:20])}",
                )
