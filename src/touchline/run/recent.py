"""Last rows of a metrics.jsonl, for the status of a possibly running training; fast and tolerant.

Only the end of the file is read. Partial and invalid rows are skipped; a loss that is not a number is kept, because it
must be reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import from_json

from touchline.core.quantity import Measured, MemoryKind, Missing, Quantity
from touchline.run.tails import read_tail

ACTIVE_TAIL_BYTES = 24 << 10
"""About forty steps: enough for a median and its spread."""
ENDED_TAIL_BYTES = 3 << 10
"""A few steps: enough for the last loss."""
NOT_MEASURED = Missing(missing="no step has been measured")
_KINDS: dict[object, MemoryKind] = {"allocated": "allocated", "reserved": "reserved", "process": "process"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RecentStep:
    """Optimizer step."""

    attempt: int
    """Attempt number."""
    step: int
    """Step number, from 1."""
    time_unix: float
    """End time, by the clock of its machine."""
    seconds: float
    """Wall-clock time."""
    loss: float | None
    """Loss; None if it is not a finite number."""
    real_tokens: float
    """Number of tokens."""
    elapsed_seconds: float = 0.0
    """Wall-clock time of all steps so far; 0 if unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recent:
    """End of a training's metrics."""

    steps: tuple[RecentStep, ...] = ()
    """Last steps, oldest first; steps repeated by a later attempt are dropped."""
    whole: bool = True
    """Whether these are all steps, because the file is short."""
    resumed_from: int | None = None
    """Steps done before the last attempt, if its first row was read."""
    validation_seconds: float = 0.0
    """Wall-clock time of all validations so far; 0 if none was read."""
    longest_pause_seconds: float = 0.0
    """Longest validation or saving read."""
    last_row_unix: float | None = None
    """Time of the last row, by its own field."""
    peak_memory: Measured = NOT_MEASURED
    """Peak memory of the last step."""
    ended: bool = False
    """Whether the last row is a regular end of the attempt."""

    @property
    def steps_done(self) -> int:
        """Number of optimizer steps done."""
        return self.steps[-1].step if self.steps else self.resumed_from or 0


def read_recent(path: Path, limit_bytes: int) -> Recent:
    """Read the rows in the last bytes of a metrics.jsonl; none if it is missing."""
    data, whole = read_tail(path, limit_bytes)
    lines = data.split(b"\n")
    steps: list[RecentStep] = []
    peak: Measured = NOT_MEASURED
    resumed: int | None = None
    validation = pause = 0.0
    last_row: float | None = None
    ended = False
    for line in lines if whole else lines[1:]:
        row = _row(line)
        if row is None:
            continue
        event, written = row.get("event"), _number(row, "time_unix")
        last_row = written if written is not None else last_row
        ended = event == "end"
        if event == "step":
            step = _step(row)
            if step is not None:
                steps.append(step)
                peak = _peak(row.get("peak_memory"), peak)
        elif event in ("start", "resume"):
            resumed = int(_number(row, "from_step") or 0)
            steps = [step for step in steps if step.step <= resumed and event == "resume"]
        elif event == "validation":
            validation = max(validation, _number(row, "elapsed_seconds") or 0.0)
            pause = max(pause, _number(row, "seconds") or 0.0)
        elif event == "checkpoint":
            pause = max(pause, _number(row, "seconds") or 0.0)
    return Recent(
        steps=tuple(steps),
        whole=whole,
        resumed_from=resumed,
        validation_seconds=validation,
        longest_pause_seconds=pause,
        last_row_unix=last_row,
        peak_memory=peak,
        ended=ended,
    )


def _row(line: bytes) -> Mapping[str, object] | None:
    if not line.startswith(b"{"):
        return None
    try:
        row = from_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _number(row: Mapping[str, object], key: str) -> float | None:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _step(row: Mapping[str, object]) -> RecentStep | None:
    number, seconds, written = _number(row, "step"), _number(row, "seconds"), _number(row, "time_unix")
    if number is None or number < 1 or written is None or "loss" not in row:
        return None
    return RecentStep(
        attempt=int(_number(row, "attempt") or 0),
        step=int(number),
        time_unix=written,
        seconds=seconds if seconds is not None and seconds > 0 else 0.0,
        loss=_number(row, "loss"),
        real_tokens=_number(row, "real_tokens") or 0.0,
        elapsed_seconds=_number(row, "elapsed_seconds") or 0.0,
    )


def _peak(told: object, before: Measured) -> Measured:
    """Return the row's quantity; `kind` distinguishes resident and GPU memory."""
    if not isinstance(told, dict):
        return before
    value, kind = _number(told, "value"), _KINDS.get(told.get("kind"))
    if value is None or told.get("unit") != "B":
        return before
    return Quantity(value=value, unit="B", phase="step", kind=kind, aggregation="peak")
