"""Memory of a training process on a CPU: its resident set, with a wide interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from touchline.backends.memory import MemoryCoefficients
from touchline.core.estimate import Estimate, EvidenceLevel, MemoryEstimate, MicroBatch, TrainingSetup
from touchline.core.quantity import Measured, MemoryKind
from touchline.core.units import GIB
from touchline.estimate.coefficients_memory import (
    CPU_SCRATCH,
    FACTOR_PRIOR,
    LOADED_AGAIN,
    PROCESS_GIB,
    PROCESS_NOISE,
    WORKSPACE_BYTES,
)
from touchline.estimate.evidence_memory import Computed, MeasuredPoint, fit_with
from touchline.estimate.memory import verdict
from touchline.estimate.parts import peak_parts, weight_bytes
from touchline.estimate.spreads import NORMAL_95, Range, allocated_range
from touchline.estimate.what_if import what_ifs


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
        with_what_ifs: whether changes of the settings are looked at too.
    """
    parts = peak_parts(setup, batch, coefficients)
    less = WORKSPACE_BYTES / GIB
    formula = allocated_range(setup, batch, coefficients)
    allocated = Range(value=formula.value - less, low=formula.low - less, high=formula.high - less)
    low, typical, high = CPU_SCRATCH
    reserved = allocated.times(typical, low, high)
    weights = parts.weights / GIB
    base_low, base, base_high = (own + times * weights for own, times in zip(PROCESS_GIB, LOADED_AGAIN, strict=True))
    process = reserved.plus(base, base_low, base_high)

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
    rung, names = EvidenceLevel.NOTHING, tuple[str, ...]()
    method = "closed form plus scratch memory and libraries"
    if (fitted := fits.get("process")) is not None:
        process, rung, names, method = fitted.found, fitted.rung, fitted.names, fitted.method

    def estimate(found: Range, words: str, kind: str) -> Estimate:
        return Estimate(
            value=found.value,
            unit="GiB",
            low=found.low,
            high=found.high,
            method=words,
            rung=rung if kind == "process" else EvidenceLevel.NOTHING,
            evidence=names if kind == "process" else (),
            extrapolated=setup.shape.extrapolated is not None,
            phase="step",
            kind="process" if kind == "process" else "allocated",
            aggregation="peak",
        )

    of_process = estimate(process, method, "process")
    return MemoryEstimate(
        allocated=estimate(allocated, "closed form", "allocated"),
        reserved=estimate(reserved, "closed form plus scratch memory", "reserved"),
        process=of_process,
        breakdown={
            name: (size - (WORKSPACE_BYTES if name == "other" else 0)) / GIB for name, size in parts.by_name().items()
        },
        capacity_gib=capacity_gib,
        verdict=verdict(of_process, capacity_gib),
        assumption="the scratch memory of this CPU's kernels",
        what_ifs=tuple(
            # What the allocator holds beside tensors is another share here than on a GPU.
            replace(what, reserved_gib=(what.allocated_gib - less) * typical)
            for what in (what_ifs(setup, batch, coefficients, None) if with_what_ifs else ())
            if what.allocated_gib is not None
        ),
    )
