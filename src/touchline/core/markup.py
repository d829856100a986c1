"""Tables and text for Markdown files; foreign text is escaped, so that it can be neither markup nor a link nor HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from touchline.core.text import one_line, without_controls

# An underscore inside a word is no markup; run names are full of them.
_SPECIAL = re.compile(r"([\\`*{}\[\]<>|#!~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
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
