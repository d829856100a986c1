"""Uncertainty of memory estimates, from allocated tensors over the allocator's cache to the process."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final

from touchline.backends.memory import MemoryCoefficients
from touchline.core.estimate import MicroBatch, TrainingSetup
from touchline.core.quantity import MemoryKind
from touchline.core.units import GIB
from touchline.estimate.coefficients_memory import (
    COMPILED_ERROR,
    CONTEXT_GIB,
    EAGER_ERROR,
    EXTRAPOLATED_ERROR,
    FRAGMENTATION,
    FUSED_ERROR,
    LOGITS_FRAGMENTATION,
    NF4_BYTES,
    RESIDENT_ERROR,
    STACK_ERROR,
    VARIANT_SPREAD,
)
from touchline.estimate.gpus import Gpu
from touchline.estimate.layers import adapted_outputs, computes_in, size_of
from touchline.estimate.parts import PeakParts, peak_parts, vocab_bytes, weight_bytes

NORMAL_95: Final = 1.6449
"""Quantile of the normal distribution that 5% exceed, for a two-sided 90% interval."""
PLAIN_VARIANT: Final = "lora"
"""Adapter type of the closed form."""
ORDER: Final[tuple[MemoryKind, ...]] = ("allocated", "reserved", "process")
_ONE_TOKEN: Final = MicroBatch(rows=1, width=1, label_tokens=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Value with a lower and an upper end, GiB."""

    value: float
    """Most likely value."""
    low: float
    """Lower end; 5% are below."""
    high: float
    """Upper end; 5% are above."""

    def times(self, typical: float, low: float, high: float) -> Range:
        """Multiply by an independent uncertain factor; variances of logarithms add."""
        down = math.hypot(math.log(self.value / self.low), math.log(typical / low))
        up = math.hypot(math.log(self.high / self.value), math.log(high / typical))
        value = self.value * typical
        return Range(value=value, low=value * math.exp(-down), high=value * math.exp(up))

    def plus(self, typical: float, low: float, high: float) -> Range:
        """Add an independent uncertain value."""
        value = self.value + typical
        down = math.hypot(self.value - self.low, typical - low)
        up = math.hypot(self.high - self.value, high - typical)
        return Range(value=value, low=value - down, high=value + up)


def relative_error(setup: TrainingSetup, coefficients: MemoryCoefficients) -> tuple[float, str]:
    """Return the standard deviation of the logarithm of activations, and the main assumption behind it."""
    found = [(FUSED_ERROR, "the trainer stores the activations found in its source")]
    if coefficients.relative_error is None:
        found.append((STACK_ERROR, f"{setup.backend} stores the same activations as transformers (not measured)"))
    else:
        found.append(
            (coefficients.relative_error, "this version of the trainer stores the same activations as the measured one")
        )
    if setup.attention == "eager":
        found.append((EAGER_ERROR, "the number of eager attention scores in memory at once"))
    if setup.compiled:
        found.append((COMPILED_ERROR, "what torch.compile stores and recomputes"))
    if setup.shards > 1:
        found.append((STACK_ERROR, f"what {setup.shards} devices gather of the weights that they share (not measured)"))
    if setup.shape.extrapolated is not None:
        found.append((EXTRAPOLATED_ERROR, f"the shape: {setup.shape.extrapolated}"))
    return max(found, key=lambda item: item[0])


def allocated_range(setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients) -> Range:
    """Return allocated memory at the peak, without evidence."""
    found, least = (_peak_range(setup, its, coefficients) for its in (batch, _ONE_TOKEN))
    # No peak is below that of the optimizer step, which no batch changes; nor are its ends.
    return Range(value=found.value, low=max(found.low, least.low), high=max(found.high, least.high))


def _peak_range(setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients) -> Range:
    """Return the same by the phase of the peak alone."""
    _, low_entry, high_entry = vocab_bytes(setup, coefficients)
    typical = peak_parts(setup, batch, coefficients)
    low = peak_parts(setup, batch, coefficients, low_entry)
    error, _ = relative_error(setup, coefficients)
    wider, upcast = at_most(setup, batch, coefficients)
    highest = [peak_parts(setup, batch, coefficients, high_entry)]
    if (wider, upcast) != (setup, coefficients):
        highest.append(peak_parts(wider, batch, upcast, vocab_bytes(wider, upcast)[2]))
    below, above = weight_spread(setup, coefficients)
    value = typical.total / GIB
    if setup.variant != PLAIN_VARIANT:
        below, above = (math.hypot(end, _of_variant(setup, batch)) for end in (below, above))
    down = math.hypot(typical.total - low.total * math.exp(-NORMAL_95 * _spread(low, error)), below)
    most = max(parts.total * math.exp(NORMAL_95 * _spread(parts, error)) for parts in highest)
    up = math.hypot(most + _images(setup, batch) - typical.total, above)
    return Range(value=value, low=max(value - down / GIB, value / 10), high=value + up / GIB)


