"""The last rows of a metrics.jsonl, read fast and without trust: what `status` needs of a training that may be running.

Only the file's end is read. A row that is torn, that is no row, or whose values are of another kind is left out; a loss
that is no number is kept as such, because that is what one wants to hear of.
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
"""Some forty steps: enough for a median and its spread."""
ENDED_TAIL_BYTES = 3 << 10
"""Some steps: enough for the last loss."""
NOT_MEASURED = Missing(missing="no step has been measured")
_KINDS: dict[object, MemoryKind] = {"allocated": "allocated", "reserved": "reserved", "process": "process"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RecentStep:
    """One optimizer step."""

    attempt: int
    """The attempt that did it."""
    step: int
    """Its number, from 1."""
    time_unix: float
    """When it ended, by the clock of the machine that did it."""
    seconds: float
    """Its wall time."""
    loss: float | None
    """Its loss; none where the row has no finite number."""
    real_tokens: float
    """Its tokens."""
    elapsed_seconds: float = 0.0
    """Wall time of all steps up to it; 0 where the row does not tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recent:
    """The end of a training's metrics."""

    steps: tuple[RecentStep, ...] = ()
    """The last steps, oldest first; those that a later attempt did again are left out."""
    whole: bool = True
    """Whether the steps are all there are, because the file is short."""
    resumed_from: int | None = None
    """Steps done before the last attempt, where its first row is in sight."""
    validation_seconds: float = 0.0
    """Wall time of all validations so far; 0 where none is in sight."""
    longest_pause_seconds: float = 0.0
    """The longest validation or saving in sight."""
    last_row_unix: float | None = None
    """When the last row was written, by its own words."""
    peak_memory: Measured = NOT_MEASURED
    """Peak memory as the last step tells it."""
    ended: bool = False
    """Whether the last row says that the attempt ended in order."""

    @property
    def steps_done(self) -> int:
        """Optimizer steps done."""
        return self.steps[-1].step if self.steps else self.resumed_from or 0


def read_recent(path: Path, limit_bytes: int) -> Recent:
    """The rows in the last bytes of a metrics.jsonl; of a file that is not there, none."""
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
    """The row's quantity; resident memory and the GPU's are told apart by `kind`."""
    if not isinstance(told, dict):
        return before
    value, kind = _number(told, "value"), _KINDS.get(told.get("kind"))
    if value is None or told.get("unit") != "B":
        return before
    return Quantity(value=value, unit="B", phase="step", kind=kind, aggregation="peak")
