"""Scratch folder for unfinished logs, inside the experiment so that a finished log can be renamed.

Each process holds a kernel lock beside its folder. A folder with a free lock belongs to a killed process and is deleted
by the next one.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from touchline.core.files import disk_faults, try_lock

SCRATCH = Path(".touchline", "evaluating")
_LOCK_SUFFIX = ".lock"


@contextmanager
def scratch_folder(experiment: Path) -> Iterator[Path]:
    """Yield a new folder of this process, deleted afterwards; leftovers of killed processes are deleted first."""
    parent = experiment / SCRATCH
    with disk_faults("folder", parent):
        parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent)
    lock, descriptor = _own_lock(parent)
    folder = lock.with_suffix("")
    try:
        with disk_faults("folder", folder):
            folder.mkdir()
        yield folder
    finally:
        _remove(folder, lock)
        os.close(descriptor)


def remove_leftovers(parent: Path) -> None:
    """Delete the folders of ended processes."""
    for lock in sorted(parent.glob(f"*{_LOCK_SUFFIX}")):
        descriptor = try_lock(lock)
        if descriptor is not None:
            _remove(lock.with_suffix(""), lock)
            os.close(descriptor)


def _own_lock(parent: Path) -> tuple[Path, int]:
    """Return a new held lock; before locking, another process may have deleted it as a leftover."""
    while True:
        lock = parent / f"{os.getpid()}-{secrets.token_hex(4)}{_LOCK_SUFFIX}"
        descriptor = try_lock(lock)
        if descriptor is None:
            continue
        try:
            if lock.stat().st_ino == os.fstat(descriptor).st_ino:
                return lock, descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _remove(folder: Path, lock: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    lock.unlink(missing_ok=True)
