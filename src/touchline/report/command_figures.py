"""Figures of commands beside the report: lengths of examples, calibration of estimates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from touchline.core.packing import PackingSummary
from touchline.estimate.calibration import CalibrationMark
from touchline.report.figures import Figure, figures_off

_LENGTH_BINS = 60
"""Number of bars of the histogram of tokens."""


def length_figure(lengths: NDArray[np.uint32], summary: PackingSummary) -> Figure:
    """Return a histogram of tokens per example, with the maximum length and the mean as lines.

    Args:
        lengths: tokens of each example, shape [examples], at least one.
        summary: the packing of the examples; its efficiencies are in the title.
    """
    if off := figures_off():
        return Figure(spec=None, note=off)
    import altair

    end = float(max(int(lengths.max()), 1))
    counts, edges = np.histogram(lengths, bins=_LENGTH_BINS, range=(0.0, end))
    rows = [
        {"from": float(low), "to": float(high), "examples": int(count)}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
        if count
    ]
    lines = [{"tokens": float(lengths.mean()), "what": f"mean {lengths.mean():,.0f}"}]
    # A limit far beyond the longest example would squeeze all bars into one.
    if summary.max_seq_len <= 2 * end:
        lines.append({"tokens": float(summary.max_seq_len), "what": f"max_seq_len {summary.max_seq_len:,}"})
    bars = (
        altair.Chart(altair.InlineData(values=rows))
        .mark_bar(color="#4c78a8")
        .encode(
            x=altair.X("from:Q", bin="binned", title="tokens of an example"),
            x2="to:Q",
            y=altair.Y("examples:Q", title="examples"),
        )
    )
    base = altair.Chart(altair.InlineData(values=lines)).encode(x="tokens:Q")
    rules = base.mark_rule(color="#d62728", strokeDash=[6, 3])
    words = base.mark_text(align="left", dx=5, dy=-4, baseline="bottom", color="#d62728").encode(
        text="what:N", y=altair.value(12)
    )
    title = altair.Title(
        f"{summary.examples:,} examples, {int(lengths.min()):,} to {int(lengths.max()):,} tokens",
        subtitle=f"no padding: packed {summary.packed.efficiency:.1f}%, "
        f"unpacked {summary.unpacked.efficiency:.1f}% (rows of {summary.max_seq_len:,}, {summary.backend})",
        anchor="start",
    )
    chart = altair.layer(bars, rules, words).properties(width=640, height=300, title=title)
    return Figure(spec=chart.to_dict(), note="Tokens of each example.")


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
                "interval": "outside" if mark.outside else "inside",
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
            scale=altair.Scale(domain=["inside", "outside"], range=["#4c78a8", "#d62728"]),
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
        title = altair.Title(quantity, subtitle=f"{held} of {len(of_it)} measured values are inside", anchor="start")
        panels.append(altair.layer(diagonal, bars, points).properties(width=320, height=320, title=title))
    return Figure(spec=altair.hconcat(*panels).to_dict(), note="Predicted against measured.")
