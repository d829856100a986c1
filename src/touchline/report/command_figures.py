"""Figures of commands beside the report: lengths and answers of a dataset, calibration of estimates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from touchline.core.packing import PackingSummary
from touchline.core.text import shorten
from touchline.core.units import plural
from touchline.estimate.calibration import CalibrationMark
from touchline.lint.data_view import DataView
from touchline.report.figures import Figure, figures_off

BINS = 50
"""Number of bars of a histogram of characters."""
_LENGTH_BINS = 60
"""Number of bars of the histogram of tokens."""
LABELS = 15
"""Number of answers shown."""
_LABEL_CHARACTERS = 28
_COLOURS = ["#4c78a8", "#f58518", "#54a24b", "#b279a2"]


def audit_figure(view: DataView) -> Figure:
    """Return histograms of prompt and answer lengths in characters, and bars of the most frequent answers, by split.

    Args:
        view: the dataset; the figure is empty if it has no rows.
    """
    if not view.count:
        return Figure(spec=None, note="There are no rows to draw.")
    if off := figures_off():
        return Figure(spec=None, note=off)
    import altair

    splits = [name for name, rows in view.splits.items() if rows]
    colour = altair.Color(
        "split:N",
        title="split",
        scale=altair.Scale(domain=splits, range=_COLOURS[: len(splits)]),
        legend=altair.Legend(orient="top") if len(splits) > 1 else None,
    )
    lengths = altair.hconcat(
        *(
            altair.Chart(altair.InlineData(values=rows))
            .mark_bar()
            .encode(
                x=altair.X("from:Q", bin="binned", title=f"characters of {what}", scale=altair.Scale(zero=True)),
                x2="to:Q",
                y=altair.Y("rows:Q", title="rows"),
                color=colour,
            )
            .properties(width=300, height=200)
            for what, rows in (("a prompt", _histogram(view, "prompt")), ("an answer", _histogram(view, "answer")))
        )
    )
    labels = (
        altair.Chart(altair.InlineData(values=_labels(view)))
        .mark_bar()
        .encode(
            x=altair.X("share:Q", title="share of the split's answers", axis=altair.Axis(format="%")),
            y=altair.Y("label:N", title=None, sort=None, axis=altair.Axis(labelLimit=220)),
            yOffset=altair.YOffset("split:N", sort=splits),
            color=colour,
        )
        .properties(width=500, height=altair.Step(9 if len(splits) > 1 else 16))
    )
    distinct = len(view.all_labels)
    shown = f"the {LABELS} most frequent of {distinct:,}" if distinct > LABELS else f"{distinct:,} different ones"
    # Bars of one row each are not informative if almost all answers are unique.
    if distinct * 2 > view.count:
        shown = f"{distinct:,} different ones, too many to draw"
    title = altair.Title(
        f"{view.count:,} rows in {plural(len(splits), 'split')}",
        subtitle=f"answers: {shown}",
        anchor="start",
    )
    parts = (lengths,) if distinct * 2 > view.count else (lengths, labels)
    chart = altair.vconcat(*parts).properties(title=title)
    return Figure(spec=chart.to_dict(), note="Lengths and answers of a dataset.")


def _histogram(view: DataView, what: str) -> list[dict[str, Any]]:
    """Return the histogram of one text's lengths. Lengths beyond the 99th percentile share the last bar."""
    by_split = {
        name: np.asarray([len(getattr(row, what) or "") for row in rows]) for name, rows in view.splits.items() if rows
    }
    everything = np.concatenate(list(by_split.values()))
    end = max(float(np.quantile(everything, 0.99)), 1.0)
    end = float(everything.max()) if everything.max() <= 2 * end else end
    rows: list[dict[str, Any]] = []
    for name, lengths in by_split.items():
        counts, edges = np.histogram(np.minimum(lengths, end), bins=BINS, range=(0.0, max(end, 1.0)))
        rows += [
            {"split": name, "from": float(low), "to": float(high), "rows": int(count)}
            for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
            if count
        ]
    return rows


def _labels(view: DataView) -> list[dict[str, Any]]:
    most = sorted(view.all_labels.items(), key=lambda item: (-item[1], item[0]))[:LABELS]
    rows: list[dict[str, Any]] = []
    for place, (label, _) in enumerate(most):
        text = " ".join(label.split())
        cut = shorten(text, _LABEL_CHARACTERS)
        # Two long answers may begin alike. Each has its own bar.
        name = cut if cut == text else f"{cut} [{place + 1}]"
        for split, counts in view.labels.items():
            total = sum(counts.values())
            if total:
                rows.append({"split": split, "label": name or "(empty)", "share": counts[label] / total})
    return rows


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
