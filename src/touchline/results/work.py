"""Workload and timings of our own runs from their metrics.jsonl."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from touchline.core.quantity import Aggregation, Measured, Missing, Quantity
from touchline.data.metrics import AttemptRow, Metrics, StepRow, after_warm_up
from touchline.history.record import WorkFacts
from touchline.spec.plan import PlannedRun

_ROWS = "metrics.jsonl"
_FEW = 2
"""Minimum number of steps after the first of an attempt for a median."""


def work_facts(run: PlannedRun, metrics: Metrics) -> WorkFacts:
    """Return the mean step, the largest micro-batch, and start-up, validation and saving times.

    Args:
        run: planned run.
        metrics: rows of metrics.jsonl.
    """
    steps = steady_steps(metrics)
    if not steps:
        return WorkFacts()
    rows, width = _largest(run, metrics)
    squares = [row.squared_widths for row in steps if row.squared_widths is not None]
    return WorkFacts(
        micro_batches=_mean([row.micro_batches for row in steps], "1"),
        padded_tokens=_mean([row.padded_tokens for row in steps], "tokens"),
        squared_widths=_mean(squares, "1") if len(squares) == len(steps) else Missing(missing="not counted"),
        label_tokens=_mean([row.target_tokens for row in steps], "tokens"),
        steps=_number(len(steps), "1"),
        largest_rows=rows,
        largest_width=width,
        largest_label_tokens=_most_labels(metrics),
        startup_seconds=_number(metrics.attempts[-1].setup_seconds, "s"),
        validation_seconds=_median([row.seconds for row in metrics.validations], "s"),
        validation_tokens=_median([float(row.target_tokens) for row in metrics.validations], "tokens"),
        saving_seconds=_median([row.seconds for row in metrics.checkpoints], "s"),
    )


def steady_steps(metrics: Metrics) -> list[StepRow]:
    """Return the steps after warm-up that hold as many examples as the largest. Empty where there are too few."""
    steps = after_warm_up(metrics.steps)
    if len(steps) < _FEW:
        return []
    usual = max(row.examples for row in steps)
    return [row for row in steps if row.examples == usual]


def last_attempt(metrics: Metrics) -> AttemptRow | None:
    """Return the last attempt."""
    return metrics.attempts[-1] if metrics.attempts else None


def _largest(run: PlannedRun, metrics: Metrics) -> tuple[Measured, Measured]:
    """Return rows and width of the largest micro-batch; with equal widths the width is squares over tokens."""
    counted = [row for row in metrics.steps if row.squared_widths]
    if not counted:
        # Older rows: examples side by side, as planned.
        if run.batches is None:
            return Missing(missing="no batches"), Missing(missing="no batches")
        rows = min(run.batches.micro_batch_size, run.batches.num_examples)
        return _number(rows, "1"), _number(-(-run.batches.largest_micro_batch_tokens // rows), "tokens")
    step = max(counted, key=lambda row: row.padded_tokens / row.micro_batches)
    width = math.ceil((step.squared_widths or 0) / step.padded_tokens)
    return _number(max(round(step.padded_tokens / step.micro_batches / width), 1), "1"), _number(width, "tokens")


def _most_labels(metrics: Metrics) -> Measured:
    most = max(-(-row.target_tokens // row.micro_batches) for row in metrics.steps)
    return Quantity(value=most, unit="tokens", where=_ROWS, method="of the step with most, shared among its passes")


def _mean(values: Sequence[float], unit: str) -> Measured:
    if not values:
        return Missing(missing="not measured")
    return _number(statistics.fmean(values), unit, "mean")


def _median(values: Sequence[float], unit: str) -> Measured:
    if not values:
        return Missing(missing="it did not happen")
    return _number(statistics.median(values), unit, "median")


def _number(value: float, unit: str, aggregation: Aggregation | None = None) -> Quantity:
    return Quantity(value=value, unit=unit, aggregation=aggregation, where=_ROWS)
