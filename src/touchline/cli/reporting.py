"""`touchline report`: RESULTS.md and report.html."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from touchline.cli.output import print_json, print_output, print_removed, print_status


def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="EXPERIMENT", help="experiment.yaml, its folder, or any folder with logs and checkpoints of runs."
        ),
    ],
    target: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Output folder (default: the experiment's folder).")
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every value of every checkpoint.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Write RESULTS.md, report.html, figures and samples.jsonl.

    Of a folder that touchline did not make it finds the runs, reads logs and checkpoints, and says what is missing.
    """
    from touchline import api
    from touchline.cli.progress import progress_bar
    from touchline.data.user_config import load_settings
    from touchline.report.report import Report

    with progress_bar("verifying checkpoints") as on_progress:
        cache = load_settings().cache_dir
        written = api.report(source, out=target, deep=deep, cache=cache, on_progress=on_progress)
    print_removed(source)
    if json:
        print_json(Report, written.report, "report")
        return
    answer = written.report.answer
    print_output("\n".join((answer.text, *answer.details)))
    if written.note:
        print_status(f"note: {written.note}")
    print_output(f"report: {written.markdown}")
    print_output(f"page: {written.page}")
