"""Predicted values against measured values."""

from __future__ import annotations

import math
from collections.abc import Mapping

import altair

from touchline.core.quantity import Quantity
from touchline.core.units import bare, measured
from touchline.report.charts.parts import Row, finished, followed, number, rows_of
from touchline.report.charts.scores import ROWS_LIMIT
from touchline.report.colors import CONTROL, INK, MUTED, SeriesColor
from touchline.report.figures import Chart
from touchline.report.report import EstimateRow, Report

_BAND = 64
"""Height in pixels of the points of one quantity."""
_TICKS = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2)
_FAR_TICKS = (0.001, 0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 100, 1000)
_NEAR = 0.32
"""Decades on both sides up to which the finer ticks are used."""
_FEWEST_DECADES = 0.2
"""Minimum extent of the axis on both sides, so that small errors look small."""


def estimates(report: Report, inks: Mapping[str, SeriesColor]) -> Chart | None:
    """Return the figure of measured over predicted values, by quantity. 1 is an exact estimate."""
    rows = _rows(report, inks)
    if not rows:
        return None
    ends = [float(str(row[key])) for row in rows for key in ("ratio", "low", "high") if row[key] is not None]
    reach = max(_FEWEST_DECADES, *(abs(math.log10(end)) for end in ends)) * 1.05
    ticks = [tick for tick in (_TICKS if reach < _NEAR else _FAR_TICKS) if abs(math.log10(tick)) <= reach]
    x = altair.X(
        "ratio:Q",
        title="measured ÷ predicted, log",
        scale=altair.Scale(type="log", domain=[number(10**-reach), number(10**reach)], nice=False),
        axis=altair.Axis(values=ticks, format=".3~r"),
    )
    y = altair.Y(
        "quantity:N", sort=None, title=None, axis=altair.Axis(grid=False), scale=altair.Scale(paddingInner=0.25)
    )
    shift = altair.YOffset("run:N", sort=None)
    tooltips = [
        altair.Tooltip("run:N"),
        altair.Tooltip("quantity:N"),
        altair.Tooltip("predicted:N"),
        altair.Tooltip("measured:N"),
        altair.Tooltip("verdict:N", title="interval"),
    ]
    base = rows_of("estimates").encode(y=y, yOffset=shift, opacity=followed(), tooltip=tooltips)
    one = rows_of("one").mark_rule(color=INK, strokeWidth=1).encode(x="one:Q")
    intervals = (
        base.transform_filter("datum.low !== null")
        .mark_rule(strokeWidth=1.5, color=MUTED)
        .encode(opacity=followed(0.3))
    )
    labels = list(dict.fromkeys(str(row["setting"]) for row in rows))
    hue_of = {ink.label: ink.light for ink in [CONTROL, *inks.values()]}
    hues = altair.Color(
        "setting:N", legend=None, scale=altair.Scale(domain=labels, range=[hue_of[name] for name in labels])
    )
    inside = base.transform_filter("datum.inside").mark_point(filled=True, size=52, opacity=1)
    outside = base.transform_filter("!datum.inside").mark_point(filled=False, size=52, strokeWidth=1.8)
    figure_ = altair.layer(
        one,
        intervals.encode(x=altair.X("low:Q"), x2="high:Q"),
        outside.encode(x=x, color=hues),
        inside.encode(x=x, color=hues),
    )
    count = len({row["quantity"] for row in rows})
    drawn, known = len({row["run"] for row in rows}), len({estimate.run for estimate in report.estimates})
    left = (
        ""
        if drawn < ROWS_LIMIT or drawn == known
        else f" Shown: the {drawn} of {known:,} runs with the largest errors."
    )
    coverage = next((e.predicted.coverage for e in report.estimates if isinstance(e.predicted, Quantity)), None)
    bars = "prediction interval" if coverage is None else f"{100 * coverage:g}% prediction interval"
    return finished(
        figure_,
        {"estimates": rows, "one": [{"one": 1}]},
        name="estimates",
        section="estimates",
        title="Predicted and measured",
        caption=(
            "One point per run. Right of 1: above the prediction. Grey bars: "
            f"{bars}. Filled: inside it. Ring: outside it, or without an interval.{left}"
        ),
        height=_BAND * count,
    )


def _rows(report: Report, inks: Mapping[str, SeriesColor]) -> list[Row]:
    """Return the rows to draw. With many runs, these are the runs with the largest errors."""
    rows = [row for estimate in report.estimates if (row := _row(estimate, inks)) is not None]
    off: dict[object, float] = {}
    for row in rows:
        off[row["run"]] = max(off.get(row["run"], 0.0), abs(math.log(float(str(row["ratio"])))))
    worst = set(sorted(off, key=lambda run: -off[run])[:ROWS_LIMIT])
    return [row for row in rows if row["run"] in worst]


def _row(each: EstimateRow, inks: Mapping[str, SeriesColor]) -> Row | None:
    said, was = each.predicted, each.measured
    if not isinstance(said, Quantity) or not isinstance(was, Quantity) or said.unit != was.unit:
        return None
    if not (said.value > 0 and was.value > 0 and math.isfinite(said.value) and math.isfinite(was.value)):
        return None
    ends = (said.low, said.high)
    low, high = (number(end / said.value) if end is not None and end > 0 else None for end in ends)
    return {
        "run": each.run,
        "setting": inks.get(each.run, CONTROL).label,
        "quantity": each.quantity,
        "ratio": number(was.value / said.value),
        "low": low if high is not None else None,
        "high": high if low is not None else None,
        "predicted": measured(said),
        "measured": bare(was),
        "inside": each.inside is True,
        "verdict": {True: "inside", False: "outside", None: "none"}[each.inside],
    }
