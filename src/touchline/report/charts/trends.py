"""Figures of trends over past experiments: best scores, device-hours, coverage of estimates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import altair

from touchline.core.quantity import Missing, Quantity
from touchline.core.units import percent
from touchline.plan.trends import StackCalibration, Trend, TrendPoint, Trends
from touchline.report.charts.parts import (
    Row,
    colour,
    finished,
    followed,
    interval_tooltips,
    number,
    padded,
    row_height,
    rows_of,
)
from touchline.report.colors import MUTED, SeriesColor, series_colors
from touchline.report.figures import Chart
from touchline.report.trends import is_share, trend_name

SCORES, COSTS, ESTIMATES = "scores", "costs", "estimates"
ROWS_LIMIT = 60
"""Most experiments in a figure, the latest ones. The table has all."""
TRENDS_LIMIT = 12
"""Most trends with figures of their own. The tables have all."""


def trend_inks(found: Trends) -> dict[str, SeriesColor]:
    """Return a color for each letter of test items."""
    if isinstance(found.trends, Missing):
        return {}
    return series_colors(sorted({f"items {point.items}" for trend in found.trends for point in trend.points}))


def trend_charts(found: Trends) -> tuple[Chart, ...]:
    """Return the figures of the page."""
    inks = trend_inks(found)
    made: list[Chart] = []
    if not isinstance(found.trends, Missing):
        for place, trend in enumerate(found.trends[:TRENDS_LIMIT]):
            suffix = re.sub(r"[^a-z0-9]+", "_", trend_name(trend).lower())[:40].strip("_")
            made += [_scores(trend, inks, f"score_{place}_{suffix}"), *_costs(trend, inks, f"cost_{place}_{suffix}")]
    if not isinstance(found.calibration, Missing):
        # An estimate without an interval has no coverage.
        usable = [each for each in found.calibration if each.row.promised > 0]
        for place, quantity in enumerate(dict.fromkeys(each.row.quantity for each in usable)):
            own = [each for each in usable if each.row.quantity == quantity]
            made.append(_coverage(quantity, own, f"coverage_{place}"))
    return tuple(made)


def _shown(trend: Trend) -> tuple[Sequence[TrendPoint], str]:
    left = len(trend.points) - ROWS_LIMIT
    return trend.points[-ROWS_LIMIT:], "" if left <= 0 else f" The latest {ROWS_LIMIT}; the table has all."


def _labels(points: Sequence[TrendPoint]) -> list[str]:
    """Return a label for each experiment; one that is there with several sets of items gets their letter."""
    names = [f"{point.date or 'no date'} {point.experiment}" for point in points]
    return [
        f"{name} {point.items}" if names.count(name) > 1 else name for name, point in zip(names, points, strict=True)
    ]


def _scores(trend: Trend, inks: dict[str, SeriesColor], name: str) -> Chart:
    points, left = _shown(trend)
    share = is_share(trend)
    rows: list[Row] = [
        {
            "run": point.experiment,
            "label": label,
            "setting": f"items {point.items}",
            "best": point.best,
            "value": number(point.score.value),
            "low": number(point.score.value if point.score.low is None else point.score.low),
            "high": number(point.score.value if point.score.high is None else point.score.high),
            "count": f"{point.runs:,}",
        }
        for point, label in zip(points, _labels(points), strict=True)
    ]
    ends = [end for row in rows for end in (row["low"], row["high"]) if isinstance(end, float)]
    domain = (0.0, 1.0) if share else padded(ends)
    x = altair.X(
        "value:Q",
        title=None if share else trend.score,
        scale=altair.Scale(domain=list(domain), nice=False),
        axis=altair.Axis(format=".0%" if share else ".3~r", tickCount=5),
    )
    low = x.copy()
    low.shorthand = "low:Q"
    base = rows_of("scores").encode(
        y=_names(_labels(points)),
        opacity=followed(),
        color=colour(inks, legend=True),
        tooltip=[
            altair.Tooltip("run:N", title="experiment"),
            altair.Tooltip("best:N", title="best run"),
            *interval_tooltips("score", ".1%" if share else ".4~r"),
            altair.Tooltip("count:N", title="scored runs"),
        ],
    )
    return finished(
        altair.layer(
            base.mark_rule(strokeWidth=3.5, strokeCap="round").encode(x=low, x2="high:Q"),
            base.mark_point(filled=True, size=75, opacity=1).encode(x=x),
        ),
        {"scores": rows},
        name=name,
        section=SCORES,
        title=trend_name(trend),
        caption="Highest score of each experiment, by date, with the interval for the best of its runs. Scores of one "
        f"color are on the same items.{left}",
        height=row_height(len(rows)) * max(len(rows), 2),
    )


def _costs(trend: Trend, inks: dict[str, SeriesColor], name: str) -> Iterator[Chart]:
    """Yield the device-hours of the experiments, if any are known."""
    points, left = _shown(trend)
    known = [(point, point.hours.value) for point in points if isinstance(point.hours, Quantity)]
    if not known:
        return
    small = max(hours for _, hours in known) < 1
    unit, factor = ("device-minutes", 60) if small else ("device-hours", 1)
    rows: list[Row] = [
        {
            "run": point.experiment,
            "label": label,
            "setting": f"items {point.items}",
            "cost": number(hours * factor),
            "each": number(hours * factor / point.runs),
            "count": f"{point.runs:,}",
        }
        for (point, hours), label in zip(known, _labels([point for point, _ in known]), strict=True)
    ]
    bars = (
        rows_of("costs")
        .mark_bar(size=10)
        .encode(
            x=altair.X("cost:Q", title=unit, axis=altair.Axis(format=".3~r", tickCount=5)),
            y=_names([str(row["label"]) for row in rows]),
            opacity=followed(),
            color=colour(inks, legend=False),
            tooltip=[
                altair.Tooltip("run:N", title="experiment"),
                altair.Tooltip("cost:Q", format=".3~r", title=unit),
                altair.Tooltip("each:Q", format=".3~r", title="per run"),
                altair.Tooltip("count:N", title="scored runs"),
            ],
        )
    )
    yield finished(
        altair.layer(bars),
        {"costs": rows},
        name=name,
        section=COSTS,
        title=f"Cost: {trend_name(trend)}",
        caption=f"{unit.capitalize()} of the trainings of each experiment's scored runs, by date.{left}",
        height=row_height(len(rows)) * max(len(rows), 2),
    )


def _coverage(quantity: str, found: Sequence[StackCalibration], name: str) -> Chart:
    rows: list[Row] = []
    for each in found[:ROWS_LIMIT]:
        interval = each.row.coverage_interval
        label = f"{each.trainer}, {each.device.removeprefix('NVIDIA ')}"
        rows.append(
            {
                "run": label,
                "label": label,
                "value": number(each.row.coverage),
                "low": number(interval.low),
                "high": number(interval.high),
                "expected": number(each.row.promised),
                "count": f"{each.row.held:,} of {each.row.count:,}",
                "error": percent(each.row.median_error, 0),
            }
        )
    inks = series_colors(["coverage"])
    ink = inks["coverage"].light
    x = altair.X(
        "value:Q",
        title=None,
        scale=altair.Scale(domain=[0, 1], nice=False),
        axis=altair.Axis(format=".0%", tickCount=5),
    )
    low, expected = x.copy(), x.copy()
    low.shorthand, expected.shorthand = "low:Q", "expected:Q"
    base = rows_of("coverage").encode(
        y=_names([str(row["label"]) for row in rows]),
        opacity=followed(),
        tooltip=[
            altair.Tooltip("label:N", title="estimate"),
            *interval_tooltips("coverage", ".0%"),
            altair.Tooltip("expected:Q", format=".0%"),
            altair.Tooltip("count:N", title="held"),
            altair.Tooltip("error:N", title="median error"),
        ],
    )
    return finished(
        altair.layer(
            base.mark_tick(color=MUTED, thickness=2, size=14).encode(x=expected),
            base.mark_rule(strokeWidth=3.5, strokeCap="round", color=ink).encode(x=low, x2="high:Q"),
            base.mark_point(filled=True, size=75, opacity=1, color=ink).encode(x=x),
        ),
        {"coverage": rows},
        name=name,
        section=ESTIMATES,
        title=f"Coverage: {quantity}",
        caption="Share of intervals that held the measured value, with its 95% interval. Tick: the coverage that the "
        "intervals should have.",
        height=row_height(len(rows)) * max(len(rows), 2),
    )


def _names(labels: Sequence[str]) -> altair.Y:
    return altair.Y(
        "label:N", sort=None, scale=altair.Scale(domain=list(labels)), title=None, axis=altair.Axis(grid=False)
    )
