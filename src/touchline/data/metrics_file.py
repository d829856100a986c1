"""Read metrics.jsonl, whatever a kill has done to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from touchline.core.files import open_regular
from touchline.data.metrics import (
    AttemptRow,
    CheckpointRow,
    EndRow,
    Metrics,
    MetricsRow,
    StepRow,
    ValidationRow,
)

_ROW: TypeAdapter[MetricsRow] = TypeAdapter(Annotated[MetricsRow, Field(discriminator="event")])
_LINE_LIMIT_BYTES = 1 << 20
"""A row takes about one kilobyte; a longer line is none of ours."""


def read_metrics(path: Path) -> Metrics:
    """The rows that count; a file that is not there has none, and so has one that cannot be read.

    A line that is no row was cut off by a kill: it is counted and skipped. Rows of steps that a later attempt did again
    are left out.
    """
    attempts: list[AttemptRow] = []
    steps: list[StepRow] = []
    validations: dict[int, ValidationRow] = {}
    checkpoints: dict[str, CheckpointRow] = {}
    end: EndRow | None = None
    superseded = torn = 0
    lines, unread = _lines(path)
    for line in lines:
        try:
            row = _ROW.validate_json(line)
        except ValidationError:
            torn += 1
            continue
        match row:
            case AttemptRow():
                attempts.append(row)
                kept = [step for step in steps if step.step <= row.from_step]
                superseded += len(steps) - len(kept)
                steps = kept
                # A fresh start scores the untrained model again, at step 0.
                last = row.from_step if row.event == "resume" else -1
                validations = {step: validation for step, validation in validations.items() if step <= last}
                checkpoints = {name: checkpoint for name, checkpoint in checkpoints.items() if checkpoint.step <= last}
                end = None
            case StepRow():
                steps.append(row)
            case ValidationRow():
                # A kill between a validation and the next saved state makes it be done twice; both say the same.
                validations[row.step] = row
            case CheckpointRow():
                checkpoints[row.name] = row
            case EndRow():
                end = row
    return Metrics(
        attempts=tuple(attempts),
        steps=tuple(steps),
        validations=tuple(validations.values()),
        checkpoints=tuple(checkpoints.values()),
        end=end,
        superseded_steps=superseded,
        torn_lines=torn,
        unread=unread,
    )


def _lines(path: Path) -> tuple[list[bytes], str | None]:
    """The lines that hold something, and why there are no more of them."""
    lines: list[bytes] = []
    try:
        with open_regular(path) as stream:
            while line := stream.readline(_LINE_LIMIT_BYTES):
                if line.strip():
                    lines.append(line)
    except FileNotFoundError:
        return lines, None
    except OSError as fault:
        return lines, fault.strerror or type(fault).__name__
    return lines, None
