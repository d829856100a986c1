"""Figure of the example lengths of a dataset."""

from __future__ import annotations

import importlib.util

import numpy as np
from numpy.typing import NDArray

from touchline.core.packing import PackingSummary
from touchline.report.figures import FIGURES_OFF, Figure

BINS = 60
"""Number of bars."""


def length_figure(lengths: NDArray[np.uint32], summary: PackingSummary) -> Figure:
    """Return a histogram of tokens per example, with the maximum length and the mean as lines.

    Args:
        lengths: tokens of each example, shape [examples], at least one.
        summary: the packing of the examples; its efficiencies are in the title.
    """
    if importlib.util.find_spec("altair") is None or importlib.util.find_spec("vl_convert") is None:
        return Figure(spec=None, note=FIGURES_OFF)
    import altair

    end = float(max(int(lengths.max()), 1))
    counts, edges = np.histogram(lengths, bins=BINS, range=(0.0, end))
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
