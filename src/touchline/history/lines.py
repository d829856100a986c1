"""A file's bytes as lines, in bounded memory: whatever the file holds, at most a few MiB of it are held at once.

Carriage returns part lines as newlines do, for bars are redrawn with them, but only newlines are counted: numbers are
those of an editor. A line over 1 MiB is cut to its head and tail. gzip is read as it is.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from touchline.core.files import open_regular

BLOCK_BYTES = 1 << 20
LINE_LIMIT_BYTES = 1 << 20
KEPT_BYTES = 1 << 15
"""Bytes that are kept of a cut line's head, and of its tail."""
_CONTROL = tuple(bytes([code]) for code in (*range(7), *range(14, 27), *range(28, 32)))
_GAP = b" [...] "
EXPANSION_LIMIT_BYTES = 1 << 34
"""Largest expanded size of a compressed file; an archive that grows beyond it is not a log."""


class NotTextError(Exception):
    """The file holds no text; the message says what it is."""


@dataclass(kw_only=True, slots=True)
class LineFile:
    """File that is read once from its beginning to its end."""

    path: Path
    cut_lines: int = 0
    last_number: int = 0
    unterminated: bool = False
    """Whether the last line has no end: it may be cut in the middle of a number."""
    bytes_read: int = 0
    notes: list[str] = field(default_factory=list)

    def chunks(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield the first line's number and lines that end with a newline; lines may hold carriage returns.

        Raises:
            NotTextError: the file is binary.
            OSError: it cannot be read.
        """
        with open_regular(self.path) as raw:
            stream = gzip.GzipFile(fileobj=raw) if raw.read(2) == b"\x1f\x8b" else raw
            raw.seek(0)
            first = self._read(stream)
            if _is_binary(first[: 1 << 16]):
                raise NotTextError("a binary file")
            yield from self._split(stream, first)

    def _split(self, stream: IO[bytes] | gzip.GzipFile, first: bytes) -> Iterator[tuple[int, list[bytes]]]:
        number, rest, block = 1, b"", first
        head: bytes | None = None  # of a line over the limit, until its end is found
        while block:
            self.bytes_read += len(block)
            lines = (rest + block).split(b"\n")
            if head is not None and len(lines) > 1:
                lines[0], head = head + _GAP + lines[0][-KEPT_BYTES:], None
            rest = lines.pop()
            part = b""
            if len(rest) > LINE_LIMIT_BYTES:
                # Redrawn bars stay whole, whatever the length of the line that they make together.
                part, separator, after = rest.rpartition(b"\r")
                if separator:
                    rest = after
                if len(rest) > LINE_LIMIT_BYTES:
                    if head is None:
                        head = rest[:KEPT_BYTES]
                        self.cut_lines += 1
                    rest = rest[-KEPT_BYTES:]
            yield number, [*lines, part] if part else lines
            number += len(lines)
            block = self._read(stream)
        self.last_number = number - 1
        if rest or head:
            self.unterminated = True
            self.last_number = number
            yield number, [rest if head is None else head + _GAP + rest]

    def _read(self, stream: IO[bytes] | gzip.GzipFile) -> bytes:
        if self.bytes_read > EXPANSION_LIMIT_BYTES:
            self.notes.append(f"only the first {EXPANSION_LIMIT_BYTES >> 30} GiB were read")
            return b""
        if not isinstance(stream, gzip.GzipFile):
            return stream.read(BLOCK_BYTES)
        try:
            return stream.read1(BLOCK_BYTES)  # all that a file holds before it is cut or broken
        except EOFError:
            self.notes.append("the compressed file is truncated")
        except (OSError, zlib.error):
            self.notes.append("the compressed file is corrupt")
        return b""


def _is_binary(start: bytes) -> bool:
    """Return True if control characters abound; a few NULs are what a crashed machine leaves at the end of a log."""
    if not start:
        return False
    strange = sum(start.count(byte) for byte in _CONTROL)
    return strange * 20 > len(start) or start.startswith((b"PK\3\4", b"\x89PNG", b"SQLite format 3", b"%PDF-"))
