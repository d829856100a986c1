"""Check of torch.save files (`.pt`, `.pth`, `.bin`) by their zip directory; the pickle is never loaded.

Such a file is a zip archive of stored entries: `<name>/data.pkl` describes the tensors, `<name>/data/<n>` holds the
bytes of storage n. The directory lies at the end, so a truncated file has none.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from touchline.core.files import open_regular
from touchline.results.verification_types import CheckpointFault
from touchline.results.verifying.values import classify_values, listed
from touchline.results.verifying.weights import unreadable

_MAGIC = b"PK\x03\x04"
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """Directory of an archive."""

    path: Path
    """File path."""
    size_bytes: int
    """Size on disk."""
    storages: tuple[int, ...] = ()
    """Sizes of its storages, in order; a tensor of an adapter has one each."""
    faults: tuple[CheckpointFault, ...] = field(default=())
    """Problems found."""


def read_archive(path: Path, *, deep: bool = False, dtype: str | None = None) -> Archive:
    """Read the directory of an archive; no pickle is loaded.

    Args:
        path: archive.
        deep: read every entry and compare its checksum.
        dtype: dtype of all storages if known, to check values too.
    """
    name, size = path.name, 0
    try:
        size = path.stat().st_size
        if size == 0:
            fault = CheckpointFault(code="zero-byte", file=name, message="the file is empty")
            return Archive(path=path, size_bytes=0, faults=(fault,))
        with open_regular(path) as stream:
            begins = stream.read(len(_MAGIC))
        if begins != _MAGIC:
            message = "it does not begin as an archive of torch.save does; its content is unknown without loading"
            return Archive(
                path=path, size_bytes=size, faults=(CheckpointFault(code="not-a-zip", file=name, message=message),)
            )
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            storages = _storages(entries)
            faults = [*_directory(archive, entries, name), *_numbering(entries, name)]
            if deep and not faults:
                faults += _contents(archive, entries, name, dtype)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        message = f"its directory, which lies at the end, cannot be read: {error}; it was cut off or written over"
        return Archive(
            path=path, size_bytes=size, faults=(CheckpointFault(code="truncated", file=name, message=message),)
        )
    except OSError as error:
        return Archive(path=path, size_bytes=size, faults=(unreadable(name, error),))
    return Archive(
        path=path, size_bytes=size, storages=tuple(entry.file_size for entry in storages), faults=tuple(faults)
    )


def _storages(entries: Sequence[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Return the entries `<name>/data/<n>`, by number."""
    found = [(entry.filename.split("/"), entry) for entry in entries]
    numbered = [
        (int(parts[2]), entry)
        for parts, entry in found
        if len(parts) == 3 and parts[1] == "data" and parts[2].isascii() and parts[2].isdigit() and len(parts[2]) < 10
    ]
    return [entry for _, entry in sorted(numbered, key=lambda item: item[0])]


def _directory(archive: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo], name: str) -> Iterator[CheckpointFault]:
    """Yield a problem if an entry is compressed or not at its listed position."""
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            message = f"{entry.filename} is compressed, which torch.save never does"
            yield CheckpointFault(code="bad-archive", file=name, message=message)
            return
        try:
            # Opening compares the entry's own head with the directory.
            archive.open(entry).close()
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            message = f"{entry.filename} is not where the directory says: {error}"
            yield CheckpointFault(code="bad-archive", file=name, message=message)
            return


def _numbering(entries: Sequence[zipfile.ZipInfo], name: str) -> Iterator[CheckpointFault]:
    """Yield problems of a missing description or missing storages."""
    names = [entry.filename for entry in entries]
    described = [each for each in names if each.count("/") == 1 and each.endswith("/data.pkl")]
    if len(described) != 1 or len(set(names)) != len(names):
        message = f"{len(described)} descriptions of its tensors (data.pkl), one expected"
        yield CheckpointFault(code="bad-archive", file=name, message=message)
        return
    storages = _storages(entries)
    numbers = [int(entry.filename.rpartition("/")[2]) for entry in storages]
    if absent := sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers)):
        message = f"{len(absent)} storages are missing, the first is number {absent[0]}"
        yield CheckpointFault(code="missing-tensor", file=name, message=message)
    empty = [entry.filename for entry in storages if not entry.file_size]
    if empty:
        yield CheckpointFault(code="zero-byte", file=name, message=f"storages without a byte: {listed(empty)}")


def _contents(
    archive: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo], name: str, dtype: str | None
) -> Iterator[CheckpointFault]:
    """Yield problems of wrong checksums, and of values that are not finite if the dtype is known."""
    torn: list[str] = []
    strange: list[str] = []
    storages = {entry.filename for entry in _storages(entries)}
    for entry in entries:
        try:
            with archive.open(entry) as stream:
                while data := stream.read(_CHUNK_BYTES):
                    if dtype is not None and entry.filename in storages:
                        values = classify_values(data, dtype)
                        if values.nan or values.infinite:
                            strange.append(entry.filename)
        except zipfile.BadZipFile:
            torn.append(entry.filename)
    if torn:
        message = f"bytes that do not fit their checksum in {listed(torn)}"
        yield CheckpointFault(code="changed", file=name, message=message)
    elif strange:
        message = f"elements that are not finite numbers in {listed(list(dict.fromkeys(strange)))}"
        yield CheckpointFault(code="nan", file=name, message=message)
