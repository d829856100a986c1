"""`touchline export`: runs in TensorBoard, Weights & Biases, trackio or MLflow, from their metrics files."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from touchline.cli.completing import complete_run
from touchline.cli.output import print_object, print_output, print_status, print_table

if TYPE_CHECKING:
    from touchline.report.trackers.protocol import Export


class Target(StrEnum):
    """Trackers that runs can be exported to."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    TRACKIO = "trackio"
    MLFLOW = "mlflow"


def export(
    source: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder.")],
    to: Annotated[Target, typer.Option("--to", help="Tracker.")],
    directory: Annotated[
        Optional[Path],  # noqa: UP045 (typer reads the annotation when the command is built)
        typer.Option(
            "--dir",
            metavar="DIR",
            help="Where the tracker's files go; EXPERIMENT/exports/TRACKER, unless TRACKIO_DIR, WANDB_DIR or "
            "MLFLOW_TRACKING_URI says otherwise.",
        ),
    ] = None,
    run: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--run", metavar="RUN", autocompletion=complete_run, help="Only this run."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Export new metrics until all runs are done, or Ctrl-C.")
    ] = False,
    every: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--every", metavar="SECONDS", min=0.1, help="Pause between two exports of --follow (default: 60)."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Export metrics to TensorBoard, W&B, trackio or MLflow.

    Needs no network, and may be called while runs train, as often as you like; nothing is exported twice.
    """
    from touchline import api
    from touchline.cli.progress import progress_bar
    from touchline.core.errors import InputError
    from touchline.report.trackers.protocol import Export

    if follow and json:
        raise InputError("--follow and --json cannot be combined", expected="one of them")
    if follow:
        _follow(
            api.export_follow(
                source, to.value, directory=directory, only=run, every_seconds=every, on_message=print_status
            )
        )
        return
    with progress_bar(f"exporting to {to.value}") as on_progress:
        done = api.export(source, to.value, directory=directory, only=run, on_progress=on_progress)
    if json:
        print_object(Export, done)
    else:
        rows = [(each.run, str(each.added), str(each.total), each.where) for each in done.runs]
        print_table(("run", "points added", "points in all", "where"), rows)
        for command in (each.command for each in done.runs):
            if command is not None:
                print_output(command)
    _explain(done)


def _follow(exports: Iterator[Export]) -> None:
    """Print what each export added, and at the end how to look at it."""
    last: Export | None = None
    try:
        for last in exports:
            for each in last.runs:
                if each.added:
                    print_output(f"{each.run}: {each.added:,} points added, {each.total:,} in all")
    except KeyboardInterrupt:
        print_status("stopped exporting; runs keep running; rerun the same command to continue")
    else:
        print_status("all runs are done")
    if last is not None:
        for command in (each.command for each in last.runs):
            if command is not None:
                print_output(command)
        _explain(last)


def _explain(done: Export) -> None:
    """Print notes, and how to look at the runs."""
    for each in done.runs:
        for note in each.notes:
            print_status(f"note: {each.run}: {note}")
    for reason in done.skipped:
        print_status(f"note: left out {reason}")
    if done.view is not None:
        print_status(f"to look at them: {done.view}")
    elif any(each.command for each in done.runs):
        print_status(
            "to look at them: type the lines above where there is a network; each brings one run to the server"
        )
