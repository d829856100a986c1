"""Last rows of a metrics.jsonl, for the status of a possibly running training.

Only the end of the file is read, by the reader of the whole; lines that are no rows are skipped.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from touchline.core.files import FileCache
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.data.metrics import StepRow
from touchline.data.metrics_file import merged, parse_row
from touchline.run.tails import read_tail

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
