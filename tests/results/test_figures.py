"""Figures of a training: each is derived from the rows once, and what is no figure is missing with its reason."""

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.api import made_runs as made
from tests.run.made_plans import made_plan, made_run

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.data.metrics import StepRow
from touchline.data.metrics_file import read_metrics
from touchline.results.collect import collect_results
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


# ---- a metrics.jsonl that is no file, or that nobody may read --------------------------------------------------------


def _folder(path: Path) -> None:
    path.mkdir()


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def _forbidden(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path.write_text("{}\n")
    path.chmod(0)


@pytest.mark.parametrize("spoil", [_folder, _link_to_itself, _forbidden])
def test_results_are_collected_all_the_same(tmp_path: Path, spoil: object) -> None:
    assert callable(spoil)
    run = made_run()
    path = tmp_path / run.name / "metrics.jsonl"
    path.parent.mkdir()
    spoil(path)
    metrics = read_metrics(path)
    assert metrics.steps == ()
    assert metrics.unread
    (result,) = collect_results(made_plan(run), tmp_path)
    assert tuple(map(str, result.notes)) == (
        f"steps and losses are unknown: metrics.jsonl cannot be read ({metrics.unread})",
    )
    assert result.final_train_loss == Missing(missing="metrics.jsonl cannot be read")


def test_one_that_is_not_there_has_no_rows_and_no_note(tmp_path: Path) -> None:
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert (metrics.steps, metrics.unread) == ((), None)
    (result,) = collect_results(made_plan(made_run()), tmp_path)
    assert result.notes == ()
