"""Peak memory of a step with its interval and verdict, on a GPU or a CPU, and the largest micro-batch that fits.

The closed form is in `parts`, its uncertainty in `spreads`, estimates from measured runs in `evidence_memory`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from touchline.backends.facts import MemoryCoefficients
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
from touchline.estimate.coefficients import (
    CPU_SCRATCH,
    FACTOR_PRIOR,
    LOADED_AGAIN,
    PROCESS_GIB,
    PROCESS_NOISE,
    WORKSPACE_BYTES,
)
from touchline.estimate.evidence_memory import Computed, MeasuredPoint, fit, fit_with
from touchline.estimate.gpus import Gpu
from touchline.estimate.parts import peak_parts, vocab_bytes, weight_bytes
from touchline.estimate.spreads import (
    NORMAL_95,
    ONE_SIZE,
    ORDER,
    allocated_range,
    plus,
    relative_error,
    times,
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
        gpu: the device; without one there is no verdict.
        evidence: measured peaks, of any runs; those that say nothing of this one are left out.
        outgrown: what `outgrown` says of all micro-batches, which the allocator keeps blocks of.

    Raises ValueError: the batch is empty.
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


def verdict(process: Estimate, capacity: Measured) -> MemoryVerdict:
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
) -> tuple[dict[MemoryKind, Estimate], dict[MemoryKind, Estimate], tuple[str, ...]]:
    parts = peak_parts(setup, batch, coefficients)
    fits, refused = fit(setup, batch, coefficients, gpu, evidence, outgrown)
    if not fits:
        plain = allocated_range(setup, batch, coefficients)
        found = upwards(plain, "allocated", setup, parts, gpu, coefficients)
        return with_cache(found, outgrown, parts, gpu), {}, refused
    kind, narrowest = next(iter(fits.items()))
    found = upwards(narrowest, kind, setup, parts, gpu, coefficients)
    if kind == "allocated":
        # A peak that was measured in reserved memory has what the allocator kept in it.
        found = with_cache(found, outgrown, parts, gpu)
    # What was measured of a kind tells more of it than another kind does.
    return found | fits, fits, refused


def _estimate(
    kind: MemoryKind,
    found: Estimate,
    setup: TrainingSetup,
    coefficients: MemoryCoefficients,
    fitted: Estimate | None,
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
    return replace(
        found,
        method=method,
        rung=EvidenceLevel.NOTHING if fitted is None else fitted.rung,
        evidence=() if fitted is None else fitted.evidence,
        extrapolated=(fitted is None or fitted.rung > EvidenceLevel.SAME_MODEL)
        and (
            setup.shape.extrapolated is not None
            or setup.compiled
            or setup.shards > 1
            or coefficients.relative_error is None
        ),
        kind=kind,
    )


def _assumption(
    setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients, fitted: Estimate | None
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


def cpu_memory_estimate(
    setup: TrainingSetup,
    batch: MicroBatch,
    *,
    coefficients: MemoryCoefficients,
    capacity_gib: Measured,
    evidence: Sequence[MeasuredPoint] = (),
    with_what_ifs: bool = True,
) -> MemoryEstimate:
    """Estimate the resident memory of a training process on a CPU.

    Tensors follow the closed form, without the cuBLAS workspace; kernels and the allocator add scratch memory;
    libraries take about 0.5 GiB. `reserved` is tensors and scratch, `process` includes the libraries.

    Args:
        setup: everything but the batch; attention is eager for short rows in our trainer.
        capacity_gib: memory that the process may take, GiB.
        evidence: measured peaks of the kind `process`, of runs on CPUs.
    """
    parts = peak_parts(setup, batch, coefficients)
    less = WORKSPACE_BYTES / GIB
    formula = allocated_range(setup, batch, coefficients)
    allocated = replace(
        formula,
        value=formula.value - less,
        low=formula.low - less,
        high=formula.high - less,
        extrapolated=setup.shape.extrapolated is not None,
        kind="allocated",
    )
    low, typical, high = CPU_SCRATCH
    method = "closed form plus scratch memory"
    reserved = replace(times(allocated, typical, low, high), method=method)
    weights = parts.weights / GIB
    base_low, base, base_high = (own + times * weights for own, times in zip(PROCESS_GIB, LOADED_AGAIN, strict=True))
    process = replace(plus(reserved, base, base_low, base_high), kind="process", method=f"{method} and libraries")

    def computed(other: TrainingSetup, its: MicroBatch, kind: MemoryKind, outgrown: tuple[float, float]) -> Computed:
        del kind, outgrown
        there, held = peak_parts(other, its, coefficients), weight_bytes(other, coefficients) / GIB
        beside = [own + times * held for own, times in zip(PROCESS_GIB, LOADED_AGAIN, strict=True)]
        resident = (there.resident / GIB - less) * typical + beside[1]
        activations = there.activations / GIB * typical
        return Computed(
            resident=resident,
            activations=activations,
            errors=((beside[2] - beside[0]) / (2 * NORMAL_95), FACTOR_PRIOR * activations),
            drift=0.0,
            noise=PROCESS_NOISE * (resident + activations),
            tokens=its.tokens,
        )

    of_processes = [point for point in evidence if point.kind == "process"]
    fits, _ = fit_with(setup, batch, coefficients, of_processes, computed)
    if "process" in fits:
        process = replace(fits["process"], extrapolated=allocated.extrapolated)
    return MemoryEstimate(
        allocated=allocated,
        reserved=reserved,
        process=process,
        breakdown={
            name: (size - (WORKSPACE_BYTES if name == "other" else 0)) / GIB for name, size in parts.by_name().items()
        },
        capacity_gib=capacity_gib,
        verdict=verdict(process, capacity_gib),
        assumption="the scratch memory of this CPU's kernels",
        what_ifs=tuple(
            # What the allocator holds beside tensors is another share here than on a GPU.
            replace(what, reserved_gib=(what.allocated_gib - less) * typical)
            for what in (what_ifs(setup, batch, coefficients, None) if with_what_ifs else ())
            if what.allocated_gib is not None
        ),
    )
