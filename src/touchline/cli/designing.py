"""`touchline design`: numbers of seeds and items before anything is spent."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Optional

import typer

from touchline.cli.output import print_object, print_output, print_section, print_status, show_findings


def design(
    source: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder.")],
    detect: Annotated[
        Optional[float],  # noqa: UP045 (typer reads the annotation when the command is built)
        typer.Option(
            "--detect", metavar="POINTS", help="Difference to establish, in points (default: the strategy's, else 2)."
        ),
    ] = None,
    budget: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--budget", metavar="40gpuh", help="Device-hours to use best: 40gpuh, 40h, 90min."),
    ] = None,
    items: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option("--items", metavar="N", min=1, help="Number of test items to choose from (repeatable)."),
    ] = None,
    seed_spread: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--seed-spread", metavar="POINTS", help="Spread between seeds (default: measured, or a range)."),
    ] = None,
    flips: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--flips", metavar="PERCENT", help="Items that flip between seeds (default: measured)."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write seeds (and looks) and items into experiment.yaml.")
    ] = False,
    history: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--history", metavar="DIR", help="Folder of run records (default: your history)."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", metavar="FILE", help="Write the figure: design.html or design.png."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Find how many seeds and items show a difference."""
    from touchline import api
    from touchline.cli.progress import progress_bar
    from touchline.data.user_config import load_settings
    from touchline.plan.design.answer import DesignAnswer

    with progress_bar("planning") as on_progress:
        answer = api.design(
            source,
            load_settings(),
            detect=detect,
            budget=budget,
            items=items or (),
            seed_spread=seed_spread,
            flips=flips,
            apply=apply,
            history_dir=history,
            out=out,
            on_progress=on_progress,
        )
    if json:
        print_object(DesignAnswer, answer)
    else:
        print_output(answer.experiment)
        for section in answer.sections():
            print_section(section)
        if answer.diff:
            print_output(f"\n{answer.diff}")
    show_findings(answer.findings)
    if out is not None:
        print_status(f"wrote {out}")
    if answer.applied:
        print_status(f"wrote experiment.yaml; next: touchline plan {shlex.quote(str(source))}")
    elif answer.diff:
        print_status("nothing is written; --apply writes it")
    if answer.findings:
        raise typer.Exit(1)
