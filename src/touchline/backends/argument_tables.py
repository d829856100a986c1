"""The settings that another trainer knows: names, kinds of values, choices; and the nearest one to a misspelt name.

A table is `arguments.json` in a backend's folder, written by tools/argument_tables.py from that trainer's own sources:
the newest release decides kinds and choices, older ones add the names that they alone know.
"""

from __future__ import annotations

import functools
from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

from touchline.backends.package_files import package_text
from touchline.core.json_text import parse_json
from touchline.core.near import nearest

Loader = Literal["plain", "argparse", "pydantic"]
"""Treatment of a value after the file is read: unchanged, by argparse, or coerced by pydantic."""

_FLAGS = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0", "t", "f", "y", "n"})
_NUMERIC = frozenset({"int", "float"})


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


def expected_instead(argument: Argument, value: object, loader: Loader) -> str | None:
    """Return the expected value in words. Return None if the value is valid or cannot be judged."""
    kinds = argument.kinds
    if value is None or "any" in kinds or _open(value):
        return None
    if argument.choices and isinstance(value, str):
        return None if value in argument.choices else f"one of {', '.join(argument.choices)}"
    numeric = kinds & _NUMERIC
    if isinstance(value, list | dict):
        # A list where one value is expected is broken in each of them; texts may hold lists in JSON.
        return _in_words(kinds) if kinds <= {"int", "float", "bool", "none"} else None
    if isinstance(value, bool):
        return None if "bool" in kinds or loader != "plain" or not numeric or kinds & {"str"} else _in_words(kinds)
    if isinstance(value, int | float):
        if "int" in numeric and "float" not in numeric and isinstance(value, float) and not value.is_integer():
            return None if kinds & {"str"} else _in_words(kinds)
        if numeric or (kinds & {"bool"} and value in (0, 1)) or kinds & {"list", "dict"}:
            return None
        return None if "str" in kinds and loader != "pydantic" else _in_words(kinds)
    return _text_instead(kinds, str(value), loader)


def _text_instead(kinds: frozenset[str], text: str, loader: Loader) -> str | None:
    if kinds & {"str", "list", "dict"}:
        return None
    if kinds & _NUMERIC:
        number = number_of(text)
        if number is None:
            return None if "bool" in kinds and flag_of(text) is not None else _in_words(kinds)
        return _in_words(kinds) if kinds.isdisjoint({"float"}) and not number.is_integer() else None
    return None if flag_of(text) is not None and loader != "plain" else _in_words(kinds)


def _open(value: object) -> bool:
    """Return True if a text is filled in later: an interpolation, an environment variable or a placeholder."""
    return isinstance(value, str) and (value.strip() == "" or any(mark in value for mark in ("${", "{{", "<", "$")))


def _in_words(kinds: frozenset[str]) -> str:
    words = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "a text",
        "list": "a list",
        "dict": "a mapping",
    }
    shown = [word for kind, word in words.items() if kind in kinds and not (kind == "int" and "float" in kinds)]
    return " or ".join(shown)
