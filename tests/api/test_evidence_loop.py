"""The loop that the product is: a first plan knows little, each run makes the next one better, and both are scored."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from tests.api.folders import environment, make_experiment, touchline
from tests.tiny_model import build_tiny_model

FIELDS = ("train_seconds", "peak_memory")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Plan, probe, plan, run, plan, and what each said."""
    root = tmp_path_factory.mktemp("loop")
    build_tiny_model(root / "models" / "Tiny-1M-Instruct")
    experiment = make_experiment(root / "exp")
    env = environment(root / "models", root / "cache") | {"TOUCHLINE_HISTORY_DIR": str(root / "history")}
    told: dict[str, Any] = {}

    def call(*arguments: str) -> str:
        done = touchline(*arguments, env=env, cwd=root)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def plan(name: str) -> None:
        told[name] = json.loads(call("plan", str(experiment), "--json"))["plan"]

    plan("cold")
    told["probe"] = json.loads(call("probe", str(experiment), "--run", "1M_rank2", "--json"))["probe"]
    plan("probed")
    call("run", str(experiment))
    files = {path: path.read_bytes() for path in (experiment / "plan.json", experiment / "runs_plan.md")}
    plan("again")
    told["changed"] = [str(path) for path, content in files.items() if path.read_bytes() != content]
    told["calibration"] = json.loads(call("history", "calibration", "--history", str(root / "history"), "--json"))
    other = make_experiment(root / "other", ranks="[4, 8]", n_train=320)
    told["next"] = json.loads(call("plan", str(other), "--json"))["plan"]
    told["results"] = json.loads(call("results", str(experiment), "--json"))["runs"]
    return told


def run_of(plan: dict[str, Any], name: str) -> dict[str, Any]:
    """A run of a plan."""
    found: dict[str, Any] = next(run for run in plan["runs"] if run["name"] == name)
    return found


def width(figure: dict[str, Any]) -> float:
    """How far the interval's ends are apart, as the logarithm of their ratio."""
    return math.log(figure["high"] / figure["low"])


def test_a_first_plan_has_wide_intervals_and_says_that_nothing_was_measured(story: dict[str, Any]) -> None:
    run = run_of(story["cold"], "1M_rank2")
    for field in FIELDS:
        assert run[field]["low"] < run[field]["value"] < run[field]["high"]
    assert story["cold"]["evidence"] == []
    assert run["memory"]["verdict"] == "FITS"
    assert sum(part["value"] for part in run["time_parts"].values()) == pytest.approx(run["train_seconds"]["value"])


def test_a_probe_narrows_the_plan(story: dict[str, Any]) -> None:
    assert story["probe"]["largest"] == 8
    before, after = (run_of(story[name], "1M_rank2") for name in ("cold", "probed"))
    assert width(after["seconds_per_step"]) < width(before["seconds_per_step"])
    assert any(name.startswith("probe ") for name in story["probed"]["evidence"])


def test_what_was_planned_for_a_run_that_ran_stays(story: dict[str, Any]) -> None:
    assert story["changed"] == []
    assert story["again"]["runs"] == story["probed"]["runs"]


def test_finished_runs_teach_the_next_plan(story: dict[str, Any]) -> None:
    first, second = run_of(story["cold"], "1M_rank4"), run_of(story["next"], "1M_rank4")
    assert width(second["seconds_per_step"]) < width(first["seconds_per_step"])
    assert {"1M_rank2", "1M_rank4"} <= set(story["next"]["evidence"])


def test_estimates_are_scored(story: dict[str, Any]) -> None:
    scores = story["calibration"]
    assert {row["quantity"] for row in scores["planned"]} >= {"seconds per step, planned", "process memory, planned"}
    assert all(row["count"] == 2 for row in scores["planned"])
    assert sum(row["count"] for row in scores["left_out"] if row["rung"] is None) >= 3


def test_every_setting_that_was_not_given_is_named_with_its_reason(story: dict[str, Any]) -> None:
    named = {row["key"]: row for row in story["cold"]["assumptions"]}
    assert {"train.lora.alpha", "train.packed", "train.micro_batch_size"} <= set(named)
    assert not {"train.epochs", "train.lora.rank", "train.learning_rate", "train.base_dtype"} & set(named)
    assert named["train.lora.alpha"]["value"] == "4, 8"
    assert named["train.micro_batch_size"]["value"] == "8"
    assert all(row["reason"] for row in named.values())
