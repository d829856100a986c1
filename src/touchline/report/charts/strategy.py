"""Figure of a strategy: the course of each contrast over its looks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import altair

from touchline.experiment.strategy import matches
from touchline.report.charts.parts import Row, finished, legend_of, number, padded, rows_of, signed
from touchline.report.colors import CONTROL, INK, MUTED, WHITE, SeriesColor, used
from touchline.report.figures import Chart
from touchline.report.formatting import scale_or_share
from touchline.report.report import Report
from touchline.statistics.conclusions import Verdict

SECTION = "strategy"
_POINTS = 100.0
_REACH = 2.5
"""Distance of the axis' ends from zero, in multiples of the largest difference and the shortest interval."""
_MOST = 105.0
"""Ends of an axis of points: no difference of shares is beyond 100."""
_OFFSET = 26.0
_MOST_OFFSET = 150.0


def looks(report: Report, inks: Mapping[str, SeriesColor]) -> Chart | None:
    """Return the difference of each contrast at its looks, with its repeated interval and the bound."""
    strategy = report.strategy
    courses = [] if strategy is None else [course for course in strategy.courses if course.looks]
    if strategy is None or not courses:
        return None
    scale = scale_or_share(report.analyses)
    factor = _POINTS if scale.share else 1.0
    rows: list[Row] = []
    for course in courses:
        for look in course.looks:
            found, ends = look.found, look.interval(scale)
            error = max(found.error, found.wide_error or 0.0)
            rows.append(
                {
                    "contrast": course.words,
                    "look": _look_label(look.number, len(found.pairs)),
                    "value": number(factor * found.difference),
                    "low": None if ends is None else number(factor * ends[0]),
                    "high": None if ends is None else number(factor * ends[1]),
                    "needed": number(factor * found.bound * error) if error > 0 else None,
                    "difference": scale.difference(found.difference),
                    "interval": look.ends(scale) or "none",
                    "t": "-" if found.t is None else f"{found.t:.3g}",
                    "bound": f"{found.bound:.3g}",
                    "verdict": found.verdict.value,
                    "established": found.verdict is Verdict.ESTABLISHED,
                }
            )
    promised = factor * strategy.planned.detect
    low, high = _ends(rows, promised, share=scale.share)
    names = [course.words for course in courses]
    ticks = [_look_label(place, seeds) for place, seeds in enumerate(strategy.planned.looks, 1)]
    x = altair.X(
        "look:N",
        sort=None,
        title=None,
        scale=altair.Scale(domain=ticks, type="point", padding=0.5),
        axis=altair.Axis(labelAngle=0, grid=False, labelExpr="split(datum.label, '|')"),
    )
    shift = altair.XOffset("contrast:N", sort=None, scale=altair.Scale(domain=names, range=_spread(len(names))))
    y = altair.Y(
        "value:Q",
        title=f"difference{' (points)' if scale.share else ''}",
        scale=altair.Scale(domain=[number(low), number(high)], nice=False),
        axis=signed(),
    )
    hues = altair.Color(
        "contrast:N",
        sort=None,
        scale=altair.Scale(domain=names, range=_hues(report, [course.contrast.level for course in courses], inks)),
        legend=legend_of(names) if len(names) > 1 else None,
    )
    tooltips = [
        altair.Tooltip("contrast:N"),
        *(altair.Tooltip(f"{field}:N", title=field) for field in ("look", "difference", "interval", "t", "bound")),
        altair.Tooltip("verdict:N"),
    ]
    base = rows_of("looks").encode(x=x, xOffset=shift, color=hues, detail="contrast:N")
    seen = base.encode(y=y, tooltip=tooltips)
    flat = rows_of("lines").encode(y=altair.Y("value:Q"))
    layers = [
        flat.transform_filter("datum.kind === 'zero'").mark_rule(color=INK, strokeWidth=1),
        flat.transform_filter("datum.kind === 'promised'").mark_rule(color=MUTED, strokeDash=[5, 4], strokeWidth=1.2),
        base.mark_rule(strokeWidth=2.5, strokeCap="round", clip=True, opacity=0.75).encode(
            y=altair.Y("low:Q"), y2=altair.Y2("high:Q"), tooltip=tooltips
        ),
        seen.mark_line(strokeWidth=1.2, opacity=0.6, clip=True),
        base.mark_tick(orient="horizontal", size=18, thickness=2, clip=True, opacity=1).encode(
            y=altair.Y("needed:Q"), tooltip=tooltips
        ),
        seen.transform_filter("!datum.established").mark_point(
            filled=False, size=80, strokeWidth=2, opacity=1, fill=WHITE
        ),
        seen.transform_filter("datum.established").mark_point(filled=True, size=95, opacity=1),
    ]
    flats: list[Row] = [{"kind": "zero", "value": 0}, {"kind": "promised", "value": number(promised)}]
    beyond = any(
        not low <= float(str(row[end])) <= high for row in rows for end in ("low", "high") if row[end] is not None
    )
    caption = (
        "Point: mean difference over the look's seeds, filled where established. Bar: repeated 95% interval, which "
        "holds over all looks. Tick: the bound, above which a difference is established. Dashed: the difference to be "
        f"shown, {scale.difference(strategy.planned.detect)}."
    )
    return finished(
        altair.layer(*layers),
        {"looks": rows, "lines": flats},
        name="looks",
        section=SECTION,
        title="Contrasts over the looks",
        caption=caption + (" Intervals that leave the figure are in the table." if beyond else ""),
        height=300,
    )


def _look_label(place: int, seeds: int) -> str:
    """Return the label of a look in two lines."""
    return f"look {place}|{seeds} seeds"


def _ends(rows: Sequence[Row], promised: float, *, share: bool) -> tuple[float, float]:
    """Return the ends of the axis. Wide intervals of early looks may leave it, so that differences remain visible."""
    values = [0.0, promised, *(float(str(row["value"])) for row in rows)]
    arms = [abs(float(str(row["high"])) - float(str(row["value"]))) for row in rows if row["high"] is not None]
    reach = _REACH * max(*map(abs, values), min(arms, default=0.0))
    shown = [float(str(row[end])) for row in rows for end in ("low", "high") if row[end] is not None]
    low, high = padded([*values, *(min(max(end, -reach), reach) for end in shown)])
    most = _MOST if share else math.inf
    return max(low, -most), min(high, most)


def _hues(report: Report, levels: Sequence[Mapping[str, str]], inks: Mapping[str, SeriesColor]) -> list[str]:
    """Return a color per contrast: that of its level's runs, another one where two contrasts share it."""
    if len(levels) == 1:
        return [INK]
    free = [ink.light for ink in used(dict(inks)) if ink is not CONTROL]
    made: list[str] = []
    for level in levels:
        own = next((inks[run.name].light for run in report.runs if matches(run.levels, level)), INK)
        if own in made:
            own = next((each for each in free if each not in made), MUTED)
        made.append(own)
    return made


def _spread(count: int) -> list[float]:
    width = min(_OFFSET * (count - 1), _MOST_OFFSET)
    return [-width / 2, width / 2] if count > 1 else [0, 0]
