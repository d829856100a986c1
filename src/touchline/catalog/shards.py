"""Headers of safetensors files: what a model weighs and whether it is whole, without reading a weight.

Format: 8 bytes little-endian header length, the header as JSON, the data. https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

HEADER_LIMIT_BYTES = 100_000_000
"""The format's own limit; more is no header."""

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3",
    "F8_E5M2": "float8_e5m2",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One safetensors file."""

    name: str
    """File name."""
    size_bytes: int
    """Size on disk."""
    expected_bytes: int
    """Size that its header asks for."""
    tensors: dict[str, tuple[str, int]]
    """Name to (dtype, elements)."""
    header_sha256: str
    """Hash of the header."""


class BrokenShard(Exception):
    """The file has no usable header; the text says why."""


def read_shard(path: Path) -> Shard:
    """Read a header.

    Raises:
        BrokenShard: it is cut off or no safetensors file.
        OSError: it cannot be opened.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise BrokenShard(f"{path.name} has {size} bytes, too few for a header")
        length = struct.unpack("<Q", start)[0]
        if length > HEADER_LIMIT_BYTES:
            raise BrokenShard(f"{path.name} is no safetensors file: its header would have {length:,} bytes")
        if 8 + length > size:
            raise BrokenShard(f"{path.name} is cut off inside its header: {size:,} bytes, at least {8 + length:,} expected")
        header = stream.read(length)
    try:
        data = json.loads(header)
        entries = {name: entry for name, entry in data.items() if name != "__metadata__"}
        tensors = {n: (_DTYPES.get(e["dtype"], str(e["dtype"])), prod(e["shape"])) for n, e in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BrokenShard(f"{path.name} has a broken header: {error}") from error
    return Shard(
        name=path.name,
        size_bytes=size,
        expected_bytes=8 + length + end,
        tensors=tensors,
        header_sha256=hashlib.sha256(header).hexdigest(),
    )
