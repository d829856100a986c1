"""Memory and utilization of a job's GPUs, from NVIDIA's management library (NVML).

Only GPUs in CUDA_VISIBLE_DEVICES are measured; if that is unset, those with a process of the job. Memory is that of the
job's own processes if the driver reports it; in containers and on partial GPUs it is often all memory in use on the
device, as stated in `method`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from touchline.core.quantity import Aggregation, Measured, MemoryKind, Missing, Quantity
from touchline.run.resources import GpuSummary

_DRIVER = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""Files that show a driver: Linux, containers, WSL."""
OF_PROCESSES = "memory of the job's processes, from the driver"
OF_DEVICE = "all memory in use on the device, of all processes"
_NOT_AVAILABLE = (1 << 64) - 1
"""NVML's value for an unknown number."""


class RunningStats:
    """Time-weighted mean and peak of samples, without storing them."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0.0
        self._weighted = 0.0
        self._seconds = 0.0
        self._peak = 0.0

    def add(self, value: float, seconds: float) -> None:
        """Add a sample with the seconds since the previous one; the first samples are closer together."""
        self.count += 1
        self._sum += value
        self._weighted += value * seconds
        self._seconds += seconds
        self._peak = max(self._peak, value)

    def raise_peak(self, value: float) -> None:
        """Raise the peak by a kernel counter's value between two samples."""
        self._peak = max(self._peak, value)

    def measured(
        self, aggregation: Aggregation, unit: str, nothing: str, *, kind: MemoryKind | None = None, method: str | None
    ) -> Measured:
        """Return mean or peak, or the reason why there is none."""
        if self.count == 0:
            return Missing(missing=nothing)
        mean = self._weighted / self._seconds if self._seconds > 0 else self._sum / self.count
        value = mean if aggregation == "mean" else self._peak
        return Quantity(value=value, unit=unit, kind=kind, aggregation=aggregation, method=method)


@dataclass
class _Gpu:
    """GPU with its statistics."""

    id: str
    handle: Any
    name: str
    total: float | None
    of_device: RunningStats = field(default_factory=RunningStats)
    of_processes: RunningStats = field(default_factory=RunningStats)
    busy: RunningStats = field(default_factory=RunningStats)
    refused: str = ""


class GpuMeter:
    """GPUs of one job. Driver errors never raise; unreadable values are missing with the driver's message."""

    def __init__(self, library: Any, visible: str | None) -> None:
        """Find the GPUs.

        Args:
            library: module `pynvml`, or a substitute.
            visible: CUDA_VISIBLE_DEVICES; None if unset.
        """
        self._nvml = library
        self._told = visible is not None
        self.reason = ""
        self._gpus: list[_Gpu] = []
        try:
            library.nvmlInit()
            names = range(int(library.nvmlDeviceGetCount())) if visible is None else _names(visible)
            self._gpus = [self._open(name) for name in names]
        except library.NVMLError as error:
            self.reason = f"NVML refuses: {error}"
        if not self.reason and not self._gpus:
            self.reason = "the machine has no GPU" if visible is None else "CUDA_VISIBLE_DEVICES names no GPU"

    def _open(self, name: int | str) -> _Gpu:
        nvml = self._nvml
        by_id = nvml.nvmlDeviceGetHandleByUUID if isinstance(name, str) else nvml.nvmlDeviceGetHandleByIndex
        handle = by_id(name)
        product, total = str(name), None
        with suppress(nvml.NVMLError):
            given = nvml.nvmlDeviceGetName(handle)
            product = given.decode(errors="replace") if isinstance(given, bytes) else str(given)
        with suppress(nvml.NVMLError):
            total = float(nvml.nvmlDeviceGetMemoryInfo(handle).total)
        return _Gpu(id=str(name), handle=handle, name=product, total=total)

    def sample(self, pids: Collection[int], seconds: float) -> None:
        """Take a sample; `pids` are the job's processes, `seconds` the time since the last sample."""
        for gpu in self._gpus:
            own = self._own_bytes(gpu, pids)
            if own is not None:
                gpu.of_processes.add(own, seconds)
            elif not self._told or gpu.of_processes.count:
                # The GPU is not known to be ours, or our part was counted before: the work of others does not count.
                continue
            try:
                gpu.of_device.add(float(self._nvml.nvmlDeviceGetMemoryInfo(gpu.handle).used), seconds)
            except self._nvml.NVMLError as error:
                gpu.refused = str(error)
            try:
                gpu.busy.add(float(self._nvml.nvmlDeviceGetUtilizationRates(gpu.handle).gpu), seconds)
            except self._nvml.NVMLError as error:
                gpu.refused = str(error)

    def summaries(self) -> tuple[GpuSummary, ...]:
        """Return summaries of the GPUs that the job uses."""
        return tuple(self._summary(gpu) for gpu in self._gpus if self._told or gpu.of_processes.count)

    def close(self) -> None:
        """Shut the library down."""
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _own_bytes(self, gpu: _Gpu, pids: Collection[int]) -> float | None:
        try:
            listed = self._nvml.nvmlDeviceGetComputeRunningProcesses(gpu.handle)
        except self._nvml.NVMLError:
            return None
        own = [each.usedGpuMemory for each in listed if each.pid in pids]
        known = [float(size) for size in own if size is not None and size != _NOT_AVAILABLE]
        return sum(known) if known else None

    def _summary(self, gpu: _Gpu) -> GpuSummary:
        series, method = (gpu.of_processes, OF_PROCESSES) if gpu.of_processes.count else (gpu.of_device, OF_DEVICE)
        nothing = f"NVML refuses: {gpu.refused}" if gpu.refused else "not sampled yet"
        return GpuSummary(
            name=gpu.name,
            id=gpu.id,
            memory_mean=series.measured("mean", "B", nothing, kind="process", method=method),
            memory_peak=series.measured("peak", "B", nothing, kind="process", method=method),
            memory_total=(
                Missing(missing="the driver does not report it")
                if gpu.total is None
                else Quantity(value=gpu.total, unit="B")
            ),
            utilization_mean=gpu.busy.measured("mean", "%", nothing, method=None),
            utilization_peak=gpu.busy.measured("peak", "%", nothing, method=None),
        )


def open_gpus() -> GpuMeter | str:
    """Return the meter of this job's GPUs, or the reason why there is none. NVML is loaded only with a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not list(_names(visible)):
        return "CUDA_VISIBLE_DEVICES hides every GPU"
    if not any(path.exists() for path in _DRIVER):
        return "no NVIDIA driver"
    try:
        import pynvml
    except ImportError:
        return "the package nvidia-ml-py is not installed"
    meter = GpuMeter(pynvml, visible)
    return meter.reason or meter


def _names(visible: str) -> Iterable[int | str]:
    """Yield numbers and ids in CUDA_VISIBLE_DEVICES; like CUDA, stop at the first invalid name."""
    for part in (part.strip() for part in visible.split(",")):
        if part.isdigit():
            yield int(part)
        elif part.startswith(("GPU-", "MIG-")):
            yield part
        else:
            return
