"""Two processes train as one does, and whatever ends one of them, the same command again loses nothing."""

import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tests.tiny_model import write_tiny_words
from tests.train import interruptions as halt
from tests.train.tiny_run import further_processes, make_config, tiny_train, write_config

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.backends.run_config import RunConfig
from touchline.core.status import EXIT_STOPPED, RunStatus
from touchline.data.checkpoints import write_pause
from touchline.data.metrics_file import read_metrics
from touchline.data.user_config import UserConfig
from touchline.experiment.training import CheckpointConfig, CheckpointInterval, LoraConfig
from touchline.plan.sections import sections
from touchline.run.folders import ExperimentFolder
from touchline.train.attempt import Stop
from touchline.train.parallel import ProcessLostError
from touchline.train.process import run_training

pytestmark = pytest.mark.thorough

FLOAT32 = 1e-5
"""Tolerance for sums in another order, in nats."""


def parallel_config(model: Path, words: Path, dropout: float) -> RunConfig:
    checkpoint = CheckpointConfig(resume_minutes=halt.EVERY_STEP, every=CheckpointInterval(steps=2))
    lora = LoraConfig(rank=4, dropout=dropout)
    config = make_config(model, words, tiny_train(micro_batch_size=2, lora=lora, checkpoint=checkpoint))
    return replace(config, batches=replace(config.batches, data_parallel_size=2))


def test_two_processes_give_the_losses_of_one(tiny_model: Path, tmp_path: Path) -> None:
    """The epoch's last step has micro-batches of 2 and of 1: the parts are not equal."""
    words = write_tiny_words(tmp_path / "words.json", 27, 5, 4)
    config = parallel_config(tiny_model, words, 0.0)
    alone = replace(config, batches=replace(config.batches, data_parallel_size=1))
    one, two = write_config(tmp_path / "one", alone), write_config(tmp_path / "two", config)
    assert run_training(alone, one, Stop())
    assert run_training(config, two, Stop())
    first, second = read_metrics(one / "metrics.jsonl"), read_metrics(two / "metrics.jsonl")
    assert len(first.steps) == config.batches.steps
    for before, shared in zip(first.steps, second.steps, strict=True):
        assert shared.loss == pytest.approx(before.loss, abs=FLOAT32)
        assert shared.grad_norm == pytest.approx(before.grad_norm, abs=FLOAT32)
        counts = ("examples", "micro_batches", "real_tokens", "padded_tokens", "squared_widths", "target_tokens")
        assert all(getattr(before, name) == getattr(shared, name) for name in counts)
    for at, shared_at in zip(first.validations, second.validations, strict=True):
        assert shared_at.loss == pytest.approx(at.loss, abs=FLOAT32)
        assert (shared_at.examples, shared_at.target_tokens) == (at.examples, at.target_tokens)
    (attempt,) = second.attempts
    assert (attempt.micro_batch_size, attempt.gradient_accumulation_steps, attempt.data_parallel_size) == (2, 2, 2)
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    assert "WORLD_SIZE" not in os.environ


def test_kills_of_either_process_and_a_stop_change_nothing(tiny_model: Path, tmp_path: Path) -> None:
    """With dropout, whose random numbers a resumed step draws again."""
    words = write_tiny_words(tmp_path / "words.json", 28, 4, 4)
    config = parallel_config(tiny_model, words, 0.1)
    undisturbed, folder = write_config(tmp_path / "undisturbed", config), write_config(tmp_path / "run", config)
    assert run_training(config, undisturbed, Stop())
    # The first process is killed: the other one does not outlive it.
    children: list[psutil.Process] = []
    halt.signal_when(
        halt.start(folder),
        signal.SIGKILL,
        lambda: halt.rows_of(folder) >= 4 and children.extend(further_processes(folder)) is None,
    )
    _, alive = psutil.wait_procs(children, timeout=20)
    assert children
    assert not alive

    # Another one is killed: the first one ends with its exit code and says which.
    def kill_the_other() -> None:
        begun = halt.rows_of(folder)
        while halt.rows_of(folder) < begun + 3:
            time.sleep(0.002)
        further_processes(folder)[0].kill()

    killer = threading.Thread(target=kill_the_other)
    killer.start()
    with pytest.raises(ProcessLostError, match="process 2 of 2 of the run was killed by SIGKILL") as lost:
        run_training(config, folder, Stop())
    killer.join()
    assert lost.value.code == 128 + signal.SIGKILL
    # A stop of one is a stop of all, between micro-batches; so is a pause.
    assert not run_training(config, folder, halt.StopAfter(left=3))
    halt.pause_at(folder, config.batches.steps - 1, lambda folder, stop: run_training(config, folder, stop))
    write_pause(folder, None)
    assert run_training(config, folder, Stop())
    halt.assert_same(folder, undisturbed)
    assert len(read_metrics(folder / "metrics.jsonl").attempts) == 5


