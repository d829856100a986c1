"""Runs trained side by side on one base equal separate trainings, and none disturbs another."""

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny_model import write_tiny_words
from tests.train.interruptions import EVERY_STEP, OURS, StopAfter, metrics, signal_when, start, state_of
from tests.train.tiny_run import make_config, tiny_train, write_config

from touchline.backends.run_config import RunConfig
from touchline.core.errors import RunsFailedError
from touchline.data.checkpoints import paused_step, write_pause
from touchline.experiment.training import CheckpointConfig, LoraConfig, TrainConfig
from touchline.train.attempt import Stop
from touchline.train.process import run_cohort, run_training

FLOAT32 = 1e-5
"""Tolerance for sums in another order, in nats."""


def member(model: Path, words: Path, number: int, train: TrainConfig) -> RunConfig:
    config = make_config(model, words, train, seed=number)
    return replace(config, run=f"run{number}", run_digest=f"{number}" * 64)


def sweep(model: Path, words: Path, **changes: object) -> list[RunConfig]:
    """Ranks, learning rates, warmups and seeds that differ; the seed decides the order too."""
    ranks, rates = (4, 8, 2, 4), (1e-2, 3e-3, 2e-2, 1e-2)
    return [
        member(
            model,
            words,
            number,
            tiny_train(lora=LoraConfig(rank=rank), learning_rate=rate, warmup_fraction=0.1 * number, **changes),
        )
        for number, (rank, rate) in enumerate(zip(ranks, rates, strict=True), 1)
    ]


def folders(root: Path, configs: Sequence[RunConfig]) -> list[Path]:
    return [write_config(root / config.run, config) for config in configs]


def side_by_side(together: Sequence[Path]) -> tuple[str, ...]:
    return (*OURS, *(word for one in together[1:] for word in ("--with", os.path.relpath(one, together[0]))))


