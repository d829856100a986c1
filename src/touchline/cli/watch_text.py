"""Lines of `touchline status --watch`: runs in columns that fit the terminal, in the words of status."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from touchline.cli import status_text as text
from touchline.core.text import one_line, shorten

if TYPE_CHECKING:
    from touchline.data.metrics import StepRow
    from touchline.results.live_status import LiveRun
    from touchline.results.watching import Snapshot

HEADER = (*text.HEADER, "curve")
_MARK_CELLS = 2
"""Width of the two marks before a run: `>` for the selected run and `!` for a warning or an error."""
_GAP = 2
_CURVE_CELLS = 12
_LEAST_NAME_CELLS = 8
_STATUS_CELLS = 11
"""Width that a status may take; the description of a run has the whole status."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_NOT_FINITE = "×"
_STATUS_STYLES = {
    "running": "green",
    "queued": "yellow",
    "failed": "red",
    "interrupted": "red",
    "paused": "yellow",
    "cut": "dim",
    "completed": "dim",
    "trained": "cyan",
    "completed, failed exit": "yellow",
}
LOSSES = 256
"""Losses kept per run while its curve grows; then every second one is dropped."""


class LossCurves:
    """Losses of each run, as far as they were read since the view was opened."""

    def __init__(self) -> None:
        self._losses: dict[str, dict[int, float]] = {}

    def add(self, steps: Mapping[str, Sequence[StepRow]]) -> None:
        """Add the losses of the steps that were read last."""
        for run, rows in steps.items():
            if not rows:
                continue
            losses = self._losses.setdefault(run, {})
            known = max(losses, default=-1)
            if rows[-1].step < known:
                # The training went back to a saved state, or began again.
                losses = self._losses[run] = {step: loss for step, loss in losses.items() if step < rows[0].step}
            losses |= {row.step: row.loss for row in rows}
            while len(losses) > LOSSES:
                losses = self._losses[run] = dict(sorted(losses.items())[::2])

    def of(self, run: str) -> list[float]:
        """Return the losses of a run in the order of their steps."""
        return [loss for _, loss in sorted(self._losses.get(run, {}).items())]


def curve(losses: Sequence[float], cells: int = _CURVE_CELLS) -> str:
    """Return losses as a row of blocks, the lowest one the lowest loss; `×` where a loss is not a number."""
    if not losses:
        return "-"
    count = min(cells, len(losses))
    groups = [losses[len(losses) * n // count : len(losses) * (n + 1) // count] for n in range(count)]
    means = [sum(group) / len(group) for group in groups]
    known = [mean for mean in means if math.isfinite(mean)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    return "".join(_block(mean, low, high) for mean in means)


def _block(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return _NOT_FINITE
    share = (value - low) / (high - low) if high > low else 0.0
    return _BLOCKS[min(int(share * len(_BLOCKS)), len(_BLOCKS) - 1)]


def cells(run: LiveRun, losses: Sequence[float]) -> tuple[str, ...]:
    """Return a row of the table: that of status, and the curve."""
    # The last two or three losses of a long training would look like all of it.
    enough = len(losses) >= min(_CURVE_CELLS // 2, run.steps_done or 0)
    return tuple(one_line(cell) for cell in (*text.cells(run), curve(losses if enough else ())))


def table(rows: Sequence[Sequence[str]], width: int) -> list[list[tuple[str, str]]]:
    """Return the header and the rows as (text, name of its column), in the columns that fit the terminal."""
    room = width - _MARK_CELLS
    name_cells = max(room // 3, _LEAST_NAME_CELLS)
    short = [(shorten(row[0], name_cells), shorten(row[1], _STATUS_CELLS), *row[2:]) for row in rows]
    # The last column needs no blanks after it.
    kept = text.fitting_columns(short, room + _GAP, header=HEADER)
    widths = [max([len(HEADER[n]), *(len(row[n]) for row in short)]) for n in kept]
    others = sum(widths[1:]) + _GAP * (len(kept) - 1)
    widths[0] = min(max(len(row[0]) for row in (HEADER, *rows)), max(room - others, _LEAST_NAME_CELLS))
    return [
        [(shorten(row[n], cut).ljust(cut + _GAP), HEADER[n]) for n, cut in zip(kept, widths, strict=True)]
        for row in (HEADER, *((row[0], *cells[1:]) for row, cells in zip(rows, short, strict=True)))
    ]


def is_flagged(run: LiveRun) -> bool:
    """Return True if a run has a warning or an error."""
    return any(flag.severity.value in ("error", "warning") for flag in run.flags)


def description(run: LiveRun, experiment: str) -> list[str]:
    """Return all that is known of a run, its findings included."""
    job = text.job(run)
    facts = [f"{text.steps(run)} steps" if run.items_planned is None else text.steps(run)]
    facts += [f"loss {text.loss(run)}", f"{text.rate(run)} tokens/s", f"peak memory {text.memory(run)}"]
    facts += [f"left {text.left(run)}", f"waits for {run.queue_reason or '-'}"]
    lines = [
        f"{run.name} of {experiment}: {run.status.value}" + (f", job {job}" if job != "-" else ""),
        " · ".join(fact for fact in facts if "-" not in fact.split(" ")),
    ]
    for flag in run.flags:
        lines.append(f"{flag.severity.value} {flag.code}: {flag.message}")
        lines += [f"  hint: {flag.hint}"] if flag.hint else []
    return [one_line(line) for line in lines if line]


@dataclass(frozen=True, slots=True)
class Line:
    """Line of the view."""

    parts: tuple[tuple[str, str], ...]
    """Texts with their styles."""
    run: str | None = None
    """Name of the run; None for a line that is not a run."""

    @property
    def text(self) -> str:
        """The line without styles."""
        return "".join(part for part, _ in self.parts).rstrip()


def lines(
    snapshot: Snapshot, error: str, curves: LossCurves, width: int, selected: str | None = None
) -> tuple[Line, list[Line]]:
    """Return the names of the columns, and the lines below them.

    Args:
        snapshot: last state that was read.
        error: reason why the last reading failed; empty otherwise.
        curves: losses of the runs.
        selected: the run that is marked.
    """
    head, *rows = table([cells(run, curves.of(run.name)) for run in snapshot.runs], width)
    below = [Line(((one_line(snapshot.experiment), "bold"), (f"  {text.counts(snapshot.runs)}", "")))]
    below += [Line(((f"  error: {one_line(error)}", "red"),))] if error else []
    below += [Line(((f"  {one_line(line)}", "yellow"),)) for line in (snapshot.note, *snapshot.lines) if line]
    if snapshot.strategy:
        wrapped = textwrap.wrap(one_line(snapshot.strategy), width - 2, break_on_hyphens=False)
        below += [Line(((f"  {line}", "dim"),)) for line in wrapped]
    for run, row in zip(snapshot.runs, rows, strict=True):
        marks = (">" if run.name == selected else " ") + ("!" if is_flagged(run) else " ")
        parts = [(value, _STATUS_STYLES.get(run.status.value, "") if name == "status" else "") for value, name in row]
        below.append(Line(((marks, ""), *parts), run.name))
    return Line((("  ", ""), *((value, "bold") for value, _ in head))), below
