"""What all figures share: the look, the run that is followed from figure to figure, and how a spec is closed.

Figures are written with altair, and their data is put in afterwards, so that it need not pass altair's checks row by
row. A figure has one parameter, `followed`: the name of the run that a reader points at, which stays as it is while
all others fade. The page sets it in every figure at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair

from touchline.report.chart import Chart
from touchline.report.charts.look import CONFIG
from touchline.report.colors import CONTROL, SeriesColor, used
from touchline.report.formatting import Scale, join_names

Row = dict[str, object]

FOLLOWED = "followed"
"""The parameter: a run's name, or nothing."""
FAINT = 0.1
"""How much is left of what is not followed."""
LEGEND_LIMIT = 12
"""Settings that a legend names; more of them nobody reads, and the table has them all."""
_LEGEND_COLUMNS_CHARS = 72
_REACH = 2.5
"""Controls farther below the runs than so many times the runs' own span are told and not drawn."""
_LEAST_SPAN = 0.02
_LEAST_SHARES = 0.2
"""An axis of shares holds at least so much: the interval of a score from a hundred items is about as long."""
_TOP = 1.02
_FEWEST_TICKS = 3
_DIGITS = 6
_ROW, _LOW_ROW, _MANY_ROWS = 20, 14, 30


def rows_of(name: str) -> altair.Chart:
    """A figure over the rows of that name."""
    return altair.Chart(altair.NamedData(name=name))


def followed(shown: float = 1.0, faint: float = FAINT) -> Any:
    """Opacity: full for the run that is followed, and for all when none is."""
    test = f"{FOLLOWED} === '' || datum.run === {FOLLOWED}"
    return altair.when(test).then(altair.value(shown)).otherwise(altair.value(min(faint, shown)))


def colour(inks: Mapping[str, SeriesColor], *, legend: bool, lines: bool = False) -> altair.Color:
    """The colour of a setting, by its field `setting`; a legend where there are few enough to read."""
    all_inks = used(dict(inks))
    labels = [ink.label for ink in all_inks]
    told = [ink.label for ink in all_inks if ink is not CONTROL]
    shown = legend and 1 < len(told) <= LEGEND_LIMIT
    return altair.Color(
        "setting:N",
        scale=altair.Scale(domain=labels, range=[ink.light for ink in all_inks]),
        legend=legend_of(told, lines=lines) if shown else None,
        sort=None,
    )


def legend_of(labels: Sequence[str], *, lines: bool = False) -> altair.Legend:
    """A legend above the figure, in as many columns as fit; its symbols are full, whatever fades in the figure."""
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
    """An axis of differences: a plus before what is more, none before zero."""
    return altair.Axis(format="+.3~r", tickCount=5, labelExpr="datum.value === 0 ? '0' : datum.label")


def with_controls(values: Sequence[float], controls: Sequence[Row], scale: Scale) -> tuple[list[float], list[Row], str]:
    """The ends of an axis, the controls that are drawn, and a sentence: those too far off would leave the runs no room.

    Args:
        values: scores of the runs.
        controls: rows with `value` and `label`.
        scale: how scores are written.
    """
    told = [float(str(row["value"])) for row in controls]
    span = max(max(values) - min(values), _LEAST_SPAN * (max(values) - min(0.0, *values)))
    near = [row for row, value in zip(controls, told, strict=True) if min(values) - value <= _REACH * span]
    ends = score_ends([*values, *(float(str(row["value"])) for row in near)], scale)
    far = [f"{row['label']} ({scale.value(float(str(row['value'])))})" for row in controls if row not in near]
    sentence = " Dashed: controls." if near else ""
    if far:
        sentence += f" Far below and not drawn: {join_names(far)}."
    return ends, near, sentence


def score_ends(values: Sequence[float], scale: Scale) -> list[float]:
    """The ends of an axis of scores, never so close together that a difference of nothing looks like a cliff."""
    low, high = padded(values, 0.1)
    least = _LEAST_SHARES if scale.share else _LEAST_SPAN * max(abs(low), abs(high))
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
    if scale.share:
        # Points at the very top are whole.
        low, high = low - max(0.0, high - _TOP), min(high, _TOP)
        low, high = max(0.0, low), high + max(0.0, -low)
    return [number(end) or 0.0 for end in (low, min(high, _TOP) if scale.share else high)]


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
    """Close a figure: its size, its data, the look."""
    whole = figure.add_params(altair.param(name=FOLLOWED, value="")).properties(width="container", height=height)
    # Specs are parsed in tests; held against the schema each time they take as long to make as to draw.
    spec: dict[str, object] = whole.to_dict(validate=False)
    spec["config"] = CONFIG
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["padding"] = {"left": 4, "right": 12, "top": 6, "bottom": 4}
    spec["datasets"] = {key: list(values) for key, values in rows.items()}
    return Chart(name=name, section=section, title=title, caption=caption, spec=spec)


def number(value: float | None) -> float | None:
    """A number for a spec: six digits, and nothing where it is not finite, which JSON cannot say."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")


def row_height(rows: int) -> int:
    """Of a figure with a row for each run, in pixels: less where there are many."""
    return _ROW if rows <= _MANY_ROWS else _LOW_ROW


def log_ticks(low: float, high: float) -> list[float]:
    """1, 3, 10, 30 ... between the two; tens alone over many decades, even steps where they are close together."""
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
    """The ends of an axis that holds all values, with some room."""
    low, high = min(values), max(values)
    room = share * (high - low) or share * abs(high) or share
    return low - room, high + room
