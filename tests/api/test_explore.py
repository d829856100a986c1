"""A real explore on the tiny model, with two points: killed where a run pauses and resumed, it decides the same."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from tests.api.folders import command, environment, touchline
from tests.api.kills import kill_everything
from tests.tiny_model import write_tiny_words

from touchline.core.status import RunStatus
from touchline.data.metrics_file import read_metrics
from touchline.run.folders import ExperimentFolder
from touchline.strategy.decisions import DecisionKind, StrategyDecision

pytestmark = pytest.mark.slow
EXPERIMENT = """\
name: tiny
question: Which rank?
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: words.json}
train:
  epochs: 1
  global_batch_size: 4
  micro_batch_size: 4
  learning_rate: 1e-2
  max_seq_len: 128
  packed: false
  base_dtype: float32
  validate_every_steps: 2
  lora: {rank: 4, dropout: 0.1}
  checkpoint: {every: {steps: 3}}
factors:
  train.lora.rank: [2, 4, 8, 16]
evaluate: {batch_size: 4, max_new_tokens: 12, samples: 4}
strategy:
  explore: {at: [0.25, 0.5], keep: 0.5, reference: {train.lora.rank: 2}}
"""
"""Eight steps; points at 2 and 4."""
CANDIDATES = ("1M_rank4", "1M_rank8", "1M_rank16")
PATIENCE_SECONDS = 180.0


def make(folder: Path, compute: str = "") -> Path:
    folder.mkdir()
    (folder / "experiment.yaml").write_text(EXPERIMENT + compute)
    write_tiny_words(folder / "words.json", 32, 8, 8)
    return folder


def decided(folder: Path) -> tuple[StrategyDecision, ...]:
    return ExperimentFolder(folder).decisions()


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Losses of every step by run; those of repeated steps once."""
    found = {path.parent.name: read_metrics(path).steps for path in sorted(folder.glob("*/metrics.jsonl"))}
    return {run: [(row.step, row.loss) for row in steps] for run, steps in found.items()}


