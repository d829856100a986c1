"""Interface of executors: start, query and stop jobs, locally and on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from touchline.slurm.job_view import JobView
from touchline.slurm.output import JOB_ID


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Unit of work in one folder, run under the supervisor `run.attempt`."""

    name: str
    """Name in messages and the ledger: the run, `evaluate 135M_rank4`, or `evaluate SmolLM2-135M-Instruct`."""
    folder: Path
    """Working directory."""
    status: Path
    """Folder of its attempts' start, heartbeat and exit files: `<run>/status`, of an evaluation `<run>/eval/status`."""
    script: str | None
    """Script in `folder` for bash and the scheduler, `finetune.slurm`; None for local-only work."""
    command: tuple[str, ...]
    """Local command: `bash finetune.slurm`, or the supervisor itself."""
    output: str
    """Name of the local output file; `{job}` becomes the job id."""
    after: tuple[str, ...] = ()
    """Names of jobs that must have ended first, successfully or not; it checks their files itself."""
    time_limit_seconds: float | None = None
    """Time limit in the place of the one in its script, which only a cluster reads; None for that one."""
    is_limit_strict: bool = False
    """Whether the limit holds for the job as a whole: a cluster never requeues it."""
    cohort: tuple[str, ...] = ()
    """Other runs that this training covers, side by side."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the job."""
        cohort = {"TOUCHLINE_COHORT": ":".join(self.cohort)} if self.cohort else {}
        return cohort | ({"TOUCHLINE_STRICT_LIMIT": "1"} if self.is_limit_strict else {})

    def output_path(self, job_id: str) -> Path:
        """Return the path of a job's output file."""
        named = self.folder / self.output.format(job=job_id)
        # Below a folder with a backslash SLURM replaces no pattern.
        unnamed = self.folder / self.output.format(job=JOB_ID)
        return unnamed if not named.exists() and unnamed.exists() else named


class Executor(Protocol):
    """Executor of jobs that derives their state from files, independent of who started them."""

    name: str
    """`local` or `slurm`."""
    waits_itself: bool
    """Whether it is a scheduler: it holds jobs back until their dependencies have ended, and its jobs outlive the
    command. Otherwise the command's queue does this, and stops running jobs.
    """
    tick_seconds: float
    """Seconds between two turns of a queue."""

    @property
    def trouble(self) -> str:
        """Error of the last query; empty if it succeeded."""
        ...

    def start(self, job: Job, token: str, gpus: tuple[str, ...], after: Sequence[str] = ()) -> str:
        """Start a job. Return its id; `token` is in the ledger already, so a start is never forgotten.

        Args:
            token: passed to the scheduler, to find the job after an unclear answer.
            gpus: ids of local GPUs; a scheduler assigns its own.
            after: ids of jobs that must have ended first.

        Raises:
            SubmissionRejectedError: the scheduler refused, and nothing was started.
            SubmissionLimitError: too many jobs now; a later try may succeed.
            SubmissionUnknownError: it is unknown whether the job was started.
            HostError: it cannot be started here.
        """
        ...

    def query_jobs(self, jobs: Sequence[Job]) -> Mapping[str, JobView]:
        """Return the view of the last job of each name; without an entry there was none, as far as known.

        One query covers all jobs. If it fails, the last known state is returned as active.
        """
        ...

    def stop(self, jobs: Sequence[Job]) -> None:
        """Ask running jobs to save and end, and remove queued ones."""
        ...
