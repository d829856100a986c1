"""Attempt at a training: rows of metrics.jsonl, progress lines, a request to stop, and errors that end it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pydantic import TypeAdapter

from touchline.core.errors import TrainingOutOfMemoryError
from touchline.core.files import disk_errors, open_append, open_regular
from touchline.core.json_text import parse_json
from touchline.core.units import format_seconds
from touchline.data.metrics import AttemptRow, MetricsRow
from touchline.data.metrics_file import METRICS
from touchline.train.parallel import Processes


def refuse_out_of_memory(error: Exception, run: str, step: int) -> None:
    """Raise TrainingOutOfMemoryError if the error says that memory ran out; otherwise return.

    The CPU allocator has no exception type, only a message.
    """
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error):
        raise TrainingOutOfMemoryError(
            f"run {run}: out of memory at step {step}: {str(error)[:200]}",
            expected="a micro-batch that fits (saved checkpoints are kept)",
            hint="a smaller train.micro_batch_size, or train.gradient_checkpointing: true",
        ) from error


LOG = logging.getLogger("touchline.train")

LINE_SECONDS = 5.0  # Seconds between two progress lines on a terminal
LINE_SHARE = 0.1  # Fraction of the steps between two progress lines in a file

_ROW: TypeAdapter[MetricsRow] = TypeAdapter(MetricsRow)


class MetricsLog:
    """Appender of metrics.jsonl. One write per row: a kill leaves at most one partial row, terminated later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with disk_errors("file", path):
            self._descriptor = open_append(path)
            self._torn = self._ends_torn()
        self.attempt = 1 + _attempts(path)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def write(self, row: MetricsRow) -> None:
        """Append a row."""
        data = (b"\n" if self._torn else b"") + _ROW.dump_json(row) + b"\n"
        with disk_errors("file", self._path):
            while data:
                # A full disk may take a part; the next write then names the reason, and the next row closes the line.
                self._torn = True
                data = data[os.write(self._descriptor, data) :]
            self._torn = False
            if isinstance(row, AttemptRow):
                os.fsync(self._descriptor)

    def _ends_torn(self) -> bool:
        size = os.fstat(self._descriptor).st_size
        return size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"


def _attempts(path: Path) -> int:
    count = 0
    with open_regular(path) as stream:
        for line in stream:
            if b'"from_step"' in line:
                try:
                    count += parse_json(line)["event"] in ("start", "resume")
                except (ValueError, KeyError, TypeError):
                    continue
    return count


class ConsoleProgress:
    """Throttled progress lines: `step 40/100 loss 0.31 1,180 tokens/s eta 0:24`."""

    def __init__(self, steps: int, done: int, label: str = "") -> None:
        self._label = label
        self._steps = steps
        self._first = done
        self._began = time.monotonic()
        self._said_at = self._began
        self._said_step = done
        self._terminal = sys.stderr.isatty()

    def step(self, done: int, loss: float, tokens_per_second: float, seconds_ago: float = 0.0) -> None:
        """Report a step that was completed some seconds ago."""
        now = time.monotonic() - seconds_ago
        due = now - self._said_at >= LINE_SECONDS
        if not self._terminal:
            due = done - self._said_step >= LINE_SHARE * self._steps
        if not due and done < self._steps:
            return
        self._said_at, self._said_step = now, done
        left = (now - self._began) / (done - self._first) * (self._steps - done)
        words = self._label, done, self._steps, loss, f"{tokens_per_second:,.0f}", format_seconds(left)
        LOG.info("%sstep %d/%d  loss %.3g  %s tokens/s  eta %s", *words)


@dataclass(kw_only=True, slots=True)
class Stop:
    """Stop request, set by a signal and read between micro-batches."""

    reason: str | None = None
    """Signal name, such as `SIGTERM`; None if no stop is requested."""

    @property
    def asked(self) -> bool:
        """Return True if a stop is requested."""
        return self.reason is not None


def open_log(folder: Path, group: Processes) -> contextlib.AbstractContextManager[MetricsLog | None]:
    """Open metrics.jsonl for the length of a block; None in a process that writes no files."""
    return MetricsLog(folder / METRICS) if group.is_first else contextlib.nullcontext()
