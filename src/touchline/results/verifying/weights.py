"""Check of one file of weights: the header of safetensors must match the data, the directory of torch.save be whole."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from touchline.core.files import open_regular
from touchline.data.shards import Shard, ShardHeaderError, Tensor, TruncatedShardError, read_shard
from touchline.results.verification_types import CheckpointFault

ELEMENT_BYTES: Mapping[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Bytes per element; sizes of other dtypes cannot be checked."""
_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFile:
    """Header of a safetensors file."""

    path: Path
    """File path."""
    size_bytes: int
    """Size on disk; 0 if unreadable."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors by name; empty if the header is unreadable."""
    header_bytes: int = 0
    """Bytes before the data."""
    readable: bool
    """Whether the header is readable."""
    faults: tuple[CheckpointFault, ...] = ()
    """Problems found."""

    @property
    def usable(self) -> bool:
        """Return True if every tensor is in the file where its header states."""
        return self.readable and not self.faults


def read_weights(path: Path, name: str | None = None) -> WeightFile:
    """Read a file's header and compare it with the file size; no value is read.

    Args:
        path: weights file.
        name: reported file name; its own name if None.
    """
    called, size = name or path.name, 0
    try:
        size = path.stat().st_size
        if size == 0:
            return _unreadable(path, 0, CheckpointFault(code="zero-byte", file=called, message="the file is empty"))
        shard = read_shard(path)
    except TruncatedShardError as error:
        return _unreadable(path, size, CheckpointFault(code="truncated", file=called, message=str(error)))
    except ShardHeaderError as error:
        return _unreadable(path, size, CheckpointFault(code="bad-header", file=called, message=str(error)))
    except OSError as error:
        return _unreadable(path, 0, unreadable(called, error))
    return WeightFile(
        path=path,
        size_bytes=size,
        tensors=shard.tensors,
        header_bytes=shard.header_bytes,
        readable=True,
        faults=tuple(_layout(shard, called)),
    )


def unreadable(name: str, error: OSError) -> CheckpointFault:
    """Return the problem of a file that the OS cannot read."""
    reason = error.strerror or type(error).__name__
    return CheckpointFault(code="unreadable", file=name, message=f"it cannot be read: {reason}")


def _unreadable(path: Path, size: int, fault: CheckpointFault) -> WeightFile:
    return WeightFile(path=path, size_bytes=size, readable=False, faults=(fault,))


def _layout(shard: Shard, name: str) -> Iterator[CheckpointFault]:
    """Yield problems of the data layout: wrong length, gaps, overlaps.

    Loaders reject such files, because a tensor would be read from another's bytes.
    """
    if shard.size_bytes != shard.expected_bytes:
        cut = shard.size_bytes < shard.expected_bytes
        yield CheckpointFault(
            code="truncated" if cut else "overlong",
            file=name,
            message=f"{shard.size_bytes:,} bytes, its header asks for {shard.expected_bytes:,}",
        )
    end = 0
    for tensor_name, tensor in sorted(shard.tensors.items(), key=lambda item: (item[1].begin, item[1].size_bytes)):
        element = ELEMENT_BYTES.get(tensor.dtype)
        if tensor.begin != end or (element is not None and element * tensor.elements != tensor.size_bytes):
            message = (
                f"{tensor_name}, {tensor.dtype} {list(tensor.shape)}, does not fit its bytes from {tensor.begin:,}"
            )
            yield CheckpointFault(code="bad-offsets", file=name, message=message)
            break
        end = tensor.begin + tensor.size_bytes
    if not shard.tensors:
        yield CheckpointFault(code="no-weights", file=name, message="its header names no tensor")


def archive_faults(path: Path, *, deep: bool) -> Iterator[CheckpointFault]:
    """Yield problems of a torch.save file (`.pt`, `.pth`, `.bin`) by its zip directory; the pickle is never loaded.

    Args:
        path: archive.
        deep: read every entry and compare its checksum.
    """
    try:
        if path.stat().st_size == 0:
            yield CheckpointFault(code="zero-byte", file=path.name, message="the file is empty")
            return
        with open_regular(path) as stream:
            begins = stream.read(len(_MAGIC))
        if begins != _MAGIC:
            message = "it does not begin as an archive of torch.save does; its content is unknown without loading"
            yield CheckpointFault(code="not-a-zip", file=path.name, message=message)
            return
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            torn = archive.testzip() if deep else None
        if torn is not None:
            message = f"bytes that do not fit their checksum in {torn}"
            yield CheckpointFault(code="changed", file=path.name, message=message)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        message = f"its directory, which lies at the end, cannot be read: {error}; it was cut off or written over"
        yield CheckpointFault(code="truncated", file=path.name, message=message)
    except OSError as error:
        yield unreadable(path.name, error)
