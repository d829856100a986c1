"""Trends over past experiments: best scores, costs and estimates, by base model and task."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.history.made_sweeps import past_run, score_of

from touchline.core.estimate import Estimate, EvidenceLevel
from touchline.core.quantity import Missing, Quantity
from touchline.estimate.calibration import ScoredEstimate
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord
from touchline.plan.trends import StackEstimate, Trend, find_trends
from touchline.report.local.trending import trends_markdown
from touchline.report.page.trends import trends_html
from touchline.statistics.proportion import wilson, wilson_of_share

pytestmark = pytest.mark.planning

DAY = 86_400.0


def run(name: str, score: float, *, experiment: str = "sweep", day: int = 0, **changes: object) -> RunRecord:
    made = past_run(name, score=score, experiment=experiment)
    return replace(made, started_unix=1_750_000_000.0 + day * DAY, **changes)  # type: ignore[arg-type]


def trends(records: list[RunRecord]) -> tuple[Trend, ...]:
    found = find_trends(records, ()).trends
    assert not isinstance(found, Missing)
    return found


def test_experiments_are_in_the_order_of_their_first_run() -> None:
    (trend,) = trends(
        [run("a", 0.9, experiment="late", day=9), run("b", 0.5, experiment="early", day=3), run("c", 0.6, day=5)]
    )
    assert [(point.experiment, point.date) for point in trend.points] == [
        ("early", "2025-06-18"),
        ("sweep", "2025-06-20"),
        ("late", "2025-06-24"),
    ]


def test_the_interval_of_the_best_widens_with_the_number_of_runs() -> None:
    """For two runs 97.5%, so each end lies 2.241 / 1.960 times as far out."""
    ((point,),) = [trend.points for trend in trends([run("a", 0.5), run("b", 0.4)])]
    assert (point.best, point.runs) == ("a", 2)
    assert (point.score.low, point.score.high) == pytest.approx((0.3856, 0.6144), abs=1e-4)
    ((alone,),) = [trend.points for trend in trends([run("a", 0.5)])]
    assert (alone.score.low, alone.score.high) == pytest.approx((0.4, 0.6))
    ((top,),) = [trend.points for trend in trends([run("a", 1.0), run("b", 0.4)])]
    assert top.score.high == 1.0, "a share stays one"


@pytest.mark.parametrize("right", [200, 199, 190, 100, 0])
@pytest.mark.parametrize("runs", [2, 10, 40])
def test_the_interval_of_the_best_is_never_narrower_than_wilsons(right: int, runs: int) -> None:
    """Near 100 % a stretched interval is too narrow: of 40 perfect runs on 200 items, 96.9 instead of 95.0 %."""
    share, usual = right / 200, wilson(right, 200)
    score = score_of(share)
    assert isinstance(score.value, Quantity)
    exact = replace(score, value=replace(score.value, low=usual.low, high=usual.high), items=200)
    first = replace(run("r0", share), scores=(exact,))
    others = (
        [
            replace(run(f"r{place}", 0.0), scores=(replace(exact, value=replace(score.value, value=0.0)),))
            for place in range(1, runs)
        ]
        if right
        else [replace(first, run=f"r{place}") for place in range(1, runs)]
    )
    ((point,),) = [trend.points for trend in trends([first, *others])]
    wanted = wilson_of_share(share, 200, 1 - 0.05 / runs)
    assert point.runs == runs
    assert point.score.low is not None
    assert point.score.high is not None
    assert point.score.low <= wanted.low + 1e-9
    assert point.score.high >= wanted.high - 1e-9


def test_other_items_have_another_letter_and_are_no_point_of_the_same_experiment() -> None:
    other = replace(run("b", 0.9, day=1), scores=(score_of(0.9, comparable="e" * 64),))
    (trend,) = trends([run("a", 0.5), other, run("c", 0.7, experiment="next", day=2)])
    assert [(point.experiment, point.items, point.runs) for point in trend.points] == [
        ("sweep", "A", 1),
        ("sweep", "B", 1),
        ("next", "A", 1),
    ]


def test_models_and_tasks_are_trends_of_their_own() -> None:
    base = run("a", 0.5)
    other = replace(base, model=replace(base.model, name=SourcedText(value="Other-1B")))
    number = replace(base, scores=(replace(score_of(0.5), task="number"),))
    assert [(trend.model, trend.task) for trend in trends([base, other, number])] == [
        ("Other-1B", "capitalization"),
        ("Tiny-1B", "capitalization"),
        ("Tiny-1B", "number"),
    ]


def test_costs_are_of_all_runs_and_missing_if_one_is() -> None:
    ((point,),) = [trend.points for trend in trends([run("a", 0.5), run("b", 0.4)])]
    assert isinstance(point.hours, Quantity)
    assert point.hours.value == pytest.approx(2.0)
    untimed = replace(run("c", 0.1), costs=past_run("x", seconds=None).costs)
    ((point,),) = [trend.points for trend in trends([run("a", 0.5), untimed])]
    assert isinstance(point.hours, Missing)


def test_what_is_in_no_trend_is_counted() -> None:
    found = find_trends(
        [past_run("unscored"), past_run("foreign", experiment=None), past_run("failed", outcome="timeout")], ()
    )
    assert isinstance(found.trends, Missing)
    assert isinstance(found.calibration, Missing)
    assert sum(each.runs for each in found.left_out) == 3


@pytest.mark.parametrize("started", [1e300, -1e300])
def test_an_impossible_start_is_no_date(started: float) -> None:
    ((point,),) = [trend.points for trend in trends([replace(run("a", 0.5), started_unix=started)])]
    assert point.date is None


def estimates(trainer: str, machine: str, actual: list[float]) -> list[StackEstimate]:
    estimate = Estimate(value=1.0, unit="s", low=0.9, high=1.1, method="made", rung=EvidenceLevel.SAME_RUN)
    return [
        StackEstimate(
            trainer=trainer,
            machine=machine,
            scored=ScoredEstimate(quantity="seconds per step", name="run", estimate=estimate, actual=value),
        )
        for value in actual
    ]


def test_estimates_are_scored_by_trainer_and_device() -> None:
    found = find_trends(
        [], [*estimates("peft", "NVIDIA H100", [1.0, 1.05, 2.0]), *estimates("trl", "NVIDIA A100", [1.0])]
    ).calibration
    assert not isinstance(found, Missing)
    assert [(each.trainer, each.device, each.row.count, each.row.held) for each in found] == [
        ("peft", "NVIDIA H100", 3, 2),
        ("trl", "NVIDIA A100", 1, 1),
    ]


def test_hostile_names_are_neither_markup_nor_a_link() -> None:
    name = "<script>alert(1)</script>[x](http://a.b)|\ud800\0"
    found = find_trends([replace(run("a", 0.5), experiment=name)], ())
    page = trends_html(found, (), {}, figures_off="off")
    assert "<script>alert" not in page
    assert "\0" not in page
    assert page.encode()
    assert "`<script>alert(1)</script>" in trends_markdown(found), "in a code span, where nothing is markup"


def test_figures_have_a_row_for_every_experiment() -> None:
    charts = pytest.importorskip("touchline.report.charts.trends")
    found = find_trends(
        [run("a", 0.5), run("b", 0.7, experiment="next", day=2)], estimates("peft", "NVIDIA H100", [1.0, 1.05, 2.0])
    )
    made = {chart.section: chart for chart in charts.trend_charts(found)}
    assert made.keys() == {"scores", "costs", "estimates"}
    assert [row["label"] for row in made["scores"].spec["datasets"]["scores"]] == [
        "2025-06-15 sweep",
        "2025-06-17 next",
    ]
    page = trends_html(found, tuple(made.values()), charts.trend_inks(found), script="window.vegaEmbed = null;")
    assert all(f'id="spec-{chart.name}"' in page for chart in made.values())
    assert "var(--k1)" in page
