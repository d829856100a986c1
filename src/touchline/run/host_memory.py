"""Free host memory of a process, within the limits of control groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

SHARE = 0.9
"""Usable fraction of free memory; the rest is for other processes."""
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def free_host_bytes() -> int:
    """Return the memory available to a new process on this machine or in this job or container."""
    free = [int(psutil.virtual_memory().available), *free_of_groups()]
    return int(SHARE * min(free))


def free_of_groups(own: Path = _OWN_GROUPS, root: Path = _GROUPS) -> list[int]:
    """Return the free memory under each limit of this process's control groups, versions 1 and 2."""
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        place = root / controllers
        names = ("memory.max", "memory.current", "inactive_file")
        if controllers:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for group in _upwards(place, path):
            limit, used = _number(group / names[0]), _number(group / names[1])
            if limit is not None and used is not None:
                # Cached files count as used and give way at once.
                found.append(max(limit - used + _cached(group / "memory.stat", names[2]), 0))
    return found


def _upwards(place: Path, path: str) -> Iterator[Path]:
    """Yield the group and its ancestors; in a container its own path may be missing, but the root exists."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        yield place.joinpath(*parts[:count])


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cached(path: Path, name: str) -> int:
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
    return int(found[0]) if found and found[0].isdigit() else 0
