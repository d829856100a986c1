"""The settings that another trainer knows: names and kinds of values, and the nearest one to a misspelt name.

A table is `arguments.json` in a backend's folder, written by tools/argument_tables.py from that trainer's own sources:
the newest release decides kinds and choices, older ones add the names that they alone know.
"""

from __future__ import annotations

import functools
from collections.abc import Container
from dataclasses import dataclass

from touchline.backends.package_files import package_text
from touchline.core.json_text import parse_json
from touchline.core.near import nearest

_FLAGS = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0", "t", "f", "y", "n"})


@dataclass(frozen=True, slots=True)
class Argument:
    """Setting of a trainer."""

    name: str
    """Its name."""
    kinds: frozenset[str]
    """Allowed types of a value: `int`, `float`, `bool`, `str`, `list`, `dict`, `none` or `any`."""
    choices: tuple[str, ...] = ()
    """The allowed words; empty where all are."""
    last: str | None = None
    """The last release that knows it; none: the newest does."""


@dataclass(frozen=True, slots=True)
class ArgumentTable:
    """All settings of a trainer."""

    source: str
    """The releases that it was written from."""
    arguments: dict[str, Argument]
    """By name."""

    def near(self, name: str, present: Container[str]) -> tuple[str, ...]:
        """Return the settings that a name surely means: another spelling, or one or two letters different.

        Args:
            name: the name that is not known.
            present: names that the file has already, which are not suggested.
        """
        names = (argument.name for argument in self.arguments.values() if argument.last is None)
        return nearest(name, (known for known in names if known not in present))


@functools.cache
def argument_table(backend: str) -> ArgumentTable:
    """Return the argument table of a backend."""
    table = parse_json(package_text(backend, "arguments.json"))
    arguments = {
        name: Argument(
            name,
            frozenset(row[0].split("|")),
            tuple(row[1]) if len(row) > 1 else (),
            row[2] if len(row) > 2 else None,
        )
        for name, row in table["arguments"].items()
    }
    return ArgumentTable(table["source"], arguments)


def number_of(value: object) -> float | None:
    """Return a number, also from text. Return None for a truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def flag_of(value: object) -> bool | None:
    """Return a truth value, also from text."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return value.strip().lower() in ("true", "yes", "on", "1", "t", "y")
    return None
