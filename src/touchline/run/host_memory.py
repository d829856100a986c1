"""What a process may take of the machine's memory before others suffer, or the kernel ends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

SHARE = 0.9
"""Of the memory that is free; the rest is for whatever else the machine does meanwhile."""
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def free_host_bytes() -> int:
    """Memory that a process started now may take: of the machine, or of the job or container that this one is in."""
    free = [int(psutil.virtual_memory().available), *free_of_groups()]
    return int(SHARE * min(free))


def free_of_groups(own: Path = _OWN_GROUPS, root: Path = _GROUPS) -> list[int]:
    """What is left of each memory limit of the control groups that this process is in; versions 1 and 2."""
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
    """The group and those that it is in; inside a container its own path may not be there, but the root is."""
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
