"""Gantt chart of a placement: a row per GPU, a bar per job, the deadline as a line.

A chain's jobs share a hue. The thin line at the foot of a bar ends where the job has finished with 90% probability.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from touchline.core.quantity import Missing
from touchline.core.text import one_line, shorten
from touchline.core.units import minutes_to_seconds, percent, seconds_to_hours
from touchline.plan.placement.types import DeadlineVerdict, PlaceJob, Placement, ScheduledJob
from touchline.plan.placement.verdict import duration_text
from touchline.report.figures import Figure, figures_off

WIDTH = 900
"""Width of the time axis, in pixels."""
_HUES = (
    *("#a6cee3", "#fdbf6f", "#b2df8a", "#cab2d6", "#fb9a99", "#ffe08a", "#9ad9d0", "#d9c2a7", "#f4b6d2", "#bcd2f7"),
    *("#c7e9a9", "#e2c6ff", "#ffd1b3", "#a9dbc0", "#d6d6d6"),
)
"""Hues light enough for black text."""
_VERDICT_HUES = {
    DeadlineVerdict.IMPOSSIBLE: "#c0392b",
    DeadlineVerdict.TIGHT: "#b9770e",
    DeadlineVerdict.FITS: "#1e8449",
}
_LETTER = 0.58
"""Approximate width of a letter, relative to its size."""
_FEWEST_LETTERS = 5
"""Minimum number of letters of a truncated name."""
_FARTHEST = 1.5
_HOURS_FROM = 3.0


def gantt_figure(placement: Placement, jobs: Sequence[PlaceJob], gpus: int, gpus_per_node: int | None = None) -> Figure:
    """Draw a placement.

    Args:
        placement: the schedule.
        jobs: the placed jobs; their parents define the chains.
        gpus: total number of GPUs.
        gpus_per_node: GPUs per node, with lines between nodes; None: one node.
    """
    if off := figures_off():
        return Figure(spec=None, note=off)
    if not any(slot.gpus for slot in placement.schedule):
        return Figure(spec=None, note="No job holds a GPU.")

    chart = _chart(placement, _chains(jobs), gpus, gpus_per_node)
    return Figure(spec=chart.to_dict(), note="When each job runs, and on which GPUs.")


def _chart(placement: Placement, chains: dict[str, int], gpus: int, gpus_per_node: int | None) -> Any:
    import altair

    last = max(max(slot.end_minutes, slot.late_end_minutes or 0.0) for slot in placement.schedule)
    # A distant deadline would squeeze all jobs to the left.
    end = max(last, min(placement.deadline_minutes or 0.0, _FARTHEST * last))
    in_hours = _hours(end) >= _HOURS_FROM
    unit = _hours if in_hours else float
    row = max(9, min(34, 640 // gpus))
    size = max(7, min(11, row - 3))
    across = WIDTH / (unit(end) * 1.02 or 1.0)
    bars = [bar for slot in placement.schedule for bar in _bars(slot, chains, unit, across, row, size)]
    x = altair.X("start:Q", title="hours" if in_hours else "minutes", scale=_scale(0, unit(end) * 1.02))
    y = altair.Y(
        "top:Q",
        title=None,
        scale=altair.Scale(domain=[-0.5, gpus - 0.5], reverse=True, nice=False, zero=False),
        axis=altair.Axis(
            values=list(range(0, gpus, 1 if row >= 11 else 4)),
            labelExpr="'GPU ' + datum.value",
            grid=False,
            ticks=False,
            domain=False,
        ),
    )
    base = altair.Chart(altair.InlineData(values=bars))
    layers: list[Any] = [
        base.mark_rect(stroke="white", strokeWidth=1).encode(
            x=x, x2="end:Q", y=y, y2="bottom:Q", color=altair.Color("hue:N", scale=None)
        ),
        base.transform_filter("datum.late > datum.end")
        .mark_rule(color="#444444", strokeWidth=1, opacity=0.7)
        .encode(x="end:Q", x2="late:Q", y="foot:Q"),
        base.transform_filter("datum.late > datum.end")
        .mark_tick(color="#444444", thickness=1, size=5, orient="vertical")
        .encode(x="late:Q", y="foot:Q"),
        *(
            base.transform_filter(f"datum.angle == {angle}")
            .mark_text(fontSize=size, color="#111111", align="center", baseline="middle", angle=angle)
            .encode(x="middle:Q", y="centre:Q", text="name:N")
            for angle in (0, 270)
        ),
    ]
    if gpus_per_node and gpus_per_node < gpus:
        lines = [{"top": first - 0.5} for first in range(gpus_per_node, gpus, gpus_per_node)]
        layers.append(
            altair.Chart(altair.InlineData(values=lines)).mark_rule(color="#888888", strokeWidth=1).encode(y="top:Q")
        )
    layers += _deadline(placement, end, unit)
    return (
        altair.layer(*layers)
        .properties(width=WIDTH, height=row * gpus, title=_title(placement))
        .configure_view(stroke="#cccccc")
    )


def _scale(low: float, high: float) -> Any:
    import altair

    return altair.Scale(domain=[low, high], nice=False)


def _deadline(placement: Placement, end: float, unit: Any) -> Iterator[Any]:
    if placement.deadline_minutes is None:
        return
    import altair

    shown = placement.deadline_minutes <= end
    words = f"deadline {duration_text(placement.deadline_minutes)}{'' if shown else ' →'}"
    at = min(placement.deadline_minutes, end)
    base = altair.Chart(altair.InlineData(values=[{"at": unit(at), "what": words}]))
    if shown:
        yield base.mark_rule(color="#c0392b", strokeWidth=2, strokeDash=[6, 4]).encode(x="at:Q")
    yield base.mark_text(align="right", dx=-4, dy=-7, color="#c0392b", fontWeight="bold", fontSize=11).encode(
        x="at:Q", y=altair.value(0), text="what:N"
    )


def _title(placement: Placement) -> Any:
    import altair

    parts = [f"the last job ends after {duration_text(placement.makespan_minutes)} as predicted"]
    if not isinstance(placement.probability, Missing) and placement.deadline_minutes is not None:
        limit = duration_text(placement.deadline_minutes)
        parts.append(f"{percent(placement.probability, 0)} chance to meet the deadline of {limit}")
    bound = placement.bounds[0]
    parts.append(f"no order ends before {duration_text(placement.lower_bound_minutes)}: {_clipped(bound.why, 70)}")
    known = any(slot.late_end_minutes is not None for slot in placement.schedule)
    spread = ["thin lines: nine times of ten a job has ended by there"] if known else []
    verdict = placement.verdict
    head = "Schedule" if verdict is DeadlineVerdict.NO_DEADLINE else verdict.value.capitalize()
    return altair.Title(
        head,
        subtitleColor="#444444",
        subtitle=["; ".join(parts[:-1]), parts[-1], *spread],
        anchor="start",
        color=_VERDICT_HUES.get(verdict, "#222222"),
        fontSize=16,
        offset=18,
    )


def _bars(
    slot: ScheduledJob, chains: dict[str, int], unit: Any, across: float, row: int, size: int
) -> Iterator[dict[str, object]]:
    """Yield one bar per group of adjacent GPUs. The first has the whisker, the tallest the name."""
    runs: list[list[int]] = []
    for gpu in slot.gpus:
        if runs and gpu == runs[-1][-1] + 1:
            runs[-1].append(gpu)
        else:
            runs.append([gpu])
    named = max(range(len(runs)), key=lambda k: (len(runs[k]), -k), default=0)
    start, end = unit(slot.start_minutes), unit(slot.end_minutes)
    name, angle = _label(slot.id, (end - start) * across - 4, len(runs[named]) * row - 8 if runs else 0, size)
    for number, run in enumerate(runs):
        yield {
            "start": start,
            "end": end,
            "late": unit(slot.late_end_minutes or 0.0) if number == len(runs) - 1 else 0.0,
            "top": run[0] - 0.46,
            "bottom": run[-1] + 0.46,
            "foot": run[-1] + 0.36,
            "middle": (start + end) / 2,
            "centre": (run[0] + run[-1]) / 2,
            "hue": _HUES[chains.get(slot.id, 0) % len(_HUES)],
            "name": name if number == named else "",
            "angle": angle,
        }


def _label(name: str, across: float, down: float, size: int) -> tuple[str, int]:
    """Return as much of a name as fits, and its angle. Empty rather than a letter or two."""
    letters, letters_down = int(across / (_LETTER * size)), int(down / (_LETTER * size))
    if len(name) <= letters:
        return _clipped(name, letters), 0
    if across >= size and letters_down >= min(len(name), max(letters + 1, _FEWEST_LETTERS)):
        return _clipped(name, letters_down), 270
    return (_clipped(name, letters), 0) if letters >= _FEWEST_LETTERS else ("", 0)


def _clipped(text: str, letters: int) -> str:
    """Return a text truncated to the given length, without control characters, which would end the drawing program."""
    return shorten(one_line(text, "?"), letters)


def _chains(jobs: Sequence[PlaceJob]) -> dict[str, int]:
    """Return a number for each job, shared by the jobs of a chain, in the order of the jobs."""
    number = {job.id: place for place, job in enumerate(jobs)}
    changed = True
    while changed:
        changed = False
        for job in jobs:
            for parent in job.after:
                least = min(number[job.id], number[parent])
                changed = changed or number[job.id] != number[parent]
                number[job.id] = number[parent] = least
    dense = {each: place for place, each in enumerate(sorted(set(number.values())))}
    return {job: dense[each] for job, each in number.items()}


def _hours(minutes: float) -> float:
    return seconds_to_hours(minutes_to_seconds(minutes))
