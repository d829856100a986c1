"""Training and validation loss by optimizer step, thinned and smoothed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import altair

from touchline.report.charts.parts import Row, colour, finished, followed, log_ticks, number, rows_of
from touchline.report.colors import SeriesColor
from touchline.report.figures import FELT, Chart
from touchline.report.report import Report
from touchline.results.run_result import LossPoint, RunResult

SECTION = "training"
CUT_NOTE = " Square: the run was cut there."
_TOUCH = 12
"""Width of the invisible line around a curve that receives pointer events."""


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
        figure += _crosses(y, inks)
        rows["broken"] = broken
        caption += " Cross: the loss is not a number after this step."
    if ends := [_point(run, inks, run.train_losses[-1]) for run in trained if run.cut_after_step is not None]:
        figure += _cuts(y, inks)
        rows["cut"] = ends
        caption += CUT_NOTE
    return finished(
        figure, rows, name="train_loss", section=SECTION, title="Training loss", caption=caption, height=280
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
    marks = (
        rows_of("lowest")
        .mark_point(shape="diamond", filled=True, size=95, strokeWidth=1.2)
        .encode(
            x=step_axis(),
            y=y,
            color=colour(inks, legend=True, lines=True),
            opacity=followed(),
            tooltip=_told("lowest validation loss"),
        )
    )
    figure = altair.layer(drawn, felt("curves", y), marks)
    rows: dict[str, Sequence[Row]] = {"curves": curves, "lowest": lowest}
    caption = "Diamond: the lowest value of each run. A curve that rises after it is a sign of overfitting."
    if ends := [_point(run, inks, run.validation_losses[-1]) for run in validated if run.cut_after_step is not None]:
        figure += _cuts(y, inks)
        rows["cut"] = ends
        caption += CUT_NOTE
    return finished(
        figure,
        rows,
        name="validation_loss",
        section=SECTION,
        title="Validation loss",
        caption=caption,
        height=280,
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
    """Return the last finite value before the first non-finite loss."""
    place = next((index for index, point in enumerate(points) if not math.isfinite(point.loss)), None)
    if place is None:
        return None
    before = next((point for point in reversed(points[:place]) if math.isfinite(point.loss)), None)
    return None if before is None else _point(run, inks, before)


def lines(
    name: str,
    y: altair.Y,
    inks: Mapping[str, SeriesColor],
    *,
    width: float,
    shown: float,
    points: bool = False,
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
        .encode(x=step_axis(), y=y, detail="run:N", tooltip=[altair.Tooltip("run:N"), altair.Tooltip("setting:N")])
    )
    return chart


def _crosses(y: altair.Y, inks: Mapping[str, SeriesColor]) -> altair.Chart:
    crosses: altair.Chart = (
        rows_of("broken")
        .mark_point(shape="cross", angle=45, filled=True, size=110)
        .encode(
            x=step_axis(),
            y=y,
            color=colour(inks, legend=True, lines=True),
            opacity=followed(),
            tooltip=_told("last loss that is a number"),
        )
    )
    return crosses


def _cuts(y: altair.Y, inks: Mapping[str, SeriesColor]) -> altair.Chart:
    """Draw a square at the end of each curve that explore cut."""
    squares: altair.Chart = (
        rows_of("cut")
        .mark_point(shape="square", filled=True, size=75)
        .encode(
            x=step_axis(),
            y=y,
            color=colour(inks, legend=True, lines=True),
            opacity=followed(),
            tooltip=_told("last loss before the cut"),
        )
    )
    return squares


def _told(what: str) -> list[altair.Tooltip]:
    return [
        altair.Tooltip("run:N"),
        altair.Tooltip("setting:N"),
        altair.Tooltip("step:Q", format=","),
        altair.Tooltip("loss:Q", format=".4~r", title=what),
    ]


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


POINTS_A_RUN = 200
"""Maximum number of points per run in one figure, raw and smoothed together."""
POINTS_IN_ALL = 24_000
"""Approximate maximum number of points in one figure; with many runs each gets fewer."""
FEWEST = 24
SMOOTH_SHARE = 0.4
"""Share of a run's points used for the smoothed line."""


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
