"""Reader of metrics.jsonl that tolerates incomplete lines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from touchline.core.files import FileCache, open_regular
from touchline.data.metrics import (
    AttemptRow,
    CheckpointRow,
    EndRow,
    Metrics,
    MetricsRow,
    StepRow,
    ValidationRow,
)

METRICS = "metrics.jsonl"
OWN_MARK = b'"run_digest"'
"""Member of the first row that no other program writes."""
HEAD_BYTES = 1 << 20
"""Bytes of a file's beginning that `MetricsFile.head` holds."""
_ROW: TypeAdapter[MetricsRow] = TypeAdapter(Annotated[MetricsRow, Field(discriminator="event")])
_LINE_LIMIT_BYTES = 1 << 20
"""Size limit of a line; a row takes about one kilobyte."""
_KEPT_BYTES = 256 << 20
"""Size of the files that stay in memory in parsed form."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsFile:
    """A metrics.jsonl as it is on disk."""

    metrics: Metrics
    """The rows that count."""
    rows: tuple[tuple[int, MetricsRow], ...]
    """Every row with its line number from 1, superseded ones included."""
    size_bytes: int
    sha256: str
    head: bytes
    """The first `HEAD_BYTES` of the file."""


def read_metrics(path: Path) -> Metrics:
    """Return the current rows. Empty if the file does not exist or cannot be read.

    A line that is not a row was cut off by a kill: it is counted and skipped. Rows of steps that a later attempt did
    again are left out.
    """
    return read_metrics_file(path).metrics


def parse_row(line: bytes) -> MetricsRow | None:
    """Return the row of one line. None if it is not a row."""
    try:
        return _ROW.validate_json(line)
    except ValidationError:
        return None


def _parse(path: Path) -> MetricsFile:
    rows: list[tuple[int, MetricsRow]] = []
    torn = number = size = 0
    digest, head, unread = hashlib.sha256(), bytearray(), None
    try:
        with open_regular(path) as stream:
            while line := stream.readline(_LINE_LIMIT_BYTES):
                digest.update(line)
                size += len(line)
                head += line[: HEAD_BYTES - len(head)]
                number += 1
                if line.strip():
                    row = parse_row(line)
                    if row is None:
                        torn += 1
                    else:
                        rows.append((number, row))
    except FileNotFoundError:
        pass
    except OSError as fault:
        unread = fault.strerror or type(fault).__name__
    metrics = merged([row for _, row in rows], torn, unread)
    return MetricsFile(metrics=metrics, rows=tuple(rows), size_bytes=size, sha256=digest.hexdigest(), head=bytes(head))


read_metrics_file = FileCache(_parse, _KEPT_BYTES)
"""Read a metrics.jsonl; one that did not change since the last call is not opened."""


def merged(rows: Sequence[MetricsRow], torn: int = 0, unread: str | None = None) -> Metrics:
    """Return the rows of all attempts without those that a later attempt superseded."""
    attempts: list[AttemptRow] = []
    steps: list[StepRow] = []
    validations: dict[int, ValidationRow] = {}
    checkpoints: dict[str, CheckpointRow] = {}
    end: EndRow | None = None
    superseded = 0
    for row in rows:
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
