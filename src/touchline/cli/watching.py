"""`touchline status` and `touchline logs`: states of runs, as a table, a screen or lines, and their output."""

from __future__ import annotations

import gc
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli import status_text as text
from touchline.cli.commands import Json, Source, SourceOrRun, complete_run
from touchline.cli.output import print_json, print_now, print_output, print_status, print_table
from touchline.core.errors import InputError, install_hint
from touchline.data.user_config import UserConfig, load_settings

if TYPE_CHECKING:
    from touchline.results.live_status import LiveRun
    from touchline.results.watching import Snapshot, Watcher


PLAIN_SECONDS = 60.0
"""Seconds between two lines of one run outside a terminal."""
BAR_SECONDS = 10.0
"""Seconds between two states of a progress bar outside a terminal."""


def status(
    source: Source,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh: a screen with keys, else lines.")] = False,
    no_queue: Annotated[bool, typer.Option("--no-queue", help="Read only the run folders, not the queue.")] = (False),
    json: Json = False,
) -> None:
    """Show run status: progress, speed, time left, warnings.

    Codes in the column `flags` are explained below the table. Leaving --watch with Ctrl-C stops no run.
    """
    from touchline.run.folders import is_experiment

    if watch and json:
        raise InputError("--watch and --json cannot be combined")
    settings = load_settings()
    if watch and is_experiment(source):
        _watch(source, settings, look=not no_queue)
        return
    with _uncollected():
        snapshot = snapshots(source, settings, look=not no_queue)()
    for line in (snapshot.note, *snapshot.lines):
        if line:
            print_status(line)
    if json:
        from touchline.results.live_status import LiveRun
        from touchline.run.folders import ExperimentFolder

        strategy = ExperimentFolder(source).strategy().status() if is_experiment(source) else None
        print_json(tuple[LiveRun, ...], snapshot.runs, "runs", strategy=(type(strategy), strategy))
        return
    _table(snapshot)


def snapshots(source: Path, settings: UserConfig, *, look: bool) -> Callable[[], Snapshot]:
    """Return a function whose every call returns the present state of the runs of an experiment.

    Args:
        source: experiment.yaml or its folder, or a folder of another tool.
        look: query the queue too.

    Raises:
        InputError: there is no experiment, or no plan.
    """
    from touchline.run.folders import is_experiment

    if is_experiment(source):
        # Not by way of the module of all verbs: what the others load takes longer than the answer for a thousand runs.
        from touchline.results.watching import Watcher

        return Watcher(source, settings, look=look).now
    from touchline.report.local.gathering import snapshot

    return partial(snapshot, source)


def logs(
    source: SourceOrRun,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", autocompletion=complete_run, help="Run to show.")
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

    terminal = sys.stdout.isatty()
    drawn, shown_at = False, float("-inf")
    try:
        for said in spoken(source, load_settings(), run=run, evaluation=evaluation, lines=lines, follow=follow):
            if said.file is not None:
                print_status(f"==> {said.file}")
            if said.line is not None:
                print_now(said.line, redraws=drawn)
                drawn = False
            elif said.unfinished is not None and terminal:
                print_now(said.unfinished, "", redraws=True)
                drawn = True
            elif said.unfinished is not None and time.monotonic() - shown_at >= BAR_SECONDS:
                shown_at = time.monotonic()
                print_now(said.unfinished)
    except KeyboardInterrupt:
        print_now("", "\n" if drawn else "")
        print_status("Stopped watching. Jobs keep running.")


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


def _table(snapshot: Snapshot) -> None:
    rows = [text.cells(run) for run in snapshot.runs]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    kept = text.fitting_columns(rows, width)
    print_table([text.HEADER[n] for n in kept], [[row[n] for n in kept] for row in rows])
    if snapshot.strategy:
        print_output(snapshot.strategy)
    for _, sentence, hint in text.flag_lines(snapshot.runs):
        print_output(sentence)
        if hint:
            print_output(f"    hint: {hint}")
    print_status(text.counts(snapshot.runs))


def _watch(source: Path, settings: UserConfig, *, look: bool) -> None:
    """Show the screen with keys and curves; without a terminal or textual, print lines until no job is active."""
    from touchline.results.watching import Watcher

    watcher = Watcher(source, settings, look=look)
    if all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        try:
            from touchline.cli.watch_app import WatchApp
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "textual":
                raise
            print_status(f"lines only: the screen with keys and curves needs {install_hint('watch')}")
        else:
            WatchApp(watcher.now, source).run()
            return
    try:
        _repeat(watcher)
    except KeyboardInterrupt:
        print_status("Stopped watching. Jobs keep running.")


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
                print_status(line)
        notes = (snapshot.note, *snapshot.lines)
        if snapshot.strategy != strategy:
            strategy = snapshot.strategy
            print_now(strategy)
        for run in snapshot.runs:
            when, status = said.get(run.name, (float("-inf"), ""))
            changed = status != _standing(run)
            if changed or (run.status.value == "running" and time.monotonic() - when >= PLAIN_SECONDS):
                said[run.name] = (time.monotonic(), _standing(run))
                print_now(f"{time.strftime('%H:%M:%S')}  {text.line(run)}")
        for _, sentence, hint in text.flag_lines(snapshot.runs):
            # Numbers in a sentence change with every query; only run and code identify what was printed.
            summary = ":".join(sentence.split(":")[:2])
            if summary not in flagged:
                flagged.add(summary)
                print_now(f"{sentence}  (hint: {hint})" if hint else sentence)
    print_now(ended)


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
