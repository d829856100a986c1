"""A second lock, for file systems on which the kernel's lock of one node says nothing to another node.

status/claim.json names the attempt that works in a folder; it is made so that only one of two can make it (O_EXCL), and
is taken from a dead holder by a rename, which also only one of two can do. The holder's sign of life is its heartbeat.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path

from touchline.domain.status import AttemptStart
from touchline.files import disk_faults
from touchline.launch.processes import ProcessIdentity, is_alive

CLAIM = "claim.json"
STALE_SECONDS = 90.0
"""A holder on another node whose last heartbeat is older than this is taken to be dead; heartbeats come every 5 s."""
_LIMIT_BYTES = 1 << 16


def take_claim(status: Path, start: AttemptStart) -> bool:
    """Claim the folder for an attempt; whether it is ours now. The same job takes it again after a requeue.

    Args:
        status: the folder of status files.
        start: who we are.

    Raises:
        EnvironmentFault: the folder cannot be written to.
    """
    path = status / CLAIM
    with disk_faults("claim", path):
        status.mkdir(parents=True, exist_ok=True)
        while not _make(path, start):
            if not _is_free(path, start):
                return False
            # Of two that find it free, one moves it away; the other finds nothing to move and looks again.
            with contextlib.suppress(FileNotFoundError):
                gone = path.with_name(f"claim.{secrets.token_hex(4)}.gone")
                path.rename(gone)
                gone.unlink()
    return True


def drop_claim(status: Path) -> None:
    """Let the folder go."""
    with contextlib.suppress(OSError):
        (status / CLAIM).unlink()


def _make(path: Path, start: AttemptStart) -> bool:
    data = {
        "job_id": start.job_id,
        "restart": start.restart,
        "host": start.host,
        "boot_id": start.boot_id,
        "pid": start.pid,
        "pid_started": start.pid_started,
    }
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as stream:
        stream.write(json.dumps(data) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return True


def _is_free(path: Path, start: AttemptStart) -> bool:
    """Whether the claim that is there binds nobody: its holder is we, has ended, or has long given no sign of life."""
    try:
        with path.open("rb") as stream:
            data = json.loads(stream.read(_LIMIT_BYTES))
        job, restart = str(data["job_id"]), int(data["restart"])
        holder = ProcessIdentity(
            host=str(data["host"]),
            boot_id=str(data["boot_id"]),
            pid=int(data["pid"]),
            started=float(data["pid_started"]),
        )
    except FileNotFoundError:
        return True
    except (ValueError, KeyError, TypeError):
        # Cut off while it was written: as old as the file is.
        return _age_seconds(path, path) > STALE_SECONDS
    if job == start.job_id or (path.parent / f"exit.{job}.{restart}.json").exists():
        return True
    alive = is_alive(holder)
    if alive is not None:
        return not alive
    return _age_seconds(path, path.parent / f"heartbeat.{job}.{restart}") > STALE_SECONDS


def _age_seconds(path: Path, sign: Path) -> float:
    """Age of the newest sign of life, by the file system's own clock: nodes' clocks may differ from it."""
    probe = path.with_name(f"claim.{secrets.token_hex(4)}.clock")
    probe.touch()
    try:
        now = probe.stat().st_mtime
    finally:
        probe.unlink()
    newest = 0.0
    for each in (path, sign):
        with contextlib.suppress(OSError):
            newest = max(newest, each.stat().st_mtime)
    return now - newest
