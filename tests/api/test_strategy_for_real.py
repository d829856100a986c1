"""A real sweep on the tiny model with two looks, killed at different moments: its decisions are those of a calm one."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.api.folders import command, environment, touchline
from tests.api.kills import kill_everything
from tests.tiny_model import write_tiny_words

from touchline.core.status import EXIT_DIVERGED
from touchline.run.folders import ExperimentFolder
from touchline.run.statusfiles import read_attempts
from touchline.strategy.decisions import StrategyDecision

pytestmark = pytest.mark.slow
EXPERIMENT = """\
name: tiny
question: Does a higher learning rate help?
task: exact_match
models: [Tiny-1M-Instruct]
data: {path: words.json, prompt: "{input}"}
train:
  epochs: 1
  global_batch_size: 4
  micro_batch_size: 4
  max_seq_len: 128
  packed: false
  base_dtype: float32
  lora: {rank: 8, dropout: 0}
factors:
  train.learning_rate: [1e-5, 3e-2]
evaluate: {batch_size: 8, max_new_tokens: 4}
allow: [DA320]
strategy:
  confirm:
    contrasts: [{name: rate, level: {train.learning_rate: 3e-2}, against: {train.learning_rate: 1e-5}}]
    seeds: [11, 12, 13, 14]
    looks: [2, 4]
"""
PATIENCE_SECONDS = 900.0


def make(folder: Path) -> Path:
    """An experiment whose every answer is `ok`: a training that learns gets it right, one that does not gets none."""
    folder.mkdir()
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    path = write_tiny_words(folder / "words.json", 48, 4, 12)
    splits = json.loads(path.read_text())
    path.write_text(json.dumps({name: [row | {"output": "ok"} for row in rows] for name, rows in splits.items()}))
    return folder


def decided(folder: Path) -> tuple[StrategyDecision, ...]:
    return ExperimentFolder(folder).decisions()


def kill_when(folder: Path, env: dict[str, str], verb: str, is_time: Callable[[], bool]) -> None:
    """Kill a command and all that it started at a moment."""
    process = subprocess.Popen(
        command(verb, str(folder)), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while not is_time():
            assert process.poll() is None, "it ended before that moment"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        if process.poll() is None:
            kill_everything(process)


def test_killed_and_resumed_it_decides_the_same(tmp_path: Path, tiny_model: Path) -> None:
    """In a training, between the last evaluation and the look, right after the look, and in the next stage."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Tiny-1M-Instruct").symlink_to(tiny_model)
    env = environment(tmp_path / "models", tmp_path / "cache") | {"TOUCHLINE_HISTORY_DIR": str(tmp_path / "history")}
    calm, rough = make(tmp_path / "calm"), make(tmp_path / "rough")
    done = touchline("run", str(calm), "--no-probe", env=env)
    assert done.returncode == 0, done.stderr
    wanted = decided(calm)
    first, second = (each.look for each in wanted if each.look is not None)
    assert first.contrasts[0].verdict.value == "undecided"
    assert second.contrasts[0].verdict.value == "established"
    assert all(pair.level > pair.against for pair in second.contrasts[0].pairs)

    def evaluated() -> int:
        return len(list(rough.glob("*/eval/*.scores.json")))

    def trained() -> int:
        return len(list(rough.glob("*/training.json")))

    kill_when(rough, env, "run", lambda: trained() == 1)
    assert [each.kind.value for each in decided(rough)] == ["begin"]
    kill_when(rough, env, "resume", lambda: evaluated() == 4)
    kill_when(rough, env, "resume", lambda: len(decided(rough)) == 2)
    kill_when(rough, env, "resume", lambda: trained() == 6)
    done = touchline("resume", str(rough), env=env)
    assert done.returncode == 0, done.stderr
    assert decided(rough) == wanted
    dumped = [(folder / "ledger.jsonl").read_text().splitlines() for folder in (calm, rough)]
    lines = [[json.loads(line)["decision"] for line in ledger] for ledger in dumped]
    assert [each for each in lines[1] if each] == [each for each in lines[0] if each]


def test_a_training_that_diverges_counts_as_nothing_right_and_is_not_started_again(
    tmp_path: Path, tiny_model: Path
) -> None:
    """Its attempt says so by its exit code; the command ends well."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Tiny-1M-Instruct").symlink_to(tiny_model)
    env = environment(tmp_path / "models", tmp_path / "cache") | {"TOUCHLINE_HISTORY_DIR": str(tmp_path / "history")}
    folder = make(tmp_path / "diverging")
    text = EXPERIMENT.replace("1e-5", "1e+30").replace("[11, 12, 13, 14]", "[11, 12]").replace("[2, 4]", "[2]")
    (folder / "experiment.yaml").write_text(text)
    done = touchline("run", str(folder), "--no-probe", env=env)
    assert done.returncode == 0, done.stderr
    (look,) = (each.look for each in decided(folder) if each.look is not None)
    lost = [name for pair in look.contrasts[0].pairs for name in pair.diverged]
    assert len(lost) == 2
    assert [pair.against for pair in look.contrasts[0].pairs] == [0, 0]
    for name in lost:
        attempts = read_attempts(folder / name / "status")
        assert [attempt.exit.code for attempt in attempts if attempt.exit is not None] == [EXIT_DIVERGED]
    assert touchline("resume", str(folder), env=env).returncode == 0
    assert all(len(read_attempts(folder / name / "status")) == 1 for name in lost)
