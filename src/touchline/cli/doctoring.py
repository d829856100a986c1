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
    from touchline.core.units import plural
    from touchline.data.user_config import load_settings
    from touchline.slurm.site_facts import DoctorReport

    report = api.doctor(folder, load_settings())
    if json:
        print_object(DoctorReport, report)
    else:
        rows = [(check.name, check.status, check.message) for check in report.checks]
        print_table(("what", "verdict", "result"), rows)
        for check in report.checks:
            if check.hint is not None:
                print_output(f"- {check.name} ({check.status} {check.code}): {check.hint}")
        if not Path(report.config_file).exists():
            print_status(f"no config file at {report.config_file}")
    warnings = sum(check.status == "warning" for check in report.checks)
    print_status(f"{plural(report.errors, 'error')}, {plural(warnings, 'warning')}")
    if report.errors:
        raise typer.Exit(1)
