"""Status files: start, heartbeat and exit of every attempt at a job, each written atomically.

status/lock is held by the kernel while the attempt or its work lives, and names the holder;
status/start.<job>.<restart>.json is an AttemptStart; status/heartbeat.<job>.<restart> holds seconds since 1970 as text;
status/exit.<job>.<restart>.json is an AttemptExit.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from pydantic import TypeAdapter, ValidationError

from touchline.core.files import is_other_folder, open_regular, read_record, write_atomic
from touchline.core.status import Attempt, AttemptExit, AttemptStart


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessIdentity:
    """Unambiguous identity of a process."""

    host: str
    boot_id: str
    pid: int
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


_START = TypeAdapter(AttemptStart)
_EXIT = TypeAdapter(AttemptExit)
_HOLDER = TypeAdapter(dict[str, ProcessIdentity | None])
_LIMIT_BYTES = 1 << 16


def write_start(status: Path, start: AttemptStart) -> None:
    """Write the start record of an attempt."""
    write_atomic(status / f"start.{start.job_id}.{start.restart}.json", _START.dump_json(start) + b"\n")


def write_exit(status: Path, end: AttemptExit) -> None:
    """Write the exit record of an attempt."""
    write_atomic(status / f"exit.{end.job_id}.{end.restart}.json", _EXIT.dump_json(end) + b"\n")


def write_heartbeat(status: Path, start: AttemptStart, now_unix: float) -> None:
    """Write the heartbeat of an attempt."""
    write_atomic(status / f"heartbeat.{start.job_id}.{start.restart}", f"{now_unix:.1f}\n")


def identity_of(start: AttemptStart) -> ProcessIdentity:
    """Return the supervisor process of a start record."""
    return ProcessIdentity(host=start.host, boot_id=start.boot_id, pid=start.pid, started=start.pid_started)


def read_attempts(status: Path) -> tuple[Attempt, ...]:
    """Return all attempts at a job, oldest first; corrupt and foreign files are skipped."""
    attempts: list[Attempt] = []
    try:
        names = os.listdir(status)  # noqa: PTH208 (names are enough, of a thousand runs)
    except OSError:
        return ()
    for file in names:
        if not (file.startswith("start.") and file.endswith(".json")):
            continue
        try:
            start = _START.validate_json(read_record(status / file))
        except (OSError, ValidationError):
            continue
        name = f"{start.job_id}.{start.restart}"
        end = _exit(status / f"exit.{name}.json") if f"exit.{name}.json" in names else None
        attempts.append(
            Attempt(
                start=start,
                exit=end,
                # What has ended needs no look at its heartbeat, nor at the machine's processes.
                heartbeat_unix=_heartbeat(status / f"heartbeat.{name}") if end is None else end.time_unix,
                alive=_is_alive(start, status) if end is None else False,
            )
        )
    return tuple(sorted(attempts, key=lambda attempt: (attempt.start.time_unix, attempt.start.restart)))


def _is_alive(start: AttemptStart, status: Path) -> bool | None:
    """Return False for an attempt in the folder from which this one was copied."""
    return False if is_other_folder(start.folder, status) else is_alive(identity_of(start))


def read_exit(status: Path, job_id: str, restart: int) -> AttemptExit | None:
    """Return the exit record of one attempt; None if there is none."""
    return _exit(status / f"exit.{job_id}.{restart}.json")


def read_exits(status: Path, job_id: str) -> list[AttemptExit]:
    """Return every exit record of a job, one per start."""
    found = [_exit(path) for path in status.glob(f"exit.{job_id}.*.json")]
    return [end for end in found if end is not None]


def write_holder(lock: Path, supervisor: ProcessIdentity, work: ProcessIdentity | None) -> None:
    """Write the holder into the lock file in place, because the kernel's lock is on this file."""
    holder = {"supervisor": asdict(supervisor), "work": None if work is None else asdict(work)}
    with lock.open("r+b") as stream:
        stream.write(json.dumps(holder).encode().ljust(600) + b"\n")
        stream.truncate()


def read_holder(lock: Path) -> tuple[ProcessIdentity | None, ProcessIdentity | None]:
    """Return (supervisor, work) from the lock file."""
    try:
        holder = _HOLDER.validate_json(_read(lock))
        return holder["supervisor"], holder["work"]
    except (OSError, ValidationError, KeyError):
        return None, None


def _exit(path: Path) -> AttemptExit | None:
    try:
        return _EXIT.validate_json(read_record(path))
    except (OSError, ValidationError):
        return None


def _heartbeat(path: Path) -> float | None:
    try:
        return float(_read(path))
    except (OSError, ValueError):
        return None


def _read(path: Path) -> bytes:
    with open_regular(path) as stream:
        return stream.read(_LIMIT_BYTES)
