"""Figure of a design: power against device-hours, with the alternatives."""

from __future__ import annotations

from typing import Any

from touchline.core.quantity import Missing, Quantity
from touchline.plan.design.answer import DesignAnswer, DesignOption
from touchline.report.colors import CONFIG, INK, MUTED, SeriesColor
from touchline.report.figures import Figure, figures_off
from touchline.statistics.power import POWER

_BEST = SeriesColor(number=1, label="best use", model="", light="#2f6fb5", dark="#6fa8e6", shape="circle")
_OPTIONS = SeriesColor(number=2, label="alternatives", model="", light="#c8641b", dark="#f0a060", shape="circle")
DESIGN_COLORS = (_BEST, _OPTIONS)
"""Colors of the figure."""
_WIDTH, _HEIGHT = 640, 320
_LOW, _FAR = 0.1, 0.75
"""Places from which on a label is above its point, and to the left of it, as shares of the axes."""


def design_figure(answer: DesignAnswer) -> Figure:
    """Return the best power by device-hours, with its range over the inputs' intervals and the alternatives as points.

    Args:
        answer: of `touchline design`; the figure is empty where costs are not known.
    """
    if not answer.curve:
        reasons = [finding.message for finding in answer.findings]
        if isinstance(answer.now.device_hours, Missing):
            reasons.append(f"the device-hours are not known: {answer.now.device_hours.missing}")
        return Figure(spec=None, note=f"There is nothing to draw: {'; '.join(reasons) or 'no design has a cost'}.")
    if off := figures_off():
        return Figure(spec=None, note=off)
    import altair

    last = max(point.device_hours for point in answer.curve)
    scale = altair.Scale(domain=[0, last], nice=False)
    x = altair.X("hours:Q", title=answer.hours_unit, scale=scale, axis=altair.Axis(tickCount=8))
    y_title = f"power for {answer.detect_points:g} points"
    y = altair.Y("power:Q", title=y_title, scale=altair.Scale(domain=[0, 1]), axis=altair.Axis(format="%"))
    curve = altair.Chart(
        altair.InlineData(
            values=[
                {"hours": point.device_hours, "power": point.power, "low": point.low, "high": point.high}
                for point in answer.curve
            ]
        )
    ).encode(x=x)
    band = curve.mark_area(color=_BEST.light, opacity=0.15, interpolate="step-after").encode(
        y=altair.Y("low:Q", title=y_title), y2="high:Q"
    )
    line = curve.mark_line(color=_BEST.light, strokeWidth=2, interpolate="step-after").encode(y=y)
    points = altair.Chart(altair.InlineData(values=_points(answer, last))).encode(x=x, y=y)
    ranges = points.mark_rule(color=_OPTIONS.light, opacity=0.6).encode(x="low_hours:Q", x2="high_hours:Q")
    marks = points.mark_point(filled=True, size=60, color=_OPTIONS.light, opacity=1)
    above, right, left = (points.transform_filter(f"datum.side === '{side}'") for side in ("above", "right", "left"))
    words = [
        above.mark_text(align="left", dx=7, dy=-9, color=INK, fontSize=11).encode(text="label:N"),
        right.mark_text(align="left", dx=7, dy=12, color=INK, fontSize=11).encode(text="label:N"),
        left.mark_text(align="right", dx=-7, dy=12, color=INK, fontSize=11).encode(text="label:N"),
    ]
    goal = (
        altair.Chart(altair.InlineData(values=[{"power": POWER}])).mark_rule(color=MUTED, strokeDash=[4, 4]).encode(y=y)
    )
    layers: list[Any] = [band, line, goal, ranges, marks, *words]
    if answer.budget_hours is not None and answer.budget_hours <= last:
        limit = altair.Chart(altair.InlineData(values=[{"hours": answer.budget_hours, "label": "budget"}])).encode(x=x)
        layers += [
            limit.mark_rule(color=MUTED, strokeDash=[2, 2]),
            limit.mark_text(align="left", dx=4, color=MUTED).encode(text="label:N", y=altair.value(_HEIGHT - 8)),
        ]
    title = altair.Title(
        f"{answer.experiment}: power for a difference of {answer.detect_points:g} points",
        subtitle=[
            "line: best use of the hours at the expected spread; band: from large to small spread",
            "points: seeds x items; those with a name have the interval of their predicted hours",
        ],
        anchor="start",
        color=INK,
        subtitleColor=MUTED,
    )
    chart = altair.layer(*layers).properties(width=_WIDTH, height=_HEIGHT, title=title)
    spec = chart.to_dict()
    spec["config"] = CONFIG
    return Figure(spec=spec, note="Power by device-hours.")


def _points(answer: DesignAnswer, last: float) -> list[dict[str, object]]:
    """Return the alternatives that are within the axis; of points close to each other the first is labelled."""
    rows: list[dict[str, object]] = []
    labelled: list[tuple[float, float]] = []
    for option in _by_weight(answer):
        hours, power = option.device_hours, option.power
        if not isinstance(hours, Quantity) or not isinstance(power, Quantity) or hours.value > last:
            continue
        mark = _mark(answer, option)
        place = (hours.value / last, power.value / 100)
        is_free = all(abs(place[0] - x) > 0.18 or abs(place[1] - y) > 0.06 for x, y in labelled)
        if is_free:
            labelled.append(place)
        rows.append(
            {
                "hours": hours.value,
                "power": power.value / 100,
                "low_hours": hours.value if hours.low is None or not mark else hours.low,
                "high_hours": min(last, hours.value if hours.high is None or not mark else hours.high),
                "side": "above" if place[1] < _LOW else "left" if place[0] > _FAR else "right",
                "label": f"{option.seeds} x {option.items:,}{mark}" if is_free else "",
            }
        )
    return rows


def _by_weight(answer: DesignAnswer) -> list[DesignOption]:
    """Return the alternatives, those with a name first."""
    return sorted(answer.alternatives, key=lambda option: not _mark(answer, option))


def _mark(answer: DesignAnswer, option: DesignOption) -> str:
    named = (("now", answer.now), ("cheapest", answer.cheapest), ("budget", answer.within_budget))
    names = [name for name, other in named if other == option]
    return f" ({', '.join(names)})" if names else ""