def assert_equal_trainings(together: Path, alone: Path) -> None:
    """Losses, norms and counts of every step and validation, and the adapters' weights."""
    first, second = metrics(alone), metrics(together)
    assert len(first.steps) == len(second.steps) > 0
    for before, beside in zip(first.steps, second.steps, strict=True):
        assert beside.loss == pytest.approx(before.loss, abs=FLOAT32)
        assert beside.grad_norm == pytest.approx(before.grad_norm, rel=1e-3)
        counts = ("step", "epoch", "learning_rate", "examples", "micro_batches", "real_tokens", "target_tokens")
        assert all(getattr(before, name) == getattr(beside, name) for name in counts)
    for before_loss, beside_loss in zip(first.validations, second.validations, strict=True):
        assert beside_loss.loss == pytest.approx(before_loss.loss, abs=FLOAT32)
    assert sorted(path.name for path in together.iterdir()) == sorted(path.name for path in alone.iterdir())
    for epoch in ("epoch_0", "epoch_1"):
        names = {path.name for path in (alone / epoch).iterdir()}
        assert names == {path.name for path in (together / epoch).iterdir()}
        assert (together / epoch / "adapter_config.json").read_bytes() == (
            alone / epoch / "adapter_config.json"
        ).read_bytes()
        own, other = (load_file(place / epoch / "adapter_model.safetensors") for place in (alone, together))
        assert own.keys() == other.keys()
        for name, value in own.items():
            assert torch.allclose(value, other[name], atol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
def test_four_runs_side_by_side_equal_four_separate_ones(tiny_model: Path, tmp_path: Path, *, packed: bool) -> None:
    words = write_tiny_words(tmp_path / "words.json", 27, 5, 4)
    configs = sweep(tiny_model, words, packed=packed)
    together, alone = folders(tmp_path / "together", configs), folders(tmp_path / "alone", configs)
    assert run_cohort(together, Stop())
    for config, folder in zip(configs, alone, strict=True):
        assert run_training(config, folder, Stop())
    for one, other in zip(together, alone, strict=True):
        assert_equal_trainings(one, other)
    (attempt,) = metrics(together[0]).attempts
    assert attempt.cohort == ("run2", "run3", "run4")
    assert not metrics(alone[0]).attempts[0].cohort


def test_a_run_that_diverges_leaves_the_others_alone(tiny_model: Path, tmp_path: Path) -> None:
    words = write_tiny_words(tmp_path / "words.json", 24, 5, 4)
    configs = sweep(tiny_model, words)
    lost = replace(configs[1], train=replace(configs[1].train, learning_rate=1e30))
    configs[1] = lost
    together, alone = folders(tmp_path / "together", configs), folders(tmp_path / "alone", configs)
    with pytest.raises(RunsFailedError, match="of run run2: loss"):
        run_cohort(together, Stop())
    assert not (together[1] / "training.json").exists()
    for number in (0, 2, 3):
        assert run_training(configs[number], alone[number], Stop())
        assert_equal_trainings(together[number], alone[number])
    # Once more: the others are trained already, and it alone is tried, and fails at the same step.
    steps = len(metrics(together[1]).steps)
    with pytest.raises(RunsFailedError, match="of run run2: loss"):
        run_cohort(together, Stop())
    assert len(metrics(together[1]).steps) <= 2 * steps + 1
    assert len(metrics(together[0]).attempts) == 1


@pytest.mark.thorough
def test_a_cohort_stopped_and_killed_goes_on_in_parts(tiny_model: Path, tmp_path: Path) -> None:
    """One is finished alone in between; the rest go on together from states of different steps."""
    words = write_tiny_words(tmp_path / "words.json", 28, 4, 4)
    checkpoint = CheckpointConfig(resume_minutes=EVERY_STEP)
    configs = sweep(tiny_model, words, checkpoint=checkpoint)
    together, alone = folders(tmp_path / "together", configs), folders(tmp_path / "alone", configs)
    for config, folder in zip(configs, alone, strict=True):
        assert run_training(config, folder, Stop())
    assert not run_cohort(together, StopAfter(left=9))
    assert all(metrics(folder).attempts and not (folder / "training.json").exists() for folder in together)
    assert run_training(configs[0], together[0], Stop())
    assert not run_training(configs[1], together[1], StopAfter(left=2))
    before = len(metrics(together[2]).steps)
    process = start(together[0], side_by_side(together))
    ended = signal_when(process, signal.SIGKILL, lambda: len(metrics(together[2]).steps) >= before + 2)
    assert ended == -signal.SIGKILL
    assert run_cohort(together, Stop())
    for folder in together:
        assert (folder / "training.json").exists()
        assert not (folder / "resume").exists()
    last = {row.step: row for row in metrics(together[3]).steps}
    for row in metrics(alone[3]).steps:
        assert last[row.step].loss == pytest.approx(row.loss, abs=FLOAT32)


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
    assert not run_cohort(left, StopAfter(left=9)), "between the points"
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
    assert metrics(together[0]).steps[-1].step == 2
    assert metrics(left[0]).attempts[1].cohort == ("run4",)


@pytest.mark.thorough
def test_a_cohort_killed_at_its_pause_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    words = write_tiny_words(tmp_path / "words.json", 28, 4, 4)
    configs = sweep(tiny_model, words, checkpoint=CheckpointConfig(resume_minutes=EVERY_STEP))[:2]
    together, alone = folders(tmp_path / "together", configs), folders(tmp_path / "alone", configs)
    for folder in together:
        write_pause(folder, 3)
    command = side_by_side(together)
    signal_when(start(together[0], command), signal.SIGKILL, lambda: state_of(together[0], 3))
    assert start(together[0], command).wait() == 0
    assert [paused_step(folder) for folder in together] == [3, 3]
    for folder in together:
        write_pause(folder, None)
    assert start(together[0], command).wait() == 0
    for config, one, other in zip(configs, together, alone, strict=True):
        assert run_training(config, other, Stop())
        assert_equal_trainings(one, other)
