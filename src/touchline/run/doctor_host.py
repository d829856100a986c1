"""Checks of `doctor` on this machine: interpreters, packages, folders, locks; torch is not imported."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import secrets
import shutil
import sys
from pathlib import Path

from touchline.core.errors import FileLocksUnsupportedError, TouchlineError
from touchline.core.files import try_lock
from touchline.core.json_text import parse_json
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.slurm.doctor import FolderFacts, PythonFacts
from touchline.slurm.local.cluster import said
from touchline.slurm.local.commands import Commands

PACKAGES = ("torch", "transformers", "peft", "accelerate", "inspect_ai")
"""Packages for training and evaluation."""
_OTHER_SECONDS = 60.0
_MOUNTS = Path("/proc/mounts")
# Started in another interpreter, which may have nothing: only what every Python 3 has.
_ASK_PACKAGES = """\
import importlib.metadata, json, platform, sys
def version(name):
    try: return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: return None
print(json.dumps([platform.python_version(), {name: version(name) for name in sys.argv[1:]}]))
"""
_TRY_LOCK = """\
import fcntl, sys
try: fcntl.flock(open(sys.argv[1], "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError: sys.exit(0)
sys.exit(3)
"""


def python_here() -> PythonFacts:
    """Return facts of this interpreter."""
    packages = {name: _version(name) for name in PACKAGES}
    return PythonFacts(
        path=sys.executable, version=platform.python_version(), packages=packages, touchline=_version("touchline")
    )


def python_there(path: str, commands: Commands) -> PythonFacts:
    """Return facts of another interpreter on this machine; that of compute nodes is usually on a shared disk."""
    answer = commands.run([path, "-c", _ASK_PACKAGES, "touchline", *PACKAGES], timeout_seconds=_OTHER_SECONDS)
    try:
        version, packages = parse_json(answer.out) if answer.ok else (None, None)
    except ValueError:
        version, packages = None, None
    if not isinstance(version, str) or not isinstance(packages, dict):
        return PythonFacts(path=path, version="", packages={}, touchline=None, problem=said(answer))
    touchline = packages.pop("touchline")
    return PythonFacts(path=path, version=version, packages=packages, touchline=touchline)


def inspect_folder(name: str, path: Path, commands: Commands) -> FolderFacts:
    """Check that a folder can be written and locked.

    A missing folder would be created in its parent, so the parent is checked.
    """
    there = next((each for each in (path, *path.parents) if each.is_dir()), Path("/"))
    free, total = _space(there)
    kind, options = mount_of(there)
    problem, locks = _try_writing(there, commands)
    return FolderFacts(
        name=name,
        path=str(path),
        exists=path.is_dir(),
        writable=problem is None,
        problem=problem,
        free=free,
        total_bytes=total,
        locks=locks,
        file_system=kind,
        locks_across_nodes=locks_hold_across_nodes(kind, options),
    )


def _try_writing(folder: Path, commands: Commands) -> tuple[str | None, bool | None]:
    """Return (reason why the folder is not writable, whether a lock excludes another process)."""
    file = folder / f".touchline-doctor-{secrets.token_hex(4)}"
    try:
        descriptor = try_lock(file)
    except FileLocksUnsupportedError:
        file.unlink(missing_ok=True)
        return None, False
    except TouchlineError as fault:
        file.unlink(missing_ok=True)
        return fault.message, None
    except OSError as error:
        return error.strerror or str(error), None
    try:
        if descriptor is None:
            return None, False
        os.write(descriptor, b"touchline doctor was here\n")
        os.fsync(descriptor)
        refused = commands.run([sys.executable, "-c", _TRY_LOCK, str(file)], timeout_seconds=_OTHER_SECONDS)
        return None, {0: True, 3: False}.get(refused.code if refused.code is not None else -1)
    except OSError as error:
        return error.strerror or str(error), None
    finally:
        if descriptor is not None:
            os.close(descriptor)
        file.unlink(missing_ok=True)


def mount_of(folder: Path, mounts: Path = _MOUNTS) -> tuple[str, tuple[str, ...]]:
    """Return (type, options) of a folder's file system; empty if unknown."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return "", ()
    best = -1
    found: tuple[str, tuple[str, ...]] = ("", ())
    target = folder.resolve()
    for line in lines:
        cells = line.split()
        if len(cells) < 4:
            continue
        # The kernel writes blanks in a path as \040.
        point = Path(cells[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        if target.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), (cells[2], tuple(cells[3].split(",")))
    return found


def locks_hold_across_nodes(kind: str, options: tuple[str, ...]) -> bool | None:
    """Return True if locks on a network file system hold across nodes; None if the options do not show it.

    Source: nfs(5), `local_lock` and `nolock`; mount.lustre(8), `flock` and `localflock`.
    """
    if kind in ("nfs", "nfs4"):
        local = {"local_lock=flock", "local_lock=all", "nolock"} & set(options)
        return not local
    if kind == "lustre":
        return "flock" in options and "localflock" not in options
    return None


def _space(folder: Path) -> tuple[Measured, int | None]:
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return Missing(missing=error.strerror or "the file system does not report it"), None
    return Quantity(value=float(usage.free), unit="B", where=str(folder)), usage.total


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