EXPERIMENT = """
name: processes
task: capitalization
models: [{model}]
data: {{path: words.json}}
compute: {{gpu: cpu, gpus_per_run: 2}}
train:
  epochs: 2
  global_batch_size: 8
  micro_batch_size: 2
  learning_rate: 1e-2
  max_seq_len: 96
  packed: false
  base_dtype: float32
  checkpoint: {{resume_minutes: 1e-9}}
  lora: {{rank: 4, dropout: 0}}
factors: {{train.backend: [peft, trl]}}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of both trainers with two processes each, run to the end by the one command."""
    folder = tmp_path_factory.mktemp("processes")
    model = write_tiny_model(folder / "models" / "Tiny-1M-Instruct")
    # The last step of an epoch has one example: one process has none.
    write_tiny_words(folder / "words.json", 17, 5, 4)
    (folder / "experiment.yaml").write_text(EXPERIMENT.format(model=model))
    settings = UserConfig(models_dir=folder / "models", cache_dir=folder / "cache", history_dir=folder / "history")
    found = api.run(folder, settings, probe=False)
    assert all(result.status is RunStatus.COMPLETED for result in found)
    return folder


def test_a_whole_experiment_of_two_processes_per_run(finished: Path) -> None:
    """Plan, training, evaluation and report by the one command; both trainers do the same training."""
    plan = ExperimentFolder(finished).read_plan()
    ours, theirs = plan.runs
    for run in (ours, theirs):
        sizes = (run.batches.micro_batch_size, run.batches.gradient_accumulation_steps, run.batches.data_parallel_size)
        assert sizes == (2, 2, 2)
    text = (finished / "runs_plan.md").read_text()
    assert "2 processes per run" in text
    assert "2 x 2 x 2" in str(sections(plan, ["packing"]))
    assert "| devices per run | 1 (CPU, 2 processes) |" in text
    assert "data_parallel_size: 2" in (finished / theirs.name / "run.yaml").read_text()
    first, second = (read_metrics(finished / run.name / "metrics.jsonl") for run in (ours, theirs))
    assert len(first.steps) == len(second.steps) == 6
    for one, other in zip(first.steps, second.steps, strict=True):
        assert other.loss == pytest.approx(one.loss, abs=FLOAT32)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
        counts = ("examples", "micro_batches", "real_tokens", "target_tokens")
        assert all(getattr(one, name) == getattr(other, name) for name in counts)
    for at, other_at in zip(first.validations, second.validations, strict=True):
        assert other_at.loss == pytest.approx(at.loss, abs=FLOAT32)
    # Two processes on one CPU are one device: its hours count once.
    for result in api.results(finished):
        assert result.steps_planned == 6
    assert plan.devices == 1


def test_the_other_trainer_saves_at_a_stop_and_loses_nothing_by_kills(finished: Path, tmp_path: Path) -> None:
    """TERM: exit code 75 with a training state. SIGKILL of a process, then to the end: the same losses."""
    (whole,) = (path for path in finished.iterdir() if path.name.endswith("_trl"))
    folder = halt.untrained_copy(whole, tmp_path)

    def begun() -> tuple[subprocess.Popen[str], list[psutil.Process]]:
        """Start it, and wait for two more rows: its start and a step or a validation."""
        before = halt.rows_of(folder)
        process = subprocess.Popen(halt.SCRIPT, cwd=folder, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and halt.rows_of(folder) < before + 2:
            time.sleep(0.002)
        return process, further_processes(folder)

    process, _ = begun()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == EXIT_STOPPED, said
    assert halt.state_of(folder)
    process, (other,) = begun()
    other.kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGKILL, said
    assert "process 2 of 2 of the run was killed by SIGKILL" in said
    assert halt.start(folder, halt.SCRIPT).wait() == 0
    found, wanted = read_metrics(folder / "metrics.jsonl"), read_metrics(whole / "metrics.jsonl")
    assert [row.loss for row in found.steps] == [row.loss for row in wanted.steps]
    assert (found.validations[-1].loss, len(found.attempts)) == (wanted.validations[-1].loss, 3)
