"""Memory of a probe: peaks by kind, a share of a GPU, and out-of-memory errors.

The CUDA parts are not verified on a GPU.
"""

from __future__ import annotations

from pathlib import Path

import torch

from touchline.history.probe import ProbeMemory, ProbeOutcome, ProbeRequest
from touchline.train.machine import Machine

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"
"""Value that resets the peak of the resident set; see proc(5)."""
_HOST_WORDS = ("can't allocate memory", "not enough memory", "cannot allocate memory")
_GPU_WORDS = ("out of memory", "alloc_failed")


def lacking(error: BaseException, device: str) -> ProbeOutcome | None:
    """Return which memory is exhausted according to an error; None for another error."""
    text = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError):
        return ProbeOutcome.GPU_OOM
    if isinstance(error, MemoryError) or any(words in text for words in _HOST_WORDS):
        return ProbeOutcome.HOST_OOM
    if device == "cuda" and any(words in text for words in _GPU_WORDS):
        return ProbeOutcome.GPU_OOM
    return None


def peak_bytes() -> int | None:
    """Return the peak resident set since `forget_peak` or the process start; None if the kernel does not report it."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else None


def forget_peak() -> bool:
    """Reset the peak. Return True if that is supported."""
    try:
        _CLEAR.write_text(_CLEAR_PEAK, encoding="ascii")
    except OSError:
        return False
    return peak_bytes() is not None


def keep_to_share(request: ProbeRequest, machine: Machine) -> None:
    """Limit this process to a share of the GPU, if requested."""
    if machine.kind == "cuda" and request.gpu_limit_bytes is not None:
        free, total = torch.cuda.mem_get_info()
        others_bytes = request.gpu_in_use_before_bytes
        context_bytes = 0 if others_bytes is None else max(total - free - others_bytes, 0)
        share = max(request.gpu_limit_bytes - context_bytes, 0) / total
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0))


def gpu_memory(
    loaded_bytes: int, loading_bytes: int | None, allocated_bytes: int, reserved_bytes: int, request: ProbeRequest
) -> ProbeMemory:
    """Return the GPU memory by kind; process memory includes the allocator's cache and the driver's context."""
    free, total = torch.cuda.mem_get_info()
    others_bytes = request.gpu_in_use_before_bytes
    process_bytes: int | None = None
    method = "not known: the driver does not tell what other processes hold"
    if others_bytes is not None:
        context_bytes = max(total - free - torch.cuda.memory_reserved() - others_bytes, 0)
        process_bytes = reserved_bytes + context_bytes
        method = "reserved, and what the device holds beside it and beside other processes"
    return ProbeMemory(
        loaded_bytes=loaded_bytes,
        loading_bytes=loading_bytes,
        allocated_bytes=allocated_bytes,
        reserved_bytes=reserved_bytes,
        process_bytes=process_bytes,
        method=method,
    )
