"""Process identity beyond the pid, which is reused after a reboot or many processes."""

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
    """Unambiguous identity of a process."""

    host: str
    """Node name."""
    boot_id: str
    """Boot of the machine."""
    pid: int
    """Process id."""
    started: float
    """Start time on a monotonic kernel clock."""


def boot_id() -> str:
    """Return an id of this boot of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def started(pid: int) -> float | None:
    """Return the start time of a process; None if there is no such process.

    On Linux in clock ticks since boot (field 22 of /proc/PID/stat), which is unaffected by clock changes.
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
    """Return the identity of a living process; of this one without a pid."""
    own = os.getpid() if pid is None else pid
    return ProcessIdentity(host=platform.node(), boot_id=boot_id(), pid=own, started=started(own) or 0.0)


def is_alive(identity: ProcessIdentity) -> bool | None:
    """Return True if that process is running; None if it is on another machine."""
    if identity.host != platform.node():
        return None
    return identity.boot_id == boot_id() and started(identity.pid) == identity.started


def send_signal(identity: ProcessIdentity, number: signal.Signals) -> bool:
    """Signal that process if it is running. Return True if so."""
    if is_alive(identity) is not True:
        return False
    try:
        os.kill(identity.pid, number)
    except ProcessLookupError:
        return False
    return True
