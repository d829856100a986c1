"""Common setup, error reporting and versions of the processes that load torch."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import platform
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from touchline.core.errors import HostError, TouchlineError, install_hint
from touchline.core.files import read_head
from touchline.data.machine import absent_packages

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}
"""OpenMP wait policy: spin briefly, then sleep.

Threads that spin for long hold each other up as soon as anything else wants a core; threads that sleep at once lose
time on free ones. Measured, seconds a training step, SmolLM2-135M on 2 cores (8 examples, 112 computed tokens): on free
cores 0.44 spinning, 0.66 sleeping at once, 0.40 with this; next to one busy process 1.32 with this. Spinning on cores
shared with several other jobs, a training fell to a tenth of its speed and below.
"""

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Environment that keeps libraries offline, since nodes may have no network and files must not change."""

QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Environment that silences libraries in a job's log."""

ALLOCATOR = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""Micro-batches differ in size, and a cache cut for one has no room for the next, although enough is free: of a GPU's
memory, segments that grow lose less to that. Trainings and probes have it alike, so that what fits in one fits in the
other. Not verified on a GPU."""
_ALLOCATOR_NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Environment variables with which the user configures the allocator."""


_PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], object]:
    """Return a call by which a process asks the kernel to kill it when its parent ends; nothing happens but on Linux.

    A process may make it between fork and exec, since the library is loaded here.
    """
    if sys.platform != "linux":
        return lambda: None
    library = ctypes.CDLL(None, use_errno=True)
    return functools.partial(library.prctl, _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def prepare_worker() -> None:
    """Set the environment variables that are not set. Call it before torch is imported."""
    allocator = {} if any(name in os.environ for name in _ALLOCATOR_NAMES) else ALLOCATOR
    for name, value in (WAITING | OFFLINE | QUIET | allocator).items():
        os.environ.setdefault(name, value)
    # What libraries plan to rename in their own code is nothing that the reader of a job's log can act on.
    warnings.filterwarnings("ignore", category=FutureWarning)


@contextlib.contextmanager
def bitsandbytes_left_out(*, unless: bool = False) -> Iterator[None]:
    """Make bitsandbytes look as if it were not installed. Enter it in a process of its own, before peft is imported.

    peft imports it with the first adapter wherever it is installed, which takes 1.3 to 2 s of CPU time. It keeps the
    first answer of its `is_bnb_available`.
    """
    name = "bitsandbytes"
    if unless or name in sys.modules:
        yield
        return
    sys.modules[name] = cast(Any, None)
    try:
        yield
    finally:
        del sys.modules[name]


def require_bitsandbytes(setting: str) -> None:
    """Require bitsandbytes, and accelerate, by which transformers places a quantized base.

    Raises:
        HostError: one is not installed.
    """
    absent = absent_packages(("accelerate", "bitsandbytes"))
    if absent:
        raise HostError(f"{setting} needs {' and '.join(absent)}, not installed here", hint=install_hint("quantized"))
    # The products of 8-bit matrices round activations to float16 and say so for every layer of every pass.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def keep_trainable_layout(model: Any) -> None:
    """Keep the 4-bit layers of bitsandbytes in the layout that has a backward pass.

    On some CPUs a layer repacks its weights for inference at its first forward pass in evaluation mode, in place; the
    repacked form has no gradient and needs output sizes that are multiples of 32 (bitsandbytes 0.50, `Linear4bit`).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 (an attribute of bitsandbytes' layers)


_FAULT = "touchline: error: "


def told_faults(stderr: str) -> list[str]:
    """Return the error messages that a worker wrote to its standard error."""
    return [line.removeprefix(_FAULT).strip() for line in stderr.splitlines() if line.startswith(_FAULT)]


def tell_fault(fault: TouchlineError) -> None:
    """Write an error to the job's log: message, expected value and hint."""
    lines = [fault.message]
    lines += [f"{finding.subject}: {finding.message}" for finding in fault.findings]
    if fault.expected is not None:
        lines.append(f"expected: {fault.expected}")
    if fault.hint is not None:
        lines.append(f"try: {fault.hint}")
    sys.stderr.write(_FAULT + "\n  ".join(lines) + "\n")


DRIVER = Path("/proc/driver/nvidia/version")
_DRIVER_LIMIT_BYTES = 4096
_DRIVER_VERSION = re.compile(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s")


def stack_versions(libraries: Sequence[str], cuda: str | None, driver: Path = DRIVER) -> dict[str, str]:
    """Return the versions of Python, of libraries, and of CUDA and the GPU's driver where there are any."""
    versions = {"python": platform.python_version()}
    for name in libraries:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    if cuda is not None:
        versions["cuda"] = cuda
    if (found := _driver(driver)) is not None:
        versions["driver"] = found
    return versions


def _driver(path: Path) -> str | None:
    try:
        text = read_head(path, _DRIVER_LIMIT_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    found = _DRIVER_VERSION.search(text)
    return None if found is None else found[1]
