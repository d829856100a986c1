"""`touchline report`: RESULTS.md and report.html, once or repeatedly while runs are active."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from touchline.cli.output import print_json, print_output, print_removed, print_status

if TYPE_CHECKING:
    from touchline.report.local.reporting import ReportFiles

WATCH_SECONDS = 30.0
"""Between two looks of --watch, unless the user says otherwise."""


def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="EXPERIMENT", help="experiment.yaml, its folder, or any folder with logs and checkpoints of runs."
        ),
    ],
    target: Annotated[
        Optional[Path],  # noqa: UP045 (typer reads the annotation when the command is built)
        typer.Option("--out", metavar="DIR", help="Output folder (default: the experiment's folder)."),
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every value of every checkpoint.")] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="Also write the answers as samples.parquet.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Rewrite the report until no job is active.")] = False,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=1.0, help="Interval of --watch in seconds.")
    ] = (WATCH_SECONDS),
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Write RESULTS.md, report.html, figures and samples.jsonl.

    Of a folder that touchline did not make it finds the runs, reads logs and checkpoints, and says what is missing.
    """
    from touchline.core.errors import InputError
    from touchline.report.report import Report

    if watch and json:
        raise InputError("--watch and --json cannot be combined")
    if watch:
        _watch(source, target, deep=deep, every=every)
        return
    written = _write(source, target, deep=deep, parquet=parquet)
    print_removed(source)
    if json:
        print_json(Report, written.report, "report")
        return
    _tell(written)


def _write(
    source: Path, target: Path | None, *, deep: bool, parquet: bool = False, every: float | None = None
) -> ReportFiles:
    from touchline import api
    from touchline.cli.progress import progress_bar
    from touchline.data.user_config import load_settings

    cache, refresh = load_settings().cache_dir, None if every is None else round(every)
    with progress_bar("verifying checkpoints") as on_progress:
        return api.report(
            source,
            out=target,
            deep=deep,
            parquet=parquet,
            cache=cache,
            refresh_seconds=refresh,
            on_progress=on_progress,
        )


def _tell(written: ReportFiles) -> None:
    for statement in written.report.headline:
        print_output(f"- {statement.text}")
    if written.note:
        print_status(f"note: {written.note}")
    print_output(f"report: {written.markdown}")
    print_output(f"page: {written.page}")


def _watch(source: Path, target: Path | None, *, deep: bool, every: float) -> None:
    """Repeat the report until no run is queued or active; Ctrl-C stops watching, not the runs."""
    from touchline.report.local.reporting import is_at_work

    try:
        while True:
            written = _write(source, target, deep=deep, every=every)
            complete = f"{written.report.completed} of {len(written.report.runs)} runs complete"
            print_status(f"{time.strftime('%H:%M:%S')} wrote {written.page}: {complete}")
            if not is_at_work(source, written.report):
                break
            time.sleep(every)
    except KeyboardInterrupt:
        print_status("stopped watching; jobs keep running")
        return
    _tell(written)
