"""A real sweep of two phases on the tiny model, killed at different moments: its decisions are those of a calm one."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.api.folders import command, environment, tiny_settings, touchline
from tests.api.harm import kill_everything
from tests.strategy.stand_ins import decided
from tests.tiny_model import write_tiny_words

from touchline.core.status import EXIT_DIVERGED, RunStatus
from touchline.data.metrics_file import read_metrics
from touchline.run.statusfiles import read_attempts

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
  validate_every_steps: 3
  lora: {rank: 8, dropout: 0.1}
factors:
  train.learning_rate: [1e-5, 2e-5, 3e-2]
evaluate: {batch_size: 8, max_new_tokens: 4}
allow: [DA320]
strategy:
  explore: {at: [0.25], reference: {train.learning_rate: 1e-5}}
  confirm: {seeds: [11, 12, 13, 14], looks: [2, 4]}
"""
"""Twelve steps; a point at 3."""
PATIENCE_SECONDS = 900.0


def make(folder: Path, text: str = EXPERIMENT) -> Path:
    """An experiment whose every answer is `ok`: a training that learns gets it right, one that does not gets none."""
    folder.mkdir()
    (folder / "experiment.yaml").write_text(text)
    path = write_tiny_words(folder / "words.json", 48, 4, 12)
    splits = json.loads(path.read_text())
    path.write_text(json.dumps({name: [row | {"output": "ok"} for row in rows] for name, rows in splits.items()}))
    return folder


@pytest.fixture
def env(tmp_path: Path, tiny_model: Path) -> dict[str, str]:
    return environment(tiny_settings(tmp_path, tiny_model).models_dir, tmp_path / "cache", tmp_path / "history")


def kill_when(folder: Path, env: dict[str, str], verb: str, is_time: Callable[[], bool]) -> None:
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


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = {path.parent.name: read_metrics(path).steps for path in sorted(folder.glob("*/metrics.jsonl"))}
    return {run: [(row.step, row.loss) for row in steps] for run, steps in found.items()}


def test_killed_and_resumed_it_decides_the_same(tmp_path: Path, env: dict[str, str]) -> None:
    """Where a run pauses, between the last evaluation and the look, and right after the look."""
    calm, rough = make(tmp_path / "calm"), make(tmp_path / "rough")
    done = touchline("run", str(calm), "--no-probe", env=env)
    assert done.returncode == 0, done.stderr
    wanted = decided(calm)
    kinds = [each.kind.value for each in wanted]
    assert kinds == ["begin", "cut", "choice", "look", "look", "stop"]
    cut = wanted[1].cut
    assert cut.cut == ("1M_rank8_lr2e-05",), "of the two beside the reference it learns less"
    verdicts = [each.look.contrasts[0].verdict.value for each in wanted if each.look is not None]
    assert verdicts == ["undecided", "established"]

    def evaluated() -> int:
        return len(list(rough.glob("*seed*/eval/*.scores.json")))

    kill_when(rough, env, "run", lambda: bool(list(rough.glob("*/resume/step_00000003"))))
    assert [each.kind.value for each in decided(rough)] == ["begin"]
    kill_when(rough, env, "resume", lambda: evaluated() == 4)
    kill_when(rough, env, "resume", lambda: len(decided(rough)) == 4)
    done = touchline("resume", str(rough), env=env)
    assert done.returncode == 0, done.stderr
    assert decided(rough) == wanted
    assert curves(rough) == curves(calm)
    listed = json.loads(touchline("status", str(rough), "--json", env=env).stdout)["runs"]
    assert {run["name"] for run in listed if run["status"] == RunStatus.CUT.value} == set(cut.cut)


@pytest.mark.thorough
def test_a_training_that_diverges_scores_0_and_is_not_started_again(tmp_path: Path, env: dict[str, str]) -> None:
    contrast = "{name: rate, level: {train.learning_rate: 3e-2}, against: {train.learning_rate: 1e+30}}"
    confirm = f"strategy:\n  confirm: {{contrasts: [{contrast}], seeds: [11, 12], looks: [2]}}\n"
    text = EXPERIMENT.replace("[1e-5, 2e-5, 3e-2]", "[1e+30, 3e-2]").partition("strategy:")[0] + confirm
    folder = make(tmp_path / "diverging", text)
    done = touchline("run", str(folder), "--no-probe", env=env)
    assert done.returncode == 0, done.stderr
    (look,) = (each.look for each in decided(folder) if each.look is not None)
    lost = [name for pair in look.contrasts[0].pairs for name in pair.diverged]
    assert [pair.against for pair in look.contrasts[0].pairs] == [0, 0]
    assert touchline("resume", str(folder), env=env).returncode == 0
    for name in lost:
        attempts = read_attempts(folder / name / "status")
        assert [attempt.exit.code for attempt in attempts if attempt.exit is not None] == [EXIT_DIVERGED]


@pytest.mark.thorough
def test_trl_pauses_and_a_cohort_continues_without_the_cut_run(tmp_path: Path, env: dict[str, str]) -> None:
    alone = EXPERIMENT.partition("  confirm:")[0]
    trl = make(tmp_path / "trl", alone.replace("  epochs: 1\n", "  epochs: 1\n  backend: trl\n"))
    beside = make(tmp_path / "beside", alone.replace("dropout: 0.1", "dropout: 0") + "compute: {cohorts: always}\n")
    for folder in (trl, beside):
        done = touchline("run", str(folder), "--no-probe", env=env)
        assert done.returncode == 0, done.stderr
        (cut,) = (each.cut for each in decided(folder) if each.cut is not None)
        for each in cut.losses:
            rows = read_metrics(folder / each.run / "metrics.jsonl")
            assert each.loss == {row.step: row.loss for row in rows.validations}[3]
            assert [row.from_step for row in rows.attempts] == ([0] if each.run in cut.cut else [0, 3])
            assert [row.step for row in rows.steps] == [*range(1, 4 if each.run in cut.cut else 13)]
    first, second = read_metrics(beside / cut.kept[0] / "metrics.jsonl").attempts
    assert {*first.cohort} - {*second.cohort} == {*cut.cut}
