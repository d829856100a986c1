"""Scores of conditions with their intervals, differences of runs from their controls, contrasts of levels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import altair

from touchline.core.levels import factor_words
from touchline.core.quantity import Quantity
from touchline.core.units import Scale, plural
from touchline.report.charts.parts import (
    Row,
    colour,
    finished,
    followed,
    interval_tooltips,
    number,
    padded,
    row_height,
    rows_of,
    signed,
    tooltips,
)
from touchline.report.claims import deciding
from touchline.report.colors import INK, MUTED, WHITE, SeriesColor
from touchline.report.facts import p_text, scale_of
from touchline.report.figures import Chart
from touchline.report.report import Report
from touchline.report.tables.conditions import Condition, condition_score, conditions
from touchline.statistics.conclusions import Analysis, Comparison, Conclusion, Contrast, RunScore

ROWS_LIMIT = 60  # Maximum number of rows in a figure. The table lists the other runs


def scores(report: Report, analysis: Analysis, inks: Mapping[str, SeriesColor], section: str) -> Chart | None:
    """Return the score of each condition: a ring per seed, the mean of several, its interval, and the controls."""
    own = {score.run: score for score in analysis.scores if score.run in inks}
    order = {name: place for place, name in enumerate(_grouped(report, analysis))}
    every = [each for each in conditions(report) if any(run.name in own for run in each.runs)]
    every.sort(key=lambda each: min(order[run.name] for run in each.runs))
    by_name = {each.name: each for each in every}
    means = {name: score for name, each in by_name.items() if isinstance(score := condition_score(each, own), Quantity)}
    shown, left = _chosen(list(by_name), means, {name: score.value for name, score in means.items()})
    if not shown:
        return None
    share = scale_of(analysis).share
    several = any(len(by_name[name].runs) > 1 for name in shown)
    rows = [_score_row(by_name[name], means[name], own, inks) for name in shown]
    seeds = [
        {**row, "run": run.name, "seed": run.seed, "value": number(own[run.name].value)}
        for name, row in zip(shown, rows, strict=True)
        for run in by_name[name].runs
        if run.name in own and len(by_name[name].runs) > 1
    ]
    ends = [end for name in shown for end in (means[name].low, means[name].value, means[name].high) if end is not None]
    x = altair.X(
        "value:Q",
        title=None if share else analysis.score,
        scale=altair.Scale(domain=[0.0, 1.0] if share else list(padded(ends)), nice=False),
        axis=altair.Axis(format=".0%" if share else ".3~r", tickCount=5),
    )
    y = _names(shown, field="condition")
    form = ".1%" if share else ".4~r"
    told = [*tooltips("condition:N", "setting:N"), *interval_tooltips("score", form), *tooltips("count:N from")]
    base = rows_of("scores").encode(y=y, opacity=followed(), tooltip=told)
    hues = colour(inks, legend=False)
    # Student's interval of few seeds may be longer than the axis of shares.
    intervals = base.mark_rule(strokeWidth=3.5, strokeCap="round", clip=True).encode(
        x=_plain(x, "low"), x2="high:Q", color=hues
    )
    points = base.mark_point(filled=True, size=75, opacity=1).encode(x=x, color=hues, shape=_shapes(inks))
    rings = (
        rows_of("seeds")
        .mark_point(filled=False, size=38, strokeWidth=1.6, opacity=1, fill=WHITE)
        .encode(
            x=x,
            y=y,
            color=hues,
            opacity=followed(),
            tooltip=[*tooltips("run:N", "seed:Q"), altair.Tooltip("value:Q", format=form, title="score")],
        )
    )
    controls = _control_lines(analysis, [by_name[name] for name in shown], own)
    lines = (
        rows_of("controls")
        .mark_rule(strokeDash=[4, 3], color=MUTED)
        .encode(x=_plain(x, "value"), y=_names(shown, field="first"), y2="last:N")
    )
    over_items = _methods(own[run.name] for name in shown for run in by_name[name].runs if run.name in own)
    caption = f"{analysis.score.capitalize()}. Bars: {over_items} over the test items."
    if several:
        caption = (
            f"{analysis.score.capitalize()}. Rings: seeds. Dots: means. Bars: 95% interval over the means of the seeds "
            f"(Student's t); with one run, {over_items} over the test items."
        )
    if controls:
        caption += " Dashed: control of the same base model."
    return finished(
        altair.layer(*([lines] if controls else []), intervals, points, *([rings] if several else [])),
        {"scores": rows, **({"seeds": seeds} if several else {}), **({"controls": controls} if controls else {})},
        name=f"scores{_suffix(report, analysis)}",
        section=section,
        title=_title(report, analysis, "Score of each condition" if several else "Score of each run"),
        caption=caption + left,
        height=row_height(len(shown)) * len(shown),
    )


def differences(report: Report, analysis: Analysis, inks: Mapping[str, SeriesColor], section: str) -> Chart | None:
    """Return each run's difference from its control on the same items, with its gained and lost items."""
    by_run = {comparison.run: comparison for comparison in analysis.comparisons if comparison.run in inks}
    shown, left = _chosen(
        [run.name for run in report.runs], by_run, {name: each.difference.value for name, each in by_run.items()}
    )
    if not shown:
        return None
    share = scale_of(analysis).share
    rows = [_difference_row(by_run[name], inks, share=share) for name in shown]
    values = [
        0.0,
        *(100 * end if share else end for n in shown for end in (by_run[n].difference.low, by_run[n].difference.high)),
    ]
    low, high = padded(values)
    # Leave room for the counts next to the intervals, also on a phone.
    high += 0.3 * (high - low)
    x = altair.X(
        "value:Q",
        title=f"difference to the control{' (points)' if share else ''}",
        scale=altair.Scale(domain=[low, high], nice=False),
        axis=signed(),
    )
    told = [
        *tooltips("run:N", "control:N"),
        *interval_tooltips("difference", "+.1f" if share else "+.4~r"),
        *tooltips("flips:N gained, lost", "p:N Holm", "shown:N"),
    ]
    base = rows_of("differences").encode(y=_names(shown), opacity=followed(), tooltip=told)
    hues = colour(inks, legend=False)
    zero = rows_of("zero").mark_rule(color=INK, strokeWidth=1).encode(x=_plain(x, "zero"))
    intervals = base.mark_rule(strokeWidth=3.5, strokeCap="round").encode(x=_plain(x, "low"), x2="high:Q", color=hues)
    filled = base.transform_filter("datum.established").mark_point(filled=True, size=75, opacity=1)
    hollow = base.transform_filter("!datum.established").mark_point(
        filled=False, size=70, strokeWidth=2, opacity=1, fill=WHITE
    )
    flips = base.mark_text(align="left", dx=8, color=MUTED, fontSize=10).encode(x=_plain(x, "high"), text="flips:N")
    first = next(iter(by_run.values())).difference
    caption = (
        f"Differences on the same items. Bars: {100 * first.coverage:g}% interval over the items ({first.method}). "
        f"Filled: established after Holm over {plural(analysis.family, 'comparison')}. Numbers: items gained and lost."
    )
    return finished(
        altair.layer(
            zero, intervals, hollow.encode(x=x, color=hues), filled.encode(x=x, color=hues, shape=_shapes(inks)), flips
        ),
        {"differences": rows, "zero": [{"zero": 0}]},
        name=f"differences{_suffix(report, analysis)}",
        section=section,
        title=_title(report, analysis, "Against the control"),
        caption=caption + left,
        height=row_height(len(shown)) * len(shown),
    )


