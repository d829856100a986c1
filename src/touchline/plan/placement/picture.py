"""Text Gantt chart of a schedule, one line per GPU."""

from __future__ import annotations

from touchline.core.text import one_line, shorten
from touchline.plan.placement.types import Placement, ScheduledJob
from touchline.plan.placement.verdict import duration_text


def text_gantt(placement: Placement, gpus: int, columns: int) -> list[str]:
    """Return one line per GPU with its jobs by name, `|` at the start of each, and `!` at the deadline.

    Args:
        placement: the schedule.
        gpus: GPUs in all.
        columns: width of the time axis, in characters.
    """
    deadline = placement.deadline_minutes
    end = max(placement.makespan_minutes, deadline or 0.0)
    if end <= 0:
        return []
    lines = []
    mark = None if deadline is None else min(_column(deadline, end, columns), columns)
    for gpu in range(gpus):
        cells = [" "] * (columns + 1)
        for slot in placement.schedule:
            if gpu in slot.gpus:
                _draw(cells, slot, end, columns)
        if mark is not None:
            cells[mark] = "!"
        lines.append(f"GPU {gpu:<3} {''.join(cells)}".rstrip())
    axis = f"        0{duration_text(end):>{columns}}"
    return [*lines, axis] if deadline is None else [*lines, axis, f"        ! deadline, {duration_text(deadline)}"]


def _column(minutes: float, end: float, columns: int) -> int:
    return round(columns * minutes / end)


def _draw(cells: list[str], slot: ScheduledJob, end: float, columns: int) -> None:
    first, last = _column(slot.start_minutes, end, columns), _column(slot.end_minutes, end, columns)
    if last <= first:
        return
    room = last - first - 1
    text = "|" + (shorten(one_line(slot.id, "?"), room) if room > 1 else "").ljust(room, "─")
    cells[first:last] = list(text[: last - first])
