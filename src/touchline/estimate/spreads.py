"""Uncertainty of memory estimates, from allocated tensors over the allocator's cache to the process.

PyTorch's allocator gives a tensor the smallest free block that holds it, and asks the driver for a new one where none
does. The blocks that the logits of a smaller micro-batch left are too small for those of a larger one. So each
micro-batch that outgrows all before it takes new blocks. The old ones stay reserved, and are given back where memory
runs out. A replay of these rules (`benchmarks/allocator.py`) takes new blocks at no other micro-batch, and at each of
these as many bytes as its logits need.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from touchline.backends.facts import MemoryCoefficients
from touchline.core.estimate import Estimate, EvidenceLevel, MicroBatch, TrainingSetup
from touchline.core.quantity import MemoryKind
from touchline.core.units import GIB
from touchline.estimate.coefficients import (
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

ONE_SIZE: Final = (1.0, 1.0)
"""Padded tokens of all micro-batches that are larger than every one before them, over those of the largest: usual, and
most. So where all have one size."""
NOT_TOLD: Final = (1.0, 2.0)
"""The same where nothing is known of the lengths: at most one earlier micro-batch that is nearly as large. A choice."""
USUAL_COUNT: Final = 1000
"""Micro-batches of an epoch where their number is not known. A choice: ten times as many add 2.3 at most."""


def outgrown_of(tokens: NDArray[np.int64]) -> tuple[float, float]:
    """Return the same of micro-batches in any order: its mean over all orders, for both.

    Of the k largest sizes, the smallest outgrows all before it if it comes first, with probability 1/k. Equal sizes
    count as one, which comes first as often as there are of it.

    Args:
        tokens: padded tokens of the micro-batches; shape [micro-batches], at least one.
    """
    sizes, counts = np.unique(tokens, return_counts=True)
    counts = counts[::-1]
    mean = float((sizes[::-1] * counts / np.cumsum(counts)).sum() / sizes[-1])
    return mean, mean


def lengths_of_mean(longest: int, mean: float, count: int = USUAL_COUNT) -> NDArray[np.int64]:
    """Return typical lengths with a mean: the longest times a power of numbers between 0 and 1; shape [count]."""
    power = longest / mean - 1
    levels = ((np.arange(count) + 0.5) / count) ** power
    return np.maximum(1, np.ceil(longest * levels)).astype(np.int64)


def widths_of(lengths: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Return the typical widths of micro-batches of so many rows in a random order; shape [micro-batches].

    The longest of `rows` lengths exceeds a share u of all lengths with probability 1 - u^rows.

    Args:
        lengths: tokens of the examples; shape [examples], at least one.
    """
    count = max(1, len(lengths) // rows)
    levels = ((np.arange(count) + 0.5) / count) ** (1 / rows)
    ranks = np.minimum((levels * len(lengths)).astype(np.int64), len(lengths) - 1)
    ranks[-1] = len(lengths) - 1
    return np.sort(lengths)[ranks]


NORMAL_95: Final = 1.6449
"""Quantile of the normal distribution that 5% exceed, for a two-sided 90% interval."""
PLAIN_VARIANT: Final = "lora"
"""Adapter type of the closed form."""
ORDER: Final[tuple[MemoryKind, ...]] = ("allocated", "reserved", "process")
_ONE_TOKEN: Final = MicroBatch(rows=1, width=1, label_tokens=1)


def gib(value: float, low: float, high: float) -> Estimate:
    """Return a peak of a step, of which nothing was measured."""
    return Estimate(
        value=value,
        unit="GiB",
        low=low,
        high=high,
        method="closed form",
        rung=EvidenceLevel.NOTHING,
        phase="step",
        aggregation="peak",
    )


def with_ends(known: Estimate, value: float, low: float, high: float) -> Estimate:
    """Return an estimate with another value and interval."""
    return dataclasses.replace(known, value=value, low=low, high=high)


def times(known: Estimate, typical: float, low: float, high: float) -> Estimate:
    """Multiply by an independent uncertain factor; variances of logarithms add."""
    down = math.hypot(math.log(known.value / known.low), math.log(typical / low))
    up = math.hypot(math.log(known.high / known.value), math.log(high / typical))
    value = known.value * typical
    return with_ends(known, value, value * math.exp(-down), value * math.exp(up))


def plus(known: Estimate, typical: float, low: float, high: float) -> Estimate:
    """Add an independent uncertain value."""
    value = known.value + typical
    down = math.hypot(known.value - known.low, typical - low)
    up = math.hypot(known.high - known.value, high - typical)
    return with_ends(known, value, value - down, value + up)


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


def allocated_range(setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients) -> Estimate:
    """Return allocated memory at the peak, without evidence."""
    found, least = (_peak_range(setup, its, coefficients) for its in (batch, _ONE_TOKEN))
    # No peak is below that of the optimizer step, which no batch changes; nor are its ends.
    return gib(found.value, max(found.low, least.low), max(found.high, least.high))


def _peak_range(setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients) -> Estimate:
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
    return gib(value, max(value - down / GIB, value / 10), value + up / GIB)


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
    known: Estimate,
    kind: MemoryKind,
    setup: TrainingSetup,
    parts: PeakParts,
    gpu: Gpu | None,
    coefficients: MemoryCoefficients,
) -> dict[MemoryKind, Estimate]:
    """Derive all three kinds of memory from the known one."""
    factor, addend = fragmentation(setup, parts, coefficients), contexts(gpu)
    found = {kind: known}
    if kind == "process":
        typical, low, high = addend
        found["reserved"] = _positive(plus(known, -typical, -high, -low))
    if kind != "allocated":
        typical, low, high = factor
        found["allocated"] = times(found["reserved"], 1 / typical, 1 / high, 1 / low)
    if kind == "allocated":
        found["reserved"] = times(known, *factor)
    if kind != "process":
        found["process"] = plus(found["reserved"], *addend)
    return found


def with_cache(
    found: dict[MemoryKind, Estimate], outgrown: tuple[float, float], parts: PeakParts, gpu: Gpu | None
) -> dict[MemoryKind, Estimate]:
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
        grown[kind] = with_ends(plain, value, min(plain.low, value), high)
    return grown


def _positive(found: Estimate) -> Estimate:
    return with_ends(found, *(max(each, 1e-6) for each in (found.value, found.low, found.high)))
