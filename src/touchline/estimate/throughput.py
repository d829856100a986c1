"""Micro-batch size beyond which throughput no longer grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from touchline.core.estimate import MicroBatch, TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.estimate.bracket import KNEE_GAIN
from touchline.estimate.points import TimePoint, model_key
from touchline.estimate.terms import place
from touchline.estimate.time import step_curve
from touchline.estimate.work import StepWork, work_of

_APART = 1.5
"""Smallest ratio of micro-batch sizes that shows how speed grows with them."""
_MOST_ROWS = 1 << 14


@dataclass(frozen=True, kw_only=True, slots=True)
class SaturationPoint:
    """Micro-batch size at which throughput saturates."""

    rows: int
    """Smallest micro-batch for which doubling gains less than 3%, or the limit."""
    reached: bool
    """Whether throughput saturates below the limit."""
    tokens_per_second: dict[int, float]
    """Predicted computed tokens/s by sequences: 1, 2, 4 ..."""


def knee(
    setup: TrainingSetup,
    width: int,
    label_share: float,
    *,
    machine: TargetMachine,
    points: Sequence[TimePoint] = (),
    most: int = _MOST_ROWS,
    global_rows: int | None = None,
) -> SaturationPoint | Missing:
    """Return the micro-batch beyond which doubling gains less than 3% predicted throughput.

    Args:
        setup: everything but the batch.
        width: tokens of a row, padding included.
        label_share: share of them with a loss, 0 to 1.
        most: the most rows that are allowed, for memory's or the global batch's sake.
        global_rows: rows of an optimizer step, kept by accumulation; none: one micro-batch a step.

    Raises:
        ValueError: no row is allowed.
    """
    if most < 1 or width < 1:
        raise ValueError("a micro-batch has at least one row of one token")
    sizes = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
    works = [_step(rows, width, label_share, global_rows) for rows in sizes]
    curve = step_curve(setup, works, machine=machine, points=points)
    if isinstance(curve, Missing):
        return curve
    found = {rows: work.tokens / seconds for rows, work, seconds in zip(sizes, works, curve, strict=True)}
    for size in sorted(found):
        larger = found.get(size * 2)
        if larger is not None and larger / found[size] - 1 < KNEE_GAIN:
            return SaturationPoint(rows=size, reached=True, tokens_per_second=found)
    return SaturationPoint(rows=most, reached=False, tokens_per_second=found)


def shows_the_knee(setup: TrainingSetup, machine: TargetMachine, points: Sequence[TimePoint]) -> bool:
    """Return True if runs of this model on this machine had micro-batches of different sizes.

    A single size shows the machine's speed but not how it grows.
    """
    sizes = [
        point.work.tokens_per_micro_batch
        for point in points
        if model_key(point.setup.shape) == model_key(setup.shape) and place(point.machine) == place(machine.key)
    ]
    return bool(sizes) and max(sizes) >= _APART * min(sizes)


def _step(rows: int, width: int, label_share: float, global_rows: int | None) -> StepWork:
    labels = round(rows * width * label_share)
    one = work_of([MicroBatch(rows=rows, width=width, label_tokens=labels)])
    return one if global_rows is None else one.times(max(1.0, global_rows / rows))
