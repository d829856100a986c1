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


def loss(line: int, *, step: int | None = None, epoch: float | None = None) -> Observation:
    return Observation(name="loss", value=1.5, line=line, step=step, epoch=epoch)


def sign(kind: SignKind, line: int, during: During | None = None) -> Sign:
    return Sign(kind=kind, line=line, text=f"{kind.value}, line {line}", during=during)


def bar(line: int, done: int, total: int, elapsed: float) -> ProgressBarEvent:
    return ProgressBarEvent("", done, total, elapsed, line)


PARTS: dict[str, tuple[tuple[Event, ...], list[str]]] = {
    "epochs go back": ((loss(1, epoch=0.5), loss(2, epoch=1.0), loss(3, epoch=0.5)), ["fresh", "restarted"]),
    "a training after one that is over": (
        (loss(1, epoch=2.9), sign(SignKind.TRAINED, 2), sign(SignKind.START, 3), loss(4, epoch=0.1)),
        ["fresh", "another run"],
    ),
    "a resume": ((loss(1, step=10), sign(SignKind.RESUMED, 2), loss(3, step=11)), ["fresh", "resumed"]),
    "steps counted per epoch": ((loss(1, step=100, epoch=1), loss(2, step=100, epoch=2)), ["fresh"]),
    "a bar per epoch": ((bar(1, 0, 250, 0), bar(2, 250, 250, 115), bar(3, 0, 250, 0), bar(4, 9, 250, 5)), ["fresh"]),
    "a bar that falls back": ((loss(1, step=1), bar(2, 120, 250, 60), bar(3, 1, 250, 1)), ["fresh", "restarted"]),
    "a bar of an evaluation that starts again": (
        (bar(1, 100, 441, 650), bar(2, 40, 132, 10), bar(3, 200, 441, 1300), bar(4, 1, 132, 0)),
        ["fresh"],
    ),
    "a clock of another day": (
        (Stamp(1_746_700_000.0, 1), loss(1, step=5), Stamp(1_746_600_000.0, 2), loss(2, step=6)),
        ["fresh", "another run"],
    ),
    "a clock that is corrected by minutes": (
        (Stamp(1_746_700_000.0, 1), loss(1, step=5), Stamp(1_746_699_400.0, 2), loss(2, step=6)),
        ["fresh"],
    ),
    "the words of a requeue": ((loss(1, step=50), sign(SignKind.REQUEUED, 2), loss(3, step=1)), ["fresh", "restarted"]),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_where_a_part_begins(case: str) -> None:
    events, expected = PARTS[case]
    made = segmenter(*events)
    assert [part.began for part in made.parts] == expected
    assert len(runs_of(align([made.parts]))) == 1 + expected.count("another run")


KILLED = Sign(kind=SignKind.HOST_OOM, line=2, text="Killed")
ENDINGS: dict[str, tuple[tuple[Event, ...], Outcome]] = {
    "an error that is survived": ((sign(SignKind.GPU_OOM, 2), loss(3, step=2)), Outcome.RUNNING_OR_TRUNCATED),
    "an error that is not": (
        (sign(SignKind.GPU_OOM, 2), loss(3, step=2), sign(SignKind.GPU_OOM, 4)),
        Outcome.GPU_OOM,
    ),
    "host memory before a cancellation is its cause": (
        (sign(SignKind.HOST_OOM, 2), sign(SignKind.CANCELLED, 3)),
        Outcome.HOST_OOM,
    ),
    "a bare Killed beside a cancellation follows from it": ((KILLED, sign(SignKind.CANCELLED, 3)), Outcome.CANCELLED),
    "a bare Killed": ((KILLED,), Outcome.HOST_OOM),
    "a hang after a GPU error": ((sign(SignKind.GPU_OOM, 2), sign(SignKind.TIME_LIMIT, 3)), Outcome.GPU_OOM),
    "a full disk after training": (
        (sign(SignKind.TRAINED, 2), sign(SignKind.SAVING, 3), sign(SignKind.DISK_FULL, 4)),
        Outcome.DISK_QUOTA,
    ),
    "a loss that recovers": ((sign(SignKind.NOT_A_NUMBER, 2), loss(3, step=3)), Outcome.RUNNING_OR_TRUNCATED),
    "a loss that is no number to the end": (
        (sign(SignKind.NOT_A_NUMBER, 2), loss(3, step=3), sign(SignKind.NOT_A_NUMBER, 4)),
        Outcome.DIVERGED_NAN,
    ),
    "a crash that was cancelled afterwards": (
        (sign(SignKind.EXCEPTION, 2, "train"), sign(SignKind.CANCELLED, 3)),
        Outcome.CRASH_MID,
    ),
    "what a cancelled program raises": (
        (sign(SignKind.CANCELLED, 2), sign(SignKind.EXCEPTION, 3, "train")),
        Outcome.CANCELLED,
    ),
    "a requeue": ((sign(SignKind.REQUEUED, 2),), Outcome.PREEMPTED),
    **{
        f"a crash in {during}": ((sign(SignKind.EXCEPTION, 9, during),), outcome)
        for during, outcome in (
            ("load", Outcome.CRASH_MID),
            ("evaluate", Outcome.CRASH_EVAL),
            ("save", Outcome.CRASH_MID),
            ("export", Outcome.CRASH_EXPORT),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("case", ENDINGS)
def test_how_a_part_ends(case: str) -> None:
    """After its first step."""
    events, expected = ENDINGS[case]
    part = segmenter(loss(1, step=1), *events).parts[0]
    assert ending_of(RunSegment(parts=(part,)), steps_done=1, steps_total=10, is_document=False).outcome is expected


@pytest.mark.parametrize("during", ["load", "train"])
def test_a_crash_before_the_first_step(during: During) -> None:
    part = segmenter(sign(SignKind.EXCEPTION, 9, during)).parts[0]
    ending = ending_of(RunSegment(parts=(part,)), steps_done=None, steps_total=10, is_document=False)
    assert ending.outcome is Outcome.CRASH_START


def test_a_failed_last_command_leaves_a_complete_training_complete() -> None:
    """Four good runs were called failed for `mv: 'a' and 'b' are the same file`."""
    made = segmenter(loss(1, step=10), sign(SignKind.TRAINED, 2), sign(SignKind.FAILED_COMMAND, 3))
    ending = ending_of(RunSegment(parts=(made.parts[-1],)), steps_done=10, steps_total=10, is_document=False)
    assert ending.outcome is Outcome.COMPLETED
    assert ending.exit.value.startswith("failed")  # type: ignore[union-attr]


def test_memory_stays_bounded_whatever_comes() -> None:
    made = FileSegmenter("a.log")
    for number in range(20_000):
        made.feed(loss(number + 1, step=number + 1))
        made.feed(Observation(name="peak_memory", value=1.0, line=number + 1, unit="GiB", phase="step"))
    part = made.parts[-1]
    assert part.losses.count == 20_000
    assert len(part.get("peak_memory")) <= 400
