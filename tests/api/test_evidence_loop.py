"""The loop that the product is: a first plan knows little, each run makes the next one better, and both are scored."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.api.finished import Finished
from tests.cases import some

FIELDS = ("train_seconds", "peak_memory")


def run_of(plan: dict[str, Any], name: str) -> dict[str, Any]:
    """A run of a plan."""
    found: dict[str, Any] = next(run for run in plan["runs"] if run["name"] == name)
    return found


def width(figure: dict[str, Any]) -> float:
    """How far the interval's ends are apart, as the logarithm of their ratio."""
    return math.log(figure["high"] / figure["low"])


def test_a_first_plan_has_wide_intervals_and_says_that_nothing_was_measured(finished: Finished) -> None:
    run = run_of(finished.told["cold"], "1M_rank2")
    for field in FIELDS:
        assert run[field]["low"] < run[field]["value"] < run[field]["high"]
    assert finished.told["cold"]["evidence"] == []
    assert run["memory"]["verdict"] == "FITS"
    assert sum(part["value"] for part in run["time_parts"].values()) == pytest.approx(run["train_seconds"]["value"])


def test_a_probe_narrows_the_plan(finished: Finished) -> None:
    assert finished.told["probe"]["largest"] == 8
    before, after = (run_of(finished.told[name], "1M_rank2") for name in ("cold", "probed"))
    assert width(after["seconds_per_step"]) < width(before["seconds_per_step"])
    assert any(name.startswith("probe ") for name in finished.told["probed"]["evidence"])


def test_what_was_planned_for_a_run_that_ran_stays(finished: Finished) -> None:
    assert finished.told["changed"] == []
    assert finished.told["again"]["runs"] == finished.told["probed"]["runs"]


def test_finished_runs_teach_the_next_plan(finished: Finished) -> None:
    first, second = run_of(finished.told["cold"], "1M_rank4"), run_of(finished.told["next"], "1M_rank4")
    assert width(second["seconds_per_step"]) < width(first["seconds_per_step"])
    assert {"1M_rank2", "1M_rank4"} <= set(finished.told["next"]["evidence"])


def test_estimates_are_scored(finished: Finished) -> None:
    scores = finished.told["calibration"]
    assert {row["quantity"] for row in scores["planned"]} >= {"seconds per step, planned", "process memory, planned"}
    assert all(row["count"] == 2 for row in scores["planned"])
    assert sum(row["count"] for row in scores["left_out"] if row["rung"] is None) >= 3
    for mark in some(scores["marks"]):
        assert mark["outside"] != (mark["low"] <= mark["measured"] <= mark["high"])


def test_every_setting_that_was_not_given_is_named_with_its_reason(finished: Finished) -> None:
    named = {row["key"]: row for row in finished.told["cold"]["assumptions"]}
    assert {"train.lora.alpha", "train.packed", "train.micro_batch_size"} <= set(named)
    assert not {"train.epochs", "train.lora.rank", "train.learning_rate", "train.base_dtype"} & set(named)
    assert named["train.lora.alpha"]["value"] == "4, 8"
    assert named["train.micro_batch_size"]["value"] == "8"
    assert all(row["reason"] for row in named.values())
