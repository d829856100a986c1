"""`touchline status` and `touchline logs`: states of runs, as a table or a live view, and their output."""

from __future__ import annotations

import gc
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from touchline.cli import status_text as text
from touchline.cli.completing import complete_run
from touchline.cli.output import print_json, print_output, print_plain_table, print_status
from touchline.core.text import without_controls

if TYPE_CHECKING:
    from rich.console import RenderableType

    from touchline.data.user_config import UserConfig
    from touchline.results.live import LiveRun
    from touchline.results.watching import Snapshot, Watcher


PLAIN_SECONDS = 60.0
"""Seconds between two lines of one run outside a terminal."""
BAR_SECONDS = 10.0
"""Seconds between two states of a progress bar outside a terminal."""


def status(
    source: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder.")],
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until no job is active.")] = False,
    no_queue: Annotated[bool, typer.Option("--no-queue", help="Read only the run folders, not the queue.")] = (False),
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Show run status: progress, speed, time left, warnings.

    Codes in the column `flags` are explained below the table. Leaving --watch with Ctrl-C stops no run.
    """
    from touchline.core.errors import InputError
    from touchline.data.user_config import load_settings
    from touchline.run.folders import is_experiment

    if watch and json:
        raise InputError("--watch and --json cannot be combined")
    settings = load_settings()
    if watch and is_experiment(source):
        from touchline.results.watching import Watcher

        _watch(Watcher(source, settings, look=not no_queue))
        return
    with _uncollected():
        snapshot = snapshots(source, settings, look=not no_queue)()
    for line in (snapshot.note, *snapshot.lines):
        if line:
            print_status(without_controls(line))
    if json:
        from touchline.results.live import LiveRun
        from touchline.run.folders import ExperimentFolder

        strategy = ExperimentFolder(source).strategy().status()
        print_json(tuple[LiveRun, ...], snapshot.runs, "runs", strategy=(type(strategy), strategy))
        return
    _table(snapshot)


def snapshots(source: Path, settings: UserConfig, *, look: bool) -> Callable[[], Snapshot]:
    """Return a function whose every call returns the present state of the runs of an experiment.

    Args:
        source: experiment.yaml or its folder, or a folder of another tool.
        settings: user config.
        look: query the queue too.

    Raises:
        InputError: there is no experiment, or no plan.
    """
    from touchline.run.folders import is_experiment

    if is_experiment(source):
        # Not by way of the module of all verbs: what the others load takes longer than the answer for a thousand runs.
        from touchline.results.watching import Watcher

        return Watcher(source, settings, look=look).now
    from touchline.report.local.foreign import snapshot

    return partial(snapshot, source)


def logs(
    source: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, its folder, or the folder of one run.")
    ],
    run: Annotated[
        Optional[str],  # noqa: UP045 (typer reads the annotation when the command is built)
        typer.Option("--run", metavar="RUN", autocompletion=complete_run, help="Run to show."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Follow the log, across attempts, until the run ends.")
    ] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Number of lines to start with.")] = 50,
    evaluation: Annotated[bool, typer.Option("--eval", help="Show the evaluation's log, not the training's.")] = False,
) -> None:
    """Print a run's latest log; -f follows it.

    Leaving with Ctrl-C stops no run.
    """
    from touchline.api import logs as spoken
    from touchline.data.user_config import load_settings

    terminal = sys.stdout.isatty()
    drawn, shown_at = False, float("-inf")
    try:
        for said in spoken(source, load_settings(), run=run, evaluation=evaluation, lines=lines, follow=follow):
            if said.file is not None:
                print_status(f"==> {said.file}")
            if said.line is not None:
                _show(f"\r\x1b[K{without_controls(said.line)}" if drawn else without_controls(said.line), "\n")
                drawn = False
            elif said.unfinished is not None and terminal:
                _show(f"\r\x1b[K{without_controls(said.unfinished)}", "")
                drawn = True
            elif said.unfinished is not None and time.monotonic() - shown_at >= BAR_SECONDS:
                shown_at = time.monotonic()
                _show(without_controls(said.unfinished), "\n")
    except KeyboardInterrupt:
        _show("\n" if drawn else "", "")
        print_status("stopped watching; jobs keep running")


@contextmanager
def _uncollected() -> Iterator[None]:
    """Disable garbage collection: a plan of a thousand runs is many objects that all stay."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _show(words: str, end: str) -> None:
    sys.stdout.write(words + end)
    sys.stdout.flush()


def _table(snapshot: Snapshot) -> None:
    rows = [text.cells(run) for run in snapshot.runs]
    kept = list(range(len(text.HEADER)))
    if sys.stdout.isatty():
        kept = text.fitting_columns(rows, shutil.get_terminal_size().columns)
    # In lines of its own a table of many runs stays one line per run; frames and folded cells make it three.
    print_plain_table([text.HEADER[n] for n in kept], [[row[n] for n in kept] for row in rows])
    for line in _strategy(snapshot):
        print_output(line)
    for _, sentence, hint in text.flag_lines(snapshot.runs):
        print_output(without_controls(sentence))
        if hint:
            print_output(without_controls(f"    hint: {hint}"))
    print_status(text.counts(snapshot.runs))


def _strategy(snapshot: Snapshot) -> list[str]:
    """Return the line about the strategy; none without one."""
    return [without_controls(snapshot.strategy)] if snapshot.strategy else []


def _watch(watcher: Watcher) -> None:
    """Refresh until no job is active, or until Ctrl-C."""
    try:
        if sys.stdout.isatty():
            _draw(watcher)
        else:
            _repeat(watcher)
    except KeyboardInterrupt:
        print_status("stopped watching; jobs keep running")


def _draw(watcher: Watcher) -> None:
    """Draw a live view; the table remains when it ends."""
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stdout)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as screen:
        for snapshot in _snapshots(watcher):
            screen.update(view(snapshot, console.size.height, console.size.width), refresh=True)


