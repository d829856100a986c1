"""End of a file that another process may be writing, whatever its length, and following additions."""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass
from pathlib import Path

from touchline.core.files import open_regular

_BLOCK_BYTES = 1 << 16
TAIL_LIMIT_BYTES = 4 << 20
"""Maximum bytes read for the last lines; an hour of a progress bar is one line of megabytes."""


def read_tail(path: Path, limit_bytes: int) -> tuple[bytes, bool]:
    """Return (last bytes, whether they begin at the file's start). A missing or foreign file is empty."""
    try:
        with open_regular(path) as stream:
            begin = max(0, os.fstat(stream.fileno()).st_size - limit_bytes)
            return os.pread(stream.fileno(), limit_bytes, begin), begin == 0
    except OSError:
        return b"", True


def shown(line: str) -> str:
    """Return the last state of a line redrawn by a progress bar."""
    return line.rstrip("\r").rpartition("\r")[2]


def last_lines(path: Path, count: int) -> tuple[list[str], int]:
    """Return (last lines as a terminal shows them, end of the file at that time)."""
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
    """Incremental reader of one file, line by line; a file that shrinks is read again from its start."""

    path: Path
    """File path."""
    offset: int
    """Read position."""

    def __post_init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._open = ""

    def read(self) -> tuple[list[str], str]:
        """Return (new complete lines, current state of the unfinished line).

        At most a few hundred kilobytes per call; the rest follows with the next call.
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
