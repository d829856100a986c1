"""What is done after an attempt that did not finish its work."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from touchline.core.status import JobState


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """Why an attempt ended, as far as its output tells."""

    cause: str
    """In words: `out of memory`, `RuntimeError: ...`, `exit code 3`."""
    lines: tuple[str, ...] = ()
    """The lines that prove it, each as `file:line: text`."""
    out_of_memory: bool = False
    """Whether a line proves that memory did not do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One attempt that ended without a complete training, and what is known of it."""

    state: JobState
    """How its job ended."""
    exit_code: int | None
    """Exit code of the work; none where it died in silence."""
    reason: str
    """The exit file's or the scheduler's words."""
    progressed: bool
    """Whether it saved a state that the one before it did not have."""
    diagnosis: Diagnosis
    """What its output tells."""

    @property
    def signature(self) -> tuple[JobState, int | None, str]:
        """Equal for attempts that failed the same way."""
        return self.state, self.exit_code, self.diagnosis.cause


class Step(StrEnum):
    """What to do next."""

    AGAIN = "again"
    """Start it again; it goes on where its newest saved state ends."""
    SMALLER = "smaller"
    """Plan it again with half the micro-batch and twice the accumulation; the global batch stays."""
    STOP = "stop"
    """Starting it again would end the same way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to do after a failure, and why."""

    step: Step
    """What."""
    why: str
    """Why, and for STOP what a person can do."""
