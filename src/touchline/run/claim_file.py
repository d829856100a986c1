"""A second lock, for file systems on which the kernel's lock of one node says nothing to another node.

status/claim.json names the attempt that works in a folder; it is made so that only one of two can make it (O_EXCL), and
so is the right to take it from a dead holder. The holder's sign of life is its heartbeat.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from touchline.core.files import disk_faults, read_head
from touchline.core.json_text import parse_json
from touchline.core.status import HEARTBEAT_STALE_SECONDS, AttemptStart
from touchline.run.processes import ProcessIdentity, is_alive

CLAIM = "claim.json"
FRESH_SECONDS = 20.0
"""A holder whose last heartbeat is younger than this is alive."""
_PAUSE_SECONDS = 2.0
_LIMIT_BYTES = 1 << 16


def take_claim(status: Path, start: AttemptStart) -> bool:
    """Claim the folder for an attempt; whether it is ours now. The same job takes it again after a requeue.

    Args:
        status: the folder of status files.
        start: who we are.

    Raises:
        HostError: the folder cannot be written to.
    """
    path = status / CLAIM
    with disk_faults("claim", path):
        status.mkdir(parents=True, exist_ok=True)
        while not _make(path, start):
            try:
                held = read_head(path, _LIMIT_BYTES)
            except FileNotFoundError:
                continue
            free = _is_free(path, held, start)
            if free is None:
                time.sleep(_PAUSE_SECONDS)
                continue
            if not free:
                return False
            if _replace(path, held, start):
                break
    return True


def claimant(status: Path) -> str:
    """Id of the job that holds the folder; empty when none does, or nobody can tell."""
    try:
        return str(parse_json(read_head(status / CLAIM, _LIMIT_BYTES))["job_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def drop_claim(status: Path) -> None:
    """Let the folder go."""
    with contextlib.suppress(OSError):
        (status / CLAIM).unlink()


def _make(path: Path, start: AttemptStart) -> bool:
    return _write_new(path, _content(start))


def _replace(path: Path, held: bytes, start: AttemptStart) -> bool:
    """Put our claim in the place of one that binds nobody; False when somebody else is about to.

    The right to replace that very claim is a file that only one can make. It goes away with the claim that it brought;
    one whose maker died before that is removed when it is old.
    """
    right = path.with_name(f"claim.{hashlib.sha256(held).hexdigest()[:16]}.next")
    if not _write_new(right, b""):
        with contextlib.suppress(FileNotFoundError):
            if _age_seconds(path, (right,)) > HEARTBEAT_STALE_SECONDS:
                right.unlink()
        return False
    try:
        if read_head(path, _LIMIT_BYTES) != held:
            return False
        new = path.with_name(f"claim.{secrets.token_hex(4)}.new")
        _write_new(new, _content(start))
        new.replace(path)
    except FileNotFoundError:
        return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            right.unlink()
    return True


def _content(start: AttemptStart) -> bytes:
    data = {
        "job_id": start.job_id,
        "restart": start.restart,
        "host": start.host,
        "boot_id": start.boot_id,
        "pid": start.pid,
        "pid_started": start.pid_started,
        # No two claims are alike, so that the right to replace one is no right to replace the next.
        "nonce": secrets.token_hex(8),
    }
    return json.dumps(data).encode() + b"\n"


def _write_new(path: Path, data: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return True


def _is_free(path: Path, held: bytes, start: AttemptStart) -> bool | None:
    """Whether a claim binds nobody: its holder is we, has ended, or has long given no sign of life; None while it is
    silent and may still be alive, since only time tells."""
    try:
        data = parse_json(held)
        job, restart = str(data["job_id"]), int(data["restart"])
        holder = ProcessIdentity(
            host=str(data["host"]),
            boot_id=str(data["boot_id"]),
            pid=int(data["pid"]),
            started=float(data["pid_started"]),
        )
    except (ValueError, KeyError, TypeError):
        # Cut off while it was written: as old as the file is.
        return _by_age(_age_seconds(path, (path,)))
    if job == start.job_id or (path.parent / f"exit.{job}.{restart}.json").exists():
        return True
    alive = is_alive(holder)
    if alive is not None:
        return not alive
    return _by_age(_age_seconds(path, (path, path.parent / f"heartbeat.{job}.{restart}")))


def _by_age(seconds: float) -> bool | None:
    if seconds <= FRESH_SECONDS:
        return False
    return True if seconds > HEARTBEAT_STALE_SECONDS else None


def _age_seconds(path: Path, signs: Sequence[Path]) -> float:
    """Age of the newest sign of life, by the file system's own clock: nodes' clocks may differ from it."""
    probe = path.with_name(f"claim.{secrets.token_hex(4)}.clock")
    probe.touch()
    try:
        now = probe.stat().st_mtime
    finally:
        probe.unlink()
    newest = 0.0
    for sign in signs:
        with contextlib.suppress(OSError):
            newest = max(newest, sign.stat().st_mtime)
    return now - newest
