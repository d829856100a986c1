"""Headers of safetensors files: sizes and completeness of a model, without reading weights.

Format: 8 bytes little-endian header length, the header as JSON, the data. https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from touchline.core.files import open_regular
from touchline.core.json_text import parse_json

HEADER_LIMIT_BYTES = 100_000_000
"""Limit of the format on the header size."""

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3",
    "F8_E5M2": "float8_e5m2",
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Entry of a header."""

    dtype: str
    """Dtype, `bfloat16`."""
    elements: int
    """Number of elements."""
    size_bytes: int
    """Bytes in the file."""
    shape: tuple[int, ...] = ()
    begin: int = 0
    """Offset of its bytes, from the end of the header."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """safetensors file."""

    name: str
    size_bytes: int
    expected_bytes: int
    """Size according to its header."""
    tensors: Mapping[str, Tensor]
    header_sha256: str
    header_bytes: int
    """Bytes before the data: the header and its length."""

    @property
    def size_fault(self) -> str | None:
        """Return the difference between the file and its header, after the file's name. None if there is none."""
        if self.size_bytes == self.expected_bytes:
            return None
        problem = "is cut off" if self.size_bytes < self.expected_bytes else "is longer than its header says"
        return f"{problem}: {self.size_bytes:,} bytes, {self.expected_bytes:,} expected"


class ShardHeaderError(Exception):
    """The file has no usable header; the message states why."""


class TruncatedShardError(ShardHeaderError):
    """The file ends within its header."""


def read_shard(path: Path) -> Shard:
    """Read a header.

    Raises:
        ShardHeaderError: it is cut off or no safetensors file.
        OSError: it cannot be opened.
    """
    size = path.stat().st_size
    with open_regular(path) as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise TruncatedShardError(f"{path.name} has {size} bytes, too few for a header")
        length = struct.unpack("<Q", start)[0]
        if length > HEADER_LIMIT_BYTES:
            raise ShardHeaderError(f"{path.name} is not a safetensors file: its header would have {length:,} bytes")
        if 8 + length > size:
            raise TruncatedShardError(
                f"{path.name} is cut off inside its header: {size:,} bytes, at least {8 + length:,} expected"
            )
        header = stream.read(length)
    try:
        tensors, end = _entries(parse_json(header))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ShardHeaderError(f"{path.name} has an invalid header: {error}") from error
    return Shard(
        name=path.name,
        size_bytes=size,
        expected_bytes=8 + length + end,
        tensors=tensors,
        header_sha256=hashlib.sha256(header).hexdigest(),
        header_bytes=8 + length,
    )


def _entries(header: object) -> tuple[dict[str, Tensor], int]:
    """Return the tensors and the end of the last one, from the end of the header."""
    if not isinstance(header, dict):
        raise TypeError("it is not an object")
    tensors: dict[str, Tensor] = {}
    last = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (_count(offset) for offset in entry["data_offsets"])
        if end < begin:
            raise ValueError(f"{name} ends before it begins")
        shape = tuple(_count(extent) for extent in entry["shape"])
        dtype = _DTYPES.get(entry["dtype"], str(entry["dtype"]))
        tensors[name] = Tensor(dtype, prod(shape), end - begin, shape, begin)
        last = max(last, end)
    return tensors, last


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value
