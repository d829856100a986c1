"""Figure of a design: power against device-hours, with the alternatives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from touchline.core.quantity import Missing, Quantity
from touchline.plan.design.answer import DesignAnswer
from touchline.report.colors import CONFIG, INK, MUTED
from touchline.report.figures import Figure, figures_off
from touchline.statistics.power import POWER

_BEST, _OPTIONS = "#2f6fb5", "#c8641b"
"""Colors of the best use of the hours, and of the alternatives."""
_WIDTH, _HEIGHT = 640, 320


def design_figure(answer: DesignAnswer) -> Figure:
    """Return the best power by device-hours, with its range over the inputs' intervals and the alternatives as points.

    Args:
        answer: of `touchline design`; the figure is empty where costs are not known.
    """
    if not answer.curve:
        hours = answer.now.device_hours
        reason = hours.missing if isinstance(hours, Missing) else "no design has a cost"
        return Figure(spec=None, note=f"There is nothing to draw: {reason}.")
    if off := figures_off():
        return Figure(spec=None, note=off)
    import altair

    last = max(point.device_hours for point in answer.curve)
    x = altair.X("hours:Q", title=answer.hours_unit, scale=altair.Scale(domain=[0, last], nice=False))
    axis = altair.Axis(format="%")
    title = f"power for {answer.detect_points:g} points"
    y = altair.Y("power:Q", title=title, scale=altair.Scale(domain=[0, 1]), axis=axis)
    rows = [{"hours": at.device_hours, "power": at.power, "low": at.low, "high": at.high} for at in answer.curve]
    curve = altair.Chart(altair.InlineData(values=rows)).encode(x=x)
    points = altair.Chart(altair.InlineData(values=list(_points(answer, last)))).encode(x=x, y=y)
    goal = altair.Chart(altair.InlineData(values=[{"power": POWER}]))
    layers: list[Any] = [
        curve.mark_area(color=_BEST, opacity=0.15, interpolate="step-after").encode(
            y=altair.Y("low:Q", title=title), y2="high:Q"
        ),
        curve.mark_line(color=_BEST, strokeWidth=2, interpolate="step-after").encode(y=y),
        goal.mark_rule(color=MUTED, strokeDash=[4, 4]).encode(y=y),
        points.mark_point(filled=True, size=60, color=_OPTIONS, opacity=1),
        points.mark_text(align="left", dx=7, dy=12, color=INK, fontSize=11).encode(text="label:N"),
    ]
    if answer.budget_hours is not None and answer.budget_hours <= last:
        limit = altair.Chart(altair.InlineData(values=[{"hours": answer.budget_hours}]))
        layers.append(limit.mark_rule(color=MUTED, strokeDash=[2, 2]).encode(x=x))
    heading = altair.Title(
        f"{answer.experiment}: power for a difference of {answer.detect_points:g} points",
        subtitle="line: best use of the hours, expected spread; band: from large to small spread; points: designs",
        anchor="start",
        color=INK,
        subtitleColor=MUTED,
    )
    spec = altair.layer(*layers).properties(width=_WIDTH, height=_HEIGHT, title=heading).to_dict()
    return Figure(spec={**spec, "config": CONFIG}, note="Power by device-hours.")


def _points(answer: DesignAnswer, last: float) -> Iterator[dict[str, object]]:
    """Yield the alternatives within the axis; those with a name have a label."""
    for option in answer.alternatives:
        hours, power, mark = option.device_hours, option.power, answer.mark(option)
        if isinstance(hours, Quantity) and isinstance(power, Quantity) and hours.value <= last:
            label = f"{option.seeds} x {option.items:,} ({mark})" if mark else ""
            yield {"hours": hours.value, "power": power.value / 100, "label": label}
