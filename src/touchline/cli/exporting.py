"""`touchline export`: runs in TensorBoard or Weights & Biases, from their metrics files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from touchline.cli.completing import complete_run
from touchline.cli.output import print_object, print_output, print_status, print_table


def export(
    source: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder.")],
    to: Annotated[str, typer.Option("--to", metavar="tensorboard|wandb", help="Tracker.")],
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="DIR",
            help="Where the tracker's files go (default: WANDB_DIR, else EXPERIMENT/exports/TRACKER).",
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", autocompletion=complete_run, help="Only this run.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Export metrics to TensorBoard or W&B.

    Needs no network, and may be called while runs train, as often as you like; nothing is exported twice.
    """
    from touchline import api
    from touchline.cli.progress import progress_bar
    from touchline.core.table import Column
    from touchline.report.trackers.exporting import Export

    with progress_bar(f"exporting to {to}") as on_progress:
        done = api.export(source, to, directory=directory, only=run, on_progress=on_progress)
    if json:
        print_object(Export, done)
    else:
        rows = [(each.run, str(each.added), str(each.total)) for each in done.runs]
        print_table(("run", Column("points added", numeric=True), Column("points in all", numeric=True)), rows)
        for each in done.runs:
            if each.command is not None:
                print_output(each.command)
    for reason in done.skipped:
        print_status(f"note: left out {reason}")
    if done.view is not None:
        print_status(f"to look at them: {done.view}")
    elif any(each.command for each in done.runs):
        print_status("To see them, type the commands on a machine with a network. Each uploads one run.")
