"""Cache of the files that were read before and their records, so that unchanged ones are not opened again.

A file counts as unchanged when its size, its time of change and its inode are as they were before it was read; only
`stat` is called. The cache is the history's folder `.cache/`, which git ignores. It holds no paths, only
hashes of them. It may be lost at any time, and of two commands at once the later one's stays: that costs time and
nothing else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import HostError
from touchline.core.files import read_bytes, write_atomic
from touchline.core.json_text import parse_json

_LIMIT_GROUPS = 200_000
"""The oldest beyond so many are forgotten."""
_FORM = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedGroup:
    """Result of the files that belong together."""

    state: str
    """Digest of their sizes, times and inodes before they were read."""
    records: tuple[str, ...]
    """Ids of the records that they gave."""
    refused: int
    """Number of files that gave no run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cache:
    """The file's content."""

    form: int
    reader_version: int
    groups: dict[str, CachedGroup]


_CACHE = TypeAdapter(_Cache)


class ReadCache:
    """The cache of one history."""

    def __init__(self, history_dir: Path, reader_version: int) -> None:
        self._path = history_dir / ".cache" / "seen.json"
        self._version = reader_version
        self._groups = self._load()
        self._changed = False

    def get(self, files: Sequence[Path], state: str) -> CachedGroup | None:
        """Return the result of these files if they are unchanged."""
        seen = self._groups.get(_key(files))
        return seen if seen is not None and seen.state == state else None

    def put(self, files: Sequence[Path], seen: CachedGroup) -> None:
        """Keep the result of these files."""
        key = _key(files)
        self._groups.pop(key, None)
        self._groups[key] = seen
        self._changed = True

    def save(self) -> None:
        """Write it, where that is possible and anything has changed."""
        if not self._changed:
            return
        kept = dict(list(self._groups.items())[-_LIMIT_GROUPS:])
        cache = _Cache(form=_FORM, reader_version=self._version, groups=kept)
        try:
            if not (self._path.parent / ".gitignore").exists():
                write_atomic(self._path.parent / ".gitignore", "*\n")
            write_atomic(self._path, _CACHE.dump_json(cache))
        except HostError:
            return
        self._changed = False

    def _load(self) -> dict[str, CachedGroup]:
        try:
            data = read_bytes(self._path)
            head = parse_json(data)
            if (head["form"], head["reader_version"]) != (_FORM, self._version):
                return {}
            return _CACHE.validate_python(head).groups
        except (OSError, ValueError, TypeError, KeyError, RecursionError, ValidationError):
            return {}


def state_of(files: Sequence[Path]) -> str | None:
    """Return a digest of the files' sizes, times of change and inodes; None if one is not accessible."""
    digest = hashlib.sha256()
    for file in files:
        try:
            found = file.stat()
        except (OSError, ValueError):
            return None
        digest.update(f"{found.st_size} {found.st_mtime_ns} {found.st_ino}\n".encode())
    return digest.hexdigest()[:32]


def _key(files: Sequence[Path]) -> str:
    paths = "\0".join(os.path.abspath(file) for file in files)  # noqa: PTH100 (the disk is not asked)
    return hashlib.sha256(paths.encode("utf-8", "surrogateescape")).hexdigest()[:32]
