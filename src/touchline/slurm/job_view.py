"""State of a scheduler's job, and its source."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from touchline.core.status import JobState

TRAINING_SCRIPT = "finetune.slurm"
"""Script of a run's training, for sbatch and for bash, to which its directives are comments."""
EVALUATION_SCRIPT = "eval.slurm"
"""Script of a run's evaluation."""
_EVALUATION_PREFIX = "evaluate "
"""Prefix of the name of an evaluation. The name of a run has no blank, so that it cannot be mistaken for one."""


class JobKind(StrEnum):
    """Kind of work that a job does."""

    TRAINING = "training"
    EVALUATION = "evaluation"


@dataclass(frozen=True, slots=True)
class JobName:
    """Name of a job in the ledger and the queue, taken apart."""

    kind: JobKind
    """Training or evaluation."""
    subject: str
    """The run; for the shared evaluation of the runs of a base model, the name of that model."""

    @classmethod
    def parse(cls, name: str) -> JobName:
        """Return the kind and the subject of a job's name."""
        subject = name.removeprefix(_EVALUATION_PREFIX)
        return cls(JobKind.TRAINING if subject == name else JobKind.EVALUATION, subject)


def evaluation_name(subject: str) -> str:
    """Return the name of the evaluation job of a run or a base model."""
    return _EVALUATION_PREFIX + subject


Source = Literal["exit file", "process", "heartbeat", "squeue", "sacct", "scontrol", "ledger", "none"]
"""Source of a state, the strongest first: the job's exit file, its process, the scheduler."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobView:
    """Job at one moment. A query that failed leaves the state as it was or UNKNOWN."""

    job_id: str
    """SLURM's id (`76`, `14_3` of an array, `76.1` of a step) or `local-<token>`; empty when none is known."""
    state: JobState
    """State."""
    active: bool
    """Whether it may still do something: pending, running, or not known to have ended. Nothing is submitted again
    while this is true."""
    source: Source
    """Source of the state."""
    reason: str = ""
    """Reason for waiting, in the scheduler's word (`Resources`, `DependencyNeverSatisfied`), or for its end."""
    exit_code: int | None = None
    """Exit code of the script; None while it runs or if unknown."""
    signal: int | None = None
    """The signal that ended it; none or 0 when it was none."""
    restarts: int | None = None
    """Number of restarts by the scheduler; None if unknown."""
    partition: str = ""
    """Its partition."""
    node: str = ""
    """The nodes it runs or ran on."""
    submitted_unix: float | None = None
    """Submission time, in seconds since 1970."""
    started_unix: float | None = None
    """Time of the last start."""
    ended_unix: float | None = None
    """End time."""
    time_limit_seconds: float | None = None
    """Time limit; None if there is none or if unknown."""
    comment: str = ""
    """The token that it was submitted with."""
    script_folder: str = ""
    """The folder it was submitted from."""
    name: str = ""
    """Its name."""
