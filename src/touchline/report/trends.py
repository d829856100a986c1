"""Trends over past experiments as sections: tables for the terminal, Markdown and the page."""

from __future__ import annotations

import math
from collections.abc import Iterator

from touchline.core.quantity import Missing, Quantity
from touchline.core.table import Cell, Column, Mark, Section, Table, present, table_of
from touchline.core.units import percent, plural
from touchline.plan.trends import StackCalibration, Trend, TrendPoint, Trends

TITLE = "Trends of past experiments"
SCORES, COSTS, ESTIMATES, LEFT_OUT = "Scores over time", "Costs", "Estimates", "Runs that are in no trend"


def trend_sections(found: Trends) -> tuple[Section, ...]:
    """Return scores with costs over time, the calibration of estimates, and the runs that were left out."""
    return (
        Section(
            title=SCORES,
            paragraphs=tuple(_score_notes(found)),
            tables=() if isinstance(found.trends, Missing) else present(*(_trend(trend) for trend in found.trends)),
        ),
        Section(
            title=ESTIMATES,
            paragraphs=tuple(_estimate_notes(found)),
            tables=() if isinstance(found.calibration, Missing) else present(_calibration(found.calibration)),
        ),
        Section(title=LEFT_OUT, tables=present(_left_out(found))),
    )


def trend_name(trend: Trend) -> str:
    """Return `SmolLM2-135M, capitalization: exact match`."""
    return f"{trend.model or 'unknown model'}, {trend.task}: {trend.score}"


def is_share(trend: Trend) -> bool:
    """Return True if all scores of a trend with their intervals lie between 0 and 1."""
    ends = [end for point in trend.points for end in (point.score.low, point.score.value, point.score.high)]
    return all(end is not None and 0 <= end <= 1 for end in ends)


def _score_notes(found: Trends) -> Iterator[str]:
    if isinstance(found.trends, Missing):
        yield f"unknown: {found.trends.missing}"
        return
    yield (
        "The highest score of each experiment, at the last checkpoint. The interval is widened for the best of so many "
        "runs, and is over test items alone: other training seeds would give other scores, and no difference between "
        "experiments is tested. Scores are comparable where the letter of the items is the same; other items, or other "
        "settings of the evaluation, have another letter."
    )


def _estimate_notes(found: Trends) -> Iterator[str]:
    if isinstance(found.calibration, Missing):
        yield f"unknown: {found.calibration.missing}"
        return
    yield (
        "Seconds per step: each run estimated from all others of its device. Planned: what plans predicted. Coverage "
        "is the share of intervals that hold the measured value."
    )


def _trend(trend: Trend) -> Table | None:
    share = is_share(trend)
    columns = (
        "date",
        Column("experiment", code=True),
        "items",
        Column("runs", numeric=True, note="scored runs, of which the best is shown"),
        Column("best run", code=True, is_wide=True),
        Column("score", numeric=True),
        Column("device-hours", numeric=True, note="trainings of all scored runs"),
    )
    rows = [
        (
            point.date,
            point.experiment,
            Cell(point.items, note=f"{point.sample_items:,} items"),
            point.runs,
            point.best,
            score_cell(point, share=share),
            point.hours if isinstance(point.hours, Missing) else Cell(f"{point.hours.value:.3g}", point.hours.value),
        )
        for point in trend.points
    ]
    return table_of(columns, rows, trend_name(trend))


def score_cell(point: TrendPoint, *, share: bool) -> Cell:
    """Return a score with its interval."""
    return Cell(_score(point.score.value, share=share), value=point.score.value, interval=_ends(point.score, share))


def _score(value: float, *, share: bool) -> str:
    return percent(value) if share else f"{value:.4g}"


def _ends(score: Quantity, share: bool) -> str:
    if score.low is None or score.high is None:
        return ""
    factor, form = (100, ".1f") if share else (1, ".4g")
    return f"[{factor * score.low:{form}}, {factor * score.high:{form}}]"


def _calibration(found: tuple[StackCalibration, ...]) -> Table | None:
    columns = (
        "trainer",
        "device",
        "estimate",
        Column("runs", numeric=True),
        Column("coverage", numeric=True, note="share of intervals that hold the measured value"),
        Column("expected", numeric=True),
        Column("median error", numeric=True),
        Column("median high/low", numeric=True, is_wide=True),
    )
    rows = [
        (
            each.trainer,
            each.device,
            each.row.quantity,
            each.row.count,
            Cell(
                percent(each.row.coverage, 0),
                value=each.row.coverage,
                interval=f"[{100 * each.row.coverage_interval.low:.0f}, {100 * each.row.coverage_interval.high:.0f}]",
                mark=Mark.WARN if each.row.coverage_interval.high < each.row.promised else None,
            ),
            percent(each.row.promised, 0),
            Cell(percent(each.row.median_error, 0), value=each.row.median_error),
            f"{each.row.median_ratio:.2f}" if math.isfinite(each.row.median_ratio) else "not finite",
        )
        for each in found
    ]
    return table_of(columns, rows)


def _left_out(found: Trends) -> Table | None:
    columns = (Column("runs", numeric=True), "left out because")
    return table_of(columns, [(each.runs, each.reason) for each in found.left_out])


def trends_line(found: Trends) -> str:
    """Return the size of the history in words."""
    if isinstance(found.trends, Missing):
        return plural(found.records, "record")
    experiments = {point.experiment for trend in found.trends for point in trend.points}
    return f"{plural(found.records, 'record')}, {plural(len(experiments), 'scored experiment')}"
