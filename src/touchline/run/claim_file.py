"""Claim file: second lock, for file systems whose kernel locks do not hold across nodes.

status/claim.json names the attempt that works in a folder. It is created exclusively (O_EXCL), and so is the right to
take it from a dead holder. The holder is alive while its heartbeat is fresh.
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

from touchline.core.files import disk_errors, read_head
from touchline.core.json_text import parse_json
from touchline.core.status import HEARTBEAT_STALE_SECONDS, AttemptStart
from touchline.run.statusfiles import ProcessIdentity, is_alive

CLAIM = "claim.json"
FRESH_SECONDS = 20.0
"""Age of the last heartbeat in seconds below which the holder is alive."""
_PAUSE_SECONDS = 2.0
_LIMIT_BYTES = 1 << 16


def take_claim(status: Path, start: AttemptStart) -> bool:
    """Claim the folder for an attempt. Return True if successful. A requeued job reclaims its own claim.

    Raises:
        HostError: the folder is not writable.
    """
    path = status / CLAIM
    with disk_errors("claim", path):
        status.mkdir(parents=True, exist_ok=True)
        while not _write_new(path, _content(start)):
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
    """Return the id of the job that holds the folder; empty if none or unknown."""
    try:
        return str(parse_json(read_head(status / CLAIM, _LIMIT_BYTES))["job_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def drop_claim(status: Path) -> None:
    """Release the claim."""
    with contextlib.suppress(OSError):
        (status / CLAIM).unlink()


def _replace(path: Path, held: bytes, start: AttemptStart) -> bool:
    """Replace a claim without a living holder. Return False if another process is about to.

    The right to replace this claim is an exclusively created file. It is deleted with the replacement; an abandoned one
    is deleted when old.
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
    """Return True if a claim has no living holder: it is this attempt's, has ended, or its heartbeat is old; None while
    undecided.
    """
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
    """Return the age of the newest file in seconds, by the file system's clock: nodes' clocks may differ."""
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
