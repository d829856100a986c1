"""The end of a file that another process may be writing, however long it is, and what comes after."""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass
from pathlib import Path

from touchline.core.files import open_regular

_BLOCK_BYTES = 1 << 16
TAIL_LIMIT_BYTES = 4 << 20
"""The most that is read to find the last lines; a progress bar of an hour is one line of megabytes."""


def read_tail(path: Path, limit_bytes: int) -> tuple[bytes, bool]:
    """(the last bytes, whether they begin where the file does). A file that is not there or not ours is empty."""
    try:
        with open_regular(path) as stream:
            begin = max(0, os.fstat(stream.fileno()).st_size - limit_bytes)
            return os.pread(stream.fileno(), limit_bytes, begin), begin == 0
    except OSError:
        return b"", True


def shown(line: str) -> str:
    """What a terminal would show of a line that a progress bar has written over: its last state."""
    return line.rstrip("\r").rpartition("\r")[2]


def last_lines(path: Path, count: int) -> tuple[list[str], int]:
    """(the last lines as a terminal would show them, where the file ended then)."""
    limit = _BLOCK_BYTES
    while True:
        data, whole = read_tail(path, limit)
        if whole or limit >= TAIL_LIMIT_BYTES or data.count(b"\n") > count:
            break
        limit *= 4
    end = _end(path, len(data), whole)
    lines = data.decode(errors="replace").split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    if not whole and len(lines) > 1:
        lines = lines[1:]
    return [shown(line) for line in (lines[-count:] if count > 0 else [])], end


def _end(path: Path, length: int, whole: bool) -> int:
    if whole:
        return length
    try:
        return path.stat().st_size
    except OSError:
        return 0


@dataclass
class Follower:
    """What is added to one file, line by line; a file that shrinks is read again from its beginning."""

    path: Path
    """The file."""
    offset: int
    """Where to go on."""

    def __post_init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._open = ""

    def read(self) -> tuple[list[str], str]:
        """(the lines that are whole now, what a terminal would show of the one that is not).

        At most a few hundred kilobytes at once; the rest comes with the next call.
        """
        try:
            with open_regular(self.path) as stream:
                if os.fstat(stream.fileno()).st_size < self.offset:
                    self.offset, self._open = 0, ""
                    self._decoder.reset()
                data = os.pread(stream.fileno(), 4 * _BLOCK_BYTES, self.offset)
        except OSError:
            return [], shown(self._open)
        self.offset += len(data)
        *lines, rest = (self._open + self._decoder.decode(data)).split("\n")
        # A bar's earlier states are not kept: an hour of it is megabytes.
        before, mark, last = rest.rpartition("\r")
        self._open = last if mark and last else rest if len(rest) < _BLOCK_BYTES else before[-_BLOCK_BYTES:]
        return [shown(line) for line in lines], shown(self._open)
