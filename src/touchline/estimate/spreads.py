"""How far a memory estimate can be off: from the tensors' closed form over the allocator's cache to the process."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final

from touchline.backends.memory import MemoryCoefficients
from touchline.domain.estimate import MicroBatch, TrainingSetup
from touchline.domain.quantity import MemoryKind
from touchline.estimate.coefficients_memory import (
    COMPILED_ERROR,
    CONTEXT_GIB,
    EAGER_ERROR,
    EXTRAPOLATED_ERROR,
    FRAGMENTATION,
    FUSED_ERROR,
    LOGITS_FRAGMENTATION,
    RESIDENT_ERROR,
    STACK_ERROR,
)
from touchline.estimate.gpus import Gpu
from touchline.estimate.parts import PeakParts, peak_parts, vocab_bytes
from touchline.units import GIB

NORMAL_95: Final = 1.6449
"""Quantile of the normal distribution that 5 % exceed: a two-sided interval of 90 %."""
ORDER: Final[tuple[MemoryKind, ...]] = ("allocated", "reserved", "process")


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """A value with a lower and an upper end, GiB."""

    value: float
    """What is most likely."""
    low: float
    """5 % lie below."""
    high: float
    """5 % lie above."""

    def times(self, typical: float, low: float, high: float) -> Range:
        """Multiplied by a factor that is itself uncertain, independently: spreads of logarithms add as squares."""
        down = math.hypot(math.log(self.value / self.low), math.log(typical / low))
        up = math.hypot(math.log(self.high / self.value), math.log(high / typical))
        value = self.value * typical
        return Range(value=value, low=value * math.exp(-down), high=value * math.exp(up))

    def plus(self, typical: float, low: float, high: float) -> Range:
        """With an addend that is itself uncertain."""
        value = self.value + typical
        down = math.hypot(self.value - self.low, typical - low)
        up = math.hypot(self.high - self.value, high - typical)
        return Range(value=value, low=value - down, high=value + up)


def relative_error(setup: TrainingSetup, coefficients: MemoryCoefficients) -> tuple[float, str]:
    """Standard deviation of the logarithm of activations, and the assumption that decides on it."""
    found = [(FUSED_ERROR, "that the trainer's code keeps what was read or simulated of it")]
    if coefficients.relative_error is None:
        found.append((STACK_ERROR, f"that {setup.backend} keeps what transformers' own code keeps; nobody measured it"))
    else:
        found.append((coefficients.relative_error, "that this version of the trainer keeps what the measured one kept"))
    if setup.attention == "eager":
        found.append((EAGER_ERROR, "how many scores of eager attention lie side by side"))
    if setup.compiled:
        found.append((COMPILED_ERROR, "what torch.compile keeps and what it computes again"))
    if setup.shape.extrapolated is not None:
        found.append((EXTRAPOLATED_ERROR, f"the shape: {setup.shape.extrapolated}"))
    return max(found, key=lambda item: item[0])


def allocated_range(setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients) -> Range:
    """Tensors at the peak, without any evidence."""
    _, low_entry, high_entry = vocab_bytes(setup, coefficients)
    typical = peak_parts(setup, batch, coefficients)
    low = peak_parts(setup, batch, coefficients, low_entry)
    error, _ = relative_error(setup, coefficients)
    highest = [peak_parts(setup, batch, coefficients, high_entry)]
    if (upcast := at_most(setup, coefficients)) != coefficients:
        highest.append(peak_parts(setup, batch, upcast, vocab_bytes(setup, upcast)[2]))
    return Range(
        value=typical.total / GIB,
        low=low.total / GIB * math.exp(-NORMAL_95 * _spread(low, error)),
        high=max(parts.total / GIB * math.exp(NORMAL_95 * _spread(parts, error)) for parts in highest),
    )


def at_most(setup: TrainingSetup, coefficients: MemoryCoefficients) -> MemoryCoefficients:
    """What holds for the upper end: where a version may cast a 4-bit base's norms and head up, it does."""
    if setup.method == "qlora" and coefficients.nf4_upcasts is None:
        return dataclasses.replace(coefficients, nf4_upcasts=True)
    return coefficients


def _spread(parts: PeakParts, error: float) -> float:
    return math.hypot(RESIDENT_ERROR * parts.resident, error * parts.activations) / parts.total


def fragmentation(setup: TrainingSetup, parts: PeakParts) -> tuple[float, float, float]:
    """Reserved over allocated: typical, 5 % below, 5 % above."""
    share = parts.logits / parts.total
    base = FRAGMENTATION[setup.attention]
    typical, low, high = (value + extra * share for value, extra in zip(base, LOGITS_FRAGMENTATION, strict=True))
    return typical, low, max(high, typical)


def contexts(gpu: Gpu | None) -> tuple[float, float, float]:
    """What the driver holds, GiB: typical, lowest, highest."""
    low, typical, high = CONTEXT_GIB
    if gpu is not None:
        typical = gpu.context_gib
    return typical, min(low, typical), max(high, typical)


def upwards(
    known: Range, kind: MemoryKind, setup: TrainingSetup, parts: PeakParts, gpu: Gpu | None
) -> dict[MemoryKind, Range]:
    """The three kinds of memory from one that is known."""
    factor, addend = fragmentation(setup, parts), contexts(gpu)
    found = {kind: known}
    if kind == "process":
        typical, low, high = addend
        inner = Range(value=known.value, low=known.low, high=known.high).plus(-typical, -high, -low)
        found["reserved"] = _positive(inner)
    if kind != "allocated":
        typical, low, high = factor
        found["allocated"] = found["reserved"].times(1 / typical, 1 / high, 1 / low)
    if kind == "allocated":
        found["reserved"] = known.times(*factor)
    if kind != "process":
        found["process"] = found["reserved"].plus(*addend)
    return found


def _positive(found: Range) -> Range:
    smallest = 1e-6
    return Range(value=max(found.value, smallest), low=max(found.low, smallest), high=max(found.high, smallest))
