"""`touchline reproduce`: a run trained again, and whether it is the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli.output import print_object, print_output, print_status, print_table

if TYPE_CHECKING:
    from touchline.results.reproduction import Reproduction


def reproduce(
    source: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, its folder, or the folder of one run.")
    ],
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Run to reproduce.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to train in (default: EXPERIMENT/reproduced/RUN)."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Train a finished run again and compare the two.

    Exit code 0: byte-equal or within tolerance; 1: not reproduced; 3: data, model or task changed, nothing was trained.
    The original is only read. After an interruption, rerun the same command.
    """
    from touchline import api
    from touchline.cli.progress import ProgressDisplay
    from touchline.data.user_config import load_settings
    from touchline.results.reproduction import Reproduction

    with ProgressDisplay() as bars:
        found = api.reproduce(
            source, load_settings(), run=run, out=out, on_progress=bars.update, on_message=bars.print_note
        )
    if json:
        print_object(Reproduction, found)
    else:
        _print(found)
    if found.outcome.exit_code:
        raise typer.Exit(found.outcome.exit_code)


def _print(found: Reproduction) -> None:
    print_output(f"{found.run}: {found.outcome.value}")
    for reason in found.reasons:
        print_output(f"- {reason}")
    if found.environment:
        print_output("")
        rows = [(each.what, each.original, each.reproduction) for each in found.environment]
        print_table(("different", "original", "reproduction"), rows)
    if found.checks:
        print_output("")
        checks = [(each.what, f"{each.found:.2g}", f"{each.allowed:.2g}") for each in found.checks]
        print_table(("compared", "apart", "allowed"), checks)
    if found.folder:
        print_status(f"reproduction: {found.folder}")
