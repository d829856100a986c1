"""Read metrics.jsonl, whatever a kill has done to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from touchline.domain.metrics import (
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

EMPTY = Metrics(
    attempts=(), steps=(), validations=(), checkpoints=(), end=None, superseded_steps=0, torn_lines=0
)


def read_metrics(path: Path) -> Metrics:
    """The rows that count; a file that is not there has none.

    A line that is no row was cut off by a kill: it is counted and skipped. Rows of steps that a later attempt did again
    are left out.
    """
    metrics = EMPTY
    try:
        with path.open("rb") as stream:
            while line := stream.readline(_LINE_LIMIT_BYTES):
                if line.strip():
                    metrics = _with(metrics, line)
    except FileNotFoundError:
        return EMPTY
    return metrics
