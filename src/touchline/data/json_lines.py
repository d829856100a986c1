"""Line numbers of the rows of a JSON file, found on request because the JSON parser does not report them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from touchline.core.files import read_bytes
from touchline.data.readers import SPLIT_NAMES, WHOLE

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODE = json.JSONDecoder().raw_decode
_SCAN = json.decoder.scanstring  # type: ignore[attr-defined]


class JsonLines:
    """Line numbers of a JSON file's rows. The file is read on first use and only as far as needed.

    Args:
        path: the file; a list of rows, or an object of splits.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text: str | None = None
        self._lines: dict[str, list[int]] = {}
        self._at: dict[str, tuple[int, int]] = {}

    def line(self, split: str, number: int) -> int | None:
        """Return the line of a split's n-th row, both from 1. Entries that are not rows are skipped."""
        try:
            if self._text is None:
                self._text = read_bytes(self._path).decode("utf-8-sig")
                self._begin(self._text)
            return self._row(self._text, split, number)
        except (OSError, ValueError, RecursionError):
            return None

    def _begin(self, text: str) -> None:
        """Find the start of each list of rows."""
        at = _skip(text, 0)
        if text[at : at + 1] == "[":
            self._at[WHOLE] = (at + 1, 1 + text.count("\n", 0, at))
            return
        line = 1 + text.count("\n", 0, at)
        while text[at : at + 1] in ("{", ","):
            start = at
            at = _skip(text, at + 1)
            if text[at : at + 1] != '"':
                return
            name, at = _SCAN(text, at + 1, True)
            at = _skip(text, _skip(text, at) + 1)
            line += text.count("\n", start, at)
            split = WHOLE if name == WHOLE else SPLIT_NAMES.get(name.lower())
            if split is not None and text[at : at + 1] == "[":
                self._at.setdefault(split, (at + 1, line))
            _, end = _DECODE(text, at)
            line += text.count("\n", at, end)
            at = end
            after = _skip(text, at)
            line += text.count("\n", at, after)
            at = after

    def _row(self, text: str, split: str, number: int) -> int | None:
        lines = self._lines.setdefault(split, [])
        if split not in self._at:
            return None
        at, line = self._at[split]
        while len(lines) < number:
            start = _skip(text, at)
            if text[start : start + 1] == ",":
                start = _skip(text, start + 1)
            if text[start : start + 1] in ("]", ""):
                return None
            line += text.count("\n", at, start)
            _, end = _DECODE(text, start)
            if text[start] == "{":
                lines.append(line)
            line += text.count("\n", start, end)
            at = end
            self._at[split] = (at, line)
        return lines[number - 1]


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()
