"""One experiment, three trainers: plan, check, run, kill -9, resume, evaluate and report by the same commands."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from tests.api.folders import command, environment, touchline
from tests.tiny_model import write_tiny_words
from tests.trainer_environments import require_trainer

TRAINERS = ("peft", "trl", "torchtune")
EXPERIMENT = """
name: migration
question: Do the trainers agree?
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: words.json}
train:
  global_batch_size: 8
  micro_batch_size: 4
  learning_rate: 1e-2
  max_seq_len: 96
  packed: false
  base_dtype: float32
  lora: {rank: 4}
factors:
  train.backend: [peft, trl, torchtune]
"""


@pytest.mark.slow
def test_three_trainers_by_the_same_commands(tmp_path: Path, tiny_model: Path) -> None:
    require_trainer("torchtune")
    models, folder = tmp_path / "models", tmp_path / "migration"
    models.mkdir()
    folder.mkdir()
    (models / "Tiny-1M-Instruct").symlink_to(tiny_model)
    write_tiny_words(folder / "words.json", 24, 4, 4)
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    env = environment(models, tmp_path / "cache")
    assert touchline("plan", str(folder), env=env).returncode == 0
    checked = touchline("check", str(folder), env=env)
    assert checked.returncode == 0, checked.stdout + checked.stderr

    process = subprocess.Popen(
        command("run", str(folder), "--no-probe"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (folder / "1M_rank4_trl" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    _kill_everything(process)
    assert not (folder / "1M_rank4_torchtune" / "training.json").exists()

    done = touchline("resume", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    losses = {}
    for trainer in TRAINERS:
        marker = json.loads((folder / f"1M_rank4_{trainer}" / "training.json").read_text())
        assert marker["steps"] == 3
        losses[trainer] = marker["final_validation_loss"]
    assert losses["trl"] == pytest.approx(losses["peft"], abs=1e-5)
    # Its adapter starts from other random numbers.
    assert losses["torchtune"] == pytest.approx(losses["peft"], abs=0.2)
    answer = json.loads(touchline("results", str(folder), "--json", env=env).stdout)
    assert {run["name"]: run["status"] for run in answer["runs"]} == {
        f"1M_rank4_{trainer}": "completed" for trainer in TRAINERS
    }
    text = (folder / "RESULTS.md").read_text()
    assert "### Agreement of trainers" in text
    assert "| trl, peft |" in text
    assert "| torchtune, peft |" in text


def _kill_everything(process: subprocess.Popen[bytes]) -> None:
    """Kill the command and all that it started."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for each in family:
        each.kill()
    psutil.wait_procs(family, timeout=30)
    process.wait()