def kill_at_a_pause(folder: Path, env: dict[str, str]) -> None:
    """Kill the command and all it started as soon as a run has saved the state of its first pause."""
    process = subprocess.Popen(
        command("run", str(folder)), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not list(folder.glob("*/resume/step_00000002")):
        assert process.poll() is None, "it ended before a run paused"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    kill_everything(process)


def test_killed_where_a_run_pauses_it_decides_the_same(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Tiny-1M-Instruct").symlink_to(tiny_model)
    env = environment(tmp_path / "models", tmp_path / "cache") | {"TOUCHLINE_HISTORY_DIR": str(tmp_path / "history")}
    calm, killed = make(tmp_path / "calm"), make(tmp_path / "killed")
    done = touchline("run", str(calm), env=env)
    assert done.returncode == 0, done.stderr
    wanted = decided(calm)
    kinds = [each.kind for each in wanted]
    assert kinds == [DecisionKind.BEGIN, DecisionKind.CUT, DecisionKind.CUT, DecisionKind.CHOICE, DecisionKind.STOP]
    first, second = (each.cut for each in wanted if each.cut is not None)
    losses = {each.run: each.loss for each in first.losses}
    assert all(loss is not None for loss in losses.values())
    worst = max(CANDIDATES, key=lambda run: losses[run] or 0.0)
    assert first.cut == (worst,)
    assert len(second.cut) == 1
    rows = {row.step: row.loss for row in read_metrics(calm / worst / "metrics.jsonl").validations}
    assert rows[2] == losses[worst]
    assert max(rows) == 2

    kill_at_a_pause(killed, env)
    assert not any(each.kind is DecisionKind.CHOICE for each in decided(killed))
    done = touchline("resume", str(killed), env=env)
    assert done.returncode == 0, done.stderr
    assert decided(killed) == wanted
    assert curves(killed) == curves(calm)
    listed = json.loads(touchline("status", str(killed), "--json", env=env).stdout)["runs"]
    states = {run["name"]: run["status"] for run in listed}
    assert {run for run, status in states.items() if status == RunStatus.CUT.value} == {worst, *second.cut}
    assert sum(status == RunStatus.COMPLETED.value for status in states.values()) == 2
    for run in states:
        last = {path.name: path.read_bytes() for path in (calm / run).glob("*/adapter_model.safetensors")}
        assert {path.name: path.read_bytes() for path in (killed / run).glob("*/adapter_model.safetensors")} == last


def test_a_cohort_pauses_together_and_continues_without_the_cut_run(tmp_path: Path, tiny_model: Path) -> None:
    """The job of the second rung trains those that are left, side by side; each is trained no step twice."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Tiny-1M-Instruct").symlink_to(tiny_model)
    env = environment(tmp_path / "models", tmp_path / "cache") | {"TOUCHLINE_HISTORY_DIR": str(tmp_path / "history")}
    folder = make(tmp_path / "beside", "compute: {cohorts: always}\n")
    text = (folder / "experiment.yaml").read_text().replace("dropout: 0.1", "dropout: 0")
    (folder / "experiment.yaml").write_text(text)
    done = touchline("run", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    plan = ExperimentFolder(folder).planned()
    (cohort,) = plan.cohorts
    assert cohort.runs == ("1M_rank2", *CANDIDATES)
    first, second = (each.cut for each in decided(folder) if each.cut is not None)
    (cut,), (later,) = first.cut, second.cut
    attempts = read_metrics(folder / "1M_rank2" / "metrics.jsonl").attempts
    left = {*CANDIDATES} - {cut}
    assert [set(row.cohort) for row in attempts] == [{*CANDIDATES}, left, left - {later}]
    assert [row.from_step for row in attempts] == [0, 2, 4]
    assert [row.from_step for row in read_metrics(folder / cut / "metrics.jsonl").attempts] == [0]
    assert [row.from_step for row in read_metrics(folder / later / "metrics.jsonl").attempts] == [0, 2]


def test_trl_explores_to_a_cut(tmp_path: Path, tiny_model: Path) -> None:
    """Each run trains no step twice; the decision has the validation losses at the pause, and the worst run is cut."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Tiny-1M-Instruct").symlink_to(tiny_model)
    env = environment(tmp_path / "models", tmp_path / "cache") | {"TOUCHLINE_HISTORY_DIR": str(tmp_path / "history")}
    folder = make(tmp_path / "trl")
    text = (folder / "experiment.yaml").read_text().replace("  epochs: 1\n", "  epochs: 1\n  backend: trl\n")
    text = text.replace("[2, 4, 8, 16]", "[2, 4, 8]").replace("[0.25, 0.5]", "[0.25]")
    (folder / "experiment.yaml").write_text(text)
    done = touchline("run", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    (first,) = (each.cut for each in decided(folder) if each.cut is not None)
    (cut,) = first.cut
    metrics = {each.run: read_metrics(folder / each.run / "metrics.jsonl") for each in first.losses}
    assert set(metrics) == {"1M_rank2", "1M_rank4", "1M_rank8"}
    for each in first.losses:
        rows = metrics[each.run]
        assert each.loss == {row.step: row.loss for row in rows.validations}[2]
        assert [row.from_step for row in rows.attempts] == ([0] if each.run == cut else [0, 2])
        assert [row.step for row in rows.steps] == [*range(1, 3 if each.run == cut else 9)]
    losses = {each.run: each.loss or 0.0 for each in first.losses}
    assert cut == max(("1M_rank4", "1M_rank8"), key=lambda run: losses[run])
    listed = json.loads(touchline("status", str(folder), "--json", env=env).stdout)["runs"]
    states = {run["name"]: run["status"] for run in listed}
    assert states.pop(cut) == RunStatus.CUT.value
    assert set(states.values()) == {RunStatus.COMPLETED.value}
    assert decided(folder)[-2].kind is DecisionKind.CHOICE
