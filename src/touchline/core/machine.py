"""The machine that a plan is for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from touchline.core.estimate import Dtype
from touchline.core.quantity import Measured


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetMachine:
    """Target machine of the runs; measurements on another machine do not count as the same."""

    kind: Literal["gpu", "cpu"]
    """Whether the runs use GPUs or the CPU."""
    name: str
    """Device: `NVIDIA A100-SXM4-80GB`, `A100-80GB`, or the CPU's name."""
    memory: Measured
    """Memory of one device in GiB, as reported; for a CPU, all memory of the machine."""
    count: int
    """Devices; 1 for a CPU."""
    threads: int | None = None
    """Compute threads, on a CPU."""
    base_dtype: Dtype
    """Element type that `train.base_dtype: auto` becomes there."""
    source: str
    """Source: `this machine`, `compute.gpu`, or a config file."""

    @property
    def key(self) -> str:
        """Return the key under which measured times count as those of one machine."""
        return self.name if self.kind == "gpu" else cpu_key(self.name, self.threads)


_THREADS = re.compile(r"(?P<name>.+), (?P<threads>\d+) threads")


def cpu_key(name: str, threads: int | None) -> str:
    """Return the key of a CPU: times differ with the number of threads."""
    return f"{name}, {threads} threads"


def split_key(key: str) -> tuple[str, int | None]:
    """Return the name of the machine of a key and its threads. None for a GPU."""
    match = _THREADS.fullmatch(key)
    return (key, None) if match is None else (match["name"], int(match["threads"]))
