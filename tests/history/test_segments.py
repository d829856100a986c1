"""Where one attempt ends and another begins, and how each ended: from events alone."""

from __future__ import annotations

import pytest

from touchline.core.observation import During, Event, Observation, ProgressBarEvent, Sign, SignKind, Stamp
from touchline.history.outcome import ending_of
from touchline.history.reading import Outcome
from touchline.history.run_view import RunSegment, align, runs_of
from touchline.history.segments import FileSegmenter

pytestmark = pytest.mark.planning


def segmenter(*events: Event) -> FileSegmenter:
    made = FileSegmenter("a.log")
    for event in events:
        made.feed(event)
    return made


def loss(line: int, *, step: int | None = None, epoch: float | None = None, value: float = 1.5) -> Observation:
    return Observation(name="loss", value=value, line=line, step=step, epoch=epoch)


def sign(kind: SignKind, line: int, during: During | None = None) -> Sign:
    return Sign(kind=kind, line=line, text=f"{kind.value}, line {line}", during=during)


def bar(line: int, done: int, total: int, elapsed: float, label: str = "") -> ProgressBarEvent:
    return ProgressBarEvent(label, done, total, elapsed, line)


def outcome(made: FileSegmenter, done: float | None = None, total: float | None = None) -> Outcome:
    segment = RunSegment(parts=(made.parts[-1],))
    return ending_of(segment, steps_done=done, steps_total=total, is_document=False).outcome


def test_epochs_that_go_back_are_another_attempt() -> None:
    made = segmenter(loss(1, epoch=0.5), loss(2, epoch=1.0), loss(3, epoch=0.5))
    assert [part.began for part in made.parts] == ["fresh", "restarted"]
    assert made.parts[0].losses.count == 2


def test_a_training_after_one_that_is_over_is_another_run() -> None:
    made = segmenter(loss(1, epoch=2.9), sign(SignKind.TRAINED, 2), sign(SignKind.START, 3), loss(4, epoch=0.1))
    assert [part.began for part in made.parts] == ["fresh", "another run"]
    assert len(runs_of(align([made.parts]))) == 2


def test_attempts_are_one_run() -> None:
    made = segmenter(loss(1, step=10), sign(SignKind.RESUMED, 2), loss(3, step=11))
    assert [part.began for part in made.parts] == ["fresh", "resumed"]
    assert len(runs_of(align([made.parts]))) == 1


def test_steps_counted_per_epoch_are_no_restart() -> None:
    made = segmenter(loss(1, step=100, epoch=1), loss(2, step=200, epoch=1), loss(3, step=100, epoch=2))
    assert len(made.parts) == 1


def test_a_bar_per_epoch_is_no_restart_and_one_that_falls_back_is() -> None:
    whole = segmenter(bar(1, 0, 250, 0), bar(2, 250, 250, 115), bar(3, 0, 250, 0), bar(4, 9, 250, 5))
    assert len(whole.parts) == 1
    broken = segmenter(loss(1, step=1), bar(2, 120, 250, 60), bar(3, 1, 250, 1))
    assert [part.began for part in broken.parts] == ["fresh", "restarted"]


def test_an_evaluation_bar_that_starts_again_is_no_restart() -> None:
    made = segmenter(bar(1, 100, 441, 650), bar(2, 40, 132, 10), bar(3, 200, 441, 1300), bar(4, 1, 132, 0))
    assert len(made.parts) == 1


def test_a_clock_of_another_day_is_another_execution() -> None:
    made = segmenter(Stamp(1_746_700_000.0, 1), loss(1, step=5), Stamp(1_746_600_000.0, 2), loss(2, step=6))
    assert [part.began for part in made.parts] == ["fresh", "another run"]


def test_a_clock_that_is_corrected_by_minutes_is_not() -> None:
    made = segmenter(Stamp(1_746_700_000.0, 1), loss(1, step=5), Stamp(1_746_699_400.0, 2), loss(2, step=6))
    assert len(made.parts) == 1


def test_an_error_that_is_survived_is_none() -> None:
    made = segmenter(loss(1, step=1), sign(SignKind.GPU_OOM, 2), loss(3, step=2))
    assert outcome(made) is Outcome.RUNNING_OR_TRUNCATED
    made.feed(sign(SignKind.GPU_OOM, 4))
    assert outcome(made) is Outcome.GPU_OOM


