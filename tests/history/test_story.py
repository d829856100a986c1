"""Whole logs, end to end: the mistakes that cost GPU hours cannot be made with what is read here."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from touchline.core.quantity import Missing, Quantity
from touchline.history.files import LoggedRun, SkippedFile, find_runs
from touchline.history.reading import RunReading

pytestmark = pytest.mark.planning

TORCHTUNE = """\
Running LoRAFinetuneRecipeSingleDevice with resolved config:

batch_size: 1
epochs: 1
gradient_accumulation_steps: 1
model:
  _component_: torchtune.models.llama3_2.lora_llama3_2_1b
  lora_rank: 64
dataset:
  packed: true
tokenizer:
  max_seq_len: 2048

Model is initialized with precision torch.bfloat16.
Memory stats after model init:
\tGPU peak memory allocation: 2.41 GiB
\tGPU peak memory reserved: 2.42 GiB
Packing dataset: 100%|██████████| 4000/4000 [00:00<00:00, 6478.45it/s]
"""


def bar(done: int, total: int, seconds: float, label: str = "") -> str:
    percent = 100 * done // total
    clock = f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
    return f"\r{label}{percent:3d}%|{'█' * (percent // 10):<10}| {done}/{total} [{clock}<00:30,  4.34it/s]"


def rows(first: int, last: int, per_epoch: int, *, every: int = 10, start: float = 2.0) -> str:
    lines = []
    for step in range(first, last + 1, every):
        loss = start - step / 1000
        lines.append(
            f"{{'loss': {loss:.4f}, 'grad_norm': 0.5, 'learning_rate': 1e-05, 'epoch': {step / per_epoch:.4f}}}\n"
        )
    return "".join(lines)


def closing(seconds: float, loss: float, epoch: float, steps: int) -> str:
    return (
        f"{{'train_runtime': {seconds}, 'train_samples_per_second': {steps * 8 / seconds:.3f}, "
        f"'train_steps_per_second': {steps / seconds:.3f}, 'train_loss': {loss}, 'epoch': {epoch}}}\n"
    )


def read(path: Path, **files: str) -> RunReading:
    found = everything(path, **files)
    assert len(found) == 1
    return found[0]


def everything(path: Path, **files: str) -> list[RunReading]:
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return [each.reading for each in find_runs([path]) if isinstance(each, LoggedRun)]


def value(fact: object) -> float:
    assert isinstance(fact, Quantity), fact
    return fact.value


def test_memory_after_loading_is_never_the_peak_of_training(tmp_path: Path) -> None:
    """2.41 GiB are the weights; 80 ÷ 2.41 allowed a batch that ran out of memory at 78 GB."""
    reading = read(tmp_path, slurm__out=TORCHTUNE)
    assert isinstance(reading.peak_memory, Missing)
    assert "after initialisation" in reading.peak_memory.missing
    assert isinstance(reading.memory_after_init, Quantity)
    assert (reading.memory_after_init.value, reading.memory_after_init.phase) == (2.41, "after_init")


def test_packing_a_dataset_is_no_training_speed(tmp_path: Path) -> None:
    reading = read(tmp_path, slurm__out=TORCHTUNE)
    assert isinstance(reading.seconds_per_step, Missing)
    assert isinstance(reading.steps_done, Missing)
    assert reading.outcome.value == "running_or_truncated"


def test_a_trackers_summary_holds_last_values(tmp_path: Path) -> None:
    summary = (
        "wandb: \nwandb: Run summary:\nwandb:               global_step 109\nwandb:                      loss 0.50138\n"
        "wandb: tokens_per_second_per_gpu 50.20202\nwandb: \nwandb: You can sync this run to the cloud\n"
    )
    bars = "".join(bar(step, 109, step * 0.23, f"1|{step}|Loss: {1 / step}:") for step in range(1, 110))
    reading = read(tmp_path, slurm__out=TORCHTUNE + bars + "\n" + summary)
    assert isinstance(reading.tokens_per_second, Quantity)
    assert (reading.tokens_per_second.aggregation, reading.tokens_per_second.token_unit) == ("last", "label")
    assert isinstance(reading.mean_train_loss, Missing), "the last loss is no mean"
    assert value(reading.steps_done) == 109
    assert value(reading.seconds_per_step) == pytest.approx(0.23, rel=0.05)


def test_bars_on_stderr_and_rows_on_stdout_are_one_run(tmp_path: Path) -> None:
    bars = "".join(bar(step, 400, 6 + 2.5 * step) for step in range(401))
    out = rows(10, 400, 200) + closing(1010.0, 1.8, 2.0, 400)
    reading = read(tmp_path, train_7__err=bars, train_7__out=out)
    assert value(reading.steps_done) == value(reading.steps_total) == 400
    assert value(reading.seconds_per_step) == pytest.approx(2.5, rel=0.01)
    assert value(reading.last_loss) == 1.6
    assert value(reading.mean_train_loss) == 1.8
    assert reading.outcome.value == "completed"


def test_evaluations_are_in_the_time_of_a_step_and_not_in_its_pace(tmp_path: Path) -> None:
    log, clock = "", 0.0
    for step in range(1, 401):
        clock += 2.0
        log += bar(step, 400, clock)
        if step % 100 == 0:
            clock += 60.0
            log += (
                f"\n{{'eval_loss': 1.5, 'eval_runtime': 60.0, 'eval_samples_per_second': 5.0, 'epoch': {step / 200}}}\n"
            )
    reading = read(tmp_path, a__log=rows(10, 10, 200) + log + closing(clock, 1.8, 2.0, 400))
    assert value(reading.seconds_per_step_without_pauses) == pytest.approx(2.0, rel=0.02)
    assert value(reading.seconds_per_step) == pytest.approx((clock - 80) / 390, rel=0.1)
    assert value(reading.evaluate_seconds) == 240.0


def test_a_resumed_run_is_corrected(tmp_path: Path) -> None:
    """The printed mean was divided by all steps, the printed rates count the steps before the resume."""
    skip = "".join(bar(step, 1000, step / 400) for step in range(0, 501, 25))
    bars = "".join(bar(step, 1000, 2 + (step - 500) * 3.0) for step in range(501, 1001))
    log = (
        "***** Running training *****\n  Num examples = 4,000\n  Num Epochs = 2\n  Total optimization steps = 1,000\n"
        "  Continuing training from checkpoint, will skip to saved global_step\n"
        "  Continuing training from global step 500\n" + skip + bars + "\n" + rows(510, 1000, 500)
        + closing(1502.0, 0.62, 2.0, 1000)
    )  # fmt: skip
    reading = read(tmp_path, a__log=log)
    assert value(reading.mean_train_loss) == pytest.approx(1.24, rel=0.01)
    assert value(reading.examples_per_second) == pytest.approx(1000 * 8 / 1502 / 2, rel=0.01)
    assert value(reading.seconds_per_step) == pytest.approx(3.0, rel=0.02)
    assert reading.segment_list[-1].first_step == 500
    assert any("divided by all steps" in note for note in reading.notes)


def test_attempts_in_one_file_are_segments_and_the_last_counts(tmp_path: Path) -> None:
    first = (
        rows(10, 120, 100)
        + "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-02T03:04:05 DUE TO PREEMPTION ***\n"
    )
    second = rows(10, 200, 100) + closing(500.0, 1.9, 2.0, 200)
    reading = read(tmp_path, slurm_7__out=first + second)
    assert value(reading.segments) == 2
    assert [segment.outcome.value for segment in reading.segment_list] == ["preempted", "completed"]
    assert reading.outcome.value == "completed"
    assert value(reading.last_loss) == 1.8


def test_two_whole_trainings_in_one_file_are_two_runs(tmp_path: Path) -> None:
    one = rows(10, 100, 100) + closing(100.0, 1.95, 1.0, 100)
    two = rows(10, 200, 100, start=3.0) + closing(300.0, 2.9, 2.0, 200)
    readings = everything(tmp_path, sweep__log=one + two)
    assert [value(reading.mean_train_loss) for reading in readings] == [1.95, 2.9]


def test_complete_training_with_a_failed_exit_is_complete(tmp_path: Path) -> None:
    log = (
        rows(10, 100, 100)
        + closing(100.0, 1.95, 1.0, 100)
        + "mv: 'epoch_0/a.pt' and 'epoch_0/a.pt' are the same file\n"
    )
    reading = read(tmp_path, slurm_8__out=log)
    assert reading.outcome.value == "completed"
    assert reading.exit.value.startswith("failed")  # type: ignore[union-attr]


def test_gpu_memory_and_host_memory_are_never_confused(tmp_path: Path) -> None:
    gpu = (
        rows(10, 50, 100) + "Traceback (most recent call last):\n"
        '  File "train.py", line 9, in <module>\n    trainer.train()\n'
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 21.95 "
        "GiB of which 730.12 MiB is free.\n"
    )
    host = rows(10, 50, 100) + (
        "slurmstepd: error: Detected 1 oom_kill event in StepId=9.batch. Some of the step tasks have been OOM Killed.\n"
    )
    readings = everything(tmp_path, gpu__log=gpu, host__log=host)
    assert [reading.outcome.value for reading in readings] == ["gpu_oom", "host_oom"]
    assert readings[0].proofs[0].where.startswith("gpu.log:")


def test_a_log_that_is_being_written_gives_what_is_there(tmp_path: Path) -> None:
    reading = read(tmp_path, a__log=rows(10, 100, 100) + "{'loss': 1.23, 'grad_no")
    assert value(reading.last_loss) == 1.9
    assert reading.outcome.value == "running_or_truncated"


def test_ranks_that_print_the_same_are_one_run(tmp_path: Path) -> None:
    lines = [*rows(10, 100, 100).splitlines(keepends=True), closing(100.0, 1.95, 1.0, 100)]
    log = "".join(f"{rank}: {line}" for line in lines for rank in range(4))
    reading = read(tmp_path, a__log=log)
    assert value(reading.segments) == 1
    assert value(reading.last_loss) == 1.9
    assert reading.outcome.value == "completed"


def test_a_story_in_a_log_is_no_fact(tmp_path: Path) -> None:
    story = (
        "Once the training was complete, the loss: a whole river, step 5 of 10. 'loss' is 3, said 100% | 7/8 of them.\n"
    )
    found = list(find_runs([_written(tmp_path / "a.log", story * 50)]))
    assert all(isinstance(each, SkippedFile) for each in found)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.log", b""),
        ("binary.log", bytes(range(256)) * 64),
        ("cut.log.gz", gzip.compress(b"{'loss': 1.0, 'learning_rate': 1e-5, 'epoch': 0.1}\n" * 5000, mtime=0)[:40]),
        ("line.log", b"x" * (3 << 20)),
        ("latin.log", "Époque 1/3 terminée, déjà\n".encode("latin-1") * 20),
        ("escapes.log", b"\x1b[31mred\x1b[0m \x1b]0;title\x07\n" * 20),
        ("broken.json", b'{"log_history": ['),
        ("deep.json", b"[" * 100_000),
        ("bomb.yaml", b"a: &a [x, x]\nb: [" + b"*a, " * 20_000 + b"]\n"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_bad_files_are_refused_with_a_reason(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    found = list(find_runs([tmp_path / name]))
    assert len(found) == 1
    assert isinstance(found[0], SkippedFile)
    assert found[0].reason


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
