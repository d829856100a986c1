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
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.tiny_model import write_tiny_words
from tests.trainer_environments import require_trainer

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.core.status import EXIT_STOPPED
from touchline.data.metrics import Metrics, TrainingMarker
from touchline.data.metrics_file import read_metrics
from touchline.data.user_config import UserConfig
from touchline.spec.plan import Plan
from touchline.train.external import run_external
from touchline.train.inputs import read_config
from touchline.train.run import Stop, run_training

EXPERIMENT = """
name: programs
task: capitalization
models: [{model}]
data: {{path: words.json}}
train:
  epochs: 2
  global_batch_size: 8
  micro_batch_size: 4
  learning_rate: 1e-2
  warmup_fraction: 0.2
  max_seq_len: 96
  packed: false
  base_dtype: float32
  validate_every_steps: 3
  lora: {{rank: 4, dropout: 0}}
pairs:
  - {{train.backend: peft}}
  - {{train.backend: {trainer}}}
  - {{train.backend: {trainer}, train.checkpoint: {{every: {{steps: 2}}, resume_minutes: 1e-9}}}}
"""


@dataclass(frozen=True)
class Experiment:
    """A planned experiment, with its runs in the order of the pairs: ours, theirs, theirs with many saves."""

    folder: Path
    plan: Plan

    def run_folder(self, index: int) -> Path:
        return self.folder / self.plan.runs[index].name


def metrics(folder: Path) -> Metrics:
    return read_metrics(folder / "metrics.jsonl")


@pytest.fixture(scope="module", params=["llamafactory", "axolotl"])
def experiment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The experiment of a trainer whose environment is named."""
    trainer: str = request.param
    require_trainer(trainer)
    base = tmp_path_factory.mktemp(trainer)
    model = write_tiny_model(base / "models" / "Tiny-1M-Instruct")
    folder = base / "experiment"
    folder.mkdir()
    write_tiny_words(folder / "words.json", 27, 5, 4)
    (folder / "experiment.yaml").write_text(EXPERIMENT.format(model=model, trainer=trainer))
    settings = UserConfig(models_dir=base / "models", cache_dir=base / "cache", history_dir=base / "history")
    api.plan(folder, settings)
    found = Experiment(folder, api.prepare(folder, settings).plan)
    ours = found.run_folder(0)
    assert run_training(read_config(ours / "finetune.yaml"), ours, Stop())
    return found


def test_the_trainer_does_the_planned_training(experiment: Experiment) -> None:
    """Same examples, learning rates, losses and gradients as our own loop, step by step; same checkpoints."""
    ours, theirs = experiment.run_folder(0), experiment.run_folder(1)
    assert run_external(theirs, Stop())
    one, other = metrics(ours), metrics(theirs)
    assert len(one.steps) == len(other.steps) == experiment.plan.runs[1].batches.steps  # type: ignore[union-attr]
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


def test_kills_and_stops_lose_nothing(experiment: Experiment) -> None:
    """SIGKILL of the driver in the middle, then TERM, then to the end: the same losses as undisturbed."""
    folder, wanted = experiment.run_folder(2), metrics(experiment.run_folder(0))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "touchline.train.external"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    _wait(lambda: bool(list(folder.glob("resume/step_*"))), process)
    process.kill()
    process.wait()
    assert not (folder / "training.json").exists()
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    _wait(lambda: len(metrics(folder).attempts) > 1, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) in (EXIT_STOPPED, 0)
    assert run_external(folder, Stop())
    found = metrics(folder)
    assert [row.step for row in found.steps] == list(range(1, 9))
    assert [row.loss for row in found.steps] == pytest.approx([row.loss for row in wanted.steps], abs=1e-5)
    marker = json.loads((folder / "training.json").read_text())
    assert set(marker["checkpoints"]) == {"step_2", "epoch_0", "step_6", "epoch_1"}


def _wait(is_there: object, process: subprocess.Popen[bytes]) -> None:
    """Wait until something is there, or the process ended."""
    deadline = time.monotonic() + 300
    assert callable(is_there)
    while not is_there() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