def weight_spread(setup: TrainingSetup, coefficients: MemoryCoefficients) -> tuple[float, float]:
    """Return how many bytes the base model may be below and above `weight_bytes`, 5% beyond each."""
    size = weight_bytes(setup, coefficients)
    below = above = size * (math.exp(NORMAL_95 * setup.shape.count_error) - 1)
    if setup.method == "qlora":
        matrices = setup.shape.linear_parameters
        typical, low, high = coefficients.dynamic_extra
        stored = typical if setup.dynamic_4bit else 0.0
        below = math.hypot(below, matrices * (stored - min(low, stored)))
        above = math.hypot(above, matrices * (max(high, stored) - stored))
        # Experts are one tensor of three dimensions: quantised by some versions, left in 16 bits by others.
        others = setup.shape.num_layers * setup.shape.other_parameters_per_layer
        below = math.hypot(below, others * (computes_in(setup, coefficients) - NF4_BYTES))
        # Some trainers leave the vision tower in 16 bits.
        tower = 0 if setup.shape.vision is None else setup.shape.vision.matrix_parameters
        above = math.hypot(above, tower * (computes_in(setup, coefficients) - NF4_BYTES))
    return below, above


def at_most(
    setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients
) -> tuple[TrainingSetup, MemoryCoefficients]:
    """Return the settings of the upper end, if the given settings are ambiguous.

    A version may cast a 4-bit base model's norms and head up, and a batch may be padded.
    """
    if setup.method == "qlora" and coefficients.nf4_upcasts is None:
        coefficients = dataclasses.replace(coefficients, nf4_upcasts=True)
    if setup.padded is None and coefficients.masks_expand_kv and batch.rows > 1:
        setup = dataclasses.replace(setup, padded=True)
    return setup, coefficients


def _of_variant(setup: TrainingSetup, batch: MicroBatch) -> float:
    """Return the uncertainty in bytes of another adapter type than LoRA, 5% beyond."""
    layers = 1 if setup.gradient_checkpointing else setup.shape.num_layers
    return VARIANT_SPREAD * adapted_outputs(setup) * layers * batch.tokens


def _images(setup: TrainingSetup, batch: MicroBatch) -> float:
    """Return the bytes of a vision tower's activations if adapters train it; typically it is frozen."""
    tower = setup.shape.vision
    if tower is None:
        return 0.0
    patches = tower.patches_per_token * batch.rows * (setup.image_tokens or batch.width)
    widths = 8 * tower.hidden_size + 3 * tower.intermediate_size
    layers = 2 if setup.gradient_checkpointing else tower.num_layers
    return float(patches * widths * layers * size_of(setup.base_dtype))


def _spread(parts: PeakParts, error: float) -> float:
    return math.hypot(RESIDENT_ERROR * parts.resident, error * parts.activations) / parts.total


def fragmentation(
    setup: TrainingSetup, parts: PeakParts, coefficients: MemoryCoefficients
) -> tuple[float, float, float]:
    """Return reserved over allocated memory: typical, lower and upper end."""
    if coefficients.reserves is not None and setup.attention == "fused":
        return coefficients.reserves
    # Holes that the logits left stay in the allocator's cache, also where the peak comes later.
    share = min(1.0, parts.at_loss / parts.total)
    pairs = zip(FRAGMENTATION, LOGITS_FRAGMENTATION, strict=True)
    typical, low, high = (value + extra * share for value, extra in pairs)
    return typical, low, high


def contexts(gpu: Gpu | None) -> tuple[float, float, float]:
    """Return the driver's memory, GiB: typical, lowest, highest."""
    low, typical, high = CONTEXT_GIB
    if gpu is not None:
        typical = gpu.context_gib
    return typical, min(low, typical), max(high, typical)


def upwards(
    known: Range,
    kind: MemoryKind,
    setup: TrainingSetup,
    parts: PeakParts,
    gpu: Gpu | None,
    coefficients: MemoryCoefficients,
) -> dict[MemoryKind, Range]:
    """Derive all three kinds of memory from the known one."""
    factor, addend = fragmentation(setup, parts, coefficients), contexts(gpu)
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


def with_cache(
    found: dict[MemoryKind, Range], outgrown: tuple[float, float], parts: PeakParts, gpu: Gpu | None
) -> dict[MemoryKind, Range]:
    """Add the blocks that the allocator keeps of smaller micro-batches, up to the device's capacity.

    These are given back before memory runs out, so they decide no verdict. The value is the middle, as a ratio, of none
    and all of them, since other tensors find room in some.
    """
    usual, most = (max(0.0, (sizes - 1) * parts.at_loss - parts.below_peak) / GIB for sizes in outgrown)
    room = math.inf if gpu is None else gpu.capacity_gib
    ends: tuple[tuple[MemoryKind, float], ...] = (("reserved", room - contexts(gpu)[0]), ("process", room))
    grown = dict(found)
    for kind, end in ends:
        plain = found[kind]
        high = min(plain.high + most, max(end, plain.high))
        value = min(math.sqrt(plain.value * (plain.value + usual)), high)
        grown[kind] = Range(value=value, low=plain.low, high=high)
    return grown


def _positive(found: Range) -> Range:
    smallest = 1e-6
    return Range(value=max(found.value, smallest), low=max(found.low, smallest), high=max(found.high, smallest))
