"""Options that were renamed: the old names still work, and no help text shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand


def with_old_names(names: Mapping[str, str]) -> type[TyperCommand]:
    """Return a command class that takes an option's old name for its new one.

    Args:
        names: old name -> new name, both with their dashes.
    """

    class Renamed(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, [_renamed(each, names) for each in args])

    return Renamed


def _renamed(argument: str, names: Mapping[str, str]) -> str:
    name, equals, value = argument.partition("=")
    return f"{names[name]}{equals}{value}" if name in names else argument
