"""Trainers that run as programs of their own environment, driven for real: records equal to those of our own loop.

LLaMA-Factory's (`make llamafactory-env`) shares the libraries of .venv and is small. axolotl's (`make axolotl-env`) is
too large for every run of the tests: `make test-axolotl` is a target of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file
from tests.trainer_environments import require_trainer
from tests.trainer_experiments import PlannedExperiment, metrics, plan_pairs, wait_while

from touchline.core.status import EXIT_STOPPED
from touchline.data.metrics import TrainingMarker
from touchline.train.external import run_external
from touchline.train.inputs import read_config
from touchline.train.run import Stop, run_training


@pytest.fixture(scope="module", params=["llamafactory", "axolotl"])
def experiment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PlannedExperiment:
    """The experiment of a trainer whose environment is named: ours, theirs, theirs with many saves."""
    trainer: str = request.param
    require_trainer(trainer)
    pairs = (
        "train.backend: peft",
        f"train.backend: {trainer}",
        f"train.backend: {trainer}, train.checkpoint: {{every: {{steps: 2}}, resume_minutes: 1e-9}}",
    )
    found = plan_pairs(tmp_path_factory.mktemp(trainer), pairs, "train.warmup_fraction=0.2")
    _, ours = found.run(0)
    assert run_training(read_config(ours / "finetune.yaml"), ours, Stop())
    return found


def test_the_trainer_does_the_planned_training(experiment: PlannedExperiment) -> None:
    """Same examples, learning rates, losses and gradients as our own loop, step by step; same checkpoints."""
    (_, ours), (run, theirs) = experiment.run(0), experiment.run(1)
    assert run_external(theirs, Stop())
    one, other = metrics(ours), metrics(theirs)
    assert len(one.steps) == len(other.steps) == run.batches.steps  # type: ignore[union-attr]
    for expected, found in zip(one.steps, other.steps, strict=True):
        assert (
            found.step,
            found.epoch,
            found.examples,
            found.micro_batches,
            found.real_tokens,
            found.target_tokens,
        ) == (
            *(expected.step, expected.epoch, expected.examples, expected.micro_batches),
            *(expected.real_tokens, expected.target_tokens),
        )
        assert found.learning_rate == pytest.approx(expected.learning_rate)
        assert found.loss == pytest.approx(expected.loss, abs=1e-5)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
    assert [row.step for row in other.validations] == [row.step for row in one.validations] == [0, 3, 4, 6, 8]
    for expected, found in zip(one.validations, other.validations, strict=True):
        assert found.loss == pytest.approx(expected.loss, abs=1e-5)
    first, second = (json.loads((folder / "training.json").read_text()) for folder in (ours, theirs))
    assert TrainingMarker.__dataclass_fields__.keys() == second.keys()
    assert second["checkpoints"] == first["checkpoints"] == ["epoch_0", "epoch_1"]
    weights = [load_file(folder / "epoch_1" / "adapter_model.safetensors") for folder in (ours, theirs)]
    assert weights[0].keys() == weights[1].keys()
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-4
    assert not (theirs / "trainer").exists()
    assert run_external(theirs, Stop()), "trained already"


def test_kills_and_stops_lose_nothing(experiment: PlannedExperiment) -> None:
    """SIGKILL of the driver in the middle, then TERM, then to the end: the same losses as undisturbed."""
    (_, ours), (_, folder) = experiment.run(0), experiment.run(2)
    wanted = metrics(ours)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "touchline.train.external"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    wait_while(process, lambda: not list(folder.glob("resume/step_*")))
    process.kill()
    process.wait()
    assert not (folder / "training.json").exists()
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    wait_while(process, lambda: len(metrics(folder).attempts) < 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) in (EXIT_STOPPED, 0)
    assert run_external(folder, Stop())
    found = metrics(folder)
    assert [row.step for row in found.steps] == list(range(1, 9))
    assert [row.loss for row in found.steps] == pytest.approx([row.loss for row in wanted.steps], abs=1e-5)
    marker = json.loads((folder / "training.json").read_text())
    assert set(marker["checkpoints"]) == {"step_2", "epoch_0", "step_6", "epoch_1"}
