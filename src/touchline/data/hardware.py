"""Which element type this machine is fast at. One place, so that training and evaluation compute alike. No torch here.

bfloat16 pays only where the hardware multiplies in it: on a processor with AVX512-BF16, AMX-BF16 or Arm's BF16
extension, and on NVIDIA GPUs from compute capability 8.0 on. Elsewhere it is emulated and several times slower than
float32. The caller, who has torch, tells the GPU's compute capability; the processor's flags are read from the kernel.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CPUINFO = Path("/proc/cpuinfo")
CPUINFO_LIMIT_BYTES = 64 * 1024
"""The first processor's entry is a few kilobytes; all are alike."""

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""The kernel's names of the instruction sets that multiply in bfloat16 (x86 and Arm)."""
BFLOAT16_CAPABILITY = (8, 0)
"""The first CUDA compute capability whose tensor cores take bfloat16."""

BaseDtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DtypeChoice:
    """An element type, and why."""

    dtype: BaseDtype
    """The element type of the frozen base."""
    reason: str
    """Why, in words for a log: `the processor has avx512_bf16`."""


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name as the kernel gives it, else as the platform does."""
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(CPUINFO_LIMIT_BYTES).splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def processor_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """The first processor's flags as the kernel lists them; empty where there is no such list."""
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
    """The element type to hold and compute the frozen base in.

    `cuda_capability` is `torch.cuda.get_device_capability()` of the GPU in use, or None for the processor; `flags`
    are the processor's, read from the kernel when not given.
    """
    if wanted != "auto":
        return DtypeChoice(dtype=wanted, reason="asked for")
    if cuda_capability is not None:
        name = f"compute capability {cuda_capability[0]}.{cuda_capability[1]}"
        if cuda_capability >= BFLOAT16_CAPABILITY:
            return DtypeChoice(dtype="bfloat16", reason=f"the GPU has {name}")
        return DtypeChoice(dtype="float32", reason=f"the GPU has only {name}")
    found = sorted(BFLOAT16_FLAGS & (processor_flags() if flags is None else flags))
    if found:
        return DtypeChoice(dtype="bfloat16", reason=f"the processor has {', '.join(found)}")
    return DtypeChoice(dtype="float32", reason="the processor does not multiply in bfloat16")
