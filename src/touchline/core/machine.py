"""The machine that a plan is for."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from touchline.core.estimate import Dtype
from touchline.core.quantity import Measured
from touchline.core.units import plural


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
    """Compute threads of a CPU, which its slots share."""
    slots: int = 1
    """Trainings at once on a CPU."""
    base_dtype: Dtype
    """Element type that `train.base_dtype: auto` becomes there."""
    source: str
    """Source: `this machine`, `compute.gpu`, or a config file."""
    requested_type: str | None = None
    """The GPU's type in the scheduler's words, if it lists several; the jobs ask for it."""

    @property
    def key(self) -> str:
        """Return the key under which measured times count as those of one machine."""
        return self.name if self.kind == "gpu" else cpu_key(self.name, self.threads_per_run, self.slots)

    @property
    def threads_per_run(self) -> int | None:
        """Compute threads of one training."""
        return None if self.threads is None else max(self.threads // self.slots, 1)

    @property
    def whole_threads(self) -> int:
        """All compute threads; 1 where they are not known."""
        return self.threads or 1

    @property
    def whole(self) -> TargetMachine:
        """The machine with all threads for one process."""
        return replace(self, slots=1)


_KEY = re.compile(r"(?P<name>.+), (?P<threads>\d+) threads(, (?P<slots>\d+) at once)?")


def cpu_key(name: str, threads: int | None, slots: int = 1) -> str:
    """Return the key of a CPU: times differ with the threads of a process, and with how many run at once."""
    return f"{name}, {threads} threads" + (f", {slots} at once" if slots > 1 else "")


def split_key(key: str) -> tuple[str, int | None, int]:
    """Return the name of the machine of a key, its threads (None for a GPU) and its slots."""
    match = _KEY.fullmatch(key)
    if match is None:
        return key, None, 1
    slots = int(match["slots"] or 1)
    return match["name"], slots * int(match["threads"]), slots


def machine_text(key: str) -> str:
    """Return the machine of a key in words: `AMD EPYC, 1 thread`."""
    name, threads, slots = split_key(key)
    details = [plural(threads, "thread")] if threads else []
    details += [f"{slots} at once"] if slots > 1 else []
    return ", ".join([name, *details])


def whole_key(key: str) -> str:
    """Return the key of a machine without slots."""
    name, threads, _ = split_key(key)
    return key if threads is None else cpu_key(name, threads)
