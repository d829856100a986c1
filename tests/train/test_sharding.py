"""Two processes that share weights, gradients and optimizer states train as one process does."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tests.tiny_model import write_tiny_words
from tests.train.interruptions import SCRIPT, assert_same, signal_when, start, state_of, untrained_copy
from tests.train.tiny_run import further_processes

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.data.checkpoints import paused_step, write_pause
from touchline.data.metrics_file import read_metrics, read_metrics_file
from touchline.data.user_config import UserConfig
from touchline.history.own_metrics import own_events
from touchline.run.folders import ExperimentFolder

pytestmark = pytest.mark.thorough

CLOSE = 1e-4
"""Tolerance for sums in another order, in nats and in weights; measured: below 5e-07."""
EXPERIMENT = """
name: sharding
task: capitalization
models: [{model}]
data: {{path: words.json}}
compute: {{gpu: cpu, gpus_per_run: {processes}}}
train:
  backend: trl
  sharding: {sharding}
  epochs: 2
  global_batch_size: 8
  micro_batch_size: 2
  max_seq_len: 96
  packed: false
  base_dtype: float32
  checkpoint: {{resume_minutes: 1e-9}}
pairs:
  - {{train.method: full, train.learning_rate: 1e-3}}
  - {{train.lora.rank: 4, train.lora.dropout: 0, train.learning_rate: 1e-2}}
"""


def prepared(folder: Path, model: Path, processes: int, sharding: str) -> tuple[Path, Path]:
    """The folders of a run that trains all weights and of one with an adapter."""
    folder.mkdir()
    # The last step of an epoch has one example, and a round of the validation has items for one process only.
    write_tiny_words(folder / "words.json", 17, 5, 4)
    (folder / "experiment.yaml").write_text(
        EXPERIMENT.format(model=model, processes=processes, sharding=sharding), encoding="utf-8"
    )
    settings = UserConfig(models_dir=model.parent, cache_dir=folder / "cache", history_dir=folder / "history")
    api.plan(folder, settings)
    api.prepare(folder, settings)
    plan = ExperimentFolder(folder).read_plan()
    assert plan is not None
    full, lora = sorted((run for run in plan.runs if run.train is not None), key=lambda run: run.name)
    return folder / full.name, folder / lora.name


def train(folder: Path) -> None:
    done = subprocess.run([sys.executable, "finetune.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[Path, Path], tuple[Path, Path]]:
    """The runs of one process, and those of two that share the weights."""
    folder = tmp_path_factory.mktemp("sharding")
    model = write_tiny_model(folder / "models" / "Tiny-1M-Instruct")
    alone, shared = prepared(folder / "one", model, 1, "none"), prepared(folder / "two", model, 2, "full")
    for each in (*alone, *shared):
        train(each)
    return alone, shared


@pytest.mark.parametrize(("kind", "weights"), [(0, "model.safetensors"), (1, "adapter_model.safetensors")])
def test_shared_weights_give_the_losses_and_the_weights_of_one_process(
    trained: tuple[tuple[Path, Path], tuple[Path, Path]], kind: int, weights: str
) -> None:
    one, two = trained[0][kind], trained[1][kind]
    first, second = read_metrics(one / "metrics.jsonl"), read_metrics(two / "metrics.jsonl")
    assert len(first.steps) == len(second.steps) == 6
    for alone, shared in zip(first.steps, second.steps, strict=True):
        assert shared.loss == pytest.approx(alone.loss, abs=CLOSE)
        assert shared.grad_norm == pytest.approx(alone.grad_norm, rel=CLOSE)
        counts = ("examples", "micro_batches", "real_tokens", "target_tokens")
        assert all(getattr(alone, name) == getattr(shared, name) for name in counts)
    assert len(first.validations) == len(second.validations) == 3
    for at, shared_at in zip(first.validations, second.validations, strict=True):
        assert shared_at.loss == pytest.approx(at.loss, abs=CLOSE)
        assert (shared_at.examples, shared_at.target_tokens) == (at.examples, at.target_tokens)
    (before,), (after,) = first.attempts, second.attempts
    assert (after.trainable_parameters, after.data_parallel_size) == (before.trainable_parameters, 2)
    assert (before.sharded, after.sharded) == (False, True)
    # The memory of a part is no evidence for a device that holds everything.
    events = [list(own_events(read_metrics_file(folder / "metrics.jsonl").rows)) for folder in (one, two)]
    peaks = [[each for each in found if getattr(each, "name", "") == "peak_memory"] for found in events]
    assert (len(peaks[0]), len(peaks[1])) == (6, 0)
    saved, wanted = (load_file(folder / "epoch_1" / weights) for folder in (two, one))
    assert saved.keys() == wanted.keys()
    assert all(torch.allclose(saved[name], wanted[name], atol=CLOSE) for name in wanted)
    names = [sorted(path.name for path in (folder / "epoch_1").iterdir()) for folder in (one, two)]
    assert names[0] == names[1]


def test_a_kill_is_resumed_and_has_no_orphan(
    trained: tuple[tuple[Path, Path], tuple[Path, Path]], tmp_path: Path
) -> None:
    """The parts are halves of what is trained, and the resumed training ends with the same adapter, bit for bit."""
    whole = trained[1][1]
    folder = untrained_copy(whole, tmp_path)
    others: list[psutil.Process] = []
    signal_when(
        start(folder, SCRIPT),
        signal.SIGKILL,
        lambda: state_of(folder) and others.extend(further_processes(folder)) is None,
    )
    _, alive = psutil.wait_procs(others, timeout=20)
    assert others
    assert not alive
    state = max(folder.glob("resume/step_*"))
    parts = [torch.load(state / f"part_{rank}.pt", weights_only=True)["weights"] for rank in range(2)]
    held = [sum(value.numel() for value in part.values()) for part in parts]
    (attempt,) = read_metrics(folder / "metrics.jsonl").attempts
    assert sum(held) == attempt.trainable_parameters
    assert max(held) < 0.6 * sum(held)
    train(folder)
    assert read_metrics(folder / "metrics.jsonl").attempts[-1].from_step > 0
    assert_same(folder, whole)


def test_paused_processes_change_nothing(trained: tuple[tuple[Path, Path], tuple[Path, Path]], tmp_path: Path) -> None:
    whole = trained[1][1]
    folder = untrained_copy(whole, tmp_path)
    write_pause(folder, 2)
    train(folder)
    assert paused_step(folder) == 2
    assert read_metrics(folder / "metrics.jsonl").steps[-1].step == 2
    write_pause(folder, None)
    train(folder)
    assert [row.from_step for row in read_metrics(folder / "metrics.jsonl").attempts] == [0, 2]
    assert_same(folder, whole)
