"""`touchline doctor`: checks of this machine and the cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from touchline.cli.output import print_object, print_output, print_status, print_table


def doctor(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Folder of experiments.", show_default=False)
    ] = Path(),
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Check Python, folders, GPUs, SLURM and your config."""
    from touchline import api
    from touchline.data.user_config import load_settings
    from touchline.slurm.doctor import DoctorReport

    found = api.doctor(folder, load_settings())
    if json:
        print_object(DoctorReport, found)
    else:
        rows = [(each.area, each.name, each.status, each.message) for each in found.checks]
        print_table(("area", "what", "verdict", "found"), rows)
        to_do = [each for each in found.checks if each.hint is not None]
        if to_do:
            print_output("\nWhat to do:")
        for each in to_do:
            print_output(f"- {each.name} ({each.status} {each.code}): {each.hint}")
        if not Path(found.config_file).exists():
            print_status(f"no config file; it would be {found.config_file}")
    warnings = sum(each.status == "warning" for each in found.checks)
    print_status(f"{found.errors} errors, {warnings} warnings")
    if found.errors:
        raise typer.Exit(1)
