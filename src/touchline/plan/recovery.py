"""What to do after an attempt that did not finish: start it again, make it smaller, or stop and say why.

What comes from outside (preemption, a dead node, a time limit after progress) is tried again; what comes from the work
itself is tried once more, because machines do err, and not a third time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from touchline.core.status import EXIT_LINEAGE, EXIT_NO_PARENT, EXIT_OUT_OF_MEMORY, JobState


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


class RecoveryAction(StrEnum):
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

    step: RecoveryAction
    """What."""
    why: str
    """Why, and for STOP what a person can do."""


FRUITLESS = 3
"""Attempts in a row that something from outside ended before they saved anything."""
_OUTSIDE = frozenset({JobState.PREEMPTED, JobState.NODE_FAIL, JobState.BOOT_FAIL, JobState.UNKNOWN, JobState.REQUEUED})
_SAID_NO = {2: "a file is wrong", 3: "refused", 4: "the machine lacks something"}
"""Exit codes of our own programs whose message says what to change; nothing changes by trying."""


def decide(failures: Sequence[Failure], micro_batch_size: int | None) -> Decision:
    """What to do after the last of these failures.

    Args:
        failures: the failed attempts at what is planned now, oldest first; at least one.
        micro_batch_size: examples per forward pass as planned now; None for work that has none.
    """
    last = failures[-1]
    if _is_out_of_memory(last):
        if micro_batch_size is not None and micro_batch_size > 1:
            return Decision(
                step=RecoveryAction.SMALLER, why=f"out of memory with {micro_batch_size} examples a forward pass"
            )
        advice = "train.gradient_checkpointing: true, a shorter train.max_seq_len, or more memory"
        return Decision(step=RecoveryAction.STOP, why=f"out of memory with one example a forward pass; {advice}")
    if last.state is JobState.TIMEOUT or last.state is JobState.DEADLINE:
        if last.progressed:
            return Decision(step=RecoveryAction.AGAIN, why="its time limit came; it goes on where it saved")
        advice = "compute.time_limit must be longer, or train.checkpoint.resume_minutes shorter"
        return Decision(step=RecoveryAction.STOP, why=f"its time limit came before anything was saved; {advice}")
    if last.state in _OUTSIDE or _was_killed(last):
        return _outside(failures)
    if last.state is JobState.CANCELLED:
        return Decision(step=RecoveryAction.STOP, why="it was cancelled; `touchline resume` starts it again")
    return _inside(failures)


def repeated_failure_decision(failures: Sequence[Failure]) -> Decision | None:
    """Why a person must ask for it before work is started once more: it failed twice the same way by itself.

    What was killed from outside, however often, starts again with every new command.
    """
    if not failures or failures[-1].state is not JobState.FAILED or _was_killed(failures[-1]):
        return None
    if all(each.signature != failures[-1].signature for each in failures[:-1]):
        return None
    decision = decide(failures, None)
    return decision if decision.step is RecoveryAction.STOP else None


def halve_micro_batch(micro_batch_size: int, global_batch_size: int) -> int:
    """The next smaller micro-batch that divides the global batch: accumulation makes up for it exactly."""
    wanted = micro_batch_size // 2
    return next(size for size in range(max(wanted, 1), 0, -1) if global_batch_size % size == 0)


def _is_out_of_memory(failure: Failure) -> bool:
    return (
        failure.exit_code == EXIT_OUT_OF_MEMORY
        or failure.state is JobState.OUT_OF_MEMORY
        or (failure.state is not JobState.CANCELLED and failure.diagnosis.out_of_memory)
    )


def _was_killed(failure: Failure) -> bool:
    """A kill from outside leaves no exit code, or one above 128."""
    return failure.state is JobState.FAILED and (failure.exit_code is None or failure.exit_code > 128)


def _outside(failures: Sequence[Failure]) -> Decision:
    fruitless = 0
    for failure in reversed(failures):
        if failure.progressed or not (failure.state in _OUTSIDE or _was_killed(failure)):
            break
        fruitless += 1
    last = failures[-1]
    what = last.reason or last.state.value
    if fruitless >= FRUITLESS:
        return Decision(
            step=RecoveryAction.STOP, why=f"{fruitless} times in a row it ended before it saved anything: {what}"
        )
    return Decision(step=RecoveryAction.AGAIN, why=f"{what}; it goes on where it saved")


def _inside(failures: Sequence[Failure]) -> Decision:
    last = failures[-1]
    cause = last.diagnosis.cause
    if last.exit_code in (EXIT_NO_PARENT, EXIT_LINEAGE):
        return Decision(step=RecoveryAction.STOP, why=cause)
    if last.exit_code in _SAID_NO:
        return Decision(step=RecoveryAction.STOP, why=f"{_SAID_NO[last.exit_code]}: {cause}")
    if any(earlier.signature == last.signature for earlier in failures[:-1]):
        return Decision(step=RecoveryAction.STOP, why=f"it failed twice the same way: {cause}")
    return Decision(step=RecoveryAction.AGAIN, why=f"it failed ({cause}); machines err, so it is tried once more")
