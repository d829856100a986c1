"""SLURM executor: submits run scripts with sbatch, and queries one squeue for all jobs and one sacct for the others."""

from __future__ import annotations

from collections.abc import Sequence

from touchline.run.protocol import Job
from touchline.run.scheduler import SchedulerExecutor
from touchline.run.scripts.header import slurm_time
from touchline.run.slurm_jobs import JobMatches
from touchline.run.slurm_queries import SlurmQueries
from touchline.slurm.answers import Submission, read_submission
from touchline.slurm.local.commands import CommandResult
from touchline.slurm.output import JOB_ID, output_pattern
from touchline.slurm.states import read_job_id


class SlurmExecutor(SchedulerExecutor[SlurmQueries]):
    """Executor that submits with sbatch, and asks squeue and sacct."""

    name = "slurm"
    make_queries = SlurmQueries

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

    def _read_submission(self, answer: CommandResult) -> Submission:
        return read_submission(answer.out, answer.err, answer.code)

    def _has_no_such_job(self, err: str) -> bool:
        # Of a job that has ended meanwhile scancel says nothing, or names it.
        return "invalid job id" in err.lower()

    def _refresh(self, jobs: Sequence[Job]) -> None:
        del jobs
        self._queries.refresh()

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
