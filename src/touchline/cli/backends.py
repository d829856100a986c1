"""`touchline backend`: trainers, and environments of those that live apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli.output import print_json, print_status, print_table

if TYPE_CHECKING:
    from touchline.tools.environments import BackendState

backend_app = typer.Typer(
    help="List trainers; install one that needs its own Python.", no_args_is_help=True, rich_markup_mode=None
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@backend_app.command("list")
def backend_list(json: Json = False) -> None:
    """List the trainers, and whether each can run here."""
    from touchline.tools.environments import BackendState, backend_states

    found = backend_states()
    if json:
        print_json(list[BackendState], list(found), "backends")
    else:
        _show(found)


@backend_app.command("install")
def backend_install(
    name: Annotated[str, typer.Argument(help="A trainer with an environment of its own.")], json: Json = False
) -> None:
    """Make the environment of a trainer, unless it is there."""
    from touchline.tools.environments import BackendState, install_environment

    found = install_environment(name, print_status)
    if json:
        print_json(BackendState, found, "backend")
    else:
        _show((found,))


def _show(found: tuple[BackendState, ...]) -> None:
    from touchline.core.table import Column

    rows = [
        (
            each.name,
            "yes" if each.installed else each.problem or "no",
            ", ".join(f"{name} {version}" for name, version in each.versions.items()),
            each.note or "",
            each.python or "-",
        )
        for each in found
    ]
    wide = (Column(label, is_wide=True) for label in ("packages", "remark", "Python"))
    print_table(("backend", "installed", *wide), rows)