def _grouped(report: Report, analysis: Analysis) -> list[str]:
    """Return the runs, each control before the runs that are compared with it."""
    of = {comparison.run: comparison.difference.control for comparison in analysis.comparisons}
    names = [run.name for run in report.runs]
    made: dict[str, None] = {}
    for name in names:
        control = of.get(name)
        if control is not None and control in names and control not in made:
            made[control] = None
            made.update(dict.fromkeys(other for other in names if of.get(other) == control))
        if name not in of.values() or name in made:
            made.setdefault(name)
    return [*made, *(name for name in names if name not in made)]


def _chosen(names: Sequence[str], known: Mapping[str, object], values: Mapping[str, float]) -> tuple[list[str], str]:
    """Return the rows to draw, in order, and a sentence about the others. The highest values are kept."""
    there = [name for name in names if name in known]
    if len(there) <= ROWS_LIMIT:
        return there, ""
    top = set(sorted(there, key=lambda name: -values.get(name, 0.0))[:ROWS_LIMIT])
    return [n for n in there if n in top], f" The {ROWS_LIMIT} highest of {len(there):,}; the table has all."


def _control_lines(analysis: Analysis, shown: Sequence[Condition], own: Mapping[str, RunScore]) -> list[Row]:
    """Return lines from the first to the last row of the conditions that share a control."""
    rows: list[Row] = []
    for control in dict.fromkeys(comparison.difference.control for comparison in analysis.comparisons):
        with_it = {each.run for each in analysis.comparisons if each.difference.control == control} | {control}
        places = [each.name for each in shown if any(run.name in with_it for run in each.runs)]
        if places and control in own:
            rows.append({"run": control, "value": number(own[control].value), "first": places[0], "last": places[-1]})
    return rows


