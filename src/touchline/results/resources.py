"""Resource samples of a run's attempts, combined for the run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from touchline.core.files import open_regular
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.run.resources import GpuSummary, ResourceSummary

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
    nothing = Missing(missing="no sampler was at work")
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
