"""Figures of a training: each is derived from the rows once, and what is no figure is missing with its reason."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from tests.api import made_runs as made
from tests.run.made_plans import made_run

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.data.metrics import StepRow
from touchline.data.metrics_file import read_metrics
from touchline.results.figures import figures_of_metrics
from touchline.results.run_result import RunFigures

pytestmark = pytest.mark.planning

NOTHING = Missing(missing="no step has been measured")


def figures(folder: Path, steps: list[StepRow]) -> RunFigures:
    """Figures of rows that were written and read again."""
    made.write_metrics(folder, [made.START, made.VALIDATION, *steps])
    return figures_of_metrics(made_run(), read_metrics(folder / "metrics.jsonl"), NOTHING)


def value(measured: Measured) -> float:
    assert isinstance(measured, Quantity)
    return measured.value


def test_the_first_step_and_smaller_ones_set_no_step_time(tmp_path: Path) -> None:
    first, *rest, last = made.steps(6)
    slow = replace(first, seconds=60.0)
    short = replace(last, seconds=0.5, examples=2, real_tokens=20)
    found = figures(tmp_path, [slow, *rest, short])
    assert value(found.seconds_per_step) == 2.0
    assert value(found.tokens_per_second) == pytest.approx((4 * 80 + 20) / 8.5)
    assert value(found.examples_per_second) == pytest.approx((4 * 8 + 2) / 8.5)
    assert found.device == "cpu"


def test_a_loss_that_is_not_finite_is_no_figure_and_stays_among_the_rows(tmp_path: Path) -> None:
    *steps, last = made.steps(3)
    found = figures(tmp_path, [*steps, replace(last, loss=math.nan, grad_norm=math.inf)])
    assert isinstance(found.final_train_loss, Missing)
    assert value(found.train_seconds) == last.elapsed_seconds
    assert [epoch.epoch for epoch in found.epochs] == [0]


def test_without_a_step_every_figure_has_the_reason(tmp_path: Path) -> None:
    found = figures(tmp_path, [])
    assert found.train_seconds == found.tokens_per_second == found.seconds_per_step == found.peak_memory == NOTHING
    assert value(found.validation_seconds) == made.VALIDATION.elapsed_seconds
    assert found.device is None
