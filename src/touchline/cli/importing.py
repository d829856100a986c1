"""`touchline import`: another tool's experiment as experiment.yaml."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from touchline.cli.output import print_object, print_output, print_status


def import_(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Files of one experiment, or its folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File to write (default: experiment.yaml).")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Base model (default: that of the source).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Write experiment.yaml from another tool's configs.

    Reads a trainer's configs (several are a sweep), cruijff_kit's experiment_summary.yaml and setup_finetune.yaml, and
    a curriculum's stage configs. Lists all that is not in the file. Scripts and preference training are refused.
    """
    from touchline import api
    from touchline.tools.imports.importing import ImportReport, headed_lines

    done = api.import_experiment(sources, out, model=model)
    if json:
        print_object(ImportReport, done)
    else:
        print_output(done.path)
        for heading, lines in headed_lines(done.not_carried):
            print_output(f"\n{heading}")
            for line in lines:
                print_output(f"- {line}")
    for note in done.notes:
        print_status(f"note: {note}")
    print_status(f"next: touchline check {shlex.quote(done.path)}")