def _repeat(watcher: Watcher) -> None:
    """Print a line per run that has advanced, at intervals."""
    said: dict[str, tuple[float, str]] = {}
    flagged: set[str] = set()
    notes: tuple[str, ...] = ()
    ended, strategy = "", ""
    for snapshot in _snapshots(watcher):
        ended = text.counts(snapshot.runs)
        for line in (snapshot.note, *snapshot.lines):
            if line and line not in notes:
                print_status(without_controls(line))
        notes = (snapshot.note, *snapshot.lines)
        for line in _strategy(snapshot):
            if line != strategy:
                strategy = line
                _show(line, "\n")
        for run in snapshot.runs:
            when, status = said.get(run.name, (float("-inf"), ""))
            changed = status != _standing(run)
            if changed or (run.status.value == "running" and time.monotonic() - when >= PLAIN_SECONDS):
                said[run.name] = (time.monotonic(), _standing(run))
                _show(without_controls(f"{time.strftime('%H:%M:%S')}  {text.line(run)}"), "\n")
        for _, sentence, hint in text.flag_lines(snapshot.runs):
            # Numbers in a sentence change with every query; only run and code identify what was printed.
            summary = ":".join(sentence.split(":")[:2])
            if summary not in flagged:
                flagged.add(summary)
                _show(without_controls(f"{sentence}  (hint: {hint})" if hint else sentence), "\n")
    _show(ended, "\n")


def _standing(run: LiveRun) -> str:
    return f"{run.status.value} {run.job_state} {run.queue_reason}"


def _snapshots(watcher: Watcher) -> Iterator[Snapshot]:
    """Yield a snapshot every two seconds, and a last one when no job is active."""
    from touchline.results.watching import FILES_SECONDS, GRACE_SECONDS

    quiet_since: float | None = None
    first = True
    while True:
        snapshot = watcher.now()
        yield snapshot
        now = time.monotonic()
        quiet_since = None if snapshot.active else now if quiet_since is None else quiet_since
        over = first or not watcher.is_anything_left(snapshot)
        if quiet_since is not None and (over or now - quiet_since >= GRACE_SECONDS):
            return
        first = False
        time.sleep(FILES_SECONDS)


BAR_WIDTH = 24
NARROW_BAR_WIDTH = 10
_WIDE = 130
"""Columns from which on a long bar takes nothing from what stands beside it."""
STATUS_STYLES = {
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
    shown_runs = flagged[: max(2, room // 3 // 2)]
    chosen = chosen_runs(snapshot.runs, max(room - 2 * len(shown_runs), 3))
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
    parts += [Text(line) for line in _strategy(snapshot)]
    if shown_runs:
        parts.append(Text(""))
    for severity, sentence, hint in shown_runs:
        parts.append(Text(without_controls(sentence), style=_SEVERITIES.get(severity, ""), overflow="fold"))
        if hint:
            parts.append(Text(f"    hint: {without_controls(hint)}", style="dim", overflow="fold"))
    if len(flagged) > len(shown_runs):
        parts.append(Text(f"and {len(flagged) - len(shown_runs)} more: touchline status shows all", style="dim"))
    parts += [Text(without_controls(line), style="yellow") for line in (snapshot.note, *snapshot.lines) if line]
    parts.append(Text("Ctrl-C stops watching; jobs keep running", style="dim"))
    return Group(*parts)


def chosen_runs(runs: Sequence[LiveRun], most: int) -> list[LiveRun]:
    """Return active runs first, then failed, queued and finished ones, each in the plan's order."""
    ranks = {
        "running": 0,
        "failed": 1,
        "interrupted": 1,
        "queued": 2,
        "paused": 2,
        "trained": 3,
        "prepared": 4,
        "planned": 4,
    }

    def rank(run: LiveRun) -> int:
        at_work = any(job is not None and job.active for job in (run.job, run.evaluation))
        return 0 if at_work and run.status.value != "queued" else ranks.get(run.status.value, 5)

    return sorted(runs, key=rank)[:most]


def _style(column: str, run: LiveRun) -> str:
    if column == "status":
        return STATUS_STYLES.get(run.status.value, "")
    return "dim" if column == "job" else "yellow" if column == "waits for" and run.queue_reason else ""


def _bar(run: LiveRun, width: int) -> RenderableType:
    from rich.progress_bar import ProgressBar

    total, done = run.steps_planned, run.steps_done or 0
    if run.items_planned is not None and not (run.job is not None and run.job.active):
        total, done = run.items_planned, run.items_done or 0
    if not total:
        return _text("")
    style = STATUS_STYLES.get(run.status.value, "").replace("dim", "green") or "cyan"
    return ProgressBar(total=total, completed=min(done, total), width=width, complete_style=style, finished_style=style)


def _text(value: str, style: str = "") -> RenderableType:
    from rich.text import Text

    return Text(without_controls(value), style=style)
