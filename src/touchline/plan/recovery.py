"""Decision after a failed attempt: start it again, use a smaller micro-batch, or stop with a reason.

Failures with an external cause (preemption, a failed node, a time limit after progress) are retried. Failures of the
work itself are retried once, since they may be transient; a time limit before anything was saved, once with twice the
limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from touchline.core.status import EXIT_DIVERGED, EXIT_LINEAGE, EXIT_OUT_OF_MEMORY, EXIT_PARENT_NOT_READY, JobState
from touchline.experiment.training import AGAINST_DIVERGENCE


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """Cause of the end of an attempt, as far as its output shows."""

    cause: str
    """Cause as text: `out of memory`, `RuntimeError: ...`, `exit code 3`."""
    lines: tuple[str, ...] = ()
    """Lines of evidence, each as `file:line: text`."""
    out_of_memory: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Attempt that ended without a complete training."""

    state: JobState
    exit_code: int | None
    """Exit code of the work. None if there is no exit record."""
    reason: str
    progressed: bool
    """Whether it saved a training state that the previous attempt did not have."""
    diagnosis: Diagnosis

    @property
    def signature(self) -> tuple[JobState, int | None, str]:
        """Return a key that is equal for attempts that failed the same way."""
        return self.state, self.exit_code, self.diagnosis.cause

    @property
    def diverged(self) -> bool:
        """Return whether the training ended because its loss or gradient norm was not finite."""
        return self.exit_code == EXIT_DIVERGED


class RecoveryAction(StrEnum):
    """Next action after a failure."""

    AGAIN = "again"
    """Start it again from the newest saved training state."""
    LONGER = "longer"
    """Start it again with twice the time limit."""
    SMALLER = "smaller"
    """Plan it again with half the micro-batch and twice the accumulation. The global batch size stays."""
    STOP = "stop"
    """Do not start it again, because it would fail the same way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Action after a failure, and its reason."""

    step: RecoveryAction
    why: str


FRUITLESS = 3
"""Consecutive attempts that ended for an external cause before they saved anything."""
_OUTSIDE = frozenset({JobState.PREEMPTED, JobState.NODE_FAIL, JobState.BOOT_FAIL, JobState.UNKNOWN, JobState.REQUEUED})
_SAID_NO = {2: "invalid input", 3: "refused", 4: "missing on this machine"}
"""Exit codes of touchline's own programs whose message states what to change; a retry would not help."""


def decide(
    failures: Sequence[Failure],
    micro_batch_size: int | None,
    *,
    limit_setting: str = "compute.time_limit",
    lengthened: bool = False,
) -> Decision:
    """Return the action after the last of these failures.

    Args:
        failures: the failed attempts at what is planned now, oldest first; at least one.
        micro_batch_size: examples per forward pass as planned now; None for work that has none.
        limit_setting: key of experiment.yaml that sets the job's time limit.
        lengthened: whether the last attempt had twice the planned limit, or none is known.
    """
    last = failures[-1]
    if _is_out_of_memory(last):
        if micro_batch_size is not None and micro_batch_size > 1:
            return Decision(
                step=RecoveryAction.SMALLER, why=f"out of memory with {micro_batch_size} examples per forward pass"
            )
        advice = "set train.gradient_checkpointing: true, reduce train.max_seq_len, or use more memory"
        return Decision(step=RecoveryAction.STOP, why=f"out of memory with one example per forward pass; {advice}")
    if last.state is JobState.TIMEOUT or last.state is JobState.DEADLINE:
        if last.progressed:
            return Decision(step=RecoveryAction.AGAIN, why="time limit reached; resuming from the last saved state")
        why = "time limit reached before anything was saved"
        if last.state is JobState.TIMEOUT and not lengthened:
            return Decision(step=RecoveryAction.LONGER, why=why)
        return Decision(step=RecoveryAction.STOP, why=f"{why}; increase {limit_setting}")
    if last.state in _OUTSIDE or _was_killed(last):
        return _outside(failures)
    if last.state is JobState.CANCELLED:
        return Decision(step=RecoveryAction.STOP, why="cancelled; `touchline resume` starts it again")
    return _inside(failures)


def repeated_failure_decision(failures: Sequence[Failure]) -> Decision | None:
    """Return the STOP decision for work that failed twice the same way or diverged, which is retried only on request.
    None if it may start.

    Work that was killed from outside starts again with every new command.
    """
    if not failures or failures[-1].state is not JobState.FAILED or _was_killed(failures[-1]):
        return None
    if not failures[-1].diverged and all(each.signature != failures[-1].signature for each in failures[:-1]):
        return None
    decision = decide(failures, None)
    return decision if decision.step is RecoveryAction.STOP else None


def halve_micro_batch(micro_batch_size: int, examples_per_device: int) -> int:
    """Return the next smaller micro-batch size that divides a device's part of the global batch."""
    wanted = micro_batch_size // 2
    return next(size for size in range(max(wanted, 1), 0, -1) if examples_per_device % size == 0)


def _is_out_of_memory(failure: Failure) -> bool:
    return (
        failure.exit_code == EXIT_OUT_OF_MEMORY
        or failure.state is JobState.OUT_OF_MEMORY
        or (failure.state is not JobState.CANCELLED and failure.diagnosis.out_of_memory)
    )


def _was_killed(failure: Failure) -> bool:
    """Return True if the process was killed, which leaves no exit code or one above 128."""
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
            step=RecoveryAction.STOP, why=f"ended {fruitless} times in a row before it saved anything: {what}"
        )
    return Decision(step=RecoveryAction.AGAIN, why=f"{what}; resuming from the last saved state")


def _inside(failures: Sequence[Failure]) -> Decision:
    last = failures[-1]
    cause = last.diagnosis.cause
    if last.exit_code in (EXIT_PARENT_NOT_READY, EXIT_LINEAGE):
        return Decision(step=RecoveryAction.STOP, why=cause)
    if last.diverged:
        why = f"diverged, and would again: {cause}; {AGAINST_DIVERGENCE}"
        return Decision(step=RecoveryAction.STOP, why=why)
    if last.exit_code in _SAID_NO:
        return Decision(step=RecoveryAction.STOP, why=f"{_SAID_NO[last.exit_code]}: {cause}")
    if any(earlier.signature == last.signature for earlier in failures[:-1]):
        return Decision(step=RecoveryAction.STOP, why=f"failed twice the same way: {cause}")
    return Decision(step=RecoveryAction.AGAIN, why=f"failed ({cause}); retrying once in case it was transient")
