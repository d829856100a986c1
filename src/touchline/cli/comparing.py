"""`touchline compare`: experiments beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from touchline.cli.output import print_object, print_section, print_status


def compare(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="EXPERIMENT EXPERIMENT...",
            help="Two or more: experiment.yaml, its folder, or a folder with runs that touchline did not make. "
            "The others are compared with the first.",
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Compare experiments: settings, scores, paired differences.

    Scores are compared where both runs answered the same items; where they did not, it says why.
    """
    from touchline import api
    from touchline.cli.progress import progress_bar
    from touchline.report.compared import ComparedExperiments

    with progress_bar("reading experiments") as on_progress:
        found = api.compare(sources, on_progress=on_progress)
    if json:
        print_object(ComparedExperiments, found)
        return
    for section in found.sections():
        print_section(section)
    for note in found.notes:
        print_status(f"note: {note}")
