"""PBS executor: submits run scripts with qsub, asks qselect and qstat, and ends jobs with qdel.

PBS has no signal before a job's end, and only its operators queue a job again: the job script ends the training in time
(`TOUCHLINE_TIME_LIMIT_SECONDS`), and the next `touchline submit` or `resume` submits it again.
"""

from __future__ import annotations

from collections.abc import Sequence

from touchline.run.pbs_queries import PbsQueries
from touchline.run.protocol import Job
from touchline.run.scheduler import SchedulerExecutor
from touchline.run.scripts.header import slurm_time
from touchline.run.statusfiles import read_attempts
from touchline.slurm.answers import Submission
from touchline.slurm.local.commands import CommandResult
from touchline.slurm.pbs import TOKEN_PREFIX, TOKEN_VARIABLE, are_unknown, job_name, read_number, read_submission


class PbsExecutor(SchedulerExecutor[PbsQueries]):
    """Executor that submits with qsub, and asks qstat."""

    name = "pbs"
    make_queries = PbsQueries

    def _submission_words(self, job: Job, token: str, after: Sequence[str]) -> list[str]:
        words = ["qsub", "-N", job_name(job.name)]
        if job.time_limit_seconds is not None:
            words += ["-l", f"walltime={slurm_time(job.time_limit_seconds)}"]
        if job.is_limit_strict:
            words += ["-r", "n"]
        # A parent that was deleted before it began would keep its children from running for ever (qsub(1B)).
        parents = dict.fromkeys(number for each in after if (number := read_number(each)) is not None)
        if parents:
            words += ["-W", f"depend=afterany:{':'.join(parents)}"]
        variables = {"TOUCHLINE_TOKEN": token, TOKEN_VARIABLE: TOKEN_PREFIX + token} | job.environment
        if job.time_limit_seconds is not None:
            variables["TOUCHLINE_WALLTIME_SECONDS"] = f"{job.time_limit_seconds:.0f}"
        return [*words, "-v", ",".join(f"{name}={value}" for name, value in variables.items())]

    def _read_submission(self, answer: CommandResult) -> Submission:
        return read_submission(answer.out, answer.err, answer.code)

    def _has_no_such_job(self, err: str) -> bool:
        return are_unknown(err)

    def _refresh(self, jobs: Sequence[Job]) -> None:
        ids = [entry.job_id for job in jobs for entry in self._reader.of(job.name) if entry.executor == self.name]
        ids += [attempt.start.job_id for job in jobs for attempt in read_attempts(job.status)]
        self._queries.refresh(dict.fromkeys(id_ for id_ in ids if id_.isdigit()))
