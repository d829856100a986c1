"""`touchline clean`: what of an experiment may go without loss."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from touchline.cli.output import print_object, print_status, print_table


def clean(
    source: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder.")],
    perform: Annotated[
        bool, typer.Option("--delete", "--perform", help="Delete the listed files (default: dry run).")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every value of every checkpoint before one is called sound.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """List files that are safe to delete; --delete removes them.

    Corrupt checkpoints with a valid one after them, leftovers of killed and of finished trainings; never the only valid
    copy of anything.
    """
    from touchline import api
    from touchline.cli.progress import progress_bar
    from touchline.core.units import format_bytes
    from touchline.results.cleaned import Cleaned

    with progress_bar("checkpoints") as on_progress:
        found = api.clean(source, perform=perform, deep=deep, on_progress=on_progress)
    if json:
        print_object(Cleaned, found)
    elif found.items:
        rows = [(item.path, format_bytes(item.size_bytes), item.why) for item in found.items]
        print_table(("removed" if perform else "may go", "size", "why"), rows)
    for kept in found.kept:
        print_status(f"broken and kept: {kept.path} ({', '.join(kept.codes)}): {kept.why}")
    read = "every value was read" if found.depth == "values" else "sizes and headers were read, values with --deep"
    if not found.items:
        print_status(f"nothing may go without loss ({read})")
    elif perform:
        print_status(f"{len(found.items)} removed, {format_bytes(found.size_bytes)} given back")
    else:
        again = f"touchline clean {shlex.quote(str(source))}{' --deep' if deep else ''} --delete"
        print_status(f"{len(found.items)} may go, {format_bytes(found.size_bytes)}; nothing was removed ({read})")
        print_status(f"next: {again}")
