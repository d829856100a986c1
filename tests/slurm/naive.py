"""Executors as they are often written, each with a fault that the properties must find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.slurm.fake_jobs import ACTIVE
from tests.slurm.history import History

from touchline.core.errors import SubmissionRejectedError, SubmissionUnknownError
from touchline.core.status import JobState
from touchline.run.ledger import read_ledger
from touchline.run.protocol import Executor, Job
from touchline.run.slurm import SlurmExecutor
from touchline.slurm.job_view import JobView


class AbsentIsOver:
    """What squeue does not list has ended; an answer that is not clear is a refusal; nothing is looked for."""

    name = "slurm"
    tick_seconds = 30.0
    waits_itself = True
    trouble = ""

    def __init__(self, history: History) -> None:
        self._history = history

    def start(self, job: Job, token: str, gpus: tuple[str, ...], after: Sequence[str] = ()) -> str:
        """sbatch, once."""
        del token, gpus, after
        words = ["sbatch", "--parsable", f"--job-name={job.name}", str(job.script)]
        answer = self._history.fake.run(words, timeout_seconds=30.0, cwd=job.folder)
        if not answer.ok:
            raise SubmissionRejectedError(answer.err)
        return answer.out.strip()

    def query_jobs(self, jobs: Sequence[Job]) -> Mapping[str, JobView]:
        """squeue, once."""
        last = {
            entry.job: entry.job_id
            for entry in read_ledger(self._history.root / "ledger.jsonl")
            if entry.event == "submitted"
        }
        words = ["squeue", "--me", "--states=all", "--Format=JobArrayID:|,State:|"]
        answer = self._history.fake.run(words, timeout_seconds=30.0)
        rows = [line.split("|") for line in answer.out.splitlines()]
        living = [row[0] for row in rows if row[1] in ACTIVE]
        return {
            job.name: JobView(
                job_id=last[job.name],
                state=JobState.RUNNING if last[job.name] in living else JobState.UNKNOWN,
                active=last[job.name] in living,
                source="squeue",
            )
            for job in jobs
            if job.name in last
        }

    def stop(self, jobs: Sequence[Job]) -> None:
        """Nothing."""


class TriesAgainAtOnce(SlurmExecutor):
    """An answer that is not clear is taken for a refusal, and sbatch is called again; no token is looked for."""

    def start(self, job: Job, token: str, gpus: tuple[str, ...], after: Sequence[str] = ()) -> str:
        """As the product does, and once more."""
        try:
            return super().start(job, token, gpus, after)
        except SubmissionUnknownError:
            return super().start(job, token, gpus, after)


def tries_again_at_once(history: History, lock: int | None) -> Executor:
    """The fault: a retry without a search."""
    executor = TriesAgainAtOnce(history.fake, history.root / "ledger.jsonl", clock=history.clock, lock=lock)
    executor._queries.find = lambda tokens, since_unix: {}  # type: ignore[method-assign]
    return executor


def absent_is_over(history: History, lock: int | None) -> Executor:
    """The fault: absence is an end."""
    del lock
    return AbsentIsOver(history)
