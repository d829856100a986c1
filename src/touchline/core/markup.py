"""Tables and text for Markdown files; foreign text is escaped, so that it can be neither markup nor a link nor HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from touchline.core.quantity import Measured, Missing, finite
from touchline.core.text import one_line, without_controls
from touchline.core.units import format_bytes, format_seconds

# An underscore inside a word is no markup; run names are full of them.
_SPECIAL = re.compile(r"([\\`*{}\[\]<>|#!~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_IN_WORDS = {"s": format_seconds, "B": format_bytes}
"""Units whose figures people read in larger ones."""
_TICKS = re.compile(r"`+")


def escape(text: str) -> str:
    """Return foreign text as plain Markdown on one line."""
    return _SPECIAL.sub(r"\\\1", one_line(text)).replace("http://", "http\\://").replace("https://", "https\\://")


def code(text: str) -> str:
    """Return foreign text as a code span; backticks are dropped, since a span in a table cannot hold them."""
    return "`" + one_line(text).replace("`", "'").replace("|", "\\|") + "`"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return a Markdown table. Cells are Markdown; `right` are the columns to align right."""
    marks = ["---:" if index in right else "---" for index in range(len(header))]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def fence(lines: Iterable[str], language: str = "text") -> str:
    """Return a code block with a fence longer than any inside."""
    body = [without_controls(line.replace("\r", ""), " ") for text in lines for line in text.split("\n")]
    longest = max((len(run) for line in body for run in _TICKS.findall(line)), default=0)
    ticks = "`" * max(3, longest + 1)
    return "\n".join([f"{ticks}{language}", *body, ticks]) + "\n"


def measured(value: Measured, digits: int = 4) -> str:
    """Return `0.02345`, `4:41`, `5.06 MiB (5 to 5.1)` or `n/a (reason)`."""
    value = finite(value)
    if isinstance(value, Missing):
        return str(value)
    if not all(math.isfinite(end or 0.0) for end in (value.low, value.high)):
        value = replace(value, low=None, high=None)
    unit = value.unit if value.unit == "%" else f" {value.unit}"
    if value.unit in _IN_WORDS:
        text = _IN_WORDS[value.unit](value.value)
    elif value.unit == "1":
        text = f"{value.value:.{digits}g}"
    else:
        text = f"{value.value:,.{digits}g}{unit}" if value.value < 10**digits else f"{value.value:,.0f}{unit}"
    if value.low == value.value and value.high is None:
        text = f"at least {text}"
    if value.low is not None and value.high is not None:
        if value.unit in _IN_WORDS:
            words = _IN_WORDS[value.unit]
            text += f" ({words(value.low)} to {words(value.high)})"
        else:
            text += f" ({value.low:.{digits}g} to {value.high:.{digits}g})"
    return text


def bare(value: Measured, digits: int = 4) -> str:
    """Return a value with its unit and without its interval, or `n/a (reason)`."""
    return measured(value if isinstance(value, Missing) else replace(value, low=None, high=None), digits)
