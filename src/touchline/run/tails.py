"""Ends of files that may still grow: outputs, and the last rows of a metrics.jsonl, by the reader of all rows."""

from __future__ import annotations

import codecs
import functools
import os
from dataclasses import dataclass
from pathlib import Path

from touchline.core.files import FileCache, open_regular
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.data.metrics import StepRow
from touchline.data.metrics_file import merged, parse_row

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


def read_text_tail(path: Path, limit_bytes: int) -> str:
    """Return the last bytes as text. A missing or foreign file is empty."""
    return read_tail(path, limit_bytes)[0].decode(errors="replace")


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
    offset: int

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


ACTIVE_TAIL_BYTES = 24 << 10
"""About forty steps: enough for a median and its spread."""
ENDED_TAIL_BYTES = 3 << 10
"""A few steps: enough for the last loss."""
_CACHED_FILES_BYTES = 4 << 30
"""Size of the files whose ends are kept in memory."""
NOT_MEASURED = Missing(missing="no step has been measured")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recent:
    """End of a training's metrics."""

    steps: tuple[StepRow, ...] = ()
    """Last steps, oldest first; steps repeated by a later attempt are dropped."""
    whole: bool = True
    """Whether these are all steps, because the file is short."""
    resumed_from: int | None = None
    """Steps done before the last attempt, if its first row was read, or in all by the marker of a complete training."""
    validation_seconds: float = 0.0
    """Wall-clock time of all validations so far; 0 if none was read."""
    longest_pause_seconds: float = 0.0
    """Longest validation or saving read."""
    last_row_unix: float | None = None
    """Time of the last row, by its own field."""
    ended: bool = False
    """Whether the last row is a regular end of the attempt."""

    @property
    def steps_done(self) -> int:
        """Number of optimizer steps done."""
        return max(self.steps[-1].step if self.steps else 0, self.resumed_from or 0)

    @property
    def peak_memory(self) -> Measured:
        """Peak memory of the last step that logged it."""
        peaks = (row.peak_memory for row in reversed(self.steps))
        return next((peak for peak in peaks if isinstance(peak, Quantity)), NOT_MEASURED)


def read_recent(path: Path, limit_bytes: int) -> Recent:
    """Return the rows in the last bytes of a metrics.jsonl; none if it is missing.

    A file that has not changed since the last call is not read again.
    """
    return _reader(limit_bytes)(path)


@functools.cache
def _reader(limit_bytes: int) -> FileCache[Recent]:
    return FileCache(functools.partial(_read, limit_bytes=limit_bytes), _CACHED_FILES_BYTES)


def _read(path: Path, *, limit_bytes: int) -> Recent:
    data, whole = read_tail(path, limit_bytes)
    lines = data.split(b"\n")
    rows = [row for line in (lines if whole else lines[1:]) if line and (row := parse_row(line)) is not None]
    metrics = merged(rows)
    pauses = [*(row.seconds for row in metrics.validations), *(row.seconds for row in metrics.checkpoints)]
    return Recent(
        steps=metrics.steps,
        whole=whole,
        resumed_from=metrics.attempts[-1].from_step if metrics.attempts else None,
        validation_seconds=metrics.validations[-1].elapsed_seconds if metrics.validations else 0.0,
        longest_pause_seconds=max(pauses, default=0.0),
        last_row_unix=rows[-1].time_unix if rows else None,
        ended=bool(rows) and rows[-1] is metrics.end,
    )
