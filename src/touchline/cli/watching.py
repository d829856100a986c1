"""`touchline status` and `touchline logs`: how runs stand, and what they say."""

from __future__ import annotations

import gc
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from touchline.cli.output import print_json, print_output, print_plain_table, print_status
from touchline.core.text import without_controls

if TYPE_CHECKING:
    from touchline.results.live import LiveRun
    from touchline.results.watching import Snapshot, Watcher

PLAIN_SECONDS = 60.0
"""Between two lines of one run where nobody looks at a terminal."""
BAR_SECONDS = 10.0
"""Between two states of a progress bar, where they cannot be drawn over each other."""


def status(
    source: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder.")],
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until nothing is at work.")] = False,
    no_queue: Annotated[bool, typer.Option("--no-queue", help="Do not ask the queue; only what the folders say.")] = (
        False
    ),
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Show run status: progress, speed, time left, warnings.

    Codes in the column `flags` are explained below the table. Leaving --watch with Ctrl-C stops no run.
    """
    from touchline.core.errors import InputError
    from touchline.data.user_config import load_settings

    # Not by way of the module of all verbs: what the others load takes longer than the answer for a thousand runs.
    from touchline.results.watching import Watcher

    if watch and json:
        raise InputError("--watch is for people and --json for programs", expected="one of them")
    from touchline.run.folders import is_experiment

    settings = load_settings()
    if watch and is_experiment(source):
        _watch(Watcher(source, settings, look=not no_queue))
        return
    with _uncollected():
        if is_experiment(source):
            snapshot = Watcher(source, settings, look=not no_queue).now()
        else:
            from touchline.report.local.foreign import snapshot as foreign_snapshot

            snapshot = foreign_snapshot(source)
    if snapshot.note:
        print_status(snapshot.note)
    if json:
        from touchline.results.live import LiveRun

        print_json(tuple[LiveRun, ...], snapshot.runs, "runs")
        return
    _table(snapshot)


def logs(
    source: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, its folder, or the folder of one run.")
    ],
    run: Annotated[
        Optional[str],  # noqa: UP045 (typer reads the annotation when the command is built)
        typer.Option("--run", metavar="RUN", help="The run."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on, across new attempts, until the run ends.")
    ] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many lines to begin with.")] = 50,
    evaluation: Annotated[bool, typer.Option("--eval", help="The evaluation's output, not the training's.")] = False,
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
        print_status("left; nothing was stopped")


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
    from touchline.cli import status_text as text

    rows = [text.cells(run) for run in snapshot.runs]
    kept = list(range(len(text.HEADER)))
    if sys.stdout.isatty():
        kept = text.fitting_columns(rows, shutil.get_terminal_size().columns)
    # In lines of its own a table of many runs stays one line per run; frames and folded cells make it three.
    print_plain_table([text.HEADER[n] for n in kept], [[row[n] for n in kept] for row in rows])
    for _, sentence, hint in text.flag_lines(snapshot.runs):
        print_output(without_controls(sentence))
        if hint:
            print_output(without_controls(f"    hint: {hint}"))
    print_status(text.counts(snapshot.runs))


def _watch(watcher: Watcher) -> None:
    """Refresh until no job is active, or until Ctrl-C."""
    try:
        if sys.stdout.isatty():
            _draw(watcher)
        else:
            _repeat(watcher)
    except KeyboardInterrupt:
        print_status("left; nothing was stopped")


def _draw(watcher: Watcher) -> None:
    """Draw a live view; the table remains when it ends."""
    from rich.console import Console
    from rich.live import Live

    from touchline.cli.live_view import view

    console = Console(file=sys.stdout)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as screen:
        for snapshot in _snapshots(watcher):
            screen.update(view(snapshot, console.size.height, console.size.width), refresh=True)


def _repeat(watcher: Watcher) -> None:
    """Print a line per run that has advanced, at intervals."""
    from touchline.cli import status_text as text

    said: dict[str, tuple[float, str]] = {}
    flagged: set[str] = set()
    note, ended = "", ""
    for snapshot in _snapshots(watcher):
        ended = text.counts(snapshot.runs)
        if snapshot.note and snapshot.note != note:
            print_status(snapshot.note)
        note = snapshot.note
        for run in snapshot.runs:
            when, status = said.get(run.name, (float("-inf"), ""))
            changed = status != _standing(run)
            if changed or (run.status.value == "running" and time.monotonic() - when >= PLAIN_SECONDS):
                said[run.name] = (time.monotonic(), _standing(run))
                _show(without_controls(f"{time.strftime('%H:%M:%S')}  {text.line(run)}"), "\n")
        for _, sentence, hint in text.flag_lines(snapshot.runs):
            # Figures in a sentence change from look to look; the run and the code are what was told.
            told = ":".join(sentence.split(":")[:2])
            if told not in flagged:
                flagged.add(told)
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
