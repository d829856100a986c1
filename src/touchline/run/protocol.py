"""What an executor does: start a job, say how jobs stand, stop them; here and on SLURM alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from touchline.slurm.job_view import JobView
from touchline.slurm.patterns import JOB_ID


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One thing to run in one folder, under the supervisor of `launch.attempt`."""

    name: str
    """What people and the ledger call it: the run, `evaluate 135M_rank4`, or `evaluate SmolLM2-135M-Instruct`."""
    folder: Path
    """Where it runs."""
    status: Path
    """Folder of its attempts' start, heartbeat and exit files: `<run>/status`, of an evaluation `<run>/eval/status`."""
    script: str | None
    """The script in `folder` that bash and sbatch run alike, `finetune.slurm`; none for work that only runs here."""
    command: tuple[str, ...]
    """What this machine runs: `bash finetune.slurm`, or the supervisor itself."""
    output: str
    """Name of the file that its output goes to here; `{job}` becomes the job's id."""
    after: tuple[str, ...] = ()
    """Names of jobs that must have ended first, well or not: it looks at their artefacts itself."""
    time_limit_seconds: float | None = None
    """When this machine ends it; SLURM's limit stands in the script."""

    def output_path(self, job_id: str) -> Path:
        """Return the file that a job's output is in, or would be."""
        named = self.folder / self.output.format(job=job_id)
        # Below a folder with a backslash SLURM replaces no pattern.
        unnamed = self.folder / self.output.format(job=JOB_ID)
        return unnamed if not named.exists() and unnamed.exists() else named


class Executor(Protocol):
    """Starts jobs and tells the truth about them, from their folders, whoever started them."""

    name: str
    """`local` or `slurm`."""
    waits_itself: bool
    """Whether it is a scheduler of its own: it holds a job back until those it comes after have ended, and its jobs go
    on when the command that started them ends. Otherwise the command's own queue holds back, and stops what runs."""
    tick_seconds: float
    """How long a queue waits between two turns."""

    @property
    def trouble(self) -> str:
        """Why the last look was not answered; empty when it was."""
        ...

    def start(self, job: Job, token: str, gpus: tuple[str, ...], after: Sequence[str] = ()) -> str:
        """Start a job and give its id; `token` is in the ledger already, so that a start can never be forgotten.

        Args:
            job: what to start.
            token: told to the scheduler with the job, so that it is found again after any unclear answer.
            gpus: ids of GPUs on this machine; SLURM gives its own.
            after: ids of jobs that must have ended first.

        Raises:
            SubmissionRejectedError: the scheduler said no, in words, and nothing was started.
            SubmissionLimitError: not now, since there are too many; later it may.
            SubmissionUnknownError: it cannot be told whether it was started.
            HostError: it cannot be started here at all.
        """
        ...

    def look(self, jobs: Sequence[Job]) -> Mapping[str, JobView]:
        """How the last job of each of these names stands; without an entry: there was none, as far as can be told.

        One query for all of them. A query that fails changes nothing: then the last known state comes back, active.
        """
        ...

    def stop(self, jobs: Sequence[Job]) -> None:
        """Ask what lives of these jobs to save and end, and take what waits out of the queue."""
        ...
