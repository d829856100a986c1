"""Lines to readers, events to a segmenter: one pass over a file, fast where nothing is said.

A line is offered to the readers whose words it holds; the test is one translation and one split of its bytes. Lines of
one shape, equal but for their digits, come by the thousand: progress bars, rows of losses, warnings. What is known to
say nothing is passed over at once; of what does, the first of a shape are all read and then one in sixteen, and always
the last one before any line of another kind.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from touchline.backends.logtext.events import LogReader
from touchline.backends.logtext.parts import may_hold_bar, read_bars, read_row, read_stamp
from touchline.core.files import open_regular
from touchline.core.observation import Event, Sign, SignKind, Stamp
from touchline.core.text import without_controls
from touchline.history.faults import Faults
from touchline.history.readers import line_readers
from touchline.history.segments import FileSegmenter
from touchline.history.slurm_lines import SlurmLines

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


_WORDS = bytes(
    byte + 32 if 65 <= byte <= 90 else byte if 97 <= byte <= 122 or byte == 95 or byte >= 128 else 32
    for byte in range(256)
)
_DIGITS = b"0123456789.+-:,e #<?\xe2\x96\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f"
"""Characters that a shape leaves out: those of numbers, clocks and bars."""
_BARE_COLOURS = re.compile(r"\[(?:\d{1,2}(?:;\d{1,3})*)?m")
_TEXT_LIMIT = 1 << 16
_FIGURE = re.compile(rb"[0-9:=/*\t]")
ORDINARY = frozenset(
    b"accumulation adapter allocate allocated alpha argument arguments batch best bus cannot cause cell"
    b" completed compute config configuration continuing corrupted curl data dataset denied device devices"
    b" directory done duration ended epoch epochs eval evaluating evaluation event examples exceeded exceeds"
    b" exception execute exists exit exits exported exporting failed file final finished finite fit forget"
    b" found handling ignored illegal infinite kill latency learning length loaded loading logging loss losses"
    b" make max maximum memory merging metrics micro missing model module modules notebook num"
    b" open optimization option packages packed packing padding parameters params peak permitted"
    b" precision pushed rank rate reporting requested reserved resolved return rows running runtime same"
    b" samples saved saving sec seconds seq sequence sequences session set signal signals size skip skipped"
    b" space started starts state step steps such swift terminate time tokenizer took train trainable trained"
    b" trainer training tuning uploaded uploading val validation watchdog weights world".split()
)
"""Words of ordinary English among the readers' words: prose holds them, without a figure or one of `:`, `=`, `/`."""
_SHORT_BYTES = 80
_SHAPE_LIMIT_BYTES = 1 << 11
"""Longer lines are read each for itself."""
_SHAPES_LIMIT = 1 << 15
"""Largest number of shapes that are kept; a file of free text has little else."""
READ_FIRST = 256
"""Lines of a shape that are all read."""
READ_EVERY = 16
"""Interval at which the later ones are read."""
READ_RARELY = 128
"""The same interval if there are thousands of them."""
READ_MANY = 4096
_COMPLETE_ENDS = (b"}", b"]", b"*", b"!")
"""Ends of a whole last line without a newline; a number or a word may be cut off."""
_UNIT_AT_END = re.compile(
    rb"(?:\d ?(?:ms|sec|secs|seconds|min|mins|minutes|hours|GiB|GB|MiB|MB|it/s|s/it|tokens/s|tok/s|steps"
    rb"|epochs|samples)"
    rb"|(?i:complete|completed|finished|done|saved|triggered))$"
)
_NO_BAR = (b"", b"", b"\0")
_TAKEN_FROM_THE_LAST_LINE = frozenset(
    {SignKind.EXCEPTION, SignKind.GPU_OOM, SignKind.HOST_OOM, SignKind.DISK_FULL, SignKind.TIME_LIMIT}
)
"""Signs whose words are whole when they are there at all."""
_STAMP_STARTS = frozenset("0123456789[(<JFMASONDWTIEst*-= ")
"""Characters at the start of lines with a time stamp; a row of losses begins with a brace."""


