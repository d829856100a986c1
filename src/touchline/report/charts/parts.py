"""Shared parts of the figures: the theme, the highlighted run, and the conversion to specs.

Data is added after altair has made a spec, so that it is not validated row by row. The parameter `followed` is the name
of the run under the pointer; the page sets it in every figure at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair

from touchline.report.colors import CONFIG, CONTROL, SeriesColor, used
from touchline.report.figures import Chart

Row = dict[str, object]

FOLLOWED = "followed"  # Name of the parameter. Its value is a run's name or empty
FAINT = 0.1  # Opacity of runs that are not highlighted
LEGEND_LIMIT = 12  # Maximum number of settings in a legend. The table lists all of them
_LEGEND_COLUMNS_CHARS = 72
_FEWEST_TICKS = 3
_DIGITS = 6
_ROW, _LOW_ROW, _MANY_ROWS = 20, 14, 30


def rows_of(name: str) -> altair.Chart:
    """Return a figure over the rows of a data set."""
    return altair.Chart(altair.NamedData(name=name))


def followed(shown: float = 1.0, faint: float = FAINT) -> Any:
    """Return the opacity: full for the highlighted run, and for all runs if none is highlighted."""
    test = f"{FOLLOWED} === '' || datum.run === {FOLLOWED}"
    return altair.when(test).then(altair.value(shown)).otherwise(altair.value(min(faint, shown)))


def colour(inks: Mapping[str, SeriesColor], *, legend: bool, lines: bool = False) -> altair.Color:
    """Return the color encoding by the field `setting`, with a legend if there are few settings."""
    all_inks = used(dict(inks))
    labels = [ink.label for ink in all_inks]
    named = [ink.label for ink in all_inks if ink is not CONTROL]
    shown = legend and 1 < len(named) <= LEGEND_LIMIT
    return altair.Color(
        "setting:N",
        scale=altair.Scale(domain=labels, range=[ink.light for ink in all_inks]),
        legend=legend_of(named, lines=lines) if shown else None,
        sort=None,
    )


def legend_of(labels: Sequence[str], *, lines: bool = False) -> altair.Legend:
    """Return a legend above the figure, in as many columns as fit. Its symbols keep full opacity."""
    columns = max(1, min(len(labels), _LEGEND_COLUMNS_CHARS // (4 + max(map(len, labels), default=1))))
    return altair.Legend(
        columns=columns,
        values=list(labels),
        title=None,
        symbolOpacity=1,
        symbolType="stroke" if lines else "circle",
        symbolStrokeWidth=3 if lines else altair.Undefined,
    )


def signed() -> altair.Axis:
    """Return an axis of differences: a plus sign before positive values, none before zero."""
    return altair.Axis(format="+.3~r", tickCount=5, labelExpr="datum.value === 0 ? '0' : datum.label")


def tooltips(*fields: str) -> list[altair.Tooltip]:
    """Return tooltips of fields, each with its title after a space: `p:N Holm`."""
    parts = (field.partition(" ") for field in fields)
    return [altair.Tooltip(name, title=title or altair.Undefined) for name, _, title in parts]


def interval_tooltips(title: str, form: str) -> list[altair.Tooltip]:
    """Return the tooltips of a value and the ends of its interval."""
    titles = {"value": title, "low": "from", "high": "to"}
    return [altair.Tooltip(f"{field}:Q", format=form, title=title) for field, title in titles.items()]


def finished(
    figure: Any,
    rows: Mapping[str, Sequence[Row]],
    *,
    name: str,
    section: str,
    title: str,
    caption: str,
    height: float = 260,
) -> Chart:
    """Return the figure as a chart: its size, its data and the theme."""
    whole = figure.add_params(altair.param(name=FOLLOWED, value="")).properties(width="container", height=height)
    # Tests parse the specs. Validating them against the schema on each call would take as long as drawing.
    spec: dict[str, object] = whole.to_dict(validate=False)
    spec["config"] = CONFIG
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["padding"] = {"left": 4, "right": 12, "top": 6, "bottom": 4}
    spec["datasets"] = {key: list(values) for key, values in rows.items()}
    return Chart(name=name, section=section, title=title, caption=caption, spec=spec)


def number(value: float | None) -> float | None:
    """Return a number for a spec with six digits. None if it is not finite, which JSON cannot represent."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")


def row_height(rows: int) -> int:
    """Return the height in pixels of a figure with one row per run. Rows are lower if there are many."""
    return _ROW if rows <= _MANY_ROWS else _LOW_ROW


def log_ticks(low: float, high: float) -> list[float]:
    """Return axis ticks: 1, 3, 10, 30 ... Only tens over many decades, even steps in a narrow range."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1,) if last - first > 5 else (1, 3)
    ticks = [float(f"{step * 10.0**power:.3g}") for power in range(first, last + 1) for step in steps]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside if len(inside) >= _FEWEST_TICKS else _even_ticks(low, high)


def _even_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / _FEWEST_TICKS
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    step = max((size * power for size in (1, 2, 5) if size * power <= rough), default=power)
    first = math.ceil(low / step)
    return [number(place * step) or 0.0 for place in range(first, math.floor(high / step) + 1)] or [low]


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """Return the ends of an axis that holds all values, with padding."""
    low, high = min(values), max(values)
    room = share * (high - low) or share * abs(high) or share
    return low - room, high + room
