"""Renamed options and commands: the old names still work, and no help text shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand, TyperGroup


def with_old_names(names: Mapping[str, str]) -> type[TyperCommand]:
    """Return a command class that accepts old option names.

    Args:
        names: old name -> new name, both with their dashes.
    """

    class Renamed(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, [_renamed(argument, names) for argument in args])

    return Renamed


def with_old_commands(names: Mapping[str, str], group: type[TyperGroup] = TyperGroup) -> type[TyperGroup]:
    """Return a group class that accepts old command names.

    Args:
        names: old name -> new name.
        group: the class to extend.
    """

    class RenamedGroup(group):  # type: ignore[misc, valid-type]
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return list(super().parse_args(ctx, [*(names.get(name, name) for name in args[:1]), *args[1:]]))

    return RenamedGroup


def _renamed(argument: str, names: Mapping[str, str]) -> str:
    name, equals, value = argument.partition("=")
    return f"{names[name]}{equals}{value}" if name in names else argument
