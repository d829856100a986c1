"""Whatever ends a training, the same command again gives the adapter of one that was never disturbed, bit for bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tests.tiny_model import write_tiny_words
from tests.train.tiny_run import make_config, tiny_train, write_config

from touchline.backends.run_config import RunConfig
from touchline.core.errors import PlanDriftError
from touchline.core.status import EXIT_STOPPED
from touchline.data.metrics_file import read_metrics
from touchline.experiment.experiment import CheckpointConfig, CheckpointInterval, LoraConfig
from touchline.train.resume import STATE_FILE, find_resume
from touchline.train.run import Stop, run_training

EVERY_STEP = 1e-9
"""Minutes between saved states that make every step save one."""


@dataclass
class StopAfter(Stop):
    """Asks to stop at the n-th question."""

    left: int = 0

    @property
    def asked(self) -> bool:
        self.left -= 1
        if self.left < 0:
            self.reason = "SIGTERM"
        return self.left < 0


@pytest.fixture(scope="module")
def config(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    words = write_tiny_words(tmp_path_factory.mktemp("data") / "words.json", 28, 4, 4)
    lora = LoraConfig(rank=4, dropout=0.1)
    checkpoint = CheckpointConfig(resume_minutes=EVERY_STEP, every=CheckpointInterval(steps=2))
    return make_config(tiny_model, words, tiny_train(lora=lora, checkpoint=checkpoint))


@pytest.fixture(scope="module")
def undisturbed(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # As many threads as the processes below get: the sums are then in the same order.
    torch.set_num_threads(1)
    folder = write_config(tmp_path_factory.mktemp("runs") / "undisturbed", config)
    assert run_training(config, folder, Stop())
    return folder


def exports(folder: Path) -> dict[str, bytes]:
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for pattern in ("epoch_*/adapter*", "step_*/adapter*", "epoch_*/model*", "step_*/model*")
        for path in folder.glob(pattern)
    }


def assert_same(folder: Path, undisturbed: Path) -> None:
    assert exports(folder) == exports(undisturbed)
    first, second = read_metrics(undisturbed / "metrics.jsonl"), read_metrics(folder / "metrics.jsonl")
    assert [(row.step, row.loss, row.grad_norm) for row in second.steps] == [
        (row.step, row.loss, row.grad_norm) for row in first.steps
    ]
    assert [(row.step, row.loss) for row in second.validations] == [(row.step, row.loss) for row in first.validations]
    one, other = (json.loads((path / "training.json").read_text()) for path in (undisturbed, folder))
    for key in ("steps", "final_train_loss", "final_validation_loss", "best_epoch", "checkpoints", "adapter_sha256"):
        assert one[key] == other[key]
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in undisturbed.iterdir())


@pytest.mark.parametrize("questions", [1, 2, 3, 5, 8, 9, 11, 14])
def test_stopping_at_any_question_and_going_on_changes_nothing(
    config: RunConfig, undisturbed: Path, tmp_path: Path, questions: int
) -> None:
    """Between micro-batches, inside a validation, before the first step: with dropout, which uses up random numbers."""
    folder = write_config(tmp_path / "run", config)
    assert not run_training(config, folder, StopAfter(left=questions))
    assert not (folder / "training.json").exists()
    assert run_training(config, folder, Stop())
    assert_same(folder, undisturbed)


def test_stopping_again_and_again_still_ends(config: RunConfig, undisturbed: Path, tmp_path: Path) -> None:
    """Each attempt gets a little further, as under a short time limit."""
    folder = write_config(tmp_path / "run", config)
    for _ in range(40):
        if run_training(config, folder, StopAfter(left=7)):
            break
    assert_same(folder, undisturbed)
    assert len(read_metrics(folder / "metrics.jsonl").attempts) > 2


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "touchline.train"], cwd=folder, env=environment, stderr=subprocess.DEVNULL
    )


def wait_for(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.002)


@pytest.mark.parametrize("seed", range(3))
def test_sigkill_at_a_random_moment_and_the_same_command_again_gives_the_same_adapter(
    config: RunConfig, tmp_path: Path, undisturbed: Path, seed: int
) -> None:
    """Real processes, killed at a random size of metrics.jsonl and a random instant after it."""
    generator = random.Random(seed)
    folder = write_config(tmp_path / "run", config)
    metrics = folder / "metrics.jsonl"
    lines, delay = generator.randint(1, 14), generator.uniform(0, 0.02)
    process = start(folder)
    wait_for(process, lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= lines)
    time.sleep(delay)
    process.kill()
    process.wait()
    again = start(folder)
    assert again.wait() == 0
    assert_same(folder, undisturbed)


def test_sigterm_saves_and_exits_75_and_a_torn_metrics_line_is_fixed(
    config: RunConfig, tmp_path: Path, undisturbed: Path
) -> None:
    """What a scheduler does before it kills; and what a full disk may leave of a line."""
    folder = write_config(tmp_path / "run", config)
    process = start(folder)
    metrics = folder / "metrics.jsonl"
    wait_for(process, lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 4)
    process.send_signal(signal.SIGTERM)
    assert process.wait() in (EXIT_STOPPED, 0)
    if process.returncode == EXIT_STOPPED:
        assert find_resume(folder / "resume", config.run_digest) is not None
    with metrics.open("ab") as stream:
        stream.write(b'{"event":"step","att')
    assert start(folder).wait() == 0
    assert_same(folder, undisturbed)


@pytest.mark.parametrize("harm", ["cut", "flip", "no state", "empty state"])
def test_a_torn_saved_state_is_left_out(config: RunConfig, undisturbed: Path, tmp_path: Path, harm: str) -> None:
    """Going on from half an optimizer would be another training; starting over is not."""
    folder = write_config(tmp_path / "run", config)
    assert not run_training(config, folder, StopAfter(left=9))
    (saved,) = (folder / "resume").iterdir()
    target = saved / ("optimizer.safetensors" if harm in ("cut", "flip") else STATE_FILE)
    content = target.read_bytes()
    match harm:
        case "cut":
            target.write_bytes(content[: len(content) // 2])
        case "flip":
            target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "no state":
            target.unlink()
        case _:
            target.write_bytes(b"")
    assert find_resume(folder / "resume", config.run_digest) is None
    assert run_training(config, folder, Stop())
    assert_same(folder, undisturbed)
    assert [row.event for row in read_metrics(folder / "metrics.jsonl").attempts] == ["start", "start"]


def test_an_older_whole_state_is_taken_when_the_newest_is_torn(config: RunConfig, tmp_path: Path) -> None:
    """Only the newest is kept in order, but a kill between two renames leaves both."""
    folder = write_config(tmp_path / "run", config)
    assert not run_training(config, folder, StopAfter(left=9))
    (saved,) = (folder / "resume").iterdir()
    newer = folder / "resume" / "step_00000099"
    shutil.copytree(saved, newer)
    (newer / STATE_FILE).write_text("{")
    found = find_resume(folder / "resume", config.run_digest)
    assert found is not None
    assert found[0] == saved


def test_a_state_or_a_result_of_another_plan_is_refused(config: RunConfig, undisturbed: Path, tmp_path: Path) -> None:
    """A run that was planned anew must not inherit the old one's steps, nor overwrite its results."""
    folder = write_config(tmp_path / "run", config)
    assert not run_training(config, folder, StopAfter(left=9))
    other = replace(config, run_digest="e" * 64)
    with pytest.raises(PlanDriftError, match="another plan"):
        run_training(other, folder, Stop())
    with pytest.raises(PlanDriftError, match="another plan"):
        run_training(other, undisturbed, Stop())


def test_a_finished_run_does_nothing_and_loads_no_torch(config: RunConfig, undisturbed: Path) -> None:
    """The same command again must be cheap: it runs for every run of a sweep."""
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    code = "import sys; from touchline.train.__main__ import main; code = main([]); print('torch' in sys.modules, code)"
    done = subprocess.run([sys.executable, "-c", code], cwd=undisturbed, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "0"]
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before
    assert config.run in done.stderr


def test_leftovers_of_killed_attempts_are_removed(config: RunConfig, tmp_path: Path) -> None:
    """A kill while a folder is written leaves a temporary one, which nobody else removes."""
    folder = write_config(tmp_path / "run", config)
    for parent in (folder, folder / "resume"):
        (parent / ".saving-epoch_0-abcd").mkdir(parents=True)
        (parent / ".saving-epoch_0-abcd" / "adapter_model.safetensors").write_bytes(b"half")
    assert run_training(config, folder, Stop())
    assert not list(folder.rglob(".saving-*"))
