"""Packed or not: both ways predicted, and the faster one taken when it surely fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from touchline.backends.protocol import Lengths
from touchline.core.estimate import MemoryEstimate, Verdict
from touchline.core.packing import PackingSummary
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import format_seconds
from touchline.data.packing.compare import compare
from touchline.data.packing.forecast import BatchForecast, settings_of
from touchline.plan.times import Times
from touchline.spec.experiment import TrainConfig
from touchline.spec.plan import BatchSummary

_WORTH = 0.95
"""Share of the other way's time below which packing is faster: less is within what a prediction is worth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreseen:
    """A training one way, and what it will take."""

    train: TrainConfig
    """The training, with `packed` decided."""
    batches: BatchSummary | None
    """Its batches."""
    forecast: BatchForecast | None
    """Its rows."""
    memory: MemoryEstimate | Missing
    """Peak memory of a step."""
    times: Times
    """What takes how long."""
    disk: Measured
    """What stays on disk."""


def choose_packing(
    train: TrainConfig, foresee: Callable[[bool], Foreseen], lengths: Lengths
) -> tuple[Foreseen, str, PackingSummary | Missing]:
    """The way to train, why, and both ways side by side.

    Args:
        train: the training; its micro-batch is decided.
        foresee: what comes of a way.
        lengths: token lengths of the examples.
    """
    packed, apart = foresee(True), foresee(False)
    summary = _side_by_side(train, packed, apart, lengths)
    if train.packed != "auto":
        chosen = packed if train.packed else apart
        return chosen, f"{'packed' if train.packed else 'not packed'}: as written", summary
    return *_choose(packed, apart), summary


def _choose(packed: Foreseen, apart: Foreseen) -> tuple[Foreseen, str]:
    first, second = packed.times.training, apart.times.training
    if not isinstance(first, Quantity) or not isinstance(second, Quantity):
        why = first.missing if isinstance(first, Missing) else second.missing if isinstance(second, Missing) else ""
        return apart, f"not packed: nobody can say which way is faster ({why})"
    words = f"{format_seconds(first.value)} packed, {format_seconds(second.value)} not packed, as predicted"
    if isinstance(packed.memory, Missing) or packed.memory.verdict in (Verdict.OOM, Verdict.UNCERTAIN):
        fits = packed.memory.missing if isinstance(packed.memory, Missing) else packed.memory.verdict.value
        return apart, f"not packed: packed rows may not fit ({fits}); {words}"
    if first.value < _WORTH * second.value:
        return packed, f"packed: {words}"
    return apart, f"not packed: no faster, {words}"


def _side_by_side(train: TrainConfig, packed: Foreseen, apart: Foreseen, lengths: Lengths) -> PackingSummary | Missing:
    if packed.forecast is None or apart.forecast is None or not isinstance(train.micro_batch_size, int):
        return Missing(missing="not both ways can be predicted")
    # Which of the two ways the settings name is not looked at.
    settings = settings_of(train)
    return compare(
        lengths.total, settings, packed.forecast, apart.forecast, backend=train.backend, labels=lengths.answer
    )