class Scan:
    """Pass over one file."""

    def __init__(self, path: Path, segmenter: FileSegmenter) -> None:
        self.file = LineFile(path=path)
        self.segmenter = segmenter
        self._by_word: dict[bytes, list[LogReader]] = {}
        self._readers = [made() for made in line_readers()]
        for reader in self._readers:
            for word in reader.words:
                self._by_word.setdefault(word.encode(), []).append(reader)
        self._triggers = frozenset(self._by_word)
        self._shapes: dict[bytes, int] = {}
        self._watchers = [reader for reader in self._readers if hasattr(reader, "inside")]
        self._attentive = False
        self._bar = _NO_BAR
        self._passed = 0
        self._waiting: dict[bytes, tuple[int, bytes]] = {}
        self._endings: dict[bytes, int] = {}

    def run(self) -> LineFile:
        """Read the whole file and return what is known of it.

        Raises:
            NotTextError: it is binary.
            OSError: it cannot be read.
        """
        held: tuple[int, bytes] | None = None
        for first, lines in self.file.chunks():
            if not lines:
                continue
            # One line is held back: whether it is the last, and has no end, is known only afterwards.
            if held is not None:
                self._lines(held[0], [held[1]])
            held = (first + len(lines) - 1, lines[-1])
            self._lines(first, lines[:-1])
        if held is not None:
            self._last(*held)
        self._catch_up()
        for reader in self._watchers:
            if isinstance(reader, Faults):
                for event in reader.cut(held[0] if held is not None else 0):
                    self.segmenter.feed(event)
        self.segmenter.close()
        return self.file

    def _lines(self, first: int, lines: list[bytes]) -> None:
        triggers, rare, waiting = self._triggers, self._triggers - ORDINARY, self._waiting
        shape, label, total = self._bar
        for number, line in enumerate(lines, first):
            for part in line.split(b"\r") if b"\r" in line else (line,):
                cut = part.find(b"%|")
                goes_on = part[-1:] == b"]" and part[cut - 3 : cut] != b"100"
                if cut > 2 and total in part and part[: cut - 3] == label and goes_on:
                    # The same bar once more: there are more of these than of anything else.
                    self._passed += 1
                    if self._passed % READ_EVERY:
                        waiting[shape] = (number, part)
                        continue
                if self._attentive:
                    # Within a traceback any line matters, whatever its words.
                    self._offer(number, part)
                elif cut >= 0:
                    shape, label, total = self._any_bar(number, part, cut)
                elif part[:1] in (b"{", b"["):
                    # Rows and loggers' lines: many of one shape.
                    self._sampled(number, part, part.translate(None, _DIGITS))
                else:
                    words = part.translate(_WORDS).split()
                    if not triggers.isdisjoint(words):
                        if _FIGURE.search(part) is not None or not _is_prose(part, words, rare, triggers):
                            self._sampled(number, part, part.translate(None, _DIGITS))
                    elif b"it [" in part:
                        self._sampled(number, part, part.translate(None, _DIGITS))
        self._bar = shape, label, total

    def _any_bar(self, number: int, part: bytes, cut: int) -> tuple[bytes, bytes, bytes]:
        """Read a line with a bar; give the shape, label and total of bars that may be passed over from now on."""
        shape = _bar_shape(part, cut)
        if part.rstrip()[-1:] != b"]":
            # Something was printed on the bar's line: a traceback, the scheduler's last words, a row.
            self._catch_up()
            self._offer(number, part)
            return _NO_BAR
        self._sampled(number, part, shape)
        if self._shapes.get(shape, 0) <= READ_FIRST or part[max(0, cut - 3) : cut] == b"100":
            return _NO_BAR
        start = part.find(b"/", cut)
        return shape, part[: max(0, cut - 3)], part[start : part.find(b" ", start) + 1]

    def _sampled(self, number: int, part: bytes, shape: bytes) -> None:
        """Read a line, or let it wait while later ones of its shape may take its place."""
        seen = self._shapes.get(shape, 0) + 1
        if part[-1:].isdigit() and (shape in self._endings or len(self._endings) < _SHAPES_LIMIT):
            self._endings[shape] = _digits_at_end(part)
        if seen > 1 or (len(shape) < _SHAPE_LIMIT_BYTES and len(self._shapes) < _SHAPES_LIMIT):
            self._shapes[shape] = seen
        often = READ_EVERY if seen < READ_MANY else READ_RARELY
        if seen > READ_FIRST and seen % often and not self.segmenter.is_interleaved:
            self._waiting[shape] = (number, part)
            return
        if self._waiting:
            if seen <= READ_FIRST:
                self._catch_up()
            else:
                self._waiting.pop(shape, None)
        self._offer(number, part)

    def _catch_up(self) -> None:
        """Read the lines that were passed over and are the last of their shape, in order."""
        waiting = sorted(self._waiting.values())
        self._waiting.clear()
        for number, part in waiting:
            self._offer(number, part)

    def _last(self, number: int, line: bytes) -> None:
        """Read the last line; without its end only what is certainly whole is taken from it."""
        if not self.file.unterminated or self._is_whole(line.rpartition(b"\r")[2].rstrip()):
            self._lines(number, [line])
            return
        done, _, rest = line.rpartition(b"\r")
        if done:
            self._lines(number, [done])
        self._catch_up()
        for bar in read_bars(rest, number):
            self.segmenter.feed(bar)
        # What it tells of the run's end is taken as far as it goes; a number could be half of one.
        text = clean(rest)
        for reader in self._readers:
            for event in reader.line(text, number):
                if isinstance(event, Sign) and event.kind in _TAKEN_FROM_THE_LAST_LINE:
                    self.segmenter.feed(event)

    def _is_whole(self, line: bytes) -> bool:
        """Return True if nothing is missing from a last line without an end.

        It ends like a sentence or a dictionary, or in a number with as many digits as that of the lines of its shape.
        """
        if line.endswith(_COMPLETE_ENDS):
            return True
        if not line[-1:].isdigit():
            # A word may be cut off as well: what is left of it is no unit, and no name that a reader knows.
            return line[-1:].isalpha() and _UNIT_AT_END.search(line) is not None
        known = self._endings.get(line.translate(None, _DIGITS))
        return known is not None and known == _digits_at_end(line)

    def _offer(self, number: int, raw: bytes) -> None:
        feed = self.segmenter.feed
        words = raw.translate(_WORDS).split()
        if may_hold_bar(raw):
            for bar in read_bars(raw, number):
                feed(bar)
        readers = {reader for word in words if word in self._triggers for reader in self._by_word[word]}
        if self._attentive:
            readers.update(self._watchers)
        if not readers:
            return
        text = clean(raw)
        row = read_row(text)
        stamped = False
        for reader in readers if len(readers) == 1 else sorted(readers, key=_order):
            events: Iterable[Event] = reader.line(text, number)
            for event in events if row is None else (*events, *reader.row(row, text, number)):
                if not stamped:
                    stamped = True
                    unix = read_stamp(text) if text[:1] in _STAMP_STARTS else None
                    if unix is not None:
                        feed(Stamp(unix, number))
                feed(event)
        self._attentive = any(reader.inside for reader in self._watchers)


