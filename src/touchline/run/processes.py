"""Which process is which: a bare pid lies, after a reboot and after enough other processes."""

from __future__ import annotations

import os
import platform
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessIdentity:
    """A process that no other can be mistaken for."""

    host: str
    """Node name."""
    boot_id: str
    """The machine's boot."""
    pid: int
    """Process id."""
    started: float
    """When it began, on a clock of the kernel's that nobody sets."""


def boot_id() -> str:
    """An id of this boot of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def started(pid: int) -> float | None:
    """When a process began; None when there is no such process.

    On Linux in clock ticks since boot (field 22 of /proc/PID/stat), which a change of the clock does not touch.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        pass
    else:
        return None if fields[0] in "ZX" else float(fields[19])
    if sys.platform == "linux":
        return None
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def identify(pid: int | None = None) -> ProcessIdentity:
    """The identity of a living process; of this one when no pid is given."""
    own = os.getpid() if pid is None else pid
    return ProcessIdentity(host=platform.node(), boot_id=boot_id(), pid=own, started=started(own) or 0.0)


def is_alive(identity: ProcessIdentity) -> bool | None:
    """Whether that very process is running; None when it is on another machine."""
    if identity.host != platform.node():
        return None
    return identity.boot_id == boot_id() and started(identity.pid) == identity.started


def send_signal(identity: ProcessIdentity, number: signal.Signals) -> bool:
    """Signal that very process, if it is there; say whether it was."""
    if is_alive(identity) is not True:
        return False
    try:
        os.kill(identity.pid, number)
    except ProcessLookupError:
        return False
    return True
