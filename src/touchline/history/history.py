"""The history: a folder of run records, each in a file named by the hash of its content.

history/records/ab/abcdef....json    a record, written once, in one step, never changed
history/index.jsonl                  what `list` shows; made from the records, and made again when it is lost or stale
history/.cache/                      which files were read before (`adding.py`); may be lost at any time

Equal records have equal names, so any number of writers on any number of nodes need no lock, and two histories are
merged by copying one over the other, with rsync, git or cp. A file that is not a record, was copied by half, or was
written by a later touchline is named and skipped; it never keeps the others from being read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from touchline.core.errors import HostError, InputError, quoted
from touchline.core.files import open_regular, read_bytes, write_atomic
from touchline.history.record import RunRecord
from touchline.history.records import from_json, id_of, sealed, to_json

RECORD_LIMIT_BYTES = 4 << 20
"""A record takes some ten kilobytes; a larger file is none."""
_SHELF = re.compile(r"[0-9a-f]{2}")
_NAME = re.compile(r"([0-9a-f]{64})\.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A file in the history that is not a record."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """Files of a history by their names, none of them opened."""

    records: Mapping[str, Path] = field(default_factory=dict)
    """File of each record, by its id, sorted."""
    strays: tuple[Broken, ...] = ()


def store_record(history_dir: Path, record: RunRecord) -> Path:
    """Put a record into the history, unless it is there, and give its file; it is on disk when this returns.

    Raises:
        InputError: the history is not a folder.
        HostError: no space, or no permission.
    """
    data = to_json(sealed(record))
    path = record_path(history_dir, id_of(data))
    try:
        if path.is_file() and path.stat().st_size == len(data) and read_bytes(path) == data:
            return path
        # What else has this name was copied by half, and is mended.
        write_atomic(path, data)
    except (NotADirectoryError, FileExistsError):
        raise InputError(
            f"the history {str(history_dir)!r} is not a folder",
            expected="a folder, or a path where one can be created",
            hint="touchline history list --history DIR, or TOUCHLINE_HISTORY_DIR=DIR",
        ) from None
    return path


def record_id(record: RunRecord) -> str:
    """Return the id under which `store_record` stores a record."""
    return id_of(to_json(sealed(record)))


def record_path(history_dir: Path, id_: str) -> Path:
    """Return the path of the record of that id."""
    return history_dir / "records" / id_[:2] / f"{id_}.json"


def contents(history_dir: Path) -> Contents:
    """Return the files of a history; a missing one is empty.

    Raises:
        InputError: it is not a folder.
        HostError: it may not be read.
    """
    if history_dir.exists() and not history_dir.is_dir():
        raise InputError(f"the history {str(history_dir)!r} is a file", expected="a folder")
    found: dict[str, Path] = {}
    strays: list[Broken] = []
    for shelf, name in _files(history_dir / "records"):
        path = history_dir / "records" / shelf / name
        match = _NAME.fullmatch(name)
        if match is None or match[1][:2] != shelf:
            strays.append(Broken(path=path, reason="not the name of a record"))
        else:
            found[match[1]] = path
    return Contents(records=dict(sorted(found.items())), strays=tuple(strays))


def _files(records: Path) -> Iterator[tuple[str, str]]:
    """Yield folder and name of every file, except hidden ones: other programs' files, or interrupted writes."""
    try:
        with os.scandir(records) as entries:
            shelves = sorted(entry.name for entry in entries if _SHELF.fullmatch(entry.name) and entry.is_dir())
        for shelf in shelves:
            with os.scandir(records / shelf) as entries:
                yield from ((shelf, entry.name) for entry in entries if not entry.name.startswith("."))
    except FileNotFoundError:
        return
    except PermissionError as error:
        raise HostError(
            f"no permission to read the history {str(error.filename)!r}", hint=f"ls -ld {quoted(str(error.filename))}"
        ) from None


def read_record(path: Path) -> RunRecord | Broken:
    """Return the record in a file of the history, whose name must be the hash of its content."""
    try:
        with open_regular(path) as stream:
            data = stream.read(RECORD_LIMIT_BYTES + 1)
    except OSError as error:
        return Broken(path=path, reason=f"cannot be read: {error.strerror or error}")
    if len(data) > RECORD_LIMIT_BYTES:
        return Broken(path=path, reason=f"larger than {RECORD_LIMIT_BYTES:,} bytes")
    if id_of(data) != path.stem:
        return Broken(path=path, reason="its content does not match its name (incomplete copy, or edited)")
    try:
        return from_json(data)
    except InputError as fault:
        return Broken(path=path, reason=fault.message)
