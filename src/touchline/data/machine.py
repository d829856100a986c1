"""This machine: GPUs from nvidia-smi, CPU, memory and dtype, without torch."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from touchline.core.errors import HostError
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import GIB, MIB_PER_GIB, plural

CPUINFO = Path("/proc/cpuinfo")
CPUINFO_LIMIT_BYTES = 64 * 1024
"""Size of the first CPU's entry, a few kilobytes; all entries are alike."""

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Kernel flags of instruction sets with bfloat16 products (x86 and Arm)."""
BFLOAT16_CAPABILITY = (8, 0)
"""First CUDA compute capability with bfloat16 tensor cores."""

BaseDtype = Literal["float32", "bfloat16"]


def absent_packages(names: Iterable[str]) -> list[str]:
    """Return the packages that are not installed in this environment."""
    return [name for name in names if importlib.util.find_spec(name) is None]


@dataclass(frozen=True, kw_only=True, slots=True)
class DtypeChoice:
    """Dtype and the reason for it."""

    dtype: BaseDtype
    reason: str
    """Reason for a log: `the CPU has avx512_bf16`."""


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """Return the name of the CPU from the kernel, else from the platform."""
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(CPUINFO_LIMIT_BYTES).splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Return the first CPU's flags from the kernel. Empty if there are none."""
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as file:
            text = file.read(CPUINFO_LIMIT_BYTES)
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in {"flags", "features"}:
            return frozenset(value.split())
    return frozenset()


def choose_base_dtype(
    wanted: Literal["auto", "float32", "bfloat16"],
    *,
    cuda_capability: tuple[int, int] | None,
    flags: frozenset[str] | None = None,
) -> DtypeChoice:
    """Choose the dtype of the frozen base model.

    `cuda_capability` is `torch.cuda.get_device_capability()` of the GPU in use, or None for the CPU; `flags`
    are the CPU's, read from the kernel if not given.
    """
    if wanted != "auto":
        return DtypeChoice(dtype=wanted, reason="asked for")
    if cuda_capability is not None:
        name = f"compute capability {cuda_capability[0]}.{cuda_capability[1]}"
        if cuda_capability >= BFLOAT16_CAPABILITY:
            return DtypeChoice(dtype="bfloat16", reason=f"the GPU has {name}")
        return DtypeChoice(dtype="float32", reason=f"the GPU has only {name}")
    found = sorted(BFLOAT16_FLAGS & (cpu_flags() if flags is None else flags))
    if found:
        return DtypeChoice(dtype="bfloat16", reason=f"the CPU has {', '.join(found)}")
    return DtypeChoice(dtype="float32", reason="the CPU does not multiply in bfloat16")


def visible_gpus() -> tuple[str, ...]:
    """Return the ids of usable GPUs. Empty without any."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return tuple(part.strip() for part in allowed.split(",") if part.strip() and part.strip() != "-1")
    return tuple(line.strip() for line in query_nvidia_smi("index") if line.strip().isdigit())


def query_nvidia_smi(fields: str) -> list[str]:
    """Return one line per GPU with these nvidia-smi fields, `index,name`. Empty without nvidia-smi or GPUs."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run(  # noqa: S603 (a fixed command)
            [program, f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.splitlines() if listed.returncode == 0 else []


def slots(gpus: tuple[str, ...], gpus_per_run: int, setting: str = "compute.gpus_per_run") -> list[tuple[str, ...]]:
    """Return groups of GPUs, one per concurrent job; one empty group for CPU runs.

    Raises:
        HostError: a run wants more GPUs than there are.
    """
    if not gpus or gpus_per_run == 0:
        return [()]
    groups = [gpus[i : i + gpus_per_run] for i in range(0, len(gpus) - gpus_per_run + 1, gpus_per_run)]
    if not groups:
        hint = f"{setting}={len(gpus)}"
        raise HostError(f"{setting} is {gpus_per_run}, but this machine has {plural(len(gpus), 'GPU')}", hint=hint)
    return groups


def machine_here(gpus_per_run: int) -> TargetMachine:
    """Return the first visible GPU, or the CPU if there is none or none is requested."""
    visible = visible_gpus() if gpus_per_run else ()
    if not visible:
        return _processor()
    name, memory, capability = _first_gpu(visible[0])
    return TargetMachine(
        kind="gpu",
        name=name,
        memory=memory,
        count=len(visible),
        base_dtype=choose_base_dtype("auto", cuda_capability=capability).dtype,
        source="this machine",
    )


def computing_threads() -> int:
    """Return the default thread count of a framework: OMP_NUM_THREADS, else one per usable core."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = psutil.cpu_count(logical=False) or allowed
    return max(min(allowed, cores), 1)


def _processor() -> TargetMachine:
    total = psutil.virtual_memory().total / GIB
    return TargetMachine(
        kind="cpu",
        name=cpu_name(),
        memory=Quantity(value=total, unit="GiB", kind="process", where="/proc/meminfo"),
        count=1,
        threads=computing_threads(),
        base_dtype=choose_base_dtype("auto", cuda_capability=None).dtype,
        source="this machine",
    )


def _first_gpu(gpu: str) -> tuple[str, Measured, tuple[int, int]]:
    for line in query_nvidia_smi("index,uuid,compute_cap,memory.total,name"):
        index, uuid, capability, memory, name = (part.strip() for part in line.split(",", 4))
        major, _, minor = capability.partition(".")
        if gpu in (index, uuid) and memory.split()[0].isdigit() and major.isdigit() and minor.isdigit():
            value = int(memory.split()[0]) / MIB_PER_GIB
            found = Quantity(value=value, unit="GiB", kind="process", where="nvidia-smi")
            return name, found, (int(major), int(minor))
    return f"GPU {gpu}", Missing(missing="nvidia-smi does not report its name and memory"), BFLOAT16_CAPABILITY


def load_1min() -> Measured:
    """Return the load average of the last minute."""
    try:
        return Quantity(value=os.getloadavg()[0], unit="1", aggregation="mean")
    except OSError:
        return Missing(missing="the system does not report its load")
