"""Cost of scores: device-hours of each run and the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping

import altair

from touchline.core.quantity import Quantity
from touchline.report.chart import Chart
from touchline.report.charts.look import INK
from touchline.report.charts.parts import Row, colour, finished, followed, number, rows_of, score_ends
from touchline.report.colors import SeriesColor
from touchline.report.facts import is_asked_about
from touchline.report.formatting import scale_of
from touchline.report.report import Report
from touchline.statistics.conclusions import Analysis


def cost(report: Report, analysis: Analysis, inks: Mapping[str, SeriesColor]) -> Chart | None:
    """Return the figure of score against device-hours, with the Pareto front of each base model as a line."""
    rows = _rows(report, analysis, inks)
    if len(rows) < 2:
        return None
    share = scale_of(analysis).share
    hours = [float(str(row["hours"])) for row in rows]
    scores = [float(str(row["score"])) for row in rows]
    unit, factor = ("device-hours", 1) if max(hours) >= 0.1 else ("device-minutes", 60)
    for row in rows:
        row["cost"] = number(float(str(row["hours"])) * factor)
    far = max(hours) > 30 * min(hours) > 0
    scale = (
        altair.Scale(type="log", nice=False, padding=12)
        if far
        else altair.Scale(domain=[0, number(max(hours) * factor * 1.06)], nice=False)
    )
    x = altair.X(
        "cost:Q",
        title=f"{unit} per run{', log' if far else ''}",
        scale=scale,
        axis=altair.Axis(format=".3~r", tickCount=6),
    )
    y = altair.Y(
        "score:Q",
        title=analysis.score,
        scale=altair.Scale(domain=score_ends(scores, scale_of(analysis)), nice=False),
        axis=altair.Axis(format=".0%" if share else ".3~r", tickCount=6),
    )
    shapes = list(dict.fromkeys(ink.shape for ink in inks.values()))
    points = (
        rows_of("cost")
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            x=x,
            y=y,
            color=colour(inks, legend=True),
            shape=altair.Shape("shape:N", scale=altair.Scale(domain=shapes, range=shapes), legend=None),
            opacity=followed(),
            tooltip=[
                altair.Tooltip("run:N"),
                altair.Tooltip("setting:N"),
                altair.Tooltip("cost:Q", format=".3~r", title=unit),
                altair.Tooltip("score:Q", format=".1%" if share else ".4~r"),
                altair.Tooltip("pareto:N", title="Pareto front"),
            ],
        )
    )
    front = (
        rows_of("cost")
        .transform_filter("datum.front")
        .mark_line(strokeWidth=1.4, strokeDash=[6, 3], color=INK, opacity=0.6)
        .encode(x=x, y=y, detail="model:N", order="cost:Q")
    )
    return finished(
        altair.layer(front, points),
        {"cost": rows},
        name="cost",
        section="cost",
        title="Score against cost",
        caption="Dashed: the Pareto front of each base model, the runs that no other equals for the same time or less.",
        height=280,
    )


def _rows(report: Report, analysis: Analysis, inks: Mapping[str, SeriesColor]) -> list[Row]:
    scores = {score.run: score.value for score in analysis.scores}
    made: list[Row] = []
    for run, facts in zip(report.runs, report.facts, strict=True):
        hours = facts.device_hours
        if not is_asked_about(run) or run.name not in scores or not isinstance(hours, Quantity):
            continue
        ink = inks[run.name]
        row: Row = {"run": run.name, "model": run.model, "setting": ink.label, "shape": ink.shape}
        known, score = number(hours.value), number(scores[run.name])
        if known is not None and score is not None:
            made.append(
                row
                | {
                    "hours": known,
                    "score": score,
                    "front": facts.is_pareto,
                    "pareto": "yes" if facts.is_pareto else "no",
                }
            )
    return made
