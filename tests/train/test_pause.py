"""A training that pauses at a step, and goes on, is that of one that never paused, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny_model import write_tiny_words
from tests.train.test_cohort import assert_equal_trainings, folders, sweep
from tests.train.test_resume import EVERY_STEP, StopAfter, assert_same
from tests.train.tiny_run import make_config, tiny_train, write_config

from touchline.backends.run_config import RunConfig
from touchline.core.errors import InputError, RunsFailedError
from touchline.core.status import TrainingEnd
from touchline.data.metrics_file import read_metrics
from touchline.data.training_state import PAUSE_FILE, paused_step, read_pause, write_pause
from touchline.experiment.experiment import CheckpointConfig, CheckpointInterval, LoraConfig
from touchline.train.run import Stop, run_cohort, run_training


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def config(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Eight steps of two epochs with dropout, which uses up random numbers; validation every second step."""
    words = write_tiny_words(tmp_path_factory.mktemp("data") / "words.json", 28, 4, 4)
    train = tiny_train(
        lora=LoraConfig(rank=4, dropout=0.1),
        checkpoint=CheckpointConfig(every=CheckpointInterval(steps=3)),
        validate_every_steps=2,
    )
    return make_config(tiny_model, words, train)


@pytest.fixture(scope="module")
def undisturbed(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = write_config(tmp_path_factory.mktemp("runs") / "undisturbed", config)
    assert run_training(config, folder, Stop())
    return folder


def pause_at(folder: Path, config: RunConfig, step: int) -> None:
    """Train to a pause, and check what it leaves."""
    write_pause(folder, step)
    assert run_training(config, folder, Stop())
    assert paused_step(folder, config.run_digest) == step
    metrics = read_metrics(folder / "metrics.jsonl")
    assert metrics.steps[-1].step == step
    assert metrics.end is not None
    assert (metrics.end.end, metrics.end.step) == (TrainingEnd.PAUSED, step)
    assert not (folder / "training.json").exists()


@pytest.mark.parametrize("points", [(2, 6), (3,), (4,), (4, 6), (1, 2, 3, 4, 5, 6, 7)])
def test_pauses_within_an_epoch_and_at_its_end_change_nothing(
    config: RunConfig, undisturbed: Path, tmp_path: Path, points: Sequence[int]
) -> None:
    assert (config.batches.steps, config.batches.steps_per_epoch) == (8, 4)
    folder = write_config(tmp_path / "run", config)
    for step in points:
        pause_at(folder, config, step)
        whole = {row.step: row.loss for row in read_metrics(undisturbed / "metrics.jsonl").validations}
        seen = {row.step: row.loss for row in read_metrics(folder / "metrics.jsonl").validations}
        assert seen == {at: loss for at, loss in whole.items() if at <= step}
    write_pause(folder, None)
    assert run_training(config, folder, Stop())
    assert_same(folder, undisturbed)
    assert len(read_metrics(folder / "metrics.jsonl").attempts) == len(points) + 1


def test_a_paused_training_has_nothing_to_do_until_it_is_asked_for_more(config: RunConfig, tmp_path: Path) -> None:
    folder = write_config(tmp_path / "run", config)
    pause_at(folder, config, 2)
    before = (folder / "metrics.jsonl").read_bytes()
    assert run_training(config, folder, Stop())
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_training_past_the_step_or_complete_ignores_the_pause(
    config: RunConfig, undisturbed: Path, tmp_path: Path
) -> None:
    folder = write_config(tmp_path / "run", config)
    pause_at(folder, config, 5)
    write_pause(folder, 3)
    assert paused_step(folder) is None
    assert run_training(config, folder, Stop())
    write_pause(folder, 6)
    assert run_training(config, folder, Stop())
    assert paused_step(folder) is None
    (folder / PAUSE_FILE).unlink()
    assert_same(folder, undisturbed)


@pytest.mark.parametrize("step", [8, 99])
def test_a_pause_at_the_last_step_or_after_it_is_none(
    config: RunConfig, undisturbed: Path, tmp_path: Path, step: int
) -> None:
    folder = write_config(tmp_path / "run", config)
    write_pause(folder, step)
    assert run_training(config, folder, Stop())
    (folder / PAUSE_FILE).unlink()
    assert_same(folder, undisturbed)


@pytest.mark.parametrize("questions", [5, 8, 10])
def test_a_stop_before_the_pause_leaves_it_to_be_reached(
    config: RunConfig, undisturbed: Path, tmp_path: Path, questions: int
) -> None:
    folder = write_config(tmp_path / "run", config)
    write_pause(folder, 4)
    assert not run_training(config, folder, StopAfter(left=questions))
    assert paused_step(folder) is None
    pause_at(folder, config, 4)
    write_pause(folder, None)
    assert run_training(config, folder, Stop())
    assert_same(folder, undisturbed)


@pytest.mark.parametrize("text", ["", "{", '{"after_step": 0}', '{"after_step": "x"}', '{"after": 3}', "[]"])
def test_a_broken_pause_is_an_error_that_says_what_it_should_be(config: RunConfig, tmp_path: Path, text: str) -> None:
    folder = write_config(tmp_path / "run", config)
    (folder / PAUSE_FILE).write_text(text)
    with pytest.raises(InputError, match=r"pause\.json' is broken") as error:
        run_training(config, folder, Stop())
    assert "after_step" in str(error.value.expected)


def test_a_pause_of_another_plan_counts_for_nothing(config: RunConfig, tmp_path: Path) -> None:
    folder = write_config(tmp_path / "run", config)
    pause_at(folder, config, 2)
    assert paused_step(folder, "e" * 64) is None


def test_writing_no_pause_removes_it(tmp_path: Path) -> None:
    assert read_pause(tmp_path) is None
    write_pause(tmp_path, 3)
    write_pause(tmp_path, 7)
    assert read_pause(tmp_path) == 7
    write_pause(tmp_path, None)
    write_pause(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_diverges_says_so(config: RunConfig, tmp_path: Path) -> None:
    lost = replace(config, train=replace(config.train, learning_rate=1e30, warmup_fraction=0.0))
    folder = write_config(tmp_path / "run", lost)
    with pytest.raises(RunsFailedError, match="gradient norm"):
        run_training(lost, folder, Stop())
    metrics = read_metrics(folder / "metrics.jsonl")
    assert metrics.end is not None
    assert metrics.end.end is TrainingEnd.DIVERGED


def test_the_end_of_a_healthy_training_is_not_that_of_one_that_diverged(undisturbed: Path) -> None:
    metrics = read_metrics(undisturbed / "metrics.jsonl")
    assert metrics.end is not None
    assert metrics.end.end is TrainingEnd.DONE


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "touchline.train", *words], cwd=folder, stderr=subprocess.DEVNULL)


