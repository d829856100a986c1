"""Effects of factors: a ring per seed, a dot for their mean, and the contrasts with their intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import altair

from touchline.core.levels import factor_words
from touchline.report.charts.parts import (
    Row,
    finished,
    followed,
    interval_tooltips,
    legend_of,
    number,
    padded,
    rows_of,
    signed,
    with_controls,
)
from touchline.report.charts.scores import control_rows
from touchline.report.colors import CONTROL, INK, MUTED, WHITE, SeriesColor
from touchline.report.figures import Chart
from touchline.report.formatting import p_text, scale_of
from touchline.report.report import Report
from touchline.statistics.conclusions import Analysis, Conclusion, Contrast, FactorEffect, SeedScore

_CONTRASTS = 24
"""Maximum number of contrasts shown."""
_LIMIT = 12
"""Maximum number of groups in a legend."""


def effect(
    report: Report, analysis: Analysis, found: FactorEffect, inks: Mapping[str, SeriesColor], section: str
) -> Chart | None:
    """Return the figure of scores by level of one factor. None if no level has two seeds, which would be the scores."""
    points = [point for point in found.points if math.isfinite(point.score)]
    means = _means(points)
    if len({point.level for point in points}) < 2 or found.factor == "models" or not means:
        # The contrasts show differences between base models. Each model has a control of its own.
        return None
    share = scale_of(analysis).share
    groups = list(dict.fromkeys(point.group for point in points))
    domain, controls, note = with_controls(
        [p.score for p in points], control_rows(report, analysis), scale_of(analysis)
    )
    y = altair.Y(
        "score:Q",
        title=analysis.score,
        scale=altair.Scale(domain=domain, nice=False),
        axis=altair.Axis(format=".0%" if share else ".3~r", tickCount=6),
    )
    x = altair.X(
        "level:N",
        sort=None,
        scale=altair.Scale(domain=list(found.levels), type="point", padding=0.4),
        title=factor_words(found.factor),
        axis=altair.Axis(labelAngle=0, grid=False, labelOverlap="greedy"),
    )
    hues = _group_colour(groups, _group_inks(report, points, inks))
    shift = altair.XOffset("group:N", sort=None, scale=altair.Scale(range=_spread(len(groups))))
    # The offset needs a scale with all groups, regardless of the layer.
    base = rows_of("means").encode(x=x, y=y, color=hues, detail="group:N", xOffset=shift)
    # A line joins means of several seeds along an axis of numbers, and nothing else.
    is_scale = all(_is_number(level) for level in found.levels) and len(means) == len(
        {(point.group, point.level) for point in points}
    )
    lines = [base.mark_line(strokeWidth=1.4, opacity=0.75)] if is_scale else []
    dots = base.mark_point(filled=True, size=120 if len(found.levels) <= 24 else 40, opacity=1).encode(
        tooltip=[
            altair.Tooltip("group:N"),
            altair.Tooltip("level:N", title=factor_words(found.factor)),
            altair.Tooltip("score:Q", format=".1%" if share else ".4~r", title="mean of the seeds"),
            altair.Tooltip("seeds:Q"),
        ]
    )
    rings = (
        rows_of("seeds")
        .mark_point(filled=False, size=38 if len(found.levels) <= 24 else 14, strokeWidth=1.6, opacity=1, fill=WHITE)
        .encode(
            x=x,
            y=y,
            color=hues,
            xOffset=shift,
            opacity=followed(),
            tooltip=[
                altair.Tooltip("run:N"),
                altair.Tooltip("seed:Q"),
                altair.Tooltip("score:Q", format=".1%" if share else ".4~r"),
            ],
        )
    )
    layers = [*lines, dots, rings]
    rows: dict[str, Sequence[Row]] = {"means": means, "seeds": [_seed_row(point) for point in points]}
    if controls:
        rows["controls"] = controls
        layers = [*_control_layers(), *layers]
    caption = f"Dots: mean over at least two training seeds. Rings: single seeds.{note}"
    if found.tied:
        caption += f" Together with {', '.join(map(factor_words, found.tied))}, which is tied to it by design."
    if found.confounded_with:
        caption += f" Changes together with {', '.join(map(factor_words, found.confounded_with))}."
    return finished(
        altair.layer(*layers),
        rows,
        name=f"effect_{re.sub(r'[^A-Za-z0-9]+', '_', found.factor).strip('_').lower()}",
        section=section,
        title=f"Effect of {factor_words(found.factor)}",
        caption=caption,
        height=280,
    )


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
            "Each level against the first, averaged over all other factors. Solid bars: 95% interval over training "
            "seeds. Dotted bars: over items alone, which describes these checkpoints only. Filled: established." + left
        ),
        height=26 * len(rows),
    )


def _contrast_row(contrast: Contrast, *, share: bool) -> Row | None:
    if contrast.value is None:
        return None
    over_seeds = contrast.low is not None and contrast.high is not None
    low, high = (contrast.low, contrast.high) if over_seeds else (contrast.items_low, contrast.items_high)
    factor = 100 if share else 1
    return {
        "what": f"{factor_words(contrast.factor)} {contrast.level} against {contrast.reference}",
        "value": number(factor * contrast.value),
        "low": None if low is None else number(factor * low),
        "high": None if high is None else number(factor * high),
        "basis": "over seeds" if over_seeds else "over items" if low is not None else "none",
        "seeds": contrast.seeds,
        "p": "-" if contrast.p_adjusted is None else p_text(contrast.p_adjusted),
        "shown": contrast.shown.words,
        "established": contrast.shown in (Conclusion.HIGHER, Conclusion.LOWER),
    }


def _means(points: Sequence[SeedScore]) -> list[Row]:
    """Return the mean of each group and level that has more than one seed."""
    held: dict[tuple[str, str], list[float]] = {}
    for point in points:
        held.setdefault((point.group, point.level), []).append(point.score)
    return [
        {"group": group, "level": level, "score": number(math.fsum(own) / len(own)), "seeds": len(own)}
        for (group, level), own in held.items()
        if len(own) > 1
    ]


def _is_number(level: str) -> bool:
    try:
        return math.isfinite(float(level))
    except ValueError:
        return False


def _seed_row(point: SeedScore) -> Row:
    return {
        "run": point.run,
        "group": point.group,
        "level": point.level,
        "seed": point.seed,
        "score": number(point.score),
    }


def _spread(groups: int) -> list[float]:
    """Return the horizontal offsets of groups, a few pixels apart."""
    width = min(8.0 * (groups - 1), 60.0)
    return [-width / 2, width / 2] if groups > 1 else [0, 0]


def _group_inks(report: Report, points: Sequence[SeedScore], inks: Mapping[str, SeriesColor]) -> dict[str, str]:
    """Return the color of each group: that of its model's last setting, the strongest one."""
    order = {run.name: index for index, run in enumerate(report.runs)}
    made: dict[str, str] = {}
    for point in sorted(points, key=lambda point: order.get(point.run, 0)):
        made[point.group] = inks.get(point.run, CONTROL).light
    return made


def _group_colour(groups: Sequence[str], hues: Mapping[str, str]) -> altair.Color:
    legend = legend_of(groups) if 1 < len(groups) <= _LIMIT else None
    scale = altair.Scale(domain=list(groups), range=[hues[group] for group in groups])
    return altair.Color("group:N", sort=None, scale=scale, legend=legend)


def _control_layers() -> list[altair.Chart]:
    base = rows_of("controls").encode(y=altair.Y("value:Q"), opacity=followed())
    return [
        base.mark_rule(strokeDash=[4, 3], strokeWidth=1.2, color=MUTED),
        base.mark_text(align="right", baseline="bottom", dy=-3, fontSize=10, color=MUTED).encode(
            x=altair.value("width"), text="label:N"
        ),
    ]
