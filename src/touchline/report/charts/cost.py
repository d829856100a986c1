"""Cost of scores: device-hours of each run and the Pareto front; disk space of each run."""

from __future__ import annotations

from collections.abc import Mapping

import altair

from touchline.core.quantity import Quantity
from touchline.core.units import GIB, KIB, MIB, format_bytes
from touchline.report.charts.parts import (
    Row,
    colour,
    finished,
    followed,
    legend_of,
    number,
    row_height,
    rows_of,
    score_ends,
)
from touchline.report.charts.scores import ROWS_LIMIT
from touchline.report.colors import CONTROL, INK, SeriesColor
from touchline.report.facts import is_asked_about
from touchline.report.figures import Chart
from touchline.report.formatting import scale_of
from touchline.report.report import Report
from touchline.results.verification_types import RunStorage
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


_UNITS = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"), (1, "B"))
_PARTS = ("adapters", "rest of checkpoints", "other files")
_HUES = ("#0072b2", "#e69f00", "#9aa0a8")


def storage(report: Report, inks: Mapping[str, SeriesColor]) -> Chart | None:
    """Return the bytes of each run by purpose, with the prediction."""
    runs = [run for run in report.verification.storage.runs if run.total_bytes > 0]
    if not runs:
        return None
    shown = runs if len(runs) <= ROWS_LIMIT else sorted(runs, key=lambda run: -run.total_bytes)[:ROWS_LIMIT]
    largest = max(run.total_bytes for run in shown)
    divisor, unit = next((size, name) for size, name in _UNITS if largest >= size)
    bars = [row for run in shown for row in _bars(run, divisor)]
    said = [row for run in shown if (row := _forecast(run, divisor, inks)) is not None]
    y = altair.Y(
        "run:N",
        sort=None,
        scale=altair.Scale(domain=[run.run for run in shown]),
        title=None,
        axis=altair.Axis(grid=False),
    )
    x = altair.X(
        "size:Q", title=unit, stack="zero", axis=altair.Axis(format=".3~r", tickCount=6), scale=altair.Scale(nice=False)
    )
    layers = [
        rows_of("bars")
        .mark_bar(height={"band": 0.62})
        .encode(
            x=x,
            y=y,
            color=altair.Color(
                "part:N", scale=altair.Scale(domain=list(_PARTS), range=list(_HUES)), legend=legend_of(_PARTS)
            ),
            order=altair.Order("place:O"),
            opacity=followed(faint=0.25),
            tooltip=[altair.Tooltip("run:N"), altair.Tooltip("part:N"), altair.Tooltip("text:N", title="size")],
        )
    ]
    rows: dict[str, list[Row]] = {"bars": bars}
    if said:
        rows["forecast"] = said
        layers.append(
            rows_of("forecast")
            .mark_tick(color=INK, thickness=2, height={"band": 0.9})
            .encode(
                x=altair.X("size:Q"),
                y=y,
                opacity=followed(),
                tooltip=[altair.Tooltip("run:N"), altair.Tooltip("text:N", title="forecast")],
            )
        )
    caption = "What each run's folder takes." + (" Upright line: what the plan said." if said else "")
    if len(runs) > len(shown):
        caption += f" The {len(shown)} largest of {len(runs):,}; the table has all."
    return finished(
        altair.layer(*layers),
        rows,
        name="storage",
        section="storage",
        title="Storage by run",
        caption=caption,
        height=row_height(len(shown)) * len(shown),
    )


def _bars(run: RunStorage, divisor: int) -> list[Row]:
    rest = run.checkpoint_bytes - run.adapter_bytes
    sizes = (run.adapter_bytes, rest, run.total_bytes - run.checkpoint_bytes)
    return [
        {"run": run.run, "part": part, "place": place, "size": number(size / divisor), "text": format_bytes(size)}
        for place, (part, size) in enumerate(zip(_PARTS, sizes, strict=True))
        if size > 0
    ]


def _forecast(run: RunStorage, divisor: int, inks: Mapping[str, SeriesColor]) -> Row | None:
    if not isinstance(run.forecast, Quantity):
        return None
    size = number(run.forecast.value / divisor)
    setting = inks.get(run.run, CONTROL).label
    return {"run": run.run, "setting": setting, "size": size, "text": format_bytes(run.forecast.value)}
