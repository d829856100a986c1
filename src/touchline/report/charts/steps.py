"""Learning rate, gradient norm and speed by optimizer step, beside the losses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import altair

from touchline.core.quantity import Missing
from touchline.core.units import plural
from touchline.report.charts.losses import SECTION, SMOOTH_SHARE, budget, curve, felt, lines, smoothed, thinned
from touchline.report.charts.parts import Row, finished, log_ticks, number
from touchline.report.colors import SeriesColor
from touchline.report.facts import is_asked_about
from touchline.report.figures import Chart
from touchline.report.report import Report
from touchline.results.run_result import LossPoint, RunResult, StepCurves

_HEIGHT = 220


def step_charts(report: Report, inks: Mapping[str, SeriesColor]) -> Iterator[Chart | None]:
    """Draw the curves of all runs that have them; None for one that no run has."""
    drawn = {run.name: run.curves for run in report.runs if isinstance(run.curves, StepCurves)}
    shown = [run for run in report.runs if run.name in drawn]
    without = _without(report)
    rates = {name: _points(curves.steps, curves.learning_rate) for name, curves in drawn.items()}
    yield _chart(
        shown, rates, inks, name="learning_rate", title="Learning rate", y_title="learning rate",
        caption=f"Learning rate of each update. Runs with the same schedule lie on top of each other.{without}",
    )  # fmt: skip
    norms = {name: _points(curves.steps, curves.gradient_norm) for name, curves in drawn.items()}
    yield _chart(
        shown, norms, inks, name="gradient_norm", title="Gradient norm", y_title="gradient norm", smooth=True, log=True,
        caption="Norm of the gradient before clipping. Thick: mean over a twentieth of the steps; thin: lowest and "
        f"highest single steps.{without}",
    )  # fmt: skip
    speeds = {name: _points(curves.steps, curves.tokens_per_second) for name, curves in drawn.items()}
    yield _chart(
        shown, speeds, inks, name="tokens_per_second", title="Speed", y_title="tokens/s (non-padding)", smooth=True,
        caption="Non-padding tokens per second of each step, all devices together; validation and saving not "
        f"counted.{without}",
    )  # fmt: skip


def _without(report: Report) -> str:
    """Name the runs that have no curves, and why."""
    reasons: dict[str, int] = {}
    for run in report.runs:
        if is_asked_about(run) and isinstance(run.curves, Missing):
            reasons[run.curves.missing] = reasons.get(run.curves.missing, 0) + 1
    return "".join(f" Not drawn: {plural(n, 'run')} ({why})." for why, n in reasons.items())


def _points(steps: tuple[int, ...], values: tuple[float, ...]) -> list[LossPoint]:
    return [LossPoint(step=step, loss=value) for step, value in zip(steps, values, strict=True)]


def _chart(
    runs: list[RunResult],
    points: Mapping[str, list[LossPoint]],
    inks: Mapping[str, SeriesColor],
    *,
    name: str,
    title: str,
    y_title: str,
    caption: str,
    smooth: bool = False,
    log: bool = False,
) -> Chart | None:
    finite = [point.loss for each in points.values() for point in each if math.isfinite(point.loss)]
    if not finite:
        return None
    limit = budget(len(runs))
    mean = max(2, round(limit * SMOOTH_SHARE))
    y = _axis(finite, y_title, log=log)
    if smooth:
        raw = [curve(run, inks, thinned(points[run.name], limit - mean)) for run in runs]
        main = [curve(run, inks, smoothed(points[run.name], mean)) for run in runs]
        figure = altair.layer(
            lines("raw", y, inks, width=0.8, shown=0.2), lines("smooth", y, inks, width=1.8, shown=1.0)
        )
        rows: dict[str, list[Row]] = {"raw": raw, "smooth": main}
    else:
        rows = {"smooth": [curve(run, inks, thinned(points[run.name], limit)) for run in runs]}
        figure = altair.layer(lines("smooth", y, inks, width=1.8, shown=1.0))
    figure += felt("smooth", y)
    return finished(figure, rows, name=name, section=SECTION, title=title, caption=caption, height=_HEIGHT)


def _axis(finite: list[float], title: str, *, log: bool) -> altair.Y:
    """Return a linear axis from 0, or a logarithmic one where values above 0 span more than a decade."""
    low, high = min(finite), max(finite)
    if log and low > 0 and high > 10 * low:
        ends = (low / 1.15, high * 1.15)
        scale = altair.Scale(type="log", domain=[number(ends[0]), number(ends[1])], nice=False)
        return altair.Y(
            "loss:Q", title=f"{title}, log", scale=scale, axis=altair.Axis(values=log_ticks(*ends), format=".3~r")
        )
    return altair.Y("loss:Q", title=title, axis=altair.Axis(format=",.3~r", tickCount=5), scale=altair.Scale(zero=True))
