"""`touchline clean`: files that are safe to delete."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from touchline.cli.output import print_object, print_status, print_table

RENAMED_CLEAN = {"--perform": "--delete"}
"""Old option names -> new names."""


def clean(
    source: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder.")],
    delete: Annotated[bool, typer.Option("--delete", help="Delete the listed files (default: dry run).")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Read every value of every checkpoint.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """List files that are safe to delete; --delete removes them.

    Corrupt checkpoints with a valid one after them, and leftovers of killed and of finished runs. The only valid copy
    of anything is never listed.
    """
    from touchline import api
    from touchline.cli.progress import progress_bar
    from touchline.core.table import Column
    from touchline.core.units import format_bytes
    from touchline.results.cleaning import Cleaned

    with progress_bar("checkpoints") as on_progress:
        found = api.clean(source, perform=delete, deep=deep, on_progress=on_progress)
    if json:
        print_object(Cleaned, found)
    elif found.items:
        rows = [(item.path, format_bytes(item.size_bytes), item.why) for item in found.items]
        what = "deleted" if delete else "safe to delete"
        print_table((what, Column("size", numeric=True), Column("why", is_wide=True)), rows)
    for kept in found.kept:
        print_status(f"corrupt and kept: {kept.path} ({', '.join(kept.codes)}): {kept.why}")
    read = "every value was read" if found.depth == "values" else "sizes and headers were read, values with --deep"
    if not found.items:
        print_status(f"nothing to delete ({read})")
    elif delete:
        print_status(f"deleted {len(found.items)} items, freed {format_bytes(found.size_bytes)}")
    else:
        again = f"touchline clean {shlex.quote(str(source))}{' --deep' if deep else ''} --delete"
        print_status(f"{len(found.items)} items to delete, {format_bytes(found.size_bytes)}; dry run ({read})")
        print_status(f"next: {again}")
