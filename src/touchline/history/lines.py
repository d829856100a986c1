"""A file's bytes as lines, in bounded memory: whatever the file holds, at most a few MiB of it are held at once.

Carriage returns part lines as newlines do, for bars are redrawn with them, but only newlines are counted: numbers are
those of an editor. A line over 1 MiB is cut to its head and tail. gzip is read as it is; UTF-16 is turned into UTF-8.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

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
    """The file."""
    cut_lines: int = 0
    """Lines over the limit."""
    last_number: int = 0
    """Number of the last line."""
    unterminated: bool = False
    """Whether the last line has no end: it may be cut in the middle of a number."""
    bytes_read: int = 0
    """Bytes of text."""
    notes: list[str] = field(default_factory=list)
    """Problems of the file."""

    def chunks(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield the first line's number and lines that end with a newline; lines may hold carriage returns.

        Raises:
            NotTextError: the file is binary.
            OSError: it cannot be read.
        """
        with open_regular(self.path) as raw:
            stream = _decompressed(raw)
            first = self._read(stream)
            encoding = _encoding(first)
            if encoding is None and _is_binary(first[: 1 << 16]):
                raise NotTextError("a binary file")
            yield from self._split(stream, first, encoding)

    def _split(self, stream: _Source, first: bytes, encoding: str | None) -> Iterator[tuple[int, list[bytes]]]:
        decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding else None
        number, rest, block = 1, b"", first
        head: bytes | None = None  # of a line over the limit, until its end is found
        while block:
            self.bytes_read += len(block)
            text = block if decoder is None else decoder.decode(block).encode()
            lines = (rest + text).split(b"\n")
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

    def _read(self, stream: _Source) -> bytes:
        if self.bytes_read > EXPANSION_LIMIT_BYTES:
            self.notes.append(f"read no further than {EXPANSION_LIMIT_BYTES >> 30} GiB")
            return b""
        block = stream.read(BLOCK_BYTES)
        if not block and isinstance(stream, _Gunzip) and stream.fault:
            self.notes.append(f"the compressed file is {stream.fault}")
        return block


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Gunzip:
    """gzip as a stream that gives all it can of a file that is cut or broken."""

    def __init__(self, raw: _Source) -> None:
        self._raw = raw
        self._inflate = zlib.decompressobj(31)
        self._input = b""
        self.fault = ""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes of text; none at the end."""
        while not self.fault:
            if self._inflate.eof:
                # Members may follow each other, as in a log that was compressed piece by piece.
                self._input = self._inflate.unused_data.lstrip(b"\0") or self._raw.read(BLOCK_BYTES)
                if not self._input:
                    return b""
                self._inflate = zlib.decompressobj(31)
            self._input = self._input or self._raw.read(BLOCK_BYTES)
            if not self._input:
                self.fault = "cut"
                return self._inflate.flush()
            try:
                text = self._inflate.decompress(self._input, size)
            except zlib.error:
                self.fault = "broken"
                return b""
            self._input = self._inflate.unconsumed_tail
            if text:
                return text
        return b""


def _decompressed(raw: IO[bytes]) -> _Source:
    magic = raw.read(2)
    raw.seek(0)
    return _Gunzip(raw) if magic == b"\x1f\x8b" else raw


def _encoding(first: bytes) -> str | None:
    """Return UTF-16 if the file begins with its mark, as PowerShell's `>` writes it; else it is read as UTF-8."""
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return None


def _is_binary(start: bytes) -> bool:
    """Return True if control characters abound; a few NULs are what a crashed machine leaves at the end of a log."""
    if not start:
        return False
    strange = sum(start.count(byte) for byte in _CONTROL)
    return strange * 20 > len(start) or start.startswith((b"PK\3\4", b"\x89PNG", b"SQLite format 3", b"%PDF-"))
