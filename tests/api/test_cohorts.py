"""Runs of a sweep side by side, by the commands that people use: planned, killed, resumed, evaluated, reported."""

import json
import subprocess
import time
from pathlib import Path

import pytest
from tests.api.folders import command, touchline, words_experiment
from tests.api.kills import kill_everything

EXPERIMENT = """
name: sweep
question: Does the rank matter?
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: words.json}
train:
  epochs: 2
  global_batch_size: 8
  micro_batch_size: 4
  learning_rate: 1e-2
  max_seq_len: 96
  packed: false
  base_dtype: float32
  checkpoint: {resume_minutes: 0.001}
factors: {train.lora.rank: [2, 4, 8]}
controls: [base]
compute: {cohorts: always}
"""
RUNS = ("1M_rank2", "1M_rank4", "1M_rank8")


@pytest.mark.slow
@pytest.mark.thorough
def test_a_sweep_side_by_side_by_the_same_commands(tmp_path: Path, tiny_model: Path) -> None:
    folder, env = words_experiment(tmp_path, tiny_model, EXPERIMENT, n_train=48)
    planned = touchline("plan", str(folder), "--json", env=env)
    assert planned.returncode == 0, planned.stderr
    (cohort,) = json.loads((folder / "plan.json").read_text())["cohorts"]
    assert tuple(cohort["runs"]) == RUNS
    assert cohort["gain"]["low"] < cohort["gain"]["value"] < 3
    checked = touchline("check", str(folder), env=env)
    assert checked.returncode == 0, checked.stdout + checked.stderr

    process = subprocess.Popen(
        command("run", str(folder), "--no-probe"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    saved = [folder / run / "resume" for run in RUNS]
    while not all(any(place.glob("step_*/state.json")) for place in saved) and time.monotonic() < deadline:
        time.sleep(0.02)
    kill_everything(process)
    assert all(any(place.glob("step_*/state.json")) for place in saved)
    assert not any((folder / run / "training.json").exists() for run in RUNS)

    done = touchline("resume", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    answer = json.loads(touchline("results", str(folder), "--json", env=env).stdout)
    assert {run["name"]: run["status"] for run in answer["runs"]} == {name: "completed" for name in (*RUNS, "1M_base")}
    for run in RUNS:
        attempts = [
            row
            for line in (folder / run / "metrics.jsonl").read_text().splitlines()
            if "from_step" in (row := json.loads(line))
        ]
        assert len(attempts) == 2
        assert attempts[-1]["from_step"] > 0
        assert sorted([run, *attempts[-1]["cohort"]]) == list(RUNS)