def test_host_memory_before_a_cancellation_is_its_cause() -> None:
    made = segmenter(loss(1, step=1), sign(SignKind.HOST_OOM, 2), sign(SignKind.CANCELLED, 3))
    assert outcome(made) is Outcome.HOST_OOM


def test_a_bare_killed_beside_a_cancellation_is_its_consequence() -> None:
    killed = Sign(kind=SignKind.HOST_OOM, line=2, text="Killed")
    assert outcome(segmenter(loss(1, step=1), killed, sign(SignKind.CANCELLED, 3))) is Outcome.CANCELLED
    assert outcome(segmenter(loss(1, step=1), killed)) is Outcome.HOST_OOM


def test_a_hang_after_a_gpu_error_is_still_the_gpu_error() -> None:
    made = segmenter(loss(1, step=1), sign(SignKind.GPU_OOM, 2), sign(SignKind.TIME_LIMIT, 3))
    assert outcome(made) is Outcome.GPU_OOM


@pytest.mark.parametrize(
    ("during", "steps", "expected"),
    [
        ("load", 0, Outcome.CRASH_START),
        ("train", 0, Outcome.CRASH_START),
        ("train", 5, Outcome.CRASH_MID),
        ("evaluate", 5, Outcome.CRASH_EVAL),
        ("save", 5, Outcome.CRASH_MID),
        ("export", 5, Outcome.CRASH_EXPORT),
    ],
)
def test_a_crash_is_named_by_where_it_happened(during: During, steps: int, expected: Outcome) -> None:
    events = [loss(1, step=steps)] if steps else []
    made = segmenter(*events, sign(SignKind.EXCEPTION, 9, during))
    assert outcome(made, done=steps or None, total=10) is expected


def test_a_failed_last_command_leaves_a_complete_training_complete() -> None:
    """Four good runs were called failed for `mv: 'a' and 'b' are the same file`."""
    made = segmenter(loss(1, step=10), sign(SignKind.TRAINED, 2), sign(SignKind.FAILED_COMMAND, 3))
    ending = ending_of(RunSegment(parts=(made.parts[-1],)), steps_done=10, steps_total=10, is_document=False)
    assert ending.outcome is Outcome.COMPLETED
    assert ending.exit.value.startswith("failed")  # type: ignore[union-attr]


def test_a_full_disk_after_training_is_the_outcome() -> None:
    made = segmenter(loss(1, step=10), sign(SignKind.TRAINED, 2), sign(SignKind.SAVING, 3), sign(SignKind.DISK_FULL, 4))
    assert outcome(made, 10, 10) is Outcome.DISK_QUOTA


def test_a_loss_that_is_no_number_to_the_end_is_divergence_and_one_that_recovers_is_not() -> None:
    made = segmenter(loss(1, step=1), sign(SignKind.NOT_A_NUMBER, 2), loss(3, step=3))
    assert outcome(made) is Outcome.RUNNING_OR_TRUNCATED
    made.feed(sign(SignKind.NOT_A_NUMBER, 4))
    assert outcome(made) is Outcome.DIVERGED_NAN


def test_a_crash_that_was_cancelled_afterwards_is_a_crash_and_a_cancelled_program_is_not() -> None:
    crashed = segmenter(loss(1, step=1), sign(SignKind.EXCEPTION, 2, "train"), sign(SignKind.CANCELLED, 3))
    assert outcome(crashed) is Outcome.CRASH_MID
    cancelled = segmenter(loss(1, step=1), sign(SignKind.CANCELLED, 2), sign(SignKind.EXCEPTION, 3, "train"))
    assert outcome(cancelled) is Outcome.CANCELLED


def test_the_words_of_a_requeue_end_one_attempt() -> None:
    made = segmenter(loss(1, step=50), sign(SignKind.REQUEUED, 2), loss(3, step=1))
    assert [part.began for part in made.parts] == ["fresh", "restarted"]
    assert ending_of(RunSegment(parts=(made.parts[0],)), steps_done=50, steps_total=90, is_document=False).outcome is (
        Outcome.PREEMPTED
    )


def test_memory_stays_bounded_whatever_comes() -> None:
    made = FileSegmenter("a.log")
    for number in range(20_000):
        made.feed(loss(number + 1, step=number + 1))
        made.feed(Observation(name="peak_memory", value=1.0, line=number + 1, unit="GiB", phase="step"))
    part = made.parts[-1]
    assert part.losses.count == 20_000
    assert len(part.get("peak_memory")) <= 400