def saved(folder: Path, step: int) -> bool:
    return (folder / "resume" / f"step_{step:08d}").is_dir()


@pytest.mark.parametrize("delay", [0.0, 0.004, 0.02])
def test_a_kill_at_the_pause_changes_nothing(
    config: RunConfig, undisturbed: Path, tmp_path: Path, delay: float
) -> None:
    """As soon as the state of that step appears, and a little later: before or after the row of the end."""
    folder = write_config(tmp_path / "run", config)
    write_pause(folder, 4)
    process = start(folder)
    while process.poll() is None and not saved(folder, 4):
        time.sleep(0.0005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert start(folder).wait() == 0
    assert paused_step(folder, config.run_digest) == 4
    write_pause(folder, None)
    assert start(folder).wait() == 0
    assert_same(folder, undisturbed)


def test_several_processes_of_a_run_pause_together(tiny_model: Path, tmp_path: Path) -> None:
    words = write_tiny_words(tmp_path / "words.json", 28, 4, 4)
    config = make_config(tiny_model, words, tiny_train(micro_batch_size=2, lora=LoraConfig(rank=4, dropout=0.1)))
    config = replace(config, batches=replace(config.batches, data_parallel_size=2))
    undisturbed, folder = write_config(tmp_path / "undisturbed", config), write_config(tmp_path / "run", config)
    assert run_training(config, undisturbed, Stop())
    for step in (3, 4):
        pause_at(folder, config, step)
    assert run_training(config, folder, Stop())
    write_pause(folder, None)
    assert run_training(config, folder, Stop())
    assert_same(folder, undisturbed)
    assert len(read_metrics(folder / "metrics.jsonl").attempts) == 3


def test_a_cohort_pauses_and_some_of_its_runs_continue(tiny_model: Path, tmp_path: Path) -> None:
    """Two of four continue side by side after the first point, one of them after the second; alone each is the same."""
    words = write_tiny_words(tmp_path / "words.json", 27, 5, 4)
    configs = sweep(tiny_model, words, validate_every_steps=2)
    together, alone = folders(tmp_path / "together", configs), folders(tmp_path / "alone", configs)
    for folder in together:
        write_pause(folder, 2)
    assert run_cohort(together, Stop())
    assert [paused_step(folder) for folder in together] == [2, 2, 2, 2]
    assert run_cohort(together, Stop()), "nothing to do"
    left = [together[1], together[3]]
    for folder in left:
        write_pause(folder, 6)
    assert run_cohort(left, Stop())
    write_pause(together[3], None)
    assert run_cohort(left, Stop()), "one is paused, and the other trains alone to the end"
    assert paused_step(together[1]) == 6
    assert (together[3] / "training.json").exists()
    assert not (together[3] / "resume").exists()
    write_pause(together[1], None)
    assert run_cohort(left, Stop())
    for number in (1, 3):
        assert run_training(configs[number], alone[number], Stop())
        assert_equal_trainings(together[number], alone[number])
    assert read_metrics(together[0] / "metrics.jsonl").steps[-1].step == 2
    assert read_metrics(left[0] / "metrics.jsonl").attempts[1].cohort == ("run4",)


def test_a_cohort_killed_at_its_pause_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    words = write_tiny_words(tmp_path / "words.json", 28, 4, 4)
    configs = sweep(tiny_model, words, checkpoint=CheckpointConfig(resume_minutes=EVERY_STEP))[:2]
    together, alone = folders(tmp_path / "together", configs), folders(tmp_path / "alone", configs)
    for folder in together:
        write_pause(folder, 3)
    further = ("--with", os.path.relpath(together[1], together[0]))
    process = start(together[0], *further)
    while process.poll() is None and not saved(together[0], 3):
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert start(together[0], *further).wait() == 0
    assert [paused_step(folder) for folder in together] == [3, 3]
    for folder in together:
        write_pause(folder, None)
    assert start(together[0], *further).wait() == 0
    for config, one, other in zip(configs, together, alone, strict=True):
        assert run_training(config, other, Stop())
        assert_equal_trainings(one, other)
