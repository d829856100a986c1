"""Where one attempt ends and another begins, and how each ended: from events alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import parametrize, write_files

from touchline.core.observation import During, Event, Observation, ProgressBarEvent, Sign, SignKind, Stamp
from touchline.core.status import Outcome
from touchline.history.file_segment import Track, is_training_label
from touchline.history.grouping import group_files, key_of
from touchline.history.outcome import ending_of
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
    "epochs go back": ((loss(1, epoch=0.5), loss(2, epoch=1.0), loss(3, epoch=0.4)), ["fresh", "restarted"]),
    "rows that come twice": ((loss(1, step=1), loss(2, step=2), loss(3, step=1), loss(4, step=3)), ["fresh"]),
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
    assert ending.exit.value.startswith("failed")


def test_memory_stays_bounded_whatever_comes() -> None:
    made = FileSegmenter("a.log")
    for number in range(20_000):
        made.feed(loss(number + 1, step=number + 1))
        made.feed(Observation(name="peak_memory", value=1.0, line=number + 1, unit="GiB", phase="step"))
    part = made.parts[-1]
    assert part.losses.count == 20_000
    assert len(part.get("peak_memory")) <= 400


def groups(folder: Path, *names: str, of: tuple[str, ...] = ()) -> list[list[str]]:
    write_files(folder, dict.fromkeys(names, "x\n"))
    asked = [folder / name for name in of] or [folder]
    return [[str(path.relative_to(folder)) for path in group.files] for group in group_files(asked)]


@parametrize(
    "one, other, same",
    ("train_21.out", "train_21.err", True),
    ("slurm-77.out", "slurm-77.err", True),
    ("job.o123", "job.e123", True),
    ("train.log", "train.err", True),
    ("run_stdout.txt", "run_stderr.txt", True),
    ("x_trainer_log.jsonl", "x_all_results.json", True),
    ("x.yaml", "x_trainer_log.jsonl", True),
    ("a.log.gz", "a.err", True),
    ("slurm-77.out", "slurm-78.out", False),
    ("a_1.log", "a_2.log", False),
    ("job.o1", "job.e2", False),
    ("a.log", "b.log", False),
)
def test_files_of_one_run_have_one_key(one: str, other: str, same: bool) -> None:
    assert (key_of(Path(one)) == key_of(Path(other))) is same


def test_streams_are_pairs_and_jobs_are_apart(tmp_path: Path) -> None:
    found = groups(tmp_path, "slurm-1.out", "slurm-1.err", "slurm-2.out", "slurm-2.err")
    assert found == [["slurm-1.err", "slurm-1.out"], ["slurm-2.err", "slurm-2.out"]]


def test_state_files_and_a_config_belong_to_the_only_log_of_a_folder(tmp_path: Path) -> None:
    found = groups(tmp_path, "slurm-1.out", "trainer_log.jsonl", "all_results.json", "llama3_lora.yaml")
    assert [sorted(e) for e in found] == [["all_results.json", "llama3_lora.yaml", "slurm-1.out", "trainer_log.jsonl"]]


def test_a_named_file_brings_its_own_run_along_and_no_other(tmp_path: Path) -> None:
    assert groups(tmp_path, *("a.out", "a.err", "b.out", "b.err"), of=("a.out",)) == [["a.err", "a.out"]]


def test_of_checkpoints_only_the_newest_state_counts(tmp_path: Path) -> None:
    found = groups(
        tmp_path,
        "run/checkpoint-9/trainer_state.json",
        "run/checkpoint-10/trainer_state.json",
        "run/adapter_config.json",
    )
    assert ["run/checkpoint-10/trainer_state.json"] in found
    assert not any("checkpoint-9/" in name for each in found for name in each)


def test_links_and_environments_are_not_walked(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    assert groups(tmp_path, "a.log", ".venv/lib/b.log", "node_modules/c.txt") == [["a.log"]]


def test_a_file_that_is_not_there_is_a_group_of_its_own(tmp_path: Path) -> None:
    assert [group.files for group in group_files([tmp_path / "gone.log"])] == [(tmp_path / "gone.log",)]


def track(times: list[float], *, first: int = 0) -> Track:
    """A bar that shows whole seconds, as bars do."""
    made = Track(label="", total=first + len(times))
    elapsed = 0.0
    made.add(first, 0.0, 1)
    for done, seconds in enumerate(times, first + 1):
        elapsed += seconds
        made.add(done, float(int(elapsed)), done)
    return made


@given(seconds=st.floats(0.05, 20), steps=st.integers(200, 3000))
def test_a_steady_pace_is_found_whatever_the_bar_rounds(seconds: float, steps: int) -> None:
    found = track([seconds] * steps).seconds_per_step()
    if seconds * steps < 400:
        return
    assert found[0] == pytest.approx(seconds, rel=0.05)


def test_the_time_of_a_step() -> None:
    times = [60.0] + [2.7] * 999
    for step in range(99, 1000, 100):
        times[step] += 33.0
    found = track(times).seconds_per_step()
    assert found[0] == pytest.approx(2.7, rel=0.03)
    # A resumed run passes over the batches that are done, at hundreds a second.
    times = [0.003] * 1600 + [4.6] * 1600
    made = track(times)
    found = made.seconds_per_step()
    assert found[0] == pytest.approx(4.6, rel=0.03)
    assert made.skipped_until() == pytest.approx(1600, abs=10)
    assert track([20.0] + [1.0] * 400).skipped_until() is None
    assert track([0.5, 0.5, 0.5]).seconds_per_step() is None
    assert track([]).seconds_per_step() is None


def test_thinning_keeps_the_ends() -> None:
    made = Track(label="", total=100_000)
    for done in range(100_001):
        made.add(done, done * 0.5, done + 1)
    assert (made.first[0], made.last[0]) == (0, 100_000)
    assert len(made.points) < 3000
    assert made.seconds_per_step()[0] == pytest.approx(0.5)


def test_bars_of_other_work_count_no_steps() -> None:
    for label, training in [
        ("", None),
        ("Epoch 1/3", True),
        ("Training", True),
        ("1|40|Loss: 10.48", True),
        ("Packing dataset", False),
        ("Map (num_proc=2)", False),
        ("Loading checkpoint shards", False),
        ("Evaluating", False),
        ("Running tokenizer on dataset (num_proc=16)", False),
        ("Saving the dataset (0/1 shards)", False),
        ("model.safetensors", False),
        ("Tokenizing train dataset", False),
        ("Drop Samples with Zero Trainable Tokens (num_proc=2)", False),
        ("Generating train split", False),
        ("Training Epoch: 2/3, step 49/50 completed (loss: 1.03)", True),
        ("SFT", True),
    ]:
        assert is_training_label(label) is training, label
