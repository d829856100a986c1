"""What an attempt used of its machine: memory and load, sampled from outside, so that every trainer has them."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.quantity import Measured

RESOURCES_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuSummary:
    """One GPU of an attempt."""

    name: str
    """Its product name, as the driver gives it."""
    id: str
    """How CUDA_VISIBLE_DEVICES names it; where that names none, its number."""
    memory_mean: Measured
    """Memory in use on it, in B, the mean over the samples."""
    memory_peak: Measured
    """The largest sample, in B."""
    memory_total: Measured
    """How much it has, in B."""
    utilization_mean: Measured
    """Share of time in which it was busy, in %, the mean over the samples."""
    utilization_peak: Measured
    """The largest sample, in %."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceSummary:
    """status/resources.<job>.<restart>.json: what one attempt's processes used, up to now."""

    schema_version: int = RESOURCES_SCHEMA_VERSION
    """Version of this file's form."""
    job_id: str
    """The job."""
    restart: int
    """Its restart."""
    time_unix: float
    """When it was written."""
    seconds: float
    """How long was sampled."""
    samples: int
    """How often."""
    memory_mean: Measured
    """Resident memory of all processes of the attempt together, in B, the mean over the samples."""
    memory_peak: Measured
    """The largest sample of it, in B."""
    cpu_mean: Measured
    """Processor time of all processes over wall time, in %; 100 is one core."""
    cpu_peak: Measured
    """The largest value between two samples, in %."""
    gpus: tuple[GpuSummary, ...]
    """Its GPUs; none where `gpu_reason` says why."""
    gpu_reason: str
    """Why no GPU was sampled; empty when one was."""
