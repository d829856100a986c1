"""`status --watch` on a terminal: a bar for each run that is at work, what waits, and what needs a person."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from touchline.cli import status_text as text
from touchline.core.text import without_controls

if TYPE_CHECKING:
    from rich.console import RenderableType

    from touchline.results.live import LiveRun
    from touchline.results.watching import Snapshot

BAR_WIDTH = 24
NARROW_BAR_WIDTH = 10
_WIDE = 130
"""Columns from which on a long bar takes nothing from what stands beside it."""
_STYLES = {
    "running": "green",
    "queued": "yellow",
    "failed": "red",
    "interrupted": "red",
    "completed": "dim",
    "trained": "cyan",
    "completed, failed exit": "yellow",
}
_NUMBERS = frozenset({"step", "loss", "tokens/s", "memory"})
_SEVERITIES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_BAR_AT = 2
"""Place of the bar: behind the run and its status."""
_FRAME_ROWS = 7
"""Rows of a screen that are no runs and no flags."""


def view(snapshot: Snapshot, height: int, width: int) -> RenderableType:
    """Return the screen.

    Args:
        snapshot: the runs.
        height: rows of the terminal; runs beyond are counted, not shown.
        width: its columns; narrow ones leave out what matters least.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    flagged = text.flag_lines(snapshot.runs)
    room = max(height - _FRAME_ROWS, 4)
    told = flagged[: max(2, room // 3 // 2)]
    chosen = chosen_runs(snapshot.runs, max(room - 2 * len(told), 3))
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold", expand=False)
    bar = BAR_WIDTH if width >= _WIDE else NARROW_BAR_WIDTH
    rows = [text.cells(run) for run in chosen]
    kept = text.fitting_columns(rows, width, spare=bar + 2)
    for place, name in enumerate(text.HEADER[n] for n in kept):
        if place == _BAR_AT:
            table.add_column("")
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify="right" if name in _NUMBERS else "left")
    for run, row in zip(chosen, rows, strict=True):
        cells = [_text(row[n], _style(text.HEADER[n], run)) for n in kept]
        table.add_row(*cells[:_BAR_AT], _bar(run, bar), *cells[_BAR_AT:])
    head = Text(f"{without_controls(snapshot.experiment)}  ", style="bold")
    head.append(text.counts(snapshot.runs), style="not bold")
    head.append(f"   {time.strftime('%H:%M:%S')}", style="dim not bold")
    parts: list[RenderableType] = [head, table]
    if len(chosen) < len(snapshot.runs):
        parts.append(Text(f"and {len(snapshot.runs) - len(chosen)} more", style="dim"))
    if told:
        parts.append(Text(""))
    for severity, sentence, hint in told:
        parts.append(Text(without_controls(sentence), style=_SEVERITIES.get(severity, ""), overflow="fold"))
        if hint:
            parts.append(Text(f"    hint: {without_controls(hint)}", style="dim", overflow="fold"))
    if len(flagged) > len(told):
        parts.append(Text(f"and {len(flagged) - len(told)} more: touchline status shows all", style="dim"))
    if snapshot.note:
        parts.append(Text(without_controls(snapshot.note), style="yellow"))
    parts.append(Text("Ctrl-C leaves this view; nothing is stopped", style="dim"))
    return Group(*parts)


def chosen_runs(runs: Sequence[LiveRun], most: int) -> list[LiveRun]:
    """Return active runs first, then failed, queued and finished ones, each in the plan's order."""
    ranks = {"running": 0, "failed": 1, "interrupted": 1, "queued": 2, "trained": 3, "prepared": 4, "planned": 4}

    def rank(run: LiveRun) -> int:
        at_work = any(job is not None and job.active for job in (run.job, run.evaluation))
        return 0 if at_work and run.status.value != "queued" else ranks.get(run.status.value, 5)

    return sorted(runs, key=rank)[:most]


def _style(column: str, run: LiveRun) -> str:
    if column == "status":
        return _STYLES.get(run.status.value, "")
    return "dim" if column == "job" else "yellow" if column == "waits for" and run.queue_reason else ""


def _bar(run: LiveRun, width: int) -> RenderableType:
    from rich.progress_bar import ProgressBar

    total, done = run.steps_planned, run.steps_done or 0
    if run.items_planned is not None and not (run.job is not None and run.job.active):
        total, done = run.items_planned, run.items_done or 0
    if not total:
        return _text("")
    style = _STYLES.get(run.status.value, "").replace("dim", "green") or "cyan"
    return ProgressBar(total=total, completed=min(done, total), width=width, complete_style=style, finished_style=style)


def _text(value: str, style: str = "") -> RenderableType:
    from rich.text import Text

    return Text(without_controls(value), style=style)
