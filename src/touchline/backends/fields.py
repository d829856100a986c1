"""Kinds of values in other tools' configs, and findings about wrong ones, with the line to write instead."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from touchline.core.finding import Edit, Finding, Severity
from touchline.experiment.document import Key
from touchline.experiment.foreign import ForeignDocument

_NUMBER = re.compile(r"[-+]?(\d[\d_]*(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_EXPONENT = re.compile(r"(?P<mantissa>[-+]?\d+\.?\d*)[eE](?P<sign>[-+]?)(?P<power>\d+)")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class ValueType:
    """Kind of value that a key may hold."""

    expected: str
    """In words, `a whole number of at least 1`."""
    takes: Callable[[object], bool]
    number: bool = False
    """Whether the value is a number, so that number-like text is a quoted number."""


def is_whole(value: object) -> bool:
    """Return True if a value is an integer, not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return True if a value is a finite number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def whole(least: int) -> ValueType:
    """Build the kind of an integer of at least `least`."""

    def takes(value: object) -> bool:
        return is_whole(value) and cast(int, value) >= least

    return ValueType(f"a whole number of at least {least}", takes, True)


def number(above: float | None = None, least: float | None = None, below: float | None = None) -> ValueType:
    """Build the kind of a number within bounds."""
    bounds = [
        *([f"more than {above:g}"] if above is not None else []),
        *([f"at least {least:g}"] if least is not None else []),
        *([f"less than {below:g}"] if below is not None else []),
    ]

    def takes(value: object) -> bool:
        if not is_number(value):
            return False
        size = float(cast(float, value))
        return (above is None or size > above) and (least is None or size >= least) and (below is None or size < below)

    return ValueType(" ".join(["a number", " and ".join(bounds)]).strip(), takes, True)


TRUTH = ValueType("true or false", lambda value: isinstance(value, bool))
TEXT = ValueType("a text", lambda value: isinstance(value, str) and bool(value))


def wrong_value(
    document: ForeignDocument, path: tuple[Key, ...], value: object, kind: ValueType, name: str | None = None
) -> Iterator[Finding]:
    """Report a value of another kind as BK012, and a number that the loader reads as text as BK014.

    Args:
        value: the value, interpolations resolved.
        name: the key's name, where another one than its path.
    """
    if kind.takes(value):
        return
    key = name or dotted(path)
    where = document.where(*path)
    as_number = parsed(value) if kind.number else None
    if as_number is not None and kind.takes(as_number):
        written = pointed(str(value), as_number)
        yield Finding(
            code="BK014",
            severity=Severity.ERROR,
            subject=key,
            message=f"{key}: {shown(value)} is read as text, expected {kind.expected}",
            where=where,
            hint=f"{path[-1]}: {written}",
            edits=new_value(document, path, written),
        )
        return
    yield Finding(
        code="BK012",
        severity=Severity.ERROR,
        subject=key,
        message=f"{key}: expected {kind.expected}, got {shown(value)}",
        where=where,
    )


def parsed(value: object) -> int | float | None:
    """Return the number in a text, or None."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value.strip()):
        return None
    text = value.strip().replace("_", "")
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def pointed(text: str, value: float) -> str:
    """Return a number as every YAML loader reads it, with a point and a signed exponent: `5.0e-5`."""
    match = _EXPONENT.fullmatch(text.strip())
    if match is None:
        return repr(value)
    mantissa = match["mantissa"] if "." in match["mantissa"] else match["mantissa"] + ".0"
    return f"{mantissa}e{match['sign'] or '+'}{match['power']}"


def shown(value: object) -> str:
    """Return a short text of a value, for a message."""
    text = str(value)
    if isinstance(value, bool):
        text = text.lower()
    elif value is None or isinstance(value, str):
        text = "null" if value is None else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def dotted(path: tuple[Key, ...]) -> str:
    """Return a path as one dotted name."""
    return ".".join(str(part) for part in path)


def new_value(document: ForeignDocument, path: tuple[Key, ...], written: str) -> tuple[Edit, ...]:
    """Return the line with another plain value for a key. Return nothing if the line is not `key: value`."""
    return _line_edit(document, path, lambda match: f"{match['quote']}{path[-1]}{match['gap']}{written}")


def new_key(document: ForeignDocument, path: tuple[Key, ...], name: str) -> tuple[Edit, ...]:
    """Return the line with another name for a key."""
    return _line_edit(document, path, lambda match: f"{match['quote']}{name}{match['gap']}{match['value'] or ''}")


def _line_edit(
    document: ForeignDocument, path: tuple[Key, ...], new: Callable[[re.Match[str]], str]
) -> tuple[Edit, ...]:
    where = document.where(*path)
    if where.line is None or where.column is None or where.line > len(document.lines):
        return ()
    line = document.lines[where.line - 1]
    value = r"(?P<value>\"[^\"]*\"|'[^']*'|[^\s,{}\[\]#]+)?"
    pattern = rf"(?P<quote>['\"]?){re.escape(str(path[-1]))}(?P<gap>(?P=quote)\s*:(?:[ \t]+|$)){value}"
    match = re.compile(pattern).match(line, where.column - 1)
    if match is None:
        return ()
    changed = line[: match.start()] + new(match) + line[match.end() :]
    return (Edit(path=document.path, line=where.line, old=line, new=changed),)
