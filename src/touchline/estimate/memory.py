"""Peak memory of a training step with its interval and verdict, and the inverse: the largest micro-batch that fits.

The closed form is in `parts`, its uncertainty in `spreads`, estimates from measured runs in `evidence_memory`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from touchline.backends.memory import MemoryCoefficients
from touchline.core.estimate import (
    Estimate,
    EvidenceLevel,
    MemoryEstimate,
    MemoryVerdict,
    MicroBatch,
    TrainingSetup,
    WhatIf,
)
from touchline.core.quantity import Measured, MemoryKind, Missing
from touchline.core.units import GIB
from touchline.estimate.evidence_memory import Fitted, MeasuredPoint, fit
from touchline.estimate.gpus import Gpu
from touchline.estimate.outgrown import ONE_SIZE
from touchline.estimate.parts import peak_parts, vocab_bytes
from touchline.estimate.spreads import (
    ORDER,
    Range,
    allocated_range,
    relative_error,
    upwards,
    weight_spread,
    with_cache,
)
from touchline.estimate.what_if import what_ifs

_MOST_ROWS = 1 << 20
"""Limit of the search for the largest micro-batch."""
_MUCH_KEPT = 1.1
"""Process memory over the same without blocks of smaller micro-batches, from which on these are the main assumption."""
_KEPT_BLOCKS = "blocks that PyTorch keeps from smaller micro-batches (it frees them before memory runs out)"


def memory_estimate(
    setup: TrainingSetup,
    batch: MicroBatch,
    *,
    coefficients: MemoryCoefficients,
    gpu: Gpu | None,
    evidence: Sequence[MeasuredPoint] = (),
    outgrown: tuple[float, float] = ONE_SIZE,
    with_what_ifs: bool = True,
) -> MemoryEstimate:
    """Estimate the peak memory of a step on one device.

    Args:
        setup: everything but the batch.
        gpu: the device; without one there is no verdict.
        evidence: measured peaks, of any runs; those that say nothing of this one are left out.
        outgrown: what `outgrown` says of all micro-batches, which the allocator keeps blocks of.
        with_what_ifs: whether changes of the settings are looked at too.

    Raises:
        ValueError: the batch is empty.
    """
    if batch.rows < 1 or batch.width < 1:
        raise ValueError("a micro-batch has at least one row of one token")
    parts = peak_parts(setup, batch, coefficients)
    found, fits, refused = _ranges(setup, batch, coefficients, gpu, evidence, outgrown)
    plain = found if outgrown == ONE_SIZE else _ranges(setup, batch, coefficients, gpu, evidence, ONE_SIZE)[0]
    fitted = next(iter(fits.values()), None)
    estimates = {
        kind: _estimate(kind, found[kind], setup, coefficients, fits.get(kind, fitted), refused) for kind in ORDER
    }
    allocated = estimates["allocated"].value
    scale = allocated / (parts.total / GIB)
    capacity: Measured = Missing(missing="unknown GPU: set compute.gpu")
    if gpu is not None:
        capacity = gpu.capacity
    changes: tuple[WhatIf, ...] = ()
    if with_what_ifs:
        changes = what_ifs(setup, batch, coefficients, gpu)
    return MemoryEstimate(
        allocated=estimates["allocated"],
        reserved=estimates["reserved"],
        process=estimates["process"],
        breakdown={name: size / GIB * scale for name, size in parts.by_name().items()},
        capacity_gib=capacity,
        # What the allocator keeps of smaller micro-batches it gives back before memory runs out.
        verdict=verdict(plain["process"], capacity),
        assumption=_KEPT_BLOCKS
        if found["process"].value > _MUCH_KEPT * plain["process"].value
        else _assumption(setup, batch, coefficients, fitted),
        what_ifs=changes,
    )


def verdict(process: Range | Estimate, capacity: Measured) -> MemoryVerdict:
    """Return whether the interval is below, around or above the capacity."""
    if isinstance(capacity, Missing):
        return MemoryVerdict.UNKNOWN
    if process.high < capacity.value:
        return MemoryVerdict.FITS
    return MemoryVerdict.OOM if process.low > capacity.value else MemoryVerdict.UNCERTAIN


def largest_micro_batch(
    setup: TrainingSetup,
    width: int,
    label_share: float,
    gpu: Gpu,
    *,
    coefficients: MemoryCoefficients,
    evidence: Sequence[MeasuredPoint] = (),
) -> int:
    """Return the largest number of sequences with the verdict FITS; 0 if there is none.

    Args:
        setup: everything but the batch.
        width: tokens of a row, padding included.
        label_share: share of them with a loss, 0 to 1.
    """
    return _most_rows(setup, width, label_share, gpu, coefficients, evidence, upper=True)


def most_that_could_fit(
    setup: TrainingSetup,
    width: int,
    label_share: float,
    gpu: Gpu,
    *,
    coefficients: MemoryCoefficients,
    evidence: Sequence[MeasuredPoint] = (),
) -> int:
    """Return the largest number of sequences that are not certainly out of memory, where a probe starts."""
    return _most_rows(setup, width, label_share, gpu, coefficients, evidence, upper=False)


def batch_of(rows: int, width: int, label_share: float) -> MicroBatch:
    """Return a micro-batch of sequences with equal fractions of labels."""
    return MicroBatch(rows=rows, width=width, label_tokens=math.ceil(rows * width * label_share))


def _most_rows(
    setup: TrainingSetup,
    width: int,
    label_share: float,
    gpu: Gpu,
    coefficients: MemoryCoefficients,
    evidence: Sequence[MeasuredPoint],
    *,
    upper: bool,
) -> int:
    def fits(rows: int) -> bool:
        found, _, _ = _ranges(setup, batch_of(rows, width, label_share), coefficients, gpu, evidence, ONE_SIZE)
        end = found["process"].high if upper else found["process"].low
        return end < gpu.capacity_gib if upper else end <= gpu.capacity_gib

    return most(fits)


def most(fits: Callable[[int], bool]) -> int:
    """Return the largest number for which a monotone condition holds; 0 if there is none."""
    if not fits(1):
        return 0
    above = 2
    while above <= _MOST_ROWS and fits(above):
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below


def _ranges(
    setup: TrainingSetup,
    batch: MicroBatch,
    coefficients: MemoryCoefficients,
    gpu: Gpu | None,
    evidence: Sequence[MeasuredPoint],
    outgrown: tuple[float, float],
) -> tuple[dict[MemoryKind, Range], dict[MemoryKind, Fitted], tuple[str, ...]]:
    parts = peak_parts(setup, batch, coefficients)
    fits, refused = fit(setup, batch, coefficients, gpu, evidence, outgrown)
    narrowest = next(iter(fits.values()), None)
    if narrowest is None:
        plain = allocated_range(setup, batch, coefficients)
        found = upwards(plain, "allocated", setup, parts, gpu, coefficients)
        return with_cache(found, outgrown, parts, gpu), {}, refused
    found = upwards(narrowest.found, narrowest.kind, setup, parts, gpu, coefficients)
    if narrowest.kind == "allocated":
        # A peak that was measured in reserved memory has what the allocator kept in it.
        found = with_cache(found, outgrown, parts, gpu)
    # What was measured of a kind tells more of it than another kind does.
    return found | {kind: fitted.found for kind, fitted in fits.items()}, fits, refused


def _estimate(
    kind: MemoryKind,
    found: Range,
    setup: TrainingSetup,
    coefficients: MemoryCoefficients,
    fitted: Fitted | None,
    refused: tuple[str, ...],
) -> Estimate:
    step = {
        "allocated": "",
        "reserved": ", times the allocator's cache",
        "process": ", plus that cache and the driver's context",
    }[kind]
    if fitted is None:
        method = f"closed form with {setup.backend}'s coefficients{step}"
        if setup.shards > 1:
            method += f", {setup.shards} devices share the weights (not measured)"
    elif fitted.kind == kind:
        method = fitted.method
    else:
        method = f"{fitted.method} ({fitted.kind} memory), converted to {kind} memory"
    if refused:
        method += f", not used: {', '.join(refused)}"
    return Estimate(
        value=found.value,
        unit="GiB",
        low=found.low,
        high=found.high,
        method=method,
        rung=EvidenceLevel.NOTHING if fitted is None else fitted.rung,
        evidence=() if fitted is None else fitted.names,
        extrapolated=(fitted is None or fitted.rung > EvidenceLevel.SAME_MODEL)
        and (
            setup.shape.extrapolated is not None
            or setup.compiled
            or setup.shards > 1
            or coefficients.relative_error is None
        ),
        phase="step",
        kind=kind,
        aggregation="peak",
    )


def _assumption(
    setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients, fitted: Fitted | None
) -> str:
    """Return the main assumption: the loss if its bytes are uncertain, else the source of the largest error."""
    if fitted is not None and fitted.rung <= EvidenceLevel.SAME_MODEL:
        return "the past runs had the settings in their records"
    parts = peak_parts(setup, batch, coefficients)
    typical, low, high = vocab_bytes(setup, coefficients)
    error, words = relative_error(setup, coefficients)
    # Where the peak is in the backward pass, a loss at the upper end of its figure may still make another peak.
    ends = [peak_parts(setup, batch, coefficients, entry).total for entry in (low, high)]
    unsure = max(weight_spread(setup, coefficients))
    if unsure > max(ends[1] - ends[0], error * parts.activations):
        return f"the size of the base model: {setup.shape.extrapolated or 'which layers are not in 4 bits'}"
    if ends[1] - ends[0] > error * parts.activations:
        return (
            f"the loss computation: {typical:g} bytes per token and vocabulary entry, {low:g} to {high:g} by "
            "version and settings"
        )
    if parts.phase == "loss" and parts.logits > parts.layers:
        return f"the longest micro-batch: logits of {typical:g} bytes per token and vocabulary entry dominate"
    return words
