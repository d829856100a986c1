"""Training and validation loss by optimizer step, thinned and smoothed; predicted against measured values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair

from touchline.core.quantity import Quantity
from touchline.core.units import bare, measured
from touchline.report.charts.parts import Row, colour, finished, followed, log_ticks, number, rows_of, tooltips
from touchline.report.charts.scores import ROWS_LIMIT
from touchline.report.colors import CONTROL, INK, MUTED, SeriesColor
from touchline.report.figures import FELT, Chart
from touchline.report.report import EstimateRow, Report
from touchline.results.run_result import LossPoint, RunResult

SECTION = "training"
CUT_NOTE = " Square: the run was cut there."
_TOUCH = 12  # Width of the invisible line around a curve that receives pointer events


def training_loss(report: Report, inks: Mapping[str, SeriesColor]) -> Chart | None:
    """Return the training loss of all runs: smoothed, with the raw steps behind it."""
    trained = [run for run in report.runs if run.train_losses]
    if not trained:
        return None
    points = budget(len(trained))
    mean = max(2, round(points * SMOOTH_SHARE))
    raw = [curve(run, inks, thinned(run.train_losses, points - mean)) for run in trained]
    smooth = [curve(run, inks, smoothed(run.train_losses, mean)) for run in trained]
    broken = [row for run in trained if (row := _broken(run, inks, run.train_losses)) is not None]
    y = loss_axis([p.loss for run in trained for p in run.train_losses], "training loss (nats per target token)")
    drawn = lines("smooth", y, inks, width=1.8, shown=1.0)
    figure = altair.layer(lines("raw", y, inks, width=0.8, shown=0.2), drawn, felt("smooth", y))
    rows: dict[str, Sequence[Row]] = {"raw": raw, "smooth": smooth}
    caption = "Thick: running mean over 5% of the steps. Thin: single steps, the lowest and highest of each interval."
    if broken:
        figure += _marks("broken", y, inks, "last loss that is a number", shape="cross", angle=45, size=110)
        rows["broken"] = broken
        caption += " Cross: the loss is not a number after this step."
    figure, cut = _with_cuts(figure, rows, y, inks, [(run, run.train_losses[-1]) for run in trained])
    return finished(
        figure, rows, name="train_loss", section=SECTION, title="Training loss", caption=caption + cut, height=280
    )


def validation_loss(report: Report, inks: Mapping[str, SeriesColor]) -> Chart | None:
    """Return the validation loss of all runs, the lowest point of each marked."""
    validated = [run for run in report.runs if any(math.isfinite(p.loss) for p in run.validation_losses)]
    if not validated:
        return None
    limit = budget(len(validated))
    curves = [curve(run, inks, thinned(run.validation_losses, limit)) for run in validated]
    lowest = [_point(run, inks, point) for run in validated if (point := best(run.validation_losses)) is not None]
    y = loss_axis([p.loss for run in validated for p in run.validation_losses], "validation loss (nats per token)")
    few = sum(len(run.validation_losses) for run in validated) <= 400
    drawn = lines("curves", y, inks, width=1.8, shown=1.0, points=few)
    marks = _marks("lowest", y, inks, "lowest validation loss", shape="diamond", size=95, strokeWidth=1.2)
    figure = altair.layer(drawn, felt("curves", y), marks)
    rows: dict[str, Sequence[Row]] = {"curves": curves, "lowest": lowest}
    caption = "Diamond: the lowest value of each run. A curve that rises after it is a sign of overfitting."
    figure, cut = _with_cuts(figure, rows, y, inks, [(run, run.validation_losses[-1]) for run in validated])
    title = "Validation loss"
    return finished(
        figure, rows, name="validation_loss", section=SECTION, title=title, caption=caption + cut, height=280
    )


def curve(run: RunResult, inks: Mapping[str, SeriesColor], points: Sequence[LossPoint]) -> Row:
    """Return one row for a whole curve, which the figure unrolls. It takes a third of the text of one row per point."""
    return {
        "run": run.name,
        "setting": inks[run.name].label,
        "step": [point.step for point in points],
        "loss": [number(point.loss) for point in points],
    }


def _point(run: RunResult, inks: Mapping[str, SeriesColor], point: LossPoint) -> Row:
    return {"run": run.name, "setting": inks[run.name].label, "step": point.step, "loss": number(point.loss)}


def _broken(run: RunResult, inks: Mapping[str, SeriesColor], points: Sequence[LossPoint]) -> Row | None:
    place = next((index for index, point in enumerate(points) if not math.isfinite(point.loss)), None)
    if place is None:
        return None
    before = next((point for point in reversed(points[:place]) if math.isfinite(point.loss)), None)
    return None if before is None else _point(run, inks, before)


def lines(
    name: str, y: altair.Y, inks: Mapping[str, SeriesColor], *, width: float, shown: float, points: bool = False
) -> altair.Chart:
    """Draw the curves of the rows called `name`, one line per run."""
    chart: altair.Chart = (
        rows_of(name)
        .transform_flatten(["step", "loss"])
        .mark_line(strokeWidth=width, point={"size": 14, "filled": True} if points else False)
        .encode(
            x=step_axis(),
            y=y,
            detail="run:N",
            color=colour(inks, legend=True, lines=True),
            opacity=followed(shown, shown / 8),
        )
    )
    return chart


def felt(name: str, y: altair.Y) -> altair.Chart:
    """Return wide invisible lines that receive pointer events. Thin lines are hard to hit."""
    chart: altair.Chart = (
        rows_of(name)
        .transform_flatten(["step", "loss"])
        .mark_line(strokeWidth=_TOUCH, opacity=0.001, color="#888888")
        .properties(name=FELT)
        .encode(x=step_axis(), y=y, detail="run:N", tooltip=tooltips("run:N", "setting:N"))
    )
    return chart


def _marks(name: str, y: altair.Y, inks: Mapping[str, SeriesColor], title: str, **style: Any) -> altair.Chart:
    """Draw a mark at a point of each curve."""
    chart: altair.Chart = (
        rows_of(name)
        .mark_point(filled=True, **style)
        .encode(
            x=step_axis(),
            y=y,
            color=colour(inks, legend=True, lines=True),
            opacity=followed(),
            tooltip=[
                *tooltips("run:N", "setting:N"),
                altair.Tooltip("step:Q", format=","),
                altair.Tooltip("loss:Q", format=".4~r", title=title),
            ],
        )
    )
    return chart


def _with_cuts(
    figure: Any,
    rows: dict[str, Sequence[Row]],
    y: altair.Y,
    inks: Mapping[str, SeriesColor],
    ends: Sequence[tuple[RunResult, LossPoint]],
) -> tuple[Any, str]:
    """Add a square at the end of each curve that explore cut. Return the figure and what its caption adds."""
    cut = [_point(run, inks, point) for run, point in ends if run.cut_after_step is not None]
    if not cut:
        return figure, ""
    rows["cut"] = cut
    return figure + _marks("cut", y, inks, "last loss before the cut", shape="square", size=75), CUT_NOTE


def step_axis() -> altair.X:
    """Return the axis of optimizer steps."""
    return altair.X("step:Q", title="optimizer step", axis=altair.Axis(format=",d", tickCount=6), scale={"nice": False})


def loss_axis(losses: Sequence[float], title: str) -> altair.Y:
    """Return a logarithmic axis, or a linear one if a loss is zero or less."""
    finite = [loss for loss in losses if math.isfinite(loss)] or [1.0]
    low, high = min(finite), max(finite)
    if low <= 0:
        return altair.Y("loss:Q", title=title, scale=altair.Scale(zero=False))
    ends = (low / 1.15, high * 1.15)
    axis = altair.Axis(values=log_ticks(*ends), format=".3~r")
    scale = altair.Scale(type="log", domain=[number(ends[0]), number(ends[1])], nice=False)
    return altair.Y("loss:Q", title=f"{title}, log", scale=scale, axis=axis)


POINTS_A_RUN = 200  # Maximum number of points per run in one figure, raw and smoothed together
POINTS_IN_ALL = 24_000  # Approximate maximum number of points in one figure; with many runs each gets fewer
FEWEST = 24
SMOOTH_SHARE = 0.4  # Share of a run's points used for the smoothed line


def budget(runs: int) -> int:
    """Return the number of points per run, raw and smoothed together."""
    return max(FEWEST, min(POINTS_A_RUN, POINTS_IN_ALL // max(runs, 1)))


def thinned(points: Sequence[LossPoint], limit: int) -> list[LossPoint]:
    """Return the lowest and highest point of each of limit / 2 intervals, in order, so that peaks remain visible.

    An interval with a non-finite loss returns that point instead of its highest, so that the gap is visible.
    """
    if len(points) <= limit:
        return list(points)
    stretches = max(1, limit // 2)
    kept: list[LossPoint] = []
    for index in range(stretches):
        stretch = points[index * len(points) // stretches : (index + 1) * len(points) // stretches]
        kept += _two(stretch)
    return kept


def _two(stretch: Sequence[LossPoint]) -> list[LossPoint]:
    finite = [point for point in stretch if math.isfinite(point.loss)]
    broken = next((point for point in stretch if not math.isfinite(point.loss)), None)
    if not finite:
        return [stretch[0]] if stretch else []
    low, high = min(finite, key=_loss), max(finite, key=_loss)
    two = {low.step: low, (broken or high).step: broken or high}
    return [two[step] for step in sorted(two)]


def _loss(point: LossPoint) -> float:
    return point.loss


def smoothed(points: Sequence[LossPoint], limit: int) -> list[LossPoint]:
    """Return moving averages at `limit` positions, both ends included. The window is 5% of the curve."""
    finite = [point for point in points if math.isfinite(point.loss)]
    if len(finite) < 3 or limit < 2:
        return finite
    half = max(1, len(finite) // 40)
    sums = [0.0]
    for point in finite:
        sums.append(sums[-1] + point.loss)
    count = min(limit, len(finite))
    places = sorted({round(index * (len(finite) - 1) / (count - 1)) for index in range(count)})
    made: list[LossPoint] = []
    for place in places:
        # A narrower window at the start keeps the fast initial decrease of the loss.
        low = place - min(half, place)
        high = min(place + min(half, place), len(finite) - 1) + 1
        made.append(LossPoint(step=finite[place].step, loss=(sums[high] - sums[low]) / (high - low)))
    return made


def best(points: Sequence[LossPoint]) -> LossPoint | None:
    """Return the point with the lowest loss, the earliest of equals. None if no loss is finite."""
    return min((point for point in points if math.isfinite(point.loss)), key=_loss, default=None)


_BAND = 64  # Height in pixels of the points of one quantity
_TICKS = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2)
_FAR_TICKS = (0.001, 0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 100, 1000)
_NEAR = 0.32  # Decades on both sides up to which the finer ticks are used
_FEWEST_DECADES = 0.2  # Minimum extent of the axis on both sides, so that small errors look small


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
    told = tooltips("run:N", "quantity:N", "predicted:N", "measured:N", "verdict:N interval")
    base = rows_of("estimates").encode(y=y, yOffset=shift, opacity=followed(), tooltip=told)
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
