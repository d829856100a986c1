"""Training machine: device, dtype, threads, and measurements during steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

import psutil
import torch

from touchline.core.quantity import Measured, MemoryKind, Missing, Quantity
from touchline.data.machine import DtypeChoice, choose_base_dtype, cpu_name
from touchline.data.worker import stack_versions

FETCH_STEPS = 10  # Most optimizer steps whose losses and norms are fetched from a GPU together
FETCH_SECONDS = 1.0  # Time that the steps fetched together may take, by the duration of the steps before
SAMPLE_SECONDS = 0.1  # Seconds between two readings of the resident set; a reading takes about 20 µs
_LIBRARIES = ("touchline", "torch", "transformers", "peft", "safetensors", "tokenizers", "numpy")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Device and dtype of a training."""

    device: torch.device
    device_name: str
    base_dtype: torch.dtype
    """Dtype of the frozen base and of the computation."""
    choice: DtypeChoice
    threads: int
    fetch_steps: int = 1
    """Most optimizer steps whose losses and norms are fetched together."""

    @property
    def kind(self) -> Literal["cpu", "cuda"]:
        """Device kind."""
        return "cuda" if self.device.type == "cuda" else "cpu"


def select_device(wanted: Literal["auto", "float32", "bfloat16"]) -> Machine:
    """Select device and dtype."""
    cuda = torch.cuda.is_available()
    choice = choose_base_dtype(wanted, cuda_capability=torch.cuda.get_device_capability() if cuda else None)
    return Machine(
        device=torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu"),
        device_name=torch.cuda.get_device_name() if cuda else cpu_name(),
        base_dtype=_DTYPES[choice.dtype],
        choice=choice,
        threads=torch.get_num_threads(),
        fetch_steps=FETCH_STEPS if cuda else 1,
    )


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device. A copy to a GPU is made from pinned memory, and the host does not wait for it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def torch_dtype(name: Literal["float32", "bfloat16"]) -> torch.dtype:
    """Return the torch dtype of a name."""
    return _DTYPES[name]


def facts_of(machine: Machine) -> dict[str, Any]:
    """Return the fields of `AttemptSetup` that are facts of the machine."""
    return {
        "device": machine.device_name,
        "device_kind": machine.kind,
        "threads": machine.threads,
        "versions": library_versions(),
        "base_dtype": machine.choice.dtype,
        "base_dtype_reason": machine.choice.reason,
    }


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the computing libraries."""
    return stack_versions(_LIBRARIES, torch.version.cuda)


class MemorySampler:
    """Peak memory during steps, from a thread that reads the resident set, or from the GPU allocator.

    Used as a context manager around all steps of an attempt; `watch` marks the steps, so that loading, validation and
    saving do not count on a CPU.
    """

    def __init__(self, machine: Machine) -> None:
        self._cuda = machine.kind == "cuda"
        self._process = psutil.Process()
        self._peak_bytes = 0
        self._active = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory sampler", daemon=True)

    def __enter__(self) -> MemorySampler:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._active.set()
        if self._thread.is_alive():
            self._thread.join()

    def watch(self, active: bool) -> None:
        """Start or pause sampling."""
        if self._cuda or self._ended.is_set():
            return
        if active:
            self._active.set()
        else:
            self._look()
            self._active.clear()

    def peaks(self) -> tuple[Measured, Measured]:
        """Return (peak, reserved peak) in bytes."""
        if self._cuda:
            return (
                _peak(torch.cuda.max_memory_allocated(), "allocated"),
                _peak(torch.cuda.max_memory_reserved(), "reserved"),
            )
        return _peak(self._peak_bytes, "process"), Missing(missing="no GPU in use")

    def _watch(self) -> None:
        while not self._ended.is_set():
            self._active.wait()
            self._look()
            self._ended.wait(SAMPLE_SECONDS)

    def _look(self) -> None:
        self._peak_bytes = max(self._peak_bytes, int(self._process.memory_info().rss))


def _peak(size_bytes: int, kind: MemoryKind) -> Quantity:
    return Quantity(value=float(size_bytes), unit="B", phase="step", kind=kind, aggregation="peak")


class _DeviceUse(Protocol):
    gpu: int


def gpu_meter(machine: Machine) -> Callable[[], Measured]:
    """Return a function that measures the GPU's utilization by its driver."""
    if machine.kind == "cpu":
        return lambda: Missing(missing="no GPU in use")
    try:
        import pynvml
    except ImportError:
        return lambda: Missing(missing="the package pynvml is not installed")
    try:
        pynvml.nvmlInit()
        identity = str(torch.cuda.get_device_properties(machine.device).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(
            identity if identity.startswith(("GPU-", "MIG-")) else f"GPU-{identity}"
        )
    except pynvml.NVMLError as error:
        reason = f"NVML error: {error}"
        return lambda: Missing(missing=reason)

    def read() -> Measured:
        try:
            use: _DeviceUse = pynvml.nvmlDeviceGetUtilizationRates(handle)
        except pynvml.NVMLError as error:
            return Missing(missing=f"NVML error: {error}")
        return Quantity(value=float(use.gpu), unit="%", phase="step", aggregation="last")

    return read


class Moment:
    """Moment in the work of a device: on a GPU, when it has done what it was asked for before; nothing waits for it."""

    def __init__(self, machine: Machine) -> None:
        self._event = torch.cuda.Event(enable_timing=True) if machine.kind == "cuda" else None
        if self._event is not None:
            self._event.record()
        self._time = time.perf_counter()

    def seconds_to(self, later: Moment) -> float:
        """Return the wall-clock time from here to a later moment, which a GPU must have reached."""
        if self._event is None or later._event is None:
            return later._time - self._time
        milliseconds: float = self._event.elapsed_time(later._event)
        return milliseconds / 1000


class Stopwatch:
    """Wall-clock and CPU time since its creation."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._processor = time.process_time()

    def seconds(self) -> float:
        """Return the wall-clock time in seconds."""
        return time.perf_counter() - self._wall

    def cpu_percent(self) -> float:
        """Return CPU time of all threads over wall-clock time; 100 is one core."""
        return 100 * (time.process_time() - self._processor) / max(self.seconds(), 1e-9)
