"""Sampler of one attempt: memory and load of its processes and GPUs, independent of the trainer.

A daemon thread of the supervisor samples every two seconds, more often at first, and writes
status/resources.<job>.<restart>.json periodically and at the end. A full disk, an ended process or a driver error never
affect the work; a hanging driver blocks only this thread. Sampling five processes takes about half a millisecond.

Memory is the sum of resident sets: shared pages count in each process, so forked loaders look larger than they are.
Between samples, CPU time is counted by the kernel, and on Linux also a process's peak memory.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from pydantic import TypeAdapter

from touchline.core.errors import TouchlineError
from touchline.core.files import write_atomic
from touchline.core.quantity import Aggregation, Measured, MemoryKind, Missing, Quantity
from touchline.run.resources import GpuSummary, ResourceSummary

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
    of_device: RunningStats = field(default_factory=RunningStats)
    of_processes: RunningStats = field(default_factory=RunningStats)
    busy: RunningStats = field(default_factory=RunningStats)
    refused: str = ""


class GpuMeter:
    """GPUs of one job. Driver errors never raise; unreadable values are missing with the driver's message."""

    def __init__(self, library: Any, visible: str | None) -> None:
        """Find the GPUs.

        Args:
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
            self.reason = f"NVML error: {error}"
        if not self.reason and not self._gpus:
            self.reason = "the machine has no GPU" if visible is None else "CUDA_VISIBLE_DEVICES names no GPU"

    def _open(self, name: int | str) -> _Gpu:
        nvml = self._nvml
        by_id = nvml.nvmlDeviceGetHandleByUUID if isinstance(name, str) else nvml.nvmlDeviceGetHandleByIndex
        handle = by_id(name)
        product = str(name)
        with suppress(nvml.NVMLError):
            given = nvml.nvmlDeviceGetName(handle)
            product = given.decode(errors="replace") if isinstance(given, bytes) else str(given)
        return _Gpu(id=str(name), handle=handle, name=product)

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
        nothing = f"NVML error: {gpu.refused}" if gpu.refused else "not sampled yet"
        return GpuSummary(
            name=gpu.name,
            id=gpu.id,
            memory_mean=series.measured("mean", "B", nothing, kind="process", method=method),
            memory_peak=series.measured("peak", "B", nothing, kind="process", method=method),
            utilization_mean=gpu.busy.measured("mean", "%", nothing, method=None),
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


SAMPLE_SECONDS = 2.0
"""Seconds between two samples."""
FIRST_SECONDS = (0.05, 0.2, 0.5, 1.0)
"""Seconds between the first samples, so that short work is seen too."""
WRITE_SECONDS = 5.0
"""Seconds between two writes, equal to the heartbeat."""
CLOSE_PATIENCE_SECONDS = 2.0
"""Seconds for which the end waits for a hanging sample."""
RESIDENT = "sum of the resident sets of its processes, with shared pages in each"
_SUMMARY = TypeAdapter(ResourceSummary)
_KIB = 1024
_LINUX = sys.platform == "linux"


def resources_file(status: Path, job_id: str, restart: int) -> Path:
    """Return the path of an attempt's resource summary."""
    return status / f"resources.{job_id}.{restart}.json"


class ProcessTree:
    """Process with all its descendants."""

    def __init__(self, pid: int) -> None:
        self._known: dict[int, psutil.Process] = {}
        self._root = pid
        self._used: dict[int, float] = {}
        self._first = True

    def look(self) -> tuple[float, float, float] | None:
        """Return (resident bytes, largest resident bytes of one process so far, CPU seconds since the last call); None
        if nothing is left.

        None when nothing of it is left.
        """
        self._find()
        resident = largest = spent = 0.0
        for pid, process in list(self._known.items()):
            try:
                with process.oneshot():
                    resident += process.memory_info().rss
                    times = process.cpu_times()
                    largest = max(largest, _peak_bytes(pid))
            except (psutil.Error, OSError, ValueError, IndexError):
                del self._known[pid]
                self._used.pop(pid, None)
                continue
            used = times.user + times.system
            # What a process did before the first look is not known to lie in the time that is looked at.
            before = self._used.get(pid, used if self._first else 0.0)
            spent += max(used - before, 0.0)
            self._used[pid] = used
        self._first = False
        return (resident, largest, spent) if self._known else None

    @property
    def pids(self) -> frozenset[int]:
        """Processes of the last call."""
        return frozenset(self._known)

    def _find(self) -> None:
        """Update the members. A reused pid is recognized by its start time."""
        for pid, process in list(self._known.items()):
            if not process.is_running():
                del self._known[pid]
                self._used.pop(pid, None)
        waiting = [self._root, *self._known]
        seen: set[int] = set()
        while waiting:
            pid = waiting.pop()
            if pid in seen:
                continue
            seen.add(pid)
            if pid not in self._known:
                try:
                    self._known[pid] = psutil.Process(pid)
                except (psutil.Error, OSError):
                    continue
            waiting += _children(self._known[pid])


