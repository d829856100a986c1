"""Text for one line: without control characters, shortened, lists of names; and text for Markdown files.

Control characters are refused in one form (`has_control`) and replaced in two: `one_line` for foreign text that is to
stand on a line, `without_controls` for text of several lines on a terminal. Marks that turn the direction of writing
count as such. `valid_utf8` is for whatever leaves the process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_OBEYED = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Control characters but tab and newline, and marks that turn the direction of writing."""
_CONTROL = re.compile(rf"[{_OBEYED}\t\n\u2028\u2029]")
_TERMINAL = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d)[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)|\x1b[@-Z\\-_]"
    rf"|[{_OBEYED}]"
)
"""Sequences by which a program colors and moves on a terminal, and single characters that it obeys."""
_TERMINAL_CHARACTER = re.compile(f"[{_OBEYED}]")


def has_control(text: str) -> bool:
    """Return True if a text cannot stand on one line as it is."""
    return _CONTROL.search(text) is not None


def one_line(text: str, mark: str = " ") -> str:
    """Return a text for one line, with a mark in place of every control character."""
    return _CONTROL.sub(mark, text)


def without_controls(text: str, mark: str = "") -> str:
    """Return a text without escape sequences and control characters; tabs and newlines stay."""
    return _TERMINAL.sub(mark, text)


def escape_controls(text: str) -> str:
    """Return JSON text with the characters that a terminal obeys as escapes, which mean the same."""
    return _TERMINAL_CHARACTER.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def valid_utf8(text: str) -> str:
    """Return a text that UTF-8 can encode: halves of surrogate pairs and bytes of file names become escapes."""
    return text.encode(errors="backslashreplace").decode()


def shorten(text: str, most: int) -> str:
    """Return a text of at most so many characters, with an ellipsis where it was cut."""
    return text if len(text) <= most else text[: max(most - 1, 0)] + "…"


def first_of(names: Iterable[str], most: int) -> str:
    """Return `a, b, ...`: the first names of a list."""
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")


def join_names(names: Sequence[str], shown: int = 6) -> str:
    """Return `a, b and c`; with many, the first ones and a count of the rest."""
    if len(names) > shown:
        return f"{', '.join(names[:shown])} and {len(names) - shown:,} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def capital(text: str) -> str:
    """Return the text with a capital letter."""
    return text[:1].upper() + text[1:]


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
