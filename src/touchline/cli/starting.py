"""`touchline init`: a first experiment.yaml for the user's own file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Optional

import typer

from touchline.cli.output import print_output, print_status


def init(
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--data", metavar="FILE", help="JSON, JSONL, CSV or parquet."),
    ] = None,
    configs: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--from", metavar="FILE", help="Instead: stage config of a QLoRA project (repeatable)."),
    ] = None,
    target: Annotated[
        Optional[Path],  # noqa: UP045 (typer reads the annotation when the command is built)
        typer.Argument(metavar="[DIR]", help="Folder of the new experiment (default: named after the data)."),
    ] = None,
    input_columns: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--input", metavar="COLUMN", help="Column of the prompt (default: found; repeatable)."),
    ] = None,
    output_column: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--output", metavar="COLUMN", help="Column of the answer (default: found)."),
    ] = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--model", metavar="NAME", help="Base model (default: the only one in models_dir)."),
    ] = None,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--name", metavar="NAME", help="Name of the experiment (default: that of the folder)."),
    ] = None,
) -> None:
    """Write a commented experiment.yaml for your own data."""
    from touchline import api
    from touchline.data.user_config import load_settings

    made = api.init(
        target,
        load_settings(),
        data=data,
        configs=configs or (),
        input_columns=input_columns or (),
        output_column=output_column,
        model=model,
        name=name,
    )
    for note in made.notes:
        print_status(note)
    print_output(str(made.path))
    print_status(f"next: touchline plan {shlex.quote(str(made.path.parent))}")
