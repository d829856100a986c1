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
    from touchline.results.live import LiveRun
    from touchline.results.watching import Snapshot

HEADER = ("run", "status", "step", "done", "loss", "curve", "left or waits for", "memory")
_LEAST_FIRST = ("done", "memory", "loss", "curve", "left or waits for")
_NUMBERS = frozenset({"step", "loss", "memory"})
_WIDE = 100
"""Columns from which on the time left is shown with its interval, and two blanks stand between two columns."""
_WIDE_GAP, _NARROW_GAP = 2, 1
_BAR_CELLS = 10
_CURVE_CELLS, _NARROW_CURVE_CELLS = 12, 6
_MARK_CELLS = 2
"""Width of the two marks before a run: `>` for the selected run and `!` for a warning or an error."""
_STATUS_CELLS = 12
"""Width that a status may take; the description of a run has the whole status."""
_LEAST_NAME_CELLS = 8
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


def bar(done: int, total: int, cells: int = _BAR_CELLS) -> str:
    """Return progress as `████░░░░░░`."""
    full = min(cells * done // total, cells) if total else 0
    return "█" * full + "░" * (cells - full)


def cells(run: LiveRun, losses: Sequence[float], *, wide: bool) -> tuple[str, ...]:
    """Return a row of the table; where it is narrow, the time left is its interval alone."""
    total, done = run.steps_planned, run.steps_done or 0
    if run.items_planned is not None and not (run.job is not None and run.job.active):
        total, done = run.items_planned, run.items_done or 0
    # The last two or three losses of a long training would look like all of it.
    enough = len(losses) >= min(_NARROW_CURVE_CELLS, run.steps_done or 0)
    left = text.left(run) if wide else text.left_interval(run)
    waits = f"waits: {run.queue_reason}" if run.queue_reason else "-"
    return tuple(
        one_line(cell)
        for cell in (
            run.name,
            shorten(run.status.value, _STATUS_CELLS),
            text.steps(run),
            bar(done, total) if total else "-",
            text.loss(run),
            curve(losses if enough else (), _CURVE_CELLS if wide else _NARROW_CURVE_CELLS),
            left if left != "-" else waits,
            text.memory(run),
        )
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns that fit the terminal, with their widths."""

    kept: tuple[int, ...]
    """Places of the columns in `HEADER`."""
    widths: tuple[int, ...]
    """Width of each of them."""
    gap: int
    """Blanks between two columns."""

    def line(self, row: Sequence[str], marks: str = "  ") -> list[tuple[str, str]]:
        """Return a line as (text, name of its column); the marks before it have no name."""
        parts = [(marks, "")]
        for place, width in zip(self.kept, self.widths, strict=True):
            name, value = HEADER[place], shorten(row[place], width)
            value = value.rjust(width) if name in _NUMBERS else value.ljust(width)
            parts.append((value + " " * self.gap, name))
        return parts


def layout(rows: Sequence[Sequence[str]], width: int) -> Layout:
    """Return the columns for the rows of all runs in a terminal of so many columns."""
    room = width - _MARK_CELLS
    name_cells = max(room // 3, _LEAST_NAME_CELLS)
    short = [(shorten(row[0], name_cells), *row[1:]) for row in rows]
    # The last column needs no blanks after it.
    gap = _WIDE_GAP if width >= _WIDE else _NARROW_GAP
    kept = text.fitting_columns(short, room + gap, header=HEADER, least_first=_LEAST_FIRST, gap=gap)
    widths = [max([len(HEADER[n]), *(len(row[n]) for row in short)]) for n in kept]
    others = sum(widths[1:]) + gap * (len(kept) - 1)
    longest = max([len(HEADER[0]), *(len(row[0]) for row in rows)])
    widths[0] = min(longest, max(room - others, _LEAST_NAME_CELLS))
    return Layout(tuple(kept), tuple(widths), gap)


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
        width: columns of the terminal.
        selected: the run that is marked.
    """
    rows = {run.name: cells(run, curves.of(run.name), wide=width >= _WIDE) for run in snapshot.runs}
    columns = layout(list(rows.values()), width)
    below = [Line(((one_line(snapshot.experiment), "bold"), (f"  {text.counts(snapshot.runs)}", "")))]
    below += [Line(((f"  error: {one_line(error)}", "red"),))] if error else []
    below += [Line(((f"  {one_line(line)}", "yellow"),)) for line in (snapshot.note, *snapshot.lines) if line]
    if snapshot.strategy:
        wrapped = textwrap.wrap(one_line(snapshot.strategy), width - 2, break_on_hyphens=False)
        below += [Line(((f"  {line}", "dim"),)) for line in wrapped]
    for run in snapshot.runs:
        marks = (">" if run.name == selected else " ") + ("!" if is_flagged(run) else " ")
        parts = [(value, _style(name, run)) for value, name in columns.line(rows[run.name], marks)]
        below.append(Line(tuple(parts), run.name))
    return Line(tuple((value, "bold") for value, _ in columns.line(HEADER))), below


def _style(column: str, run: LiveRun) -> str:
    if column == "status":
        return _STATUS_STYLES.get(run.status.value, "")
    return "yellow" if column == "left or waits for" and run.queue_reason else ""
