"""What readers took for something else once: early stops, buffered rows, opening bars, dumps, odd fields."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.history.test_story import bar, closing, everything, read, rows, value

from touchline.core.quantity import Missing, Quantity
from touchline.history.files import LoggedRun, find_runs
from touchline.history.reading import RunReading, SourcedText

pytestmark = pytest.mark.planning

BANNER = """***** Running training *****
  Num examples = {examples}
  Num Epochs = {epochs}
  Instantaneous batch size per device = 4
  Total train batch size (w. parallel, distributed & accumulation) = 16
  Gradient Accumulation steps = 4
  Total optimization steps = {steps}
"""
CRASH = """Traceback (most recent call last):
  File "/home/u/sft.py", line 90, in <module>
    trainer.train()
  File "/venv/site-packages/transformers/trainer.py", line 2245, in train
    return inner_training_loop(
  File "/venv/site-packages/transformers/trainer.py", line 2560, in _inner_training_loop
    tr_loss_step = self.training_step(model, inputs, num_items_in_batch)
{last}
"""
CAUGHT = """2026-01-05 10:00:00 ERROR attempt failed
Traceback (most recent call last):
  File "/home/u/run.py", line 40, in attempt
    train(config)
  File "/home/u/run.py", line 22, in train
    loss.backward()
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.65 GiB
"""


def steps(reading: RunReading) -> tuple[float | None, float | None]:
    """Steps done and planned."""
    done, total = reading.steps_done, reading.steps_total
    return (done.value if isinstance(done, Quantity) else None), (total.value if isinstance(total, Quantity) else None)


def outcome(reading: RunReading) -> str:
    return reading.outcome.value


def log(tmp_path: Path, text: str) -> RunReading:
    """The one run of a text."""
    return read(tmp_path, run__log=text)


# -------------------------------------------------------------------------------------------------------- early stops


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A bar that stops, a closing row in the middle of the epochs.
        (
            BANNER.format(examples=1600, epochs=10, steps=1000)
            + "".join(bar(step, 1000, step) + "\n" for step in range(0, 401, 10))
            + rows(10, 400, 100)
            + closing(410.0, 1.7, 4.0, 400),
            (400, 1000),
        ),
        # No bar at all: the epoch of the closing row alone tells it.
        (
            BANNER.format(examples=1600, epochs=10, steps=1000) + rows(10, 300, 100) + closing(300.0, 1.7, 3.0, 300),
            (300, 1000),
        ),
        # `max_steps` ends a training within an epoch: that is the plan.
        (
            BANNER.format(examples=1600, epochs=2, steps=150) + rows(10, 150, 100) + closing(150.0, 1.7, 1.5, 150),
            (150, 150),
        ),
        # A loop that stops itself.
        (
            "".join(f"step {step}/5000 | loss {3 - step / 5000:.4f} | lr 1e-4\n" for step in range(100, 2101, 100))
            + "Early stopping triggered at step 2100\nTraining complete.\n",
            (2100, 5000),
        ),
        # The same loop to its end, whose last interval was not logged.
        (
            "".join(f"step {step}/5000 | loss {3 - step / 5000:.4f} | lr 1e-4\n" for step in range(0, 5000, 100))
            + "Training complete.\n",
            (5000, 5000),
        ),
    ],
)
def test_an_early_stop_is_not_the_whole_plan(tmp_path: Path, text: str, expected: tuple[float, float]) -> None:
    reading = log(tmp_path, text)
    assert steps(reading) == expected
    assert outcome(reading) == "completed"


def test_rates_and_epochs_of_a_training_that_was_stopped(tmp_path: Path) -> None:
    bars = "".join(bar(step, 5000, step) + "\n" for step in range(0, 501, 10))
    last = "{'train_runtime': 500.0, 'train_samples_per_second': 80.0, 'train_steps_per_second': 10.0, "
    reading = log(tmp_path, bars + rows(10, 500, 500) + last + "'train_loss': 1.7, 'epoch': 1.0}\n")
    assert steps(reading) == (500, 5000)
    assert isinstance(reading.epochs, Missing), "the closing row's epoch is not the planned one"
    assert value(reading.examples_per_second) == 8.0, "the Trainer divides all planned examples by the runtime"


def test_an_early_stop_whose_bars_and_rows_are_two_files(tmp_path: Path) -> None:
    bars = "".join(bar(step, 5000, step) for step in range(0, 501, 10))
    out = rows(10, 500, 500) + closing(510.0, 1.7, 1.0, 500)
    assert steps(read(tmp_path, train_7__err=bars, train_7__out=out)) == (500, 5000)


def test_epochs_that_were_not_needed_leave_the_training_complete(tmp_path: Path) -> None:
    text = "".join(f"[Epoch {n}/50]\nTrain Loss: {2 / n:.4f}\nVal Loss: {3 / n:.4f}\n" for n in range(1, 25))
    reading = log(tmp_path, text + "Early stopping triggered.\nTest Loss: 0.4872, Test Accuracy: 0.8253\n")
    assert outcome(reading) == "completed"
    assert value(reading.epochs) == 50


STOPS = (
    "Early stopping triggered.",
    "Early stopping triggered after 3 epochs without improvement",
    "[pretrain] early stop after 3 epochs (no improvement for 2)",
    "Epoch 00003: early stopping",
    "early stop since valid performance hasn't improved for last 5 runs",
    "Monitored metric val_loss did not improve in the last 3 records. Best score: 0.512. Signaling Trainer to stop.",
    "No improvement for 3 epochs, stopping.",
    "Training stopped early at epoch 3",
    "Stopping early: validation loss rises",
)


def test_every_way_to_say_that_a_training_stopped_itself(tmp_path: Path) -> None:
    for index, words in enumerate(STOPS):
        folder = tmp_path / str(index)
        folder.mkdir()
        text = "".join(f"Epoch {n}/9 | loss: {2 / n:.4f}\n" for n in range(1, 4))
        assert outcome(log(folder, f"{text}{words}\n")) == "completed", words


def test_words_about_early_stopping_end_nothing(tmp_path: Path) -> None:
    words = "Early stopping patience: 3\nUsing early stopping with patience 3\nEarlyStopping counter: 1 out of 3\n"
    words += "early_stopping: true\nearly_stopping_patience=3\nPatience: 3\nNo improvement for 2 epochs\n"
    text = words + "".join(f"Epoch {n}/9 | loss: {2 / n:.4f}\n{words}" for n in range(1, 4))
    assert outcome(log(tmp_path, text)) == "running_or_truncated"


# --------------------------------------------------------------------------------------- rows behind a traceback


def test_rows_that_standard_output_held_back_do_not_undo_a_crash(tmp_path: Path) -> None:
    bars = "".join(bar(step, 500, 2 * step) + "\n" for step in range(0, 261, 10))
    for index, behind in enumerate((rows(260, 260, 500), rows(10, 260, 500), rows(10, 2600, 5000))):
        folder = tmp_path / str(index)
        folder.mkdir()
        reading = log(folder, bars + CRASH.format(last="ValueError: no row 7") + behind)
        assert outcome(reading) == "crash_mid", index
        assert isinstance(reading.exit, SourcedText)
        assert "no row 7" in reading.exit.value
        assert steps(reading)[0] == 260


def test_a_closing_row_behind_the_traceback_of_an_evaluation(tmp_path: Path) -> None:
    crash = CRASH.format(last="ValueError: operands do not fit").replace("in train\n", "in evaluate\n")
    crash = crash.replace("in _inner_training_loop", "in evaluation_loop")
    bars = "".join(bar(step, 100, 2 * step) + "\n" for step in range(0, 101, 10))
    reading = log(tmp_path, bars + crash + rows(10, 100, 50) + closing(200.0, 1.9, 2.0, 100))
    assert outcome(reading) == "crash_eval"
    assert steps(reading) == (100, 100)


def test_a_bar_that_goes_on_shows_that_a_fault_was_survived(tmp_path: Path) -> None:
    first = "".join(bar(step, 100, 2 * step) + "\n" for step in range(0, 51, 10))
    second = "".join(bar(step, 100, 2 * step) + "\n" for step in range(60, 101, 10))
    reading = log(tmp_path, first + CRASH.format(last="OSError: tracker") + second + closing(200.0, 1.9, 2.0, 100))
    assert outcome(reading) == "completed"


def test_a_caught_fault_with_rows_behind_it_was_survived(tmp_path: Path) -> None:
    text = "step 10/50 | loss 2.5\n" + CAUGHT + "step 20/50 | loss 2.4\nstep 30/50 | loss 2.2\n"
    reading = log(tmp_path, text)
    assert outcome(reading) == "running_or_truncated"
    assert steps(reading)[0] == 30


# ------------------------------------------------------------------------------- what stands before the first step


@pytest.mark.parametrize(
    "opening",
    [
        "[2026-01-01 10:00:00,000] [INFO] [logging.py:96:log_dist] [Rank 0] step=0, skipped=0, lr=[0.0], mom=[0.9]\n",
        "  0%|          | 0/1 [00:00<?, ?it/s]\n",
        "  0%|          | 0/60 [00:00<?, ?it/s]\n",
    ],
)
def test_what_opens_a_training_does_not_beat_its_closing_row(tmp_path: Path, opening: str) -> None:
    reading = log(tmp_path, opening + rows(10, 60, 30) + closing(120.0, 1.9, 2.0, 60))
    assert steps(reading)[0] != 0
    assert steps(reading)[1] in (60, None)
    assert outcome(reading) == "completed"


def test_bars_of_evaluations_and_predictions_are_never_training(tmp_path: Path) -> None:
    words = {
        "evaluation": "***** Running Evaluation *****\n  Num examples = 400\n  Batch size = 8\n",
        "prediction": "***** Running Prediction *****\n  Num examples = 400\n  Batch size = 8\n",
    }
    for name, header in words.items():
        folder = tmp_path / name
        folder.mkdir()
        bars = "".join(bar(step, 50, 3 * step) + "\n" for step in range(0, 51, 5))
        reading = log(folder, header + bars + "{'eval_loss': 1.5, 'eval_runtime': 150.0, 'epoch': 1.0}\n")
        assert steps(reading) == (None, None), name
        assert isinstance(reading.seconds_per_step, Missing), name
    for label in ("Evaluating", "Predicting", "Generating answers", "Validation DataLoader 0", "Scoring", "Testing"):
        folder = tmp_path / label.replace(" ", "")
        folder.mkdir()
        bars = "".join(bar(step, 50, 3 * step, f"{label}: ") + "\n" for step in range(0, 51, 5))
        assert all(steps(each) == (None, None) for each in everything(folder, run__log=bars)), label


# ------------------------------------------------------------------------------------------------------------- dumps


def test_what_is_guessed_is_marked(tmp_path: Path) -> None:
    reading = log(tmp_path, "Batch size: 8\nEpochs: 3\nEpoch 1/3 | loss: 2.5 | lr 1e-4\n")
    for said in (reading.micro_batch_size, reading.epochs, reading.last_loss):
        assert isinstance(said, Quantity)
        assert "guess" in (said.method or "")


def test_what_is_printed_behind_a_bar_counts(tmp_path: Path) -> None:
    lines = [
        bar(292 * n, 876, 150 * n).lstrip()
        + f"01/05/2026 10:0{n}:40 - INFO - __main__ - epoch {n}: eval_loss: {4 - n}.5"
        for n in range(1, 4)
    ]
    banner = BANNER.format(examples=2336, epochs=3, steps=876)
    assert value(log(tmp_path, banner + "\n".join(lines) + "\n").eval_loss) == 1.5


def test_settings_in_columns_do_not_begin_an_epoch(tmp_path: Path) -> None:
    text = "per_device_train_batch_size   4\ngradient_accumulation_steps   8\nnum_train_epochs              3\n"
    reading = log(tmp_path, text + "".join(f"Step {n}/312 - loss: 1.7 - 3.2s/step - 1300 tok/s\n" for n in (10, 20)))
    assert steps(reading) == (20, 312)
    assert value(reading.seconds_per_step) == 3.2
    assert value(reading.tokens_per_second) == 1300


def test_a_programs_text_in_a_log_is_no_configuration(tmp_path: Path) -> None:
    source = (
        "import torch\nclass Config:\n    batch_size = 4\n    lr = 0.1\ndef main():\n    epochs = 3\n    lora_r = 8\n"
    )
    raised = '        raise RuntimeError(f"non-finite train loss at step {step}: {loss}")\n'
    reading = log(tmp_path, source + raised + "Step 10/20 - loss: 3.5 - 1.0s/step\n")
    assert isinstance(reading.micro_batch_size, Missing)
    assert isinstance(reading.learning_rate, Missing)
    assert isinstance(reading.lora_rank, Missing)
    assert outcome(reading) == "running_or_truncated"


# ------------------------------------------------------------------------------------------------------------ fields


@pytest.mark.parametrize(
    "row",
    [
        "step {step}/400 | loss {loss:.4f} | 2026-03-29 01:01:{second:02d}",
        "step {step}/400, loss {loss:.4f}, eta 3 days, 2:11:{second:02d}",
        "iter {step}/400 rl_loss: {loss:.4f} kl: 0.01",
        "[step {step}/400] loss={loss:.4f} widgets=3 zig-zags",
        "step {step}/400\tloss {loss:.4f}\tthroughput 12.5 kfoo/s\tnode n01",
        "step {step}/400 | train loss {loss:.4f} | held-out loss 3.5 | {second}s elapsed so far",
    ],
)
def test_an_unknown_field_drops_no_row(tmp_path: Path, row: str) -> None:
    text = "".join(row.format(step=10 * n, loss=3 - n / 100, second=n) + "\n" for n in range(1, 31))
    reading = log(tmp_path, text)
    assert value(reading.last_loss) == 2.7
    assert steps(reading) == (300, 400)


def test_iterations_of_an_epoch_in_parentheses_are_counted(tmp_path: Path) -> None:
    text = "".join(
        f"Epoch:[{epoch}/2]({step}/500), loss: {4 - epoch - step / 500:.4f}, lr: 0.00005, epoch_time: 3.0min\n"
        for epoch in (1, 2)
        for step in range(100, 501, 100)
    )
    reading = log(tmp_path, text)
    assert steps(reading) == (1000, 1000)
    assert value(reading.last_loss) == 1.0
    assert outcome(reading) == "completed"


@pytest.mark.parametrize(
    ("line", "peak", "unit", "kind"),
    [
        ("Peak GPU memory usage: 29.84 GB", 29.84, "GB", "allocated"),
        ("peak memory allocated: 10184 MiB", 10184 / 1024, "GiB", "allocated"),
        ("peak memory allocated: 10184 MiB reserved: 10200 MiB", 10184 / 1024, "GiB", "allocated"),
        ("Peak memory usage was 13.7 GB", 13.7, "GB", "allocated"),
        ("Peak mem: 21.5GB | reserved: 23.0GB", 21.5, "GB", "allocated"),
        ("Max GPU memory reserved during training: 17.2 GiB", 17.2, "GiB", "reserved"),
        ("max_memory_allocated = 21.5 GB", 21.5, "GB", "allocated"),
    ],
)
def test_peaks_in_plain_words(tmp_path: Path, line: str, peak: float, unit: str, kind: str) -> None:
    reading = log(tmp_path, f"step 10/20 | loss 2.5\nstep 20/20 | loss 2.4\n{line}\n")
    assert isinstance(reading.peak_memory, Quantity)
    assert reading.peak_memory.value == pytest.approx(peak)
    assert (reading.peak_memory.unit, reading.peak_memory.kind) == (unit, kind)


@pytest.mark.parametrize(
    "line",
    [
        "Peak CPU memory: 30 GB",
        "max memory per node: 64 GB",
        "RSS peak 3 GB",
    ],
)
def test_peaks_of_something_else_are_none(tmp_path: Path, line: str) -> None:
    reading = log(tmp_path, f"step 10/20 | loss 2.5\nstep 20/20 | loss 2.4\n{line}\n")
    assert isinstance(reading.peak_memory, Missing)


def test_a_bar_without_a_forecast_has_counts_and_a_clock(tmp_path: Path) -> None:
    text = "".join(
        f"Training: 50%|█████     | {n}/1617 [{n // 60:02d}:{n % 60:02d}, 1.00it/s]\n" for n in range(0, 1500, 7)
    )
    reading = log(tmp_path, text + "loss: 2.5\n")
    assert value(reading.seconds_per_step) == pytest.approx(1.0, rel=0.02)


# ------------------------------------------------------------------------------------------- trainers of laboratories


def test_lightnings_table_of_metrics(tmp_path: Path) -> None:
    folder = tmp_path / "lightning_logs" / "version_0"
    folder.mkdir(parents=True)
    lines = ["epoch,step,train_loss_step,val_loss,train_loss_epoch"]
    for step in range(49, 500, 50):
        lines.append(f"{step // 250},{step},{3 - step / 500},,")
        if step % 250 == 249:
            lines.append(f"{step // 250},{step},,{3.5 - step / 500},")
            lines.append(f"{step // 250},{step},,,2.9")
    (folder / "metrics.csv").write_text("\n".join(lines))
    [reading] = everything(tmp_path)
    assert steps(reading)[0] == 500
    assert value(reading.last_loss) == pytest.approx(3 - 499 / 500)
    assert value(reading.eval_loss) == pytest.approx(3.5 - 499 / 500)


def test_a_log_that_is_a_table(tmp_path: Path) -> None:
    for index, mark in enumerate(",\t"):
        folder = tmp_path / str(index)
        folder.mkdir()
        text = f"step{mark}loss\n" + "".join(f"{n}{mark}{3 - n / 1000}\n" for n in range(10, 501, 10))
        reading = log(folder, text)
        assert steps(reading)[0] == 500
        assert value(reading.last_loss) == 2.5


# ------------------------------------------------------------------------------------- several jobs and processes


def trainer_log(step: int, total: int, loss: float, seconds: int) -> str:
    clock = f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
    return (
        f'{{"current_steps": {step}, "total_steps": {total}, "loss": {loss:.4f}, "lr": 0.0001, '
        f'"epoch": {3 * step / total:.4f}, "percentage": 1.0, "elapsed_time": "{clock}"}}\n'
    )


@pytest.mark.parametrize(
    ("totals", "shift", "count"), [((900, 900), 30, 40), ((900, 1200), 50, 57), ((900, 900), 7, 300)]
)
def test_two_trainings_that_write_one_trainer_log(
    tmp_path: Path, totals: tuple[int, int], shift: int, count: int
) -> None:
    total_a, total_b = (each * 10 for each in totals)
    lines = []
    for n in range(1, count + 1):
        lines.append(trainer_log(10 * n, total_a, 3 - n / 1000, 20 * n))
        if n > shift:
            lines.append(trainer_log(10 * (n - shift), total_b, 5 - n / 1000, 20 * (n - shift)))
    found = everything(tmp_path, trainer_log__jsonl="".join(lines))
    assert len(found) == 2
    assert [each.segments.value for each in found] == [1, 1]
    assert sorted(steps(each)[0] or 0 for each in found) == [10 * (count - shift), 10 * count]
    assert sorted(value(each.last_loss) for each in found) == pytest.approx([3 - count / 1000, 5 - count / 1000])


def test_two_loops_that_print_into_one_file(tmp_path: Path) -> None:
    lines = []
    for n in range(1, 41):
        lines.append(f"step {10 * n}/900 | loss {3 - n / 100:.4f} | lr 1e-4\n")
        if n > 20:
            lines.append(f"step {10 * (n - 20)}/900 | loss {5 - n / 100:.4f} | lr 1e-4\n")
    found = everything(tmp_path, run__log="".join(lines))
    assert len(found) == 2
    assert sorted(steps(each)[0] or 0 for each in found) == [200, 400]


def test_attempts_one_after_the_other_stay_attempts(tmp_path: Path) -> None:
    first = "".join(f"step {n}/900 | loss {3 - n / 1000:.4f}\n" for n in range(10, 301, 10))
    second = "".join(f"step {n}/900 | loss {3 - n / 1000:.4f}\n" for n in range(205, 901, 10))
    [reading] = everything(tmp_path, run__log=first + "Killed\n" + second)
    assert reading.segments.value == 2
    assert steps(reading)[0] == 895


OOM_KILLED = (
    "slurmstepd: error: Detected 1 oom_kill event in StepId={job}.batch. Some of the step tasks have been OOM Killed.\n"
)


def test_two_jobs_that_were_killed_for_memory_in_one_file(tmp_path: Path) -> None:
    job = "Loading checkpoint shards:   0%|          | 0/4 [00:00<?, ?it/s]\nLoading model plover/Reed-7B\n"
    reading = log(tmp_path, job + OOM_KILLED.format(job=411) + job + OOM_KILLED.format(job=412))
    assert reading.segments.value == 2
    assert [each.outcome.value for each in reading.segment_list] == ["host_oom", "host_oom"]
    assert outcome(reading) == "host_oom"


def test_two_lines_of_one_jobs_end_are_one_end(tmp_path: Path) -> None:
    text = "step 10/50 | loss 2.5\n" + OOM_KILLED.format(job=411) * 2 + "srun: error: n01: task 0: Out Of Memory\n"
    reading = log(tmp_path, text)
    assert reading.segments.value == 1
    assert outcome(reading) == "host_oom"


def test_a_job_behind_one_that_its_time_limit_ended(tmp_path: Path) -> None:
    first = "".join(f"step {n}/900 | loss {3 - n / 1000:.4f}\n" for n in range(10, 301, 10))
    end = "slurmstepd: error: *** JOB 411 ON n01 CANCELLED AT 2026-01-05T10:00:00 DUE TO TIME LIMIT ***\n"
    second = "".join(f"step {n}/900 | loss {3 - n / 1000:.4f}\n" for n in range(10, 901, 10))
    reading = log(tmp_path, first + end + second + "Training complete\n")
    assert [each.outcome.value for each in reading.segment_list] == ["timeout", "completed"]


def test_attempts_within_one_process_after_caught_faults(tmp_path: Path) -> None:
    begin = BANNER.format(examples=1600, epochs=1, steps=100)
    reading = log(
        tmp_path, begin + CAUGHT + begin + CAUGHT + begin + rows(10, 100, 100) + closing(100.0, 1.8, 1.0, 100)
    )
    assert [each.outcome.value for each in reading.segment_list] == ["gpu_oom", "gpu_oom", "completed"]
    assert outcome(reading) == "completed"


def test_a_caught_fault_and_the_same_first_step_again(tmp_path: Path) -> None:
    text = "step 10/100 | loss 2.5\n" + CAUGHT + "".join(f"step {n}/200 | loss 2.5\n" for n in range(10, 201, 10))
    reading = log(tmp_path, text)
    assert [each.outcome.value for each in reading.segment_list] == ["gpu_oom", "completed"]


def test_a_closing_summary_is_no_second_run(tmp_path: Path) -> None:
    text = "".join(f"Epoch {n}/5 | step {100 * n} | loss: {3 / n:.4f}\n" for n in range(1, 6))
    for index, summary in enumerate(
        ("Best: epoch 3, loss: 1.0000\n", "epoch 2 | step 200 | loss: 1.5000\n", "Epoch 1 loss: 3.0000\n")
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        found = everything(folder, run__log=text + "Training complete\n" + summary)
        assert len(found) == 1, summary
        assert found[0].segments.value == 1
        assert value(found[0].last_loss) == 0.6


def test_a_second_run_behind_the_first_is_one(tmp_path: Path) -> None:
    one = "".join(f"Epoch {n}/5 | loss: {3 / n:.4f}\n" for n in range(1, 6)) + "Training complete\n"
    assert len(everything(tmp_path, run__log=one + one)) == 2


# ----------------------------------------------------------------------------------------------------------- causes


def test_a_warning_that_names_an_exception_ends_nothing(tmp_path: Path) -> None:
    text = "WARNING 06-25 16:32:09 [import_utils.py:408] ImportError: libnvrtc.so.13: cannot open shared object file\n"
    assert outcome(log(tmp_path, "step 10/50 | loss 2.5\n" + text)) == "running_or_truncated"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            CRASH.format(last="KeyError: 'labels'")
            + 'Traceback (most recent call last):\n  File "w.py", line 3, in <module>\n    send()\n'
            + "BrokenPipeError: [Errno 32] Broken pipe\n",
            "KeyError",
        ),
        (
            "ERROR could not reach the tracker, going on\nmv: cannot stat 'a.txt': No such file or directory\n"
            + CRASH.format(last="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."),
            "OutOfMemoryError",
        ),
        (
            CRASH.format(last="RuntimeError: mat1 and mat2 shapes cannot be multiplied")
            + "[rank1]: torch.distributed.DistBackendError: NCCL error in: x.cpp:77, remote process exited\n",
            "mat1 and mat2",
        ),
    ],
)
def test_the_exit_names_the_cause(tmp_path: Path, text: str, cause: str) -> None:
    reading = log(tmp_path, "step 10/50 | loss 2.5\n" + text)
    assert isinstance(reading.exit, SourcedText)
    assert cause in reading.exit.value, reading.exit


def test_a_full_disk_is_the_cause_of_what_it_raises_after_the_training(tmp_path: Path) -> None:
    crash = CRASH.format(
        last='SafetensorError: IoError(Os { code: 122, message: "Disk quota exceeded (os error 122)" })'
    )
    crash = crash.replace("in train\n", "in save_pretrained\n").replace("in _inner_training_loop", "in save_file")
    bars = "".join(bar(step, 100, 2 * step) + "\n" for step in range(0, 101, 10))
    assert outcome(log(tmp_path, bars + rows(10, 100, 50) + crash)) == "disk_quota"


# -------------------------------------------------------------------------------------------------- counts and ends


def test_an_epochs_summary_behind_its_steps_shifts_nothing(tmp_path: Path) -> None:
    text = "".join(
        "".join(f"Step {n}/200 loss: {4 - epoch - n / 200:.4f}\n" for n in range(50, 201, 50))
        + f"Epoch {epoch}/3 average loss: {4 - epoch:.4f}\n"
        for epoch in (1, 2, 3)
    )
    reading = log(tmp_path, text)
    assert reading.segments.value == 1
    assert steps(reading) == (600, 600)
    assert value(reading.epochs) == 3
    assert outcome(reading) == "completed"


@pytest.mark.parametrize(
    ("last", "loss"),
    [
        ("step 300/300 | loss 2.7000", 2.7),
        ("step 300/300 | loss 2.7", 2.71),
        ("step 300/300 | loss 2.7000 | lr 0.0001", 2.7),
        ("{'loss': 2.7, 'learning_rate': 0.0, 'epoch': 3.0}", 2.7),
    ],
)
def test_a_last_line_without_its_end_counts_when_it_is_whole(tmp_path: Path, last: str, loss: float) -> None:
    tail = " | lr 0.0001" if "lr 0" in last else ""
    if last.startswith("{"):
        text = "".join(f"{{'loss': {3 - n / 100}, 'learning_rate': 0.1, 'epoch': {n / 10}}}\n" for n in range(1, 30))
    else:
        text = "".join(f"step {10 * n}/300 | loss {3 - n / 100:.4f}{tail}\n" for n in range(1, 30))
    assert value(log(tmp_path, text + last).last_loss) == loss


# ---------------------------------------------------------------------------------------------------- hostile text


def test_no_table_however_broken_stops_a_reader(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    for text in (
        "",
        "epoch,loss,step",
        "epoch,loss,step\n0,nan,49\n0,inf,99\n",
        "epoch,loss,step\n0\n,,\n\0,\0,\0\n1e999,1e999,1e999\n",
        'epoch,loss,"step\n0,2.5,49\n',
        "step,step,step\n1,2,3\n",
        "loss," * 5000 + "\n1\n",
        "epoch,loss\n" + "9" * 400 + ",2.5\n",
        '"' + "a" * 200_000,
    ):
        file.write_text(text)
        (found,) = find_runs([file])
        if isinstance(found, LoggedRun):
            assert isinstance(found.reading.last_loss, Missing), text
            assert steps(found.reading) == (100, None), text
        else:
            assert found.reason in ("an empty file", "no line of a training in it"), text


# ---------------------------------------------------------------------------------- counters, blocks and copies of rows

LED = "\n".join(f"[{step:5d}/500] loss: {2 - step / 500:.4f}" for step in range(50, 500, 50))


def test_a_fraction_before_a_loss_counts_steps_where_it_goes_on_like_steps(tmp_path: Path) -> None:
    reading = log(tmp_path, LED + "\n")
    assert steps(reading) == (450.0, 500.0)
    assert outcome(reading) == "running_or_truncated"
    assert isinstance(reading.steps_done, Quantity)
    assert "guess" in (reading.steps_done.method or "")


def test_a_fraction_before_a_loss_that_begins_again_is_one_of_an_epoch(tmp_path: Path) -> None:
    again = "[500/500] loss: 1.0\n[100/500] loss: 0.9\n[300/500] loss: 0.8\n"
    assert steps(log(tmp_path, f"{LED}\n{again}")) == (800.0, None)


def test_a_fraction_before_a_loss_that_may_count_something_else_gives_no_steps(tmp_path: Path) -> None:
    epochs = "".join(f"[{at}/10] loss: {2 - at / 10:.2f}\n" for at in range(1, 8))
    examples = "".join(f"[{at}/60000] loss: {2 - at / 60000:.3f}\n" for at in range(0, 60000, 6400))
    held_out = "".join(f"[{at}/500] val loss: 0.5\n" for at in range(100, 500, 100))
    for number, (text, at) in enumerate(((epochs, None), (examples, None), ("Step 5 | loss: 0.9\n" + held_out, 5.0))):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert steps(log(folder, text)) == (at, None), text


EXAMPLES = """Epoch {epoch}
-------------------------------
loss: 2.{epoch}03494  [   64/60000]
loss: 2.{epoch}94637  [ 6464/60000]
loss: 1.{epoch}01000  [57664/60000]
Test Error:
 Accuracy: 44.7%, Avg loss: 1.7{epoch}1022

"""


def test_a_counter_of_examples_is_none_of_steps_and_the_loss_of_a_test_none_of_the_training(tmp_path: Path) -> None:
    reading = log(tmp_path, EXAMPLES.format(epoch=1) + EXAMPLES.format(epoch=2) + "Done!\n")
    assert steps(reading) == (None, None)
    assert value(reading.last_loss) == 1.201
    assert value(reading.eval_loss) == 1.721022


@pytest.mark.parametrize("header", ["Evaluation Results:", "📊 Validation results", "Test set metrics:", "Eval:"])
def test_a_block_of_an_evaluation_is_none_of_the_training(tmp_path: Path, header: str) -> None:
    rows_of_steps = "".join(f"INFO:__main__:Epoch 1 | Step {at}/40 | Loss: 0.{90 - at}\n" for at in range(10, 41, 10))
    reading = log(tmp_path, f"{rows_of_steps}INFO:__main__:{header}\nINFO:__main__:   Loss: 0.4887\n")
    assert value(reading.last_loss) == 0.5
    assert value(reading.eval_loss) == 0.4887
    assert steps(reading)[0] == 40


def test_the_mean_of_an_epoch_is_not_its_last_loss(tmp_path: Path) -> None:
    text = "".join(f"Epoch 3 - Batch loss: 0.{at}\n" for at in (61, 52, 43)) + "Epoch 3 - Average Train Loss: 0.55\n"
    assert value(log(tmp_path, text).last_loss) == 0.43
    only = "".join(f"Epoch {at} - Average Train Loss: 0.{70 - at}\n" for at in (1, 2, 3))
    assert value(log(tmp_path, only).last_loss) == 0.67


def test_a_history_at_the_end_of_a_log_of_rows_is_no_second_run(tmp_path: Path) -> None:
    keys = '"grad_norm": 1.0, "learning_rate": 0.0001, "epoch"'
    logged = [
        f'{{"loss": {2 - at / 100}, {keys}: {at / 40}, "global_step/max_steps": "{at}/40", "memory(GiB)": 9.5}}'
        for at in range(10, 41, 10)
    ]
    closing_row = (
        '{"train_runtime": 80.0, "train_samples_per_second": 2.0, "train_steps_per_second": 0.5, "train_loss": 1.8, '
        '"epoch": 1.0, "global_step/max_steps": "40/40"}'
    )
    history = ", ".join(f'{{"loss": {2 - at / 100}, {keys}: {at / 40}, "step": {at}}}' for at in range(10, 41, 10))
    end = f'"log_history": [{history}], "memory": 9.5'
    last = f'{{"last_model_checkpoint": "out/checkpoint-40", "global_step": 40, {end}}}'
    path = tmp_path / "logging.jsonl"
    path.write_text("\n".join([*logged, closing_row, last]) + "\n")
    found = [each for each in find_runs([path]) if isinstance(each, LoggedRun)]
    assert len(found) == 1
    assert value(found[0].reading.last_loss) == 1.6
    assert steps(found[0].reading) == (40, 40)


def test_an_evaluation_alone_is_no_run(tmp_path: Path) -> None:
    path = tmp_path / "eval.log"
    path.write_text("Loading model\n[4/4] Running evaluation...\n  [100/500] Accuracy so far: 0.85\nAccuracy: 0.8508\n")
    assert not [each for each in find_runs([path]) if isinstance(each, LoggedRun)]


def test_a_launcher_whose_processes_end_well_has_completed(tmp_path: Path) -> None:
    bars = "".join(
        f"Train step of epoch {epoch}: 100%|██████████| 17/17 [00:32<00:00,  1.9s/it, "
        f"gpt_loss=0.{9 - epoch}, lr=5e-6]\n"
        for epoch in range(2)
    )
    well = "[2026-01-05 10:00:00,123] [INFO] [launch.py:367:main] Process 1234 exits successfully.\n"
    assert outcome(log(tmp_path, bars + well)) == "completed"
    assert outcome(log(tmp_path, bars)) == "running_or_truncated"
