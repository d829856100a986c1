"""Effects of factors: the contrasts of their levels with intervals over seeds."""

from __future__ import annotations

import altair

from touchline.core.levels import factor_words
from touchline.core.quantity import Quantity
from touchline.core.units import Scale
from touchline.report.charts.parts import (
    Row,
    finished,
    interval_tooltips,
    number,
    padded,
    rows_of,
    signed,
)
from touchline.report.colors import INK, MUTED, WHITE
from touchline.report.figures import Chart
from touchline.report.findings.claims import deciding
from touchline.report.formatting import p_text, scale_of
from touchline.statistics.conclusions import Analysis, Conclusion, Contrast

_CONTRASTS = 24
"""Maximum number of contrasts shown."""


def contrasts(analysis: Analysis, section: str) -> Chart | None:
    """Return the contrasts with the first level, with intervals over training seeds (items for one seed)."""
    rows = [
        row
        for found in analysis.effects
        for contrast in found.contrasts
        if (row := _contrast_row(contrast, share=scale_of(analysis).share)) is not None
    ]
    if not rows:
        return None
    left = "" if len(rows) <= _CONTRASTS else f" The {_CONTRASTS} largest of {len(rows):,}."
    largest = sorted(rows, key=lambda row: -abs(float(str(row["value"]))))[:_CONTRASTS]
    rows = [row for row in rows if row in largest]
    share = scale_of(analysis).share
    ends = [0.0, *(float(str(row[key])) for row in rows for key in ("low", "value", "high") if row[key] is not None)]
    low, high = padded(ends)
    x = altair.X(
        "value:Q",
        title=f"difference of the means{' (points)' if share else ''}",
        scale=altair.Scale(domain=[number(low), number(high)], nice=False),
        axis=signed(),
    )
    y = altair.Y("what:N", sort=None, title=None, axis=altair.Axis(grid=False, labelLimit=260))
    tooltips = [
        altair.Tooltip("what:N", title="contrast"),
        *interval_tooltips("difference", "+.3~r"),
        altair.Tooltip("basis:N", title="interval"),
        altair.Tooltip("seeds:Q"),
        altair.Tooltip("p:N", title="Holm"),
        altair.Tooltip("shown:N"),
    ]
    base = rows_of("contrasts").encode(y=y, tooltip=tooltips)
    zero = rows_of("zero").mark_rule(color=INK, strokeWidth=1).encode(x=altair.X("zero:Q"))
    over_seeds = base.transform_filter("datum.basis === 'over seeds'").mark_rule(
        strokeWidth=3.5, strokeCap="round", color=INK
    )
    over_items = base.transform_filter("datum.basis === 'over items'").mark_rule(
        strokeWidth=2, strokeDash=[2, 3], color=MUTED
    )
    interval = {"x": altair.X("low:Q"), "x2": altair.X2("high:Q")}
    filled = base.transform_filter("datum.established").mark_point(filled=True, size=85, opacity=1, color=INK)
    hollow = base.transform_filter("!datum.established").mark_point(
        filled=False, size=75, strokeWidth=2, opacity=1, fill=WHITE, color=MUTED
    )
    return finished(
        altair.layer(
            zero, over_seeds.encode(**interval), over_items.encode(**interval), hollow.encode(x=x), filled.encode(x=x)
        ),
        {"contrasts": rows, "zero": [{"zero": 0}]},
        name="contrasts",
        section=section,
        title="Factor effects",
        caption=(
            "Each level against the first, averaged over all other factors. Solid bars: 95% interval of the deciding "
            "test. Dotted bars: over items alone, which describes these checkpoints only. Filled: established." + left
        ),
        height=26 * len(rows),
    )


def _contrast_row(contrast: Contrast, *, share: bool) -> Row | None:
    if contrast.value is None:
        return None
    estimate, p = deciding(contrast, Scale(share=share))
    low, high, over_seeds = contrast.items_low, contrast.items_high, contrast.test is not None
    if over_seeds and isinstance(estimate, Quantity):
        low, high = estimate.low, estimate.high
    factor = 100 if share else 1
    return {
        "what": f"{factor_words(contrast.factor)} {contrast.level} against {contrast.reference}",
        "value": number(factor * contrast.value),
        "low": None if low is None else number(factor * low),
        "high": None if high is None else number(factor * high),
        "basis": "none" if low is None else "over seeds" if over_seeds else "over items",
        "seeds": contrast.seeds,
        "p": p_text(p.value) if isinstance(p, Quantity) else "-",
        "shown": contrast.shown.words,
        "established": contrast.shown in (Conclusion.HIGHER, Conclusion.LOWER),
    }
