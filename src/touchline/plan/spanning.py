"""Predictions whose intervals also span those for other token lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from touchline.core.estimate import Estimate, MemoryEstimate
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.estimate.memory import verdict
from touchline.plan.times import Times


def spanning(first: Measured, others: Sequence[Measured]) -> Measured:
    """Return a prediction with an interval from the lowest to the highest end of all."""
    if isinstance(first, Missing):
        return first
    known = [first, *(each for each in others if isinstance(each, Quantity))]
    low = min(each.value if each.low is None else each.low for each in known)
    high = max(each.value if each.high is None else each.high for each in known)
    return replace(first, low=low, high=high)


def spanning_times(first: Times, others: Sequence[Times]) -> Times:
    """Return times with intervals that span those of all."""
    return Times(
        step=spanning(first.step, [each.step for each in others]),
        training=spanning(first.training, [each.training for each in others]),
        parts={
            name: spanning(part, [each.parts[name] for each in others if name in each.parts])
            for name, part in first.parts.items()
        },
        evaluation=spanning(first.evaluation, [each.evaluation for each in others]),
        base_evaluation=spanning(first.base_evaluation, [each.base_evaluation for each in others]),
        evaluation_startup=spanning(first.evaluation_startup, [each.evaluation_startup for each in others]),
    )


def spanning_memory(
    first: MemoryEstimate | Missing, others: Sequence[MemoryEstimate | Missing]
) -> MemoryEstimate | Missing:
    """Return a memory estimate with intervals that span those of all, and the verdict on its own."""
    known = [each for each in others if isinstance(each, MemoryEstimate)]
    if isinstance(first, Missing) or not known:
        return first
    process = _spanning(first.process, [each.process for each in known])
    return replace(
        first,
        allocated=_spanning(first.allocated, [each.allocated for each in known]),
        reserved=_spanning(first.reserved, [each.reserved for each in known]),
        process=process,
        verdict=verdict(process, first.capacity_gib),
    )


def _spanning(first: Estimate, others: Sequence[Estimate]) -> Estimate:
    return replace(
        first, low=min(first.low, *(each.low for each in others)), high=max(first.high, *(each.high for each in others))
    )
