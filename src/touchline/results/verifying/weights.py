"""Check of one safetensors file: its header must be readable and match the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

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


def dtypes_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the dtypes of tensors, joined; None if there are none."""
    return ", ".join(sorted({tensor.dtype for tensor in tensors.values()})) or None


def _unreadable(path: Path, size: int, fault: CheckpointFault) -> WeightFile:
    return WeightFile(path=path, size_bytes=size, readable=False, faults=(fault,))


def _layout(shard: Shard, name: str) -> Iterator[CheckpointFault]:
    """Yield problems of the data layout: wrong length, gaps, overlaps, impossible shapes.

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
        if tensor.begin != end:
            said = "overlaps the tensor before it" if tensor.begin < end else "leaves a gap before it"
            yield CheckpointFault(
                code="bad-offsets", file=name, message=f"{tensor_name} begins at byte {tensor.begin:,} and {said}"
            )
            break
        end = tensor.begin + tensor.size_bytes
    for tensor_name, tensor in shard.tensors.items():
        element = ELEMENT_BYTES.get(tensor.dtype)
        if element is not None and element * tensor.elements != tensor.size_bytes:
            yield CheckpointFault(
                code="bad-header",
                file=name,
                message=(
                    f"{tensor_name} is {tensor.dtype} {list(tensor.shape)}, {element * tensor.elements:,} bytes, "
                    f"and has {tensor.size_bytes:,}"
                ),
            )
            break
    if not shard.tensors:
        yield CheckpointFault(code="no-weights", file=name, message="its header names no tensor")
