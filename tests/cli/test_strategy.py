"""What commands say of a strategy: its plan, its state, its decisions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.api.folders import environment, touchline
from tests.api.strategies import EXPERIMENT, by_rank, make_experiment, settings, stand_in
from typer.testing import CliRunner

from touchline import api
from touchline.cli.main import app
from touchline.data.user_config import UserConfig

__all__ = ["settings"]
CLEAR = by_rank(rank2=[10, 11, 9, 10, 12, 10], rank4=[10, 10, 11, 9, 12, 10], rank8=[30, 32, 30, 29, 31, 30])


def test_the_plan_states_claims_bounds_and_costs_beforehand(tmp_path: Path, tiny_model: Path) -> None:
    """With what is known: costs under no effect need the spread between seeds."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Tiny-1M-Instruct").symlink_to(tiny_model)
    env = environment(tmp_path / "models", tmp_path / "cache")
    folder = make_experiment(tmp_path / "tiny")
    shown = touchline("plan", str(folder), env=env)
    assert shown.returncode == 0, shown.stderr
    assert "train.lora.rank = 8" in shown.stdout
    assert "no contrast has an effect (expected)" in shown.stdout
    before, _, after = shown.stdout.partition("The totals below are at most, with ")
    assert "with the promised effect, " in before
    assert "Total: " in after
    text = (folder / "runs_plan.md").read_text()
    assert "## Strategy" in text
    assert "Spread of a contrast's difference between seeds: 5 points (stated)." in text
    unknown = make_experiment(tmp_path / "unknown", EXPERIMENT.replace("    seed_spread: 5\n", ""))
    shown = touchline("plan", str(unknown), "--json", env=env)
    answer = json.loads(shown.stdout)
    assert answer["plan"]["strategy"]["seed_spread"] is None
    costs = answer["strategy_costs"]
    assert costs["promised"] is None
    assert costs["least"] < costs["most"] <= answer["plan"]["gpu_hours"]["value"]
    assert "nothing is given up early" in (unknown / "runs_plan.md").read_text()
    poor = make_experiment(tmp_path / "poor", EXPERIMENT + "  budget: 0.1s\n")
    shown = touchline("plan", str(poor), env=env)
    assert shown.returncode == 2
    assert "one run is predicted to take" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_status_and_results_show_the_verdicts(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one line, and with every decision in JSON."""
    stand_in(monkeypatch, CLEAR)
    folder = make_experiment(tmp_path / "tiny")
    api.run(folder, settings, probe=False)
    runner = CliRunner()
    for command in ("status", "results"):
        shown = runner.invoke(app, [command, str(folder)]).stdout
        (line,) = (line for line in shown.splitlines() if line.startswith("strategy: "))
        assert "everything is decided" in line
        assert "eight: established (+5" in line
        answer = json.loads(runner.invoke(app, [command, str(folder), "--json"]).stdout)
        assert answer["strategy"]["verdicts"]["eight"] == "established"
        assert [each["kind"] for each in answer["strategy"]["decisions"]][:2] == ["begin", "look"]
        assert len(answer["runs"]) < len(api.plan(folder, settings).plan.runs)