def _children(process: psutil.Process) -> list[int]:
    """Return the ids of a process's children; on Linux from the kernel's list, because psutil reads every process."""
    if not _LINUX:
        with contextlib.suppress(psutil.Error, OSError):
            return [child.pid for child in process.children()]
        return []
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def _peak_bytes(pid: int) -> float:
    """Return the peak resident set of a process; 0 if unknown."""
    if not _LINUX:
        return 0.0
    for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) * _KIB
    return 0.0


class Sampler:
    """Context manager around an attempt's work: `with Sampler(status, job_id, restart, process.pid): ...`."""

    def __init__(
        self,
        status: Path,
        job_id: str,
        restart: int,
        pid: int,
        *,
        gpus: Callable[[], GpuMeter | str] = open_gpus,
        sample_seconds: float = SAMPLE_SECONDS,
        write_seconds: float = WRITE_SECONDS,
    ) -> None:
        """Prepare the sampler; nothing is sampled yet.

        Args:
            pid: process of the work; its descendants count too.
            gpus: function that returns the GPU meter, or the reason why there is none.
        """
        self._path = resources_file(status, job_id, restart)
        self._job, self._restart = job_id, restart
        self._tree = ProcessTree(pid)
        self._open_gpus = gpus
        self._gpus: GpuMeter | str = "not sampled yet"
        self._sample_seconds, self._write_seconds = sample_seconds, write_seconds
        self._memory, self._cpu = RunningStats(), RunningStats()
        self._began = self._looked = time.monotonic()
        self._samples = 0
        self._over = threading.Event()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Sampler:
        # A machine that gives no more threads goes on without a sampler.
        with contextlib.suppress(RuntimeError):
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_PATIENCE_SECONDS)
        # A thread that hangs in a driver holds the guard; what was written before stays.
        if self._guard.acquire(timeout=CLOSE_PATIENCE_SECONDS if self._thread.is_alive() else -1):
            try:
                self._write()
                if isinstance(self._gpus, GpuMeter):
                    self._gpus.close()
            finally:
                self._guard.release()

    def summary(self) -> ResourceSummary:
        """Return the usage so far."""
        method = f"{RESIDENT}, every {self._sample_seconds:g} s"
        nothing = "it ended before the first sample" if self._samples == 0 else "only one sample"
        gpus = self._gpus.summaries() if isinstance(self._gpus, GpuMeter) else ()
        reason = self._gpus if isinstance(self._gpus, str) else "" if gpus else "no process of the job was on a GPU"
        cpu = "CPU time over wall-clock time (100 is one core)"
        return ResourceSummary(
            job_id=self._job,
            restart=self._restart,
            time_unix=time.time(),
            seconds=self._looked - self._began,
            samples=self._samples,
            memory_mean=self._memory.measured("mean", "B", nothing, kind="process", method=method),
            memory_peak=self._memory.measured("peak", "B", nothing, kind="process", method=method),
            cpu_mean=self._cpu.measured("mean", "%", nothing, method=cpu),
            cpu_peak=self._cpu.measured("peak", "%", nothing, method=cpu),
            gpus=gpus,
            gpu_reason=reason,
        )

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # whatever is wrong with looking, the work goes on
            with self._guard:
                self._gpus = self._open_gpus()
            first = list(FIRST_SECONDS)
            written = time.monotonic()
            while True:
                with self._guard:
                    self._look()
                    if time.monotonic() - written >= self._write_seconds:
                        written = time.monotonic()
                        self._write()
                if self._over.wait(min(first.pop(0), self._sample_seconds) if first else self._sample_seconds):
                    return

    def _look(self) -> None:
        """Take one sample on the monotonic clock."""
        seen = self._tree.look()
        if seen is None:
            return
        now = time.monotonic()
        resident, largest, spent = seen
        if self._samples == 0:
            self._began = self._looked = now
        since = now - self._looked
        self._memory.add(resident, since)
        self._memory.raise_peak(largest)
        if since > 0:
            self._cpu.add(100 * spent / since, since)
        self._looked = now
        self._samples += 1
        if isinstance(self._gpus, GpuMeter):
            self._gpus.sample(self._tree.pids, since)

    def _write(self) -> None:
        # The disk may be full, and the folder may be gone.
        with contextlib.suppress(OSError, TouchlineError):
            write_atomic(self._path, _SUMMARY.dump_json(self.summary(), indent=1) + b"\n")
