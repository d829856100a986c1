"""The machine at hand, as a plan must know it. No torch here: the driver's own program tells of the GPUs."""

from __future__ import annotations

import os

import psutil

from touchline.core.machine import TargetMachine
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import GIB, MIB_PER_GIB
from touchline.data.gpus import ask_driver, visible_gpus
from touchline.data.hardware import BFLOAT16_CAPABILITY, choose_base_dtype, processor_name


def machine_here(gpus_per_run: int) -> TargetMachine:
    """The first visible GPU, or the processor where there is none or none is wanted."""
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
    """Threads that a framework starts here by itself: OMP_NUM_THREADS, else one for each core that may be used."""
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
        name=processor_name(),
        memory=Quantity(value=total, unit="GiB", kind="process", where="/proc/meminfo"),
        count=1,
        threads=computing_threads(),
        base_dtype=choose_base_dtype("auto", cuda_capability=None).dtype,
        source="this machine",
    )


def _first_gpu(gpu: str) -> tuple[str, Measured, tuple[int, int]]:
    for line in ask_driver("index,uuid,compute_cap,memory.total,name"):
        index, uuid, capability, memory, name = (part.strip() for part in line.split(",", 4))
        major, _, minor = capability.partition(".")
        if gpu in (index, uuid) and memory.split()[0].isdigit() and major.isdigit() and minor.isdigit():
            value = int(memory.split()[0]) / MIB_PER_GIB
            found = Quantity(value=value, unit="GiB", kind="process", where="nvidia-smi")
            return name, found, (int(major), int(minor))
    return f"GPU {gpu}", Missing(missing="nvidia-smi does not tell its name and memory"), BFLOAT16_CAPABILITY
