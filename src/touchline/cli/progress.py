"""Progress of running jobs: one line per active job and one in total on a terminal, one line per minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from touchline.cli.output import displayed, print_status, rich_text
from touchline.cli.status_text import with_interval
from touchline.core.text import shorten

if TYPE_CHECKING:
    from rich.live import Live

    from touchline.run.progress import JobProgress


class _ProgressCallback(Protocol):
    def __call__(self, done: int, total: int, text: str = "") -> None: ...


PLAIN_SECONDS = 60.0
"""Between two plain lines."""
BAR_COLUMNS = 8
NAME_COLUMNS = 28
"""Width of the longest name that is shown whole on a narrow terminal."""


@contextmanager
def progress_bar(what: str) -> Iterator[_ProgressCallback | None]:
    """Give a callback for (done, total) and a text: it draws a bar on a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from touchline.run.progress import JobProgress

    with ProgressDisplay() as bars:

        def show(done: int, total: int, text: str = "") -> None:
            bars.update([JobProgress(name=what, done=done, total=total, text=text)])

        yield show


class ProgressDisplay:
    """Context that shows the progress of runs; `update` receives the rows."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._rows: dict[str, JobProgress] = {}
        self._begun: dict[str, float] = {}
        self._total: JobProgress | None = None
        self._said = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> ProgressDisplay:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, jobs: Sequence[JobProgress]) -> None:
        """Show the jobs that are active, and report those that are no longer in the list as ended."""
        rows = {job.name: job for job in jobs if not job.is_total}
        self._total = next((job for job in jobs if job.is_total), self._total)
        ended = [row for name, row in self._rows.items() if name not in rows]
        begun = [row for name, row in rows.items() if name not in self._rows]
        self._rows = rows
        self._begun |= {row.name: time.monotonic() for row in begun}
        for row in ended:
            self._print(self._last_line(row))
        if self._live is not None:
            width, height = self._live.console.size
            self._live.update(rich_text("\n".join(lines(list(rows.values()), self._total, width, height))))
            return
        for row in begun:
            print_status(f"{row.name}: started")
        if time.monotonic() - self._said >= PLAIN_SECONDS:
            self._said = time.monotonic()
            print_status(plain_line(list(rows.values()), self._total, time.monotonic() - self._started))

    def print_note(self, sentence: str) -> None:
        """Print a sentence above the bars."""
        self._print(f"note: {sentence}")

    def _print(self, line: str) -> None:
        if self._live is None:
            print_status(line)
        else:
            self._live.console.print(rich_text(line))

    def _last_line(self, row: JobProgress) -> str:
        from touchline.core.units import format_seconds

        done = f", {row.done}/{row.total}" if row.total else ""
        text = f", {row.text}" if row.text else ""
        return f"{row.name}: ended{done}{text}, took {format_seconds(time.monotonic() - self._begun[row.name])}"


def lines(rows: Sequence[JobProgress], total: JobProgress | None, width: int, height: int) -> list[str]:
    """Return one line per active job and the total, none wider than the terminal.

    Args:
        total: all jobs together, if known.
        height: its rows; jobs beyond are counted.
    """
    room = max(height - 3, 1)
    shown = list(rows) if len(rows) <= room else list(rows[: room - 1])
    names = [displayed(row.name) for row in (*shown, *([total] if total is not None else []))]
    column = min(max((len(name) for name in names), default=0), max(NAME_COLUMNS, width - 60))
    found = [_line(row, column, width) for row in shown]
    if len(shown) < len(rows):
        found.append(f"and {len(rows) - len(shown)} more")
    if total is not None:
        found.append(_line(total, column, width))
    return found


def plain_line(rows: Sequence[JobProgress], total: JobProgress | None, elapsed_seconds: float) -> str:
    """Return the progress of everything in one line, for a log."""
    from touchline.core.units import format_seconds

    parts = [f"{format_seconds(elapsed_seconds)} elapsed"]
    if total is not None:
        queued = f", {total.text}" if total.text else ""
        parts.append(f"{total.done}/{total.total} jobs done, {len(rows)} active{queued}")
        parts += [text] if (text := with_interval(total.left, "left")) else []
    parts += [" ".join(filter(None, (row.name, _count(row), row.text))) for row in rows[:4]]
    parts += [f"and {len(rows) - 4} more"] if len(rows) > 4 else []
    return "; ".join(parts)


def _line(row: JobProgress, column: int, width: int) -> str:
    name = displayed(row.name)
    if len(name) > column:
        # The beginnings of names are alike; their ends differ.
        name = f"{name[: column // 2 - 1]}…{name[-(column - column // 2) :]}"
    filled = min(BAR_COLUMNS * row.done // row.total, BAR_COLUMNS) if row.total else 0
    bar = "━" * filled + "╌" * (BAR_COLUMNS - filled)
    parts = [name.ljust(column), bar, _count(row).rjust(9), with_interval(row.left, "left"), displayed(row.text)]
    text = " ".join(part for part in parts if part)
    return shorten(text, width)


def _count(row: JobProgress) -> str:
    return f"{row.done}/{row.total}" if row.total else "…"
