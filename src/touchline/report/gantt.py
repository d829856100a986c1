"""Gantt chart of a placement: a row per GPU, a bar per job, the deadline as a line; a chain's jobs share a hue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from touchline.core.quantity import Missing
from touchline.core.text import one_line, shorten
from touchline.core.units import minutes_to_seconds, percent, seconds_to_hours
from touchline.plan.placement.types import PlaceJob, Placement
from touchline.plan.placement.verdict import duration_text
from touchline.report.figures import Figure, figures_off

WIDTH = 900
"""Width of the time axis, in pixels."""
_HUES = ("#a6cee3", "#fdbf6f", "#b2df8a", "#cab2d6", "#fb9a99", "#ffe08a", "#9ad9d0", "#d9c2a7", "#f4b6d2", "#d6d6d6")
"""Hues light enough for black text."""
_RED = "#c0392b"
_LETTER_PIXELS = 6
"""Approximate width of a letter."""
_FEWEST_LETTERS = 3
"""Minimum number of letters of a truncated name."""
_FARTHEST = 1.5
"""Deadline, relative to the last end, beyond which it is not drawn: it would squeeze all jobs to the left."""


def gantt_figure(placement: Placement, jobs: Sequence[PlaceJob], gpus: int) -> Figure:
    """Draw a placement.

    Args:
        placement: the schedule.
        jobs: the placed jobs; their parents define the chains.
        gpus: total number of GPUs.
    """
    if off := figures_off():
        return Figure(spec=None, note=off)
    if not any(slot.gpus for slot in placement.schedule):
        return Figure(spec=None, note="No job holds a GPU.")
    import altair

    end, deadline = placement.makespan_minutes, placement.deadline_minutes
    if deadline is not None and deadline <= _FARTHEST * end:
        end = max(end, deadline)
    bars = altair.Chart(altair.InlineData(values=list(_bars(placement, _hues(jobs), WIDTH / (end or 1.0)))))
    x = altair.X("start:Q", title="hours", scale=altair.Scale(domain=[0, _hours(end)], nice=False))
    y = altair.Y("gpu:O", title="GPU", scale=altair.Scale(domain=list(range(gpus))))
    layers: list[Any] = [
        bars.mark_bar(stroke="white").encode(x=x, x2="end:Q", y=y, color=altair.Color("hue:N", scale=None)),
        bars.mark_text(align="left", dx=3, fontSize=10, color="#111111").encode(x=x, y=y, text="name:N"),
    ]
    if deadline is not None and deadline <= end:
        line = altair.Chart(altair.InlineData(values=[{"at": _hours(deadline)}]))
        layers.append(line.mark_rule(color=_RED, strokeWidth=2, strokeDash=[6, 4]).encode(x="at:Q"))
    title = altair.Title(placement.verdict.value.capitalize(), subtitle=list(_subtitle(placement)), anchor="start")
    chart = altair.layer(*layers).properties(width=WIDTH, height=max(9, min(30, 640 // gpus)) * gpus, title=title)
    return Figure(spec=chart.to_dict(), note="When each job runs, and on which GPUs.")


def _subtitle(placement: Placement) -> Iterator[str]:
    yield f"the last job ends after {duration_text(placement.makespan_minutes)} as predicted"
    if not isinstance(placement.probability, Missing) and placement.deadline_minutes is not None:
        limit = duration_text(placement.deadline_minutes)
        yield f"{percent(placement.probability, 0)} chance to meet the deadline of {limit}"
    why = shorten(one_line(placement.bounds[0].why, "?"), 70)
    yield f"no order ends before {duration_text(placement.lower_bound_minutes)}: {why}"


def _bars(placement: Placement, hues: dict[str, str], pixels_per_minute: float) -> Iterator[dict[str, object]]:
    """Yield a bar per job and GPU; the first GPU has as much of the job's name as fits."""
    for slot in placement.schedule:
        letters = int((slot.end_minutes - slot.start_minutes) * pixels_per_minute / _LETTER_PIXELS)
        # Control characters would end the drawing program.
        name = shorten(one_line(slot.id, "?"), letters) if letters >= _FEWEST_LETTERS else ""
        for gpu in slot.gpus:
            yield {
                "start": _hours(slot.start_minutes),
                "end": _hours(slot.end_minutes),
                "gpu": gpu,
                "hue": hues[slot.id],
                "name": name if gpu == slot.gpus[0] else "",
            }


def _hues(jobs: Sequence[PlaceJob]) -> dict[str, str]:
    """Return the hue of each job: that of its first parent, so that a chain has one."""
    parents = {job.id: job.after[0] if job.after else None for job in jobs}
    firsts: dict[str, int] = {}
    found: dict[str, str] = {}
    for name in parents:
        first = name
        while (parent := parents[first]) is not None:
            first = parent
        found[name] = _HUES[firsts.setdefault(first, len(firsts)) % len(_HUES)]
    return found


def _hours(minutes: float) -> float:
    return seconds_to_hours(minutes_to_seconds(minutes))
