"""What to do after an attempt that did not finish: start it again, make it smaller, or stop and say why.

What comes from outside (preemption, a dead node, a time limit after progress) is tried again; what comes from the work
itself is tried once more, because machines do err, and not a third time.
"""

from __future__ import annotations

from collections.abc import Sequence

from touchline.core.status import EXIT_LINEAGE, EXIT_NO_PARENT, EXIT_OUT_OF_MEMORY, JobState
from touchline.plan.causes import Decision, Failure, Step

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
            return Decision(step=Step.SMALLER, why=f"out of memory with {micro_batch_size} examples a forward pass")
        advice = "train.gradient_checkpointing: true, a shorter train.max_seq_len, or more memory"
        return Decision(step=Step.STOP, why=f"out of memory with one example a forward pass; {advice}")
    if last.state is JobState.TIMEOUT or last.state is JobState.DEADLINE:
        if last.progressed:
            return Decision(step=Step.AGAIN, why="its time limit came; it goes on where it saved")
        advice = "compute.time_limit must be longer, or train.checkpoint.resume_minutes shorter"
        return Decision(step=Step.STOP, why=f"its time limit came before anything was saved; {advice}")
    if last.state in _OUTSIDE or _was_killed(last):
        return _outside(failures)
    if last.state is JobState.CANCELLED:
        return Decision(step=Step.STOP, why="it was cancelled; `touchline resume` starts it again")
    return _inside(failures)


def given_up(failures: Sequence[Failure]) -> Decision | None:
    """Why a person must ask for it before work is started once more: it failed twice the same way by itself.

    What was killed from outside, however often, starts again with every new command.
    """
    if not failures or failures[-1].state is not JobState.FAILED or _was_killed(failures[-1]):
        return None
    if all(each.signature != failures[-1].signature for each in failures[:-1]):
        return None
    decision = decide(failures, None)
    return decision if decision.step is Step.STOP else None


def halved(micro_batch_size: int, global_batch_size: int) -> int:
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
        return Decision(step=Step.STOP, why=f"{fruitless} times in a row it ended before it saved anything: {what}")
    return Decision(step=Step.AGAIN, why=f"{what}; it goes on where it saved")


def _inside(failures: Sequence[Failure]) -> Decision:
    last = failures[-1]
    cause = last.diagnosis.cause
    if last.exit_code in (EXIT_NO_PARENT, EXIT_LINEAGE):
        return Decision(step=Step.STOP, why=cause)
    if last.exit_code in _SAID_NO:
        return Decision(step=Step.STOP, why=f"{_SAID_NO[last.exit_code]}: {cause}")
    if any(earlier.signature == last.signature for earlier in failures[:-1]):
        return Decision(step=Step.STOP, why=f"it failed twice the same way: {cause}")
    return Decision(step=Step.AGAIN, why=f"it failed ({cause}); machines err, so it is tried once more")