def _score_row(each: Condition, mean: Quantity, own: Mapping[str, RunScore], inks: Mapping[str, SeriesColor]) -> Row:
    first = next(run.name for run in each.runs if run.name in own)
    proportion = own[first].proportion
    right = "" if proportion is None else f"{proportion.k:,} of {proportion.n:,}"
    is_one = len(each.runs) == 1
    return {
        "condition": each.name,
        "run": first if is_one else "",
        "setting": inks[first].label,
        "shape": inks[first].shape,
        "value": number(mean.value),
        "low": number(mean.low),
        "high": number(mean.high),
        "count": (right or f"{own[first].items:,} items") if is_one else plural(len(each.runs), "seed"),
    }


def _difference_row(each: Comparison, inks: Mapping[str, SeriesColor], *, share: bool) -> Row:
    found, factor = each.difference, 100 if share else 1
    return {
        "run": each.run,
        "setting": inks[each.run].label,
        "shape": inks[each.run].shape,
        "value": number(factor * found.value),
        "low": number(factor * found.low),
        "high": number(factor * found.high),
        "control": found.control,
        "flips": f"+{found.gained:,} −{found.lost:,}",
        "p": p_text(found.p_adjusted),
        "shown": each.shown.words,
        "established": each.shown in (Conclusion.HIGHER, Conclusion.LOWER),
    }


def _names(shown: Sequence[str], field: str = "run") -> altair.Y:
    return altair.Y(
        f"{field}:N", sort=None, scale=altair.Scale(domain=list(shown)), title=None, axis=altair.Axis(grid=False)
    )


def _plain(x: altair.X, field: str) -> altair.X:
    other = x.copy()
    other.shorthand = f"{field}:Q"
    return other


def _shapes(inks: Mapping[str, SeriesColor]) -> altair.Shape:
    names = list(dict.fromkeys(ink.shape for ink in inks.values()))
    return altair.Shape("shape:N", scale=altair.Scale(domain=names, range=names), legend=None)


def _methods(found: object) -> str:
    scores = list(found)  # type: ignore[call-overload]
    kinds = dict.fromkeys(f"{100 * score.coverage:g}% interval ({score.method})" for score in scores)
    return ", ".join(kinds)


def _suffix(report: Report, analysis: Analysis) -> str:
    """Return a file name suffix for the score. Empty for the experiment's own score, which comes first."""
    if report.analyses and analysis is report.analyses[0]:
        return ""
    return "_" + re.sub(r"[^A-Za-z0-9]+", "_", f"{analysis.task}_{analysis.score}").strip("_").lower()[:60]


def _title(report: Report, analysis: Analysis, title: str) -> str:
    return title if not _suffix(report, analysis) else f"{title}: {analysis.task}, {analysis.score}"


_CONTRASTS = 24  # Maximum number of contrasts shown


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
    told = [
        *tooltips("what:N contrast"),
        *interval_tooltips("difference", "+.3~r"),
        *tooltips("basis:N interval", "seeds:Q", "p:N Holm", "shown:N"),
    ]
    base = rows_of("contrasts").encode(y=y, tooltip=told)
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
