"""What is done after a failure: tried again, made smaller, or stopped with the reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.core.status import EXIT_DIVERGED, EXIT_LINEAGE, EXIT_OUT_OF_MEMORY, EXIT_PARENT_NOT_READY, JobState
from touchline.plan.recovery import (
    FRUITLESS,
    Diagnosis,
    Failure,
    RecoveryAction,
    decide,
    halve_micro_batch,
    repeated_failure_decision,
)

pytestmark = pytest.mark.planning


def failure(
    state: JobState = JobState.FAILED,
    code: int | None = 1,
    *,
    cause: str = "RuntimeError: shapes",
    progressed: bool = False,
    out_of_memory: bool = False,
    reason: str = "",
) -> Failure:
    return Failure(
        state=state,
        exit_code=code,
        reason=reason,
        progressed=progressed,
        diagnosis=Diagnosis(cause=cause, out_of_memory=out_of_memory),
    )


@pytest.mark.parametrize("state", [JobState.PREEMPTED, JobState.NODE_FAIL, JobState.BOOT_FAIL, JobState.UNKNOWN])
def test_what_comes_from_outside_is_tried_again_while_it_gets_further(state: JobState) -> None:
    """However often it happens."""
    assert decide([failure(state, None, progressed=True)] * 50, 8).step is RecoveryAction.AGAIN


@pytest.mark.parametrize("code", [137, 143, None])
def test_a_kill_is_no_fault_of_the_work(code: int | None) -> None:
    """It goes on where it saved."""
    assert decide([failure(code=code, progressed=True)], 8).step is RecoveryAction.AGAIN


def test_what_never_gets_further_is_stopped() -> None:
    """A node that kills every attempt at once would be fed for ever."""
    kills = [failure(JobState.NODE_FAIL, None)] * FRUITLESS
    assert decide(kills[:-1], 8).step is RecoveryAction.AGAIN
    assert decide(kills, 8).step is RecoveryAction.STOP
    assert decide([*kills[:-1], failure(JobState.NODE_FAIL, None, progressed=True)], 8).step is RecoveryAction.AGAIN


def test_a_time_limit_after_progress_goes_on_and_without_says_what_to_change() -> None:
    """With the same limit and nothing saved it would end the same way: twice the limit, once, and never SLURM's own."""
    assert decide([failure(JobState.TIMEOUT, 75, progressed=True)], 8).step is RecoveryAction.AGAIN
    assert decide([failure(JobState.TIMEOUT, None)], 8).step is RecoveryAction.LONGER
    assert decide([failure(JobState.DEADLINE, None)], 8).step is RecoveryAction.STOP
    setting = "compute.evaluation.time_limit"
    stopped = decide([failure(JobState.TIMEOUT, None)] * 2, 8, limit_setting=setting, lengthened=True)
    assert stopped.step is RecoveryAction.STOP
    assert stopped.why.endswith(f"increase {setting}")


@pytest.mark.parametrize(
    "last",
    [
        failure(code=EXIT_OUT_OF_MEMORY),
        failure(JobState.OUT_OF_MEMORY, None),
        failure(code=1, out_of_memory=True),
        failure(code=137, out_of_memory=True),
    ],
)
def test_out_of_memory_is_made_smaller_down_to_one(last: Failure) -> None:
    """Whether the trainer, the scheduler or only the log says it."""
    assert decide([last], 8).step is RecoveryAction.SMALLER
    assert decide([last], 1).step is RecoveryAction.STOP
    assert "gradient_checkpointing" in decide([last], 1).why


def test_a_cancelled_job_stays_cancelled_whatever_its_log_says() -> None:
    """A person's word counts."""
    assert decide([failure(JobState.CANCELLED, 75, out_of_memory=True)], 8).step is RecoveryAction.STOP


def test_the_same_fault_twice_is_the_last_time() -> None:
    """Machines err once; another fault is another first time."""
    assert decide([failure()], 8).step is RecoveryAction.AGAIN
    twice = decide([failure(), failure()], 8)
    assert twice.step is RecoveryAction.STOP
    assert "RuntimeError: shapes" in twice.why
    assert decide([failure(), failure(cause="another")], 8).step is RecoveryAction.AGAIN


@pytest.mark.parametrize("code", [2, 3, 4, EXIT_PARENT_NOT_READY, EXIT_LINEAGE])
def test_what_our_own_programs_refuse_is_not_tried_again(code: int) -> None:
    """They said what to change."""
    stopped = decide([failure(code=code, cause="the dataset changed")], 8)
    assert stopped.step is RecoveryAction.STOP
    assert "the dataset changed" in stopped.why


@given(micro=st.integers(2, 512), accumulation=st.integers(1, 64))
def test_a_smaller_micro_batch_keeps_the_global_batch(micro: int, accumulation: int) -> None:
    """It divides it, is smaller, and never below one."""
    size = halve_micro_batch(micro, micro * accumulation)
    assert 1 <= size <= micro // 2
    assert (micro * accumulation) % size == 0


def test_what_was_killed_from_outside_starts_again_with_every_new_command() -> None:
    """A person who types the command again must not be told that their own kills were a fault of the run."""
    assert repeated_failure_decision([failure(code=137)] * 9) is None
    assert repeated_failure_decision([failure(JobState.UNKNOWN, None)] * 9) is None
    assert repeated_failure_decision([]) is None
    assert repeated_failure_decision([failure()]) is None
    assert repeated_failure_decision([failure(), failure()]) is not None
    assert repeated_failure_decision([failure(), failure(code=137)]) is None


def test_a_training_that_diverged_is_not_tried_again() -> None:
    """Its numbers would be the same; a new command does not start it either, unless it is told to."""
    diverged = failure(code=EXIT_DIVERGED, cause="step 3 of run a: loss nan, gradient norm nan")
    assert diverged.diverged
    assert decide([diverged], 8).step is RecoveryAction.STOP
    again = repeated_failure_decision([diverged])
    assert again.step is RecoveryAction.STOP
    assert repeated_failure_decision([failure()]) is None
