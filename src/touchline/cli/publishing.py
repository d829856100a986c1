"""`touchline publish`: a folder for the Hugging Face Hub from a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from touchline.cli.completing import complete_run
from touchline.cli.output import print_object, print_output, print_status


def publish(
    source: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, its folder, or the folder of one run.")
    ],
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", autocompletion=complete_run, help="Run to publish.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write (default: EXPERIMENT/published/RUN).")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="NAME", help="Checkpoint, such as epoch_0 (default: the last)."),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="License of the weights, such as apache-2.0 (default: none)."),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", metavar="ID", help="Base model's id on the Hub, if touchline does not know it."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Write a run's weights and model card for the Hub.

    Nothing is uploaded: the command for that is printed. Only a verified checkpoint of a finished run is published.
    """
    from touchline import api
    from touchline.data.user_config import load_settings
    from touchline.report.local.publishing import Published

    found = api.publish(
        source, load_settings(), run=run, out=out, checkpoint=checkpoint, license=license, base_model=base_model
    )
    if json:
        print_object(Published, found)
        return
    for name in found.files:
        print_output(f"{found.folder}/{name}")
    for note in found.notes:
        print_status(f"note: {note}")
    print_status("Nothing was uploaded. To upload, read README.md and type:")
    print_output(found.command)
