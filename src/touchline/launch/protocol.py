"""What an executor does: start a job, say how it stands, stop it. SLURM will answer the same three."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from touchline.domain.status import JobState


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One thing to run in one folder, under the supervisor of `launch.attempt`."""

    name: str
    """What people call it: the run, or `evaluate 135M`."""
    folder: Path
    """Where it runs and keeps status/."""
    command: tuple[str, ...]
    """The command: a script, or the supervisor itself."""
    output: str
    """Name of the file that its output goes to; `{job}` becomes the job's id."""


class Executor(Protocol):
    """Starts jobs and tells the truth about them, from the job's folder, whoever started it."""

    name: str
    """`local`."""

    def start(self, job: Job, token: str, gpus: tuple[str, ...]) -> str:
        """Start a job and give its id; `token` is in the ledger already, so that a start can never be forgotten.

        Raises:
            EnvironmentFault: it cannot be started here.
        """
        ...

    def state(self, job: Job) -> JobState | None:
        """How its last attempt stands; None when there was none."""
        ...

    def stop(self, job: Job) -> None:
        """Ask its living attempt to save and end."""
        ...
