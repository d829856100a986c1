"""Resource usage of attempts, sampled from outside, and its summary for a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from touchline.core.files import open_regular
from touchline.core.quantity import Measured, Missing, Quantity

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
    utilization_mean: Measured
    """Busy fraction of time, in %, mean over the samples."""


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


_LIMIT_BYTES = 1 << 20


@functools.cache
def _adapter() -> TypeAdapter[ResourceSummary]:
    """Return the adapter, built on first use because `status` of finished runs does not need it."""
    return TypeAdapter(ResourceSummary)


def read_resources(status: Path) -> tuple[ResourceSummary, ...]:
    """Return the summaries in a status folder, oldest first; corrupt and foreign files are skipped."""
    found: list[ResourceSummary] = []
    for path in status.glob("resources.*.json"):
        try:
            with open_regular(path) as stream:
                found.append(_adapter().validate_json(stream.read(_LIMIT_BYTES)))
        except (OSError, ValidationError):
            continue
    return tuple(sorted(found, key=lambda each: each.time_unix))


def resource_figures(found: Sequence[ResourceSummary]) -> dict[str, Measured]:
    """Return figures of a run over all its attempts: largest peaks, and means weighted by sampled time.

    With several GPUs, the peak is that of the fullest and the mean is over all of them.
    """
    nothing = Missing(missing="no sampler was running")
    if not found:
        names = ("tree_mean", "tree_peak", "cpu_mean", "cpu_peak", "gpu_mean", "gpu_peak", "gpu_busy")
        return dict.fromkeys(names, nothing)
    return {
        "tree_mean": _mean(found, lambda each: each.memory_mean),
        "tree_peak": _peak(each.memory_peak for each in found),
        "cpu_mean": _mean(found, lambda each: each.cpu_mean),
        "cpu_peak": _peak(each.cpu_peak for each in found),
        "gpu_mean": _over_gpus(found, lambda gpu: gpu.memory_mean),
        "gpu_peak": _gpu_peak(found),
        "gpu_busy": _over_gpus(found, lambda gpu: gpu.utilization_mean),
    }


def _mean(found: Sequence[ResourceSummary], pick: Callable[[ResourceSummary], Measured]) -> Measured:
    return _weighed([(pick(each), each.seconds) for each in found])


def _over_gpus(found: Sequence[ResourceSummary], pick: Callable[[GpuSummary], Measured]) -> Measured:
    pairs = [(pick(gpu), each.seconds) for each in found for gpu in each.gpus]
    return _weighed(pairs) if pairs else Missing(missing=found[-1].gpu_reason or "no GPU was sampled")


def _gpu_peak(found: Sequence[ResourceSummary]) -> Measured:
    gpus = [gpu.memory_peak for each in found for gpu in each.gpus]
    return _peak(gpus) if gpus else Missing(missing=found[-1].gpu_reason or "no GPU was sampled")


def _weighed(pairs: Sequence[tuple[Measured, float]]) -> Measured:
    known = [(fact, seconds) for fact, seconds in pairs if isinstance(fact, Quantity)]
    if not known:
        return next(fact for fact, _ in reversed(pairs))
    total = sum(seconds for _, seconds in known)
    last = known[-1][0]
    value = sum(fact.value * seconds for fact, seconds in known) / total if total > 0 else last.value
    return Quantity(value=value, unit=last.unit, kind=last.kind, aggregation="mean", method=last.method)


def _peak(facts: Iterable[Measured]) -> Measured:
    listed = list(facts)
    known = [fact for fact in listed if isinstance(fact, Quantity)]
    return max(known, key=lambda fact: fact.value) if known else listed[-1]
