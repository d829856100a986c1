"""Resource usage of an attempt, sampled from outside so that every trainer has it."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.quantity import Measured

RESOURCES_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuSummary:
    """Usage of one GPU by an attempt."""

    name: str
    """Product name from the driver."""
    id: str
    """Id in CUDA_VISIBLE_DEVICES, else its number."""
    memory_mean: Measured
    """Memory in use, in B, mean over the samples."""
    memory_peak: Measured
    """Largest sample, in B."""
    memory_total: Measured
    """Total memory, in B."""
    utilization_mean: Measured
    """Busy fraction of time, in %, mean over the samples."""
    utilization_peak: Measured
    """Largest sample, in %."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceSummary:
    """Content of status/resources.<job>.<restart>.json: usage of one attempt's processes so far."""

    schema_version: int = RESOURCES_SCHEMA_VERSION
    """Format version."""
    job_id: str
    """Job id."""
    restart: int
    """Restart number of the job."""
    time_unix: float
    """Time of writing."""
    seconds: float
    """Sampled duration in seconds."""
    samples: int
    """Number of samples."""
    memory_mean: Measured
    """Resident memory of all its processes together, in B, mean over the samples."""
    memory_peak: Measured
    """Largest sample, in B."""
    cpu_mean: Measured
    """CPU time of all its processes over wall-clock time, in %; 100 is one core."""
    cpu_peak: Measured
    """Largest value between two samples, in %."""
    gpus: tuple[GpuSummary, ...]
    """Its GPUs; empty with `gpu_reason`."""
    gpu_reason: str
    """Reason why no GPU was sampled; empty if one was."""
