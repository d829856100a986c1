"""Disk space of the runs."""

from __future__ import annotations

from collections.abc import Mapping

import altair

from touchline.core.quantity import Quantity
from touchline.core.units import GIB, KIB, MIB, format_bytes
from touchline.report.chart import Chart
from touchline.report.charts.look import INK
from touchline.report.charts.parts import Row, finished, followed, legend_of, number, row_height, rows_of
from touchline.report.charts.scores import ROWS_LIMIT
from touchline.report.colors import CONTROL, SeriesColor
from touchline.report.report import Report
from touchline.results.verification_types import RunStorage

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
