"""From records of the history to measured peaks; what cannot be used comes back with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from touchline.core.estimate import MicroBatch
from touchline.core.quantity import Missing, Quantity
from touchline.core.shape import ModelShape
from touchline.core.units import GIB_IN
from touchline.estimate.evidence_memory import MeasuredPoint
from touchline.estimate.learned import believable, setup_of_record, unstated, width_of_record
from touchline.history.record import RunRecord


def memory_points_of_records(
    records: Iterable[RunRecord], shape_of: Callable[[str], ModelShape | Missing]
) -> tuple[tuple[MeasuredPoint, ...], tuple[tuple[str, Missing], ...]]:
    """What the history teaches of memory, and what of it cannot be used.

    Args:
        records: imported runs and our own.
        shape_of: the dimensions of a model by the name that a log gives it.
    """
    points: list[MeasuredPoint] = []
    refused: list[tuple[str, Missing]] = []
    for record in records:
        found = believable(memory_points_of_record, record, shape_of)
        if isinstance(found, Missing):
            refused.append((record.name, found))
        else:
            points += found
    return tuple(points), tuple(refused)


def memory_points_of_record(
    record: RunRecord, shape_of: Callable[[str], ModelShape | Missing]
) -> tuple[MeasuredPoint, ...] | Missing:
    """One point a kind of memory, or why there is none."""
    if isinstance(record.costs.peak_memory, Missing):
        return record.costs.peak_memory
    setup = setup_of_record(record, shape_of)
    if isinstance(setup, Missing):
        return setup
    batch = _largest(record)
    if isinstance(batch, Missing):
        return batch
    if batch.rows < 1 or batch.width < 1:
        return Missing(missing="its largest micro-batch is empty")
    name = record.run or record.name
    points = tuple(
        MeasuredPoint(setup=setup, batch=batch, kind=peak.kind, peak_gib=peak.value * GIB_IN[peak.unit], name=name)
        for peak in record.costs.peak_memory
        if peak.kind is not None and peak.phase == "step" and peak.unit in GIB_IN and peak.value > 0
    )
    return points or Missing(missing="no peak that was taken while it trained")


def _largest(record: RunRecord) -> MicroBatch | Missing:
    """The largest micro-batch: as our own runs tell it, or rows times the longest that a row can be."""
    work = record.work
    facts = (work.largest_rows, work.largest_width, work.largest_label_tokens)
    if all(isinstance(fact, Quantity) for fact in facts):
        rows, width, labels = (math.ceil(fact.value) for fact in facts if isinstance(fact, Quantity))
        return MicroBatch(rows=rows, width=width, label_tokens=min(labels, rows * width))
    micro = record.batching.micro_batch_size
    if not isinstance(micro, Quantity) or micro.value < 1:
        return unstated(("micro_batch_size",))
    longest = record.batching.longest_tokens
    width_or_none = math.ceil(longest.value) if isinstance(longest, Quantity) else width_of_record(record)
    if isinstance(width_or_none, Missing):
        return width_or_none
    rows, width = int(micro.value), math.ceil(width_or_none)
    return MicroBatch(rows=rows, width=width, label_tokens=rows * width)
