"""GPU slots of this machine; a machine without GPUs has one slot, the processor."""

from __future__ import annotations

import os
import shutil
import subprocess

from touchline.core.errors import HostError


def visible_gpus() -> tuple[str, ...]:
    """Ids of the GPUs that may be used here; empty on a machine without any."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return tuple(part.strip() for part in allowed.split(",") if part.strip() and part.strip() != "-1")
    return tuple(line.strip() for line in ask_driver("index") if line.strip().isdigit())


def ask_driver(fields: str) -> list[str]:
    """One line a GPU with these fields of nvidia-smi, `index,name`; empty where there is no such program or GPU."""
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


def slots(gpus: tuple[str, ...], gpus_per_run: int) -> list[tuple[str, ...]]:
    """Groups of GPUs, one for each run at a time; one empty group where runs use the processor.

    Raises:
        HostError: a run wants more GPUs than there are.
    """
    if not gpus or gpus_per_run == 0:
        return [()]
    groups = [gpus[i : i + gpus_per_run] for i in range(0, len(gpus) - gpus_per_run + 1, gpus_per_run)]
    if not groups:
        raise HostError(
            f"a run wants {gpus_per_run} GPUs and this machine has {len(gpus)}",
            hint=f"compute.gpus_per_run={len(gpus)}",
        )
    return groups
