"""Atomic folders: written under a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter
from safetensors import SafetensorError

from touchline.core.files import disk_errors, sha256_file
from touchline.data.checkpoints import read_export_marker
from touchline.data.metrics import ExportMarker, SavedFile

_TEMPORARY = ".saving-"
_REPLACED = ".replaced-"


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` if the block succeeds, and is deleted otherwise.

    An existing folder stays until the new one is complete.

    Raises:
        HostError: the disk is full, or writing is not allowed.
    """
    with disk_errors("folder", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f"{_TEMPORARY}{target.name}-{secrets.token_hex(4)}"
        try:
            temporary.mkdir()
            yield temporary
            put_in_place(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(complete: Path, target: Path) -> None:
    """Write a complete folder to disk and rename it to `target`, replacing an existing one."""
    for path in sorted(complete.iterdir()):
        _sync(path)
    _sync(complete)
    if target.exists():
        replaced = target.parent / f"{_REPLACED}{target.name}-{secrets.token_hex(4)}"
        target.rename(replaced)
        complete.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        complete.rename(target)
    _sync(target.parent)


def remove_leftovers(folder: Path) -> None:
    """Delete partial folders of killed attempts; only the holder of the run's lock may do this."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name.startswith((_TEMPORARY, _REPLACED)) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a saved folder atomically: rename it first."""
    doomed = folder.parent / f"{_REPLACED}{folder.name}-{secrets.token_hex(4)}"
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> SavedFile:
    """Write a file of a new folder. Return its size and hash."""
    path.write_bytes(data)
    return SavedFile(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def describe(folder: Path) -> dict[str, SavedFile]:
    """Return size and hash of every file in a folder."""
    return {
        path.name: SavedFile(size=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def is_whole(folder: Path, files: dict[str, SavedFile], *, hashes: bool) -> bool:
    """Return True if all files exist with their sizes, and optionally with their hashes."""
    for name, saved in files.items():
        path = folder / Path(name).name
        if not path.is_file() or path.stat().st_size != saved.size:
            return False
        if hashes and sha256_file(path) != saved.sha256:
            return False
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def plain_disk_faults() -> Iterator[None]:
    """Convert a disk-full error of safetensors, which is written in Rust, to OSError."""
    try:
        yield
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" in str(error) or f"os error {errno.EDQUOT}" in str(error):
            raise OSError(errno.ENOSPC, "no space left on device") from error
        raise


MARKER_FILE = "touchline.json"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
STAGE_FILE = "stage_adapter.safetensors"
"""Adapter of one stage by itself, if earlier ones were merged into the base; `ADAPTER_FILE` then combines all of them.
"""
_NAME = re.compile(r"(epoch|step)_\d+")
_MARKER = TypeAdapter(ExportMarker)


def read_exports(folder: Path, run_digest: str) -> list[tuple[Path, ExportMarker]]:
    """Return this plan's checkpoints in a run folder, by step; folders without a readable marker are skipped."""
    found: list[tuple[Path, ExportMarker]] = []
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name) is None:
            continue
        marker = read_export_marker(path)
        if marker is not None and marker.run_digest == run_digest:
            found.append((path, marker))
    return sorted(found, key=lambda item: (item[1].step, item[0].name))


def marker_text(marker: ExportMarker) -> bytes:
    """Return the content of a checkpoint marker."""
    return _MARKER.dump_json(marker, indent=2) + b"\n"