def _order(reader: LogReader) -> tuple[bool, str]:
    """Return the order of readers of one line: the scheduler's words come last, behind a bar that they end."""
    return isinstance(reader, SlurmLines), type(reader).__qualname__


def _digits_at_end(line: bytes) -> int:
    return len(line) - len(line.rstrip(b"0123456789"))


def _is_prose(part: bytes, words: list[bytes], rare: frozenset[bytes], triggers: frozenset[bytes]) -> bool:
    """Return True if a line without a figure only happens to hold a reader's word: an ordinary one, and not at its
    start.
    """
    return rare.isdisjoint(words) and (len(part) > _SHORT_BYTES or triggers.isdisjoint(words[:4]))


def _bar_shape(part: bytes, cut: int) -> bytes:
    """Return a bar's shape; bars of other labels or totals are other bars, and a full one is the end of one."""
    start = part.find(b"/", cut)
    total = part[start : part.find(b" ", start)]
    label = part[: max(0, cut - 3)].strip()
    full = b"|" if part[max(0, cut - 3) : cut] == b"100" else b""
    return total + full + label.translate(None, _DIGITS) if label else total + full


def clean(raw: bytes) -> str:
    """Return a line's text without escape sequences, stray colour codes and control characters."""
    text = raw[:_TEXT_LIMIT].decode("utf-8", "replace")
    if not text.isprintable():
        text = without_controls(text)
    return _BARE_COLOURS.sub("", text) if "m" in text and "[" in text else text
