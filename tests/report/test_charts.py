"""Figures: every spec is what Vega-Lite takes, holds no more data than it should, and is drawn as a picture."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report.made_report import Make, fifty, made_report, thousand

from touchline.core.quantity import Missing
from touchline.report.charts import charts
from touchline.report.figures import Chart, png
from touchline.report.report import Report
from touchline.results.run_result import LossPoint

altair = pytest.importorskip("altair")
vl_convert = pytest.importorskip("vl_convert")
loss_charts = pytest.importorskip("touchline.report.charts.training")

REPORTS = {
    "fourteen runs": Make(steps=300, items=60, epochs_evaluated=3),
    "faults": Make(steps=300, items=60, faults=True),
    "one model": Make(models=1, steps=40, items=30),
    "one seed": Make(seeds=1, steps=40, items=30),
    "one level": Make(ranks=("8",), seeds=1, steps=40, items=30),
    "two steps": Make(steps=2, items=3),
}
ALL = {
    "scores", "differences", "contrasts", "train_loss", "validation_loss",
    "estimates",
}  # fmt: skip


@pytest.fixture(scope="module", params=REPORTS)
def drawn(request: pytest.FixtureRequest) -> tuple[Chart, ...]:
    found = charts(made_report(REPORTS[request.param]))
    assert found, "the tests of every figure would pass without any"
    return found


def rows(chart: Chart) -> Iterator[dict[str, object]]:
    datasets = chart.spec["datasets"]
    assert isinstance(datasets, dict)
    for data in datasets.values():
        yield from data


def test_a_report_with_everything_has_every_figure() -> None:
    found = charts(made_report(REPORTS["fourteen runs"]))
    assert {chart.name for chart in found} == ALL
    shown = {
        section: [c.name for c in found if c.section == section] for section in ("findings", "training", "estimates")
    }
    assert shown == {
        "findings": ["scores", "contrasts"],
        "training": ["train_loss", "validation_loss"],
        "estimates": ["estimates"],
    }
    assert {chart.section for chart in found} == {*shown, "scores"}


def test_seeds_of_a_condition_are_rings_in_one_row_with_their_mean() -> None:
    """The bar says over what it is: the means of the seeds, or with one run the items."""
    report = made_report(Make(models=1, seeds=3, steps=20, items=30))
    chart = charts(report)[0]
    data = chart.spec["datasets"]
    assert isinstance(data, dict)
    assert [row["condition"] for row in data["scores"]] == ["1B_base", "rank 4", "rank 16", "rank 64"]
    for row in data["scores"][1:]:
        seeds = [each["value"] for each in data["seeds"] if each["condition"] == row["condition"]]
        assert len(seeds) == 3
        assert row["value"] == pytest.approx(sum(seeds) / 3, abs=1e-5)
    assert "over the means of the seeds (Student's t); with one run, 95% interval (Wilson)" in chart.caption
    alone = charts(made_report(Make(models=1, seeds=1, steps=20, items=30)))[0]
    assert alone.title == "Score of each run"
    assert "seeds" not in alone.spec["datasets"]  # type: ignore[operator]


def test_no_line_joins_scores(drawn: tuple[Chart, ...]) -> None:
    """Neither through one seed nor between levels: lines are curves of a run over its steps."""
    with_lines = {
        chart.name for chart in drawn if re.search(r'"mark": ({"type": )?"line"', json.dumps(chart.spec["layer"]))
    }
    assert with_lines <= {"train_loss", "validation_loss"}
    assert "train_loss" in with_lines


def test_bars_say_what_they_are(drawn: tuple[Chart, ...]) -> None:
    for chart in drawn:
        if '"x2"' in json.dumps(chart.spec) and chart.name not in ("train_loss", "validation_loss"):
            assert "ars: " in chart.caption or "ars over" in chart.caption, chart.name
            assert "interval" in chart.caption, chart.name


def test_every_spec_is_valid_and_every_figure_has_data(drawn: tuple[Chart, ...]) -> None:
    assert len({chart.name for chart in drawn}) == len(drawn)
    for chart in drawn:
        altair.Chart.from_dict(chart.spec)
        assert list(rows(chart)), chart.name
        assert chart.title
        assert chart.caption.endswith(".")


def test_every_figure_follows_a_run_and_can_be_said_in_json(drawn: tuple[Chart, ...]) -> None:
    for chart in drawn:
        text = json.dumps(chart.spec, allow_nan=False)
        assert chart.spec["params"] == [{"name": "followed", "value": ""}]
        assert "datum.run === followed" in text or chart.name == "contrasts"


def test_every_figure_is_a_picture(drawn: tuple[Chart, ...]) -> None:
    for chart in drawn:
        assert png(chart.spec).startswith(b"\x89PNG\r\n")


def test_a_figure_has_a_mark_for_each_run() -> None:
    report = made_report(Make(steps=60, items=30))
    by_name = {chart.name: chart for chart in charts(report)}
    trained = {run.name for run in report.runs if run.train_losses}
    assert trained
    assert {row["run"] for row in rows(by_name["scores"])} - {""} == {run.name for run in report.runs}
    for name in ("differences", "train_loss", "validation_loss", "estimates"):
        assert {row["run"] for row in rows(by_name[name]) if "run" in row} == trained, name


def test_curves_have_at_most_200_points_a_run() -> None:
    curves = [each for each in charts(made_report(fifty(steps=2000, items=20))) if each.section == "training"]
    assert curves
    for chart in curves:
        points: dict[object, int] = {}
        for row in rows(chart):
            steps = row["step"]
            points[row["run"]] = points.get(row["run"], 0) + (len(steps) if isinstance(steps, list) else 1)
        assert max(points.values()) <= 201


def test_figures_of_a_thousand_runs_stay_small() -> None:
    found = charts(made_report(thousand(steps=100, items=10)))
    assert sum(len(json.dumps(chart.spec)) for chart in found) < 3_000_000
    by_name = {chart.name: chart for chart in found}
    for name in ("scores", "differences"):
        assert "60 highest of" in by_name[name].caption
        assert len(by_name[name].spec["datasets"][name]) == 60  # type: ignore[index]


def test_a_loss_that_is_no_number_is_marked_and_leaves_a_gap() -> None:
    report = made_report(REPORTS["faults"])
    chart = next(chart for chart in charts(report) if chart.name == "train_loss")
    broken = next(run for run in report.runs if any(math.isnan(point.loss) for point in run.train_losses))
    crosses = chart.spec["datasets"]["broken"]  # type: ignore[index]
    assert [row["run"] for row in crosses] == [broken.name]
    assert "not a number" in chart.caption
    curve = next(row for row in chart.spec["datasets"]["raw"] if row["run"] == broken.name)  # type: ignore[index]
    assert None in curve["loss"]


def test_a_loss_of_zero_is_drawn_on_a_linear_axis() -> None:
    report = made_report(Make(steps=20, items=10))
    run = next(run for run in report.runs if run.train_losses)
    zero = replace(run, train_losses=(*run.train_losses[:-1], replace(run.train_losses[-1], loss=0.0)))
    changed = replace(report, runs=tuple(zero if each is run else each for each in report.runs))
    chart = next(chart for chart in charts(changed) if chart.name == "train_loss")
    assert '"type": "log"' not in json.dumps(chart.spec)
    assert png(chart.spec)


def nothing(report: Report) -> Report:
    """The report of an experiment of which nothing has run."""
    runs = tuple(
        replace(
            run,
            train_losses=(),
            curves=Missing(missing="no step has been measured"),
            validation_losses=(),
            evaluations=(),
            checkpoints=(),
            exact_match=None,
            match=None,
            difference=None,
        )
        for run in report.runs
    )
    empty = replace(report.verification.storage, runs=(), adapters=(), total_bytes=0, deletable=())
    verification = replace(report.verification, checkpoints=(), missing=(), storage=empty)
    return replace(
        report,
        runs=runs,
        analyses=(),
        answers=(),
        estimates=(),
        claims=(),
        remarks=(),
        verification=verification,
        completed=0,
    )


def test_there_are_no_figures_of_nothing() -> None:
    assert charts(nothing(made_report(Make(steps=5, items=5)))) == ()


def test_names_of_further_tasks_are_names_of_files() -> None:
    report = made_report(Make(steps=20, items=10))
    other = replace(report.analyses[0], task="../mine.py@task", score="F1 / 2")
    found = charts(replace(report, analyses=(report.analyses[0], other)))
    names = [chart.name for chart in found]
    assert "scores_mine_py_task_f1_2" in names
    assert all(name.replace("_", "").isalnum() for name in names)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.02, 2.5, [0.03, 0.1, 0.3, 1, 3]),
        (1e-9, 10.0, [10.0**power for power in range(-9, 2)]),
        (4.45, 6.63, [4.5, 5.0, 5.5, 6.0, 6.5]),
    ],
)
def test_a_logarithmic_axis_has_ticks_that_people_read(low: float, high: float, ticks: list[float]) -> None:
    from touchline.report.charts.parts import log_ticks

    assert log_ticks(low, high) == pytest.approx([tick for tick in ticks if low <= tick <= high])


# ---- curves of fewer points ----------------------------------------------------------------------------------------


LOSSES = st.lists(st.one_of(st.floats(1e-6, 1e6), st.sampled_from([math.nan, math.inf])), max_size=400)


def points(losses: list[float]) -> list[LossPoint]:
    """Losses at steps 1, 2, ..."""
    return [LossPoint(step=index + 1, loss=loss) for index, loss in enumerate(losses)]


@given(LOSSES, st.integers(2, 120))
def test_thinned_curves_are_short_ordered_parts_of_the_curve(losses: list[float], limit: int) -> None:
    curve = points(losses)
    thin = loss_charts.thinned(curve, limit)
    assert len(thin) <= max(limit, 2)
    assert [point.step for point in thin] == sorted({point.step for point in thin})
    assert all(any(point is other for other in curve) for point in thin)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=400), st.integers(2, 60))
def test_the_lowest_and_the_highest_point_stay(losses: list[float], limit: int) -> None:
    thin = [point.loss for point in loss_charts.thinned(points(losses), limit)]
    assert min(thin) == min(losses)
    assert max(thin) == max(losses)


def test_a_single_loss_that_is_no_number_is_still_there_after_thinning() -> None:
    losses = [1.0] * 5000
    losses[2500] = math.nan
    assert any(math.isnan(point.loss) for point in loss_charts.thinned(points(losses), 40))


@given(LOSSES, st.integers(2, 120))
def test_smoothed_curves_lie_within_the_curve_and_have_its_ends(losses: list[float], limit: int) -> None:
    curve = points(losses)
    smooth = loss_charts.smoothed(curve, limit)
    finite = [point for point in curve if math.isfinite(point.loss)]
    if len(finite) >= 3:
        assert len(smooth) <= limit
        assert (smooth[0].step, smooth[-1].step) == (finite[0].step, finite[-1].step)
    if finite:
        low, high = min(p.loss for p in finite), max(p.loss for p in finite)
        assert all(low * (1 - 1e-6) <= point.loss <= high * (1 + 1e-6) + 1e-6 * high for point in smooth)


def test_the_smoothed_curve_starts_where_a_falling_curve_does() -> None:
    falling = points([math.exp(-step / 50) for step in range(400)])
    assert loss_charts.smoothed(falling, 40)[0].loss == pytest.approx(1.0)


def test_the_best_point_is_the_earliest_lowest_finite_one() -> None:
    found = loss_charts.best(points([math.nan, 2.0, 1.0, 1.0, math.inf]))
    assert found is not None
    assert found.step == 3
    assert loss_charts.best(points([math.nan])) is None


@pytest.mark.parametrize("runs", [1, 14, 50, 1000])
def test_no_run_gets_more_points_than_the_limit(runs: int) -> None:
    assert loss_charts.budget(runs) <= loss_charts.POINTS_A_RUN
    assert loss_charts.budget(50) == loss_charts.POINTS_A_RUN
