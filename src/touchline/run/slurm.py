"""SLURM executor: submits run scripts with sbatch, and queries one squeue for all jobs and one sacct for the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from touchline.core.clock import Clock, RealClock
from touchline.core.errors import HostError, SubmissionLimitError, SubmissionUnknownError
from touchline.run.protocol import Job
from touchline.run.scheduler import IDS_AT_ONCE, SUBMIT_SECONDS, SchedulerExecutor
from touchline.run.scripts.header import slurm_time
from touchline.run.slurm_jobs import JobMatches
from touchline.run.slurm_queries import SlurmQueries
from touchline.slurm.answers import read_submission, waits_at_a_limit
from touchline.slurm.local.commands import Commands
from touchline.slurm.output import JOB_ID, output_pattern
from touchline.slurm.states import read_job_id


class SlurmExecutor(SchedulerExecutor):
    """Executor that submits with sbatch, and asks squeue and sacct."""

    name = "slurm"

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
        self._slurm = SlurmQueries(commands, clock, poll_seconds)
        super().__init__(commands, ledger_path, self._slurm, clock=clock, poll_seconds=poll_seconds, lock=lock)

    # ------------------------------------------------------------------------------------------------------ submitting

    def start(self, job: Job, token: str, gpus: tuple[str, ...], after: Sequence[str] = ()) -> str:
        """Submit a job's script from its folder. Return its id. SLURM chooses the GPUs.

        Raises:
            SubmissionRejectedError, SubmissionLimitError, SubmissionUnknownError, HostError: as the protocol says.
        """
        del gpus
        assert job.script is not None, job.name
        words = ["sbatch", "--parsable", f"--comment={token}", f"--job-name={job.name}"]
        output = output_pattern(str(job.folder.resolve()), job.output.format(job=JOB_ID))
        if output is not None:
            words.append(f"--output={output}")
        if job.is_limit_strict and job.time_limit_seconds is not None:
            words += [f"--time={slurm_time(job.time_limit_seconds)}", "--no-requeue"]
        # sbatch knows no steps: what waits for one of an allocation waits for the allocation.
        parents = dict.fromkeys(parent.whole for each in after if (parent := read_job_id(each)) is not None)
        if parents:
            words.append(f"--dependency=afterany:{':'.join(parents)}")
        variables = ",".join(
            f"{name}={value}" for name, value in ({"TOUCHLINE_TOKEN": token} | job.environment).items()
        )
        begun = self._clock.now()
        answer = self._commands.run(
            [*words, f"--export=ALL,{variables}", job.script],
            timeout_seconds=SUBMIT_SECONDS,
            cwd=job.folder,
            keep=() if self._lock is None else (self._lock,),
        )
        submission = read_submission(answer.out, answer.err, answer.code)
        what = f"sbatch {str(job.folder / job.script)!r}"
        if (job_id := self._accepted(submission, what)) is not None:
            return job_id
        found = self._queries.find([token], begun)
        if found:
            return self._took(found[token])
        if found is not None and waits_at_a_limit(answer.err):
            raise SubmissionLimitError(f"{what} was not taken now: too many jobs in the queue", hint=submission.hint)
        raise SubmissionUnknownError(f"{what} gave no clear answer: {submission.reason}", hint=submission.hint)

    # --------------------------------------------------------------------------------------------------------- looking

    def _refresh(self, jobs: Sequence[Job]) -> None:
        del jobs
        self._slurm.refresh()

    def _ask_more(self, known: Sequence[JobMatches]) -> None:
        """Query sacct once for jobs that squeue does not list and that have no exit record."""
        wanted: dict[str, None] = {}
        for each in known:
            for job_id in each.without_held(self._slurm.queue)[-1:]:
                identity = read_job_id(job_id)
                attempt = each.attempts.get(job_id)
                over = attempt is not None and attempt.exit is not None and attempt.exit.code == 0
                if over or identity is None or job_id in each.recorded:
                    continue
                if identity.step is not None or not each.rows(self._slurm.queue, job_id):
                    wanted[identity.whole] = None
        if wanted:
            submitted = [entry.job_id for entry in self._reader.entries() if entry.event == "submitted"]
            self._slurm.account(wanted, [each for each in submitted if each not in self._slurm.queue.by_id])

    # -------------------------------------------------------------------------------------------------------- stopping

    def stop(self, jobs: Sequence[Job]) -> None:
        """Cancel with scancel: TERM to running jobs, which save within the cluster's KillWait; queued jobs leave the
        queue.

        Raises:
            HostError: scancel failed.
        """
        ids = self._active_ids(jobs)
        for start in range(0, len(ids), IDS_AT_ONCE):
            answer = self._commands.run(["scancel", *ids[start : start + IDS_AT_ONCE]], timeout_seconds=SUBMIT_SECONDS)
            # A job that has ended meanwhile is no fault; scancel then ends well, or names the job.
            if not answer.ok and "invalid job id" not in answer.err.lower():
                raise HostError(
                    f"scancel: {answer.err.strip() or f'it ended with {answer.code}'}",
                    expected="a controller that answers",
                    hint=f"later: scancel {' '.join(ids[:20])}",
                )
