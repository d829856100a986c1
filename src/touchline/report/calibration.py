"""Calibration figure: predicted against measured values. Estimates on the diagonal are exact; red intervals missed."""

from __future__ import annotations

from collections.abc import Sequence

from touchline.estimate.calibration import CalibrationMark
from touchline.report.figures import Figure, figures_off


def calibration_figure(marks: Sequence[CalibrationMark]) -> Figure:
    """Return one panel per quantity, both axes logarithmic.

    Args:
        marks: each estimate with its measured value; values of zero or less are left out.
    """
    shown = [mark for mark in marks if mark.measured > 0 and mark.low > 0]
    if not shown:
        return Figure(spec=None, note="No estimate has been compared with a run yet.")
    if off := figures_off():
        return Figure(spec=None, note=off)
    import altair

    panels = []
    for quantity in dict.fromkeys(mark.quantity for mark in shown):
        of_it = [mark for mark in shown if mark.quantity == quantity]
        rows = [
            {
                "measured": mark.measured,
                "predicted": mark.predicted,
                "low": mark.low,
                "high": mark.high,
                "interval": "missed it" if mark.outside else "held the truth",
            }
            for mark in of_it
        ]
        ends = [
            min(min(mark.low, mark.measured) for mark in of_it),
            max(max(mark.high, mark.measured) for mark in of_it),
        ]
        scale = altair.Scale(type="log", domain=[ends[0] * 0.9, ends[1] * 1.1], nice=False)
        unit = of_it[0].unit
        x = altair.X("measured:Q", title=f"measured, {unit}", scale=scale)
        y = altair.Y("predicted:Q", title=f"predicted, {unit}", scale=scale)
        color = altair.Color(
            "interval:N",
            title="90% interval",
            scale=altair.Scale(domain=["held the truth", "missed it"], range=["#4c78a8", "#d62728"]),
        )
        base = altair.Chart(altair.InlineData(values=rows)).encode(x=x, color=color)
        diagonal = (
            altair.Chart(altair.InlineData(values=[{"v": end} for end in ends]))
            .mark_line(color="#999999", strokeDash=[4, 3])
            .encode(x=altair.X("v:Q", scale=scale), y=altair.Y("v:Q", scale=scale))
        )
        bars = base.mark_rule(opacity=0.5).encode(
            y=altair.Y("low:Q", scale=scale, title=f"predicted, {unit}"), y2="high:Q"
        )
        points = base.mark_point(filled=True, size=40).encode(y=y)
        held = sum(not mark.outside for mark in of_it)
        title = altair.Title(quantity, subtitle=f"{held} of {len(of_it)} intervals held the truth", anchor="start")
        panels.append(altair.layer(diagonal, bars, points).properties(width=320, height=320, title=title))
    return Figure(spec=altair.hconcat(*panels).to_dict(), note="Predicted against measured.")
