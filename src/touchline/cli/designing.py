"""`touchline design`: numbers of seeds and items before anything is spent."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from touchline.cli.output import print_data, print_object, print_output, print_section, print_status


def design(
    source: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder.")],
    detect: Annotated[
        float, typer.Option("--detect", metavar="POINTS", help="Difference to establish, in points.")
    ] = 2.0,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="40gpuh", help="Device-hours to use best: 40gpuh, 40h, 90min.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write seeds and items into experiment.yaml.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Find how many seeds and test items a difference needs."""
    from touchline import api
    from touchline.cli.progress import progress_bar
    from touchline.core.quantity import Missing
    from touchline.data.user_config import load_settings
    from touchline.plan.design import DesignAnswer

    with progress_bar("planning") as on_progress:
        answer = api.design(source, load_settings(), detect=detect, budget=budget, apply=apply, on_progress=on_progress)
    if json:
        print_object(DesignAnswer, answer)
    else:
        print_output(answer.experiment)
        for section in answer.sections():
            print_section(section)
        if answer.diff:
            print_data(f"\n{answer.diff}")
    if answer.applied:
        print_status(f"wrote experiment.yaml, next: touchline plan {shlex.quote(str(source))}")
    elif answer.diff:
        print_status("nothing is written without --apply")
    if isinstance(answer.chosen, Missing):
        raise typer.Exit(1)
