"""Ctrl-C: what runs is saved and ended, the exit code is 130, and the same command goes on from there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.api.folders import interrupted, make_experiment, touchline


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path, env: dict[str, str]) -> None:
    """The trainer's own stop is recorded; no step before it is done again."""
    folder = make_experiment(tmp_path / "it's an experiment", ranks="[2]", n_train=160, n_test=8)
    metrics = folder / "1M_rank2" / "metrics.jsonl"
    code, talk = interrupted(
        "run", str(folder), env=env, when=lambda: metrics.exists() and '"event":"step"' in metrics.read_text()
    )
    assert code == 130, talk
    assert "rerun the same command to resume" in talk
    assert "Traceback" not in talk
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert rows[-1]["event"] == "end"
    stopped = rows[-1]["step"]
    assert 0 < stopped < 40
    shown = touchline("status", str(folder), "--json", env=env)
    assert [run["status"] for run in json.loads(shown.stdout)["runs"]] == ["interrupted", "prepared"]
    done = touchline("run", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in rows if row["event"] == "step"] == list(range(1, 41))
