"""Records in a run's offline W&B files, read with W&B's own message types.

The file is a LevelDB log: blocks of 32 KiB with pieces that have a checksum, length and type. A record may consist of
several pieces. Since 0.30, W&B itself only has a reader in Go.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from touchline.core.files import read_bytes
from touchline.core.json_text import parse_json

_HEADER = b":W&B"
_HEADER_BYTES = 7
"""Size of the file header: four letters, two bytes of magic, one of version."""
_BLOCK_BYTES = 32768
_PIECE_BYTES = 7
"""Size of the header of each piece: checksum, length, type."""
_FULL, _FIRST, _LAST = 1, 2, 4


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a run's history, oldest first, each with `_step`. Stop at a truncated record."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            row = {_name(item): _value(item) for item in record.history.item}
            row.setdefault("_step", record.history.step.num)
            yield row


def records(path: Path) -> Iterator[Any]:
    """Yield every complete record of the file, as `wandb.proto.wandb_internal_pb2.Record`."""
    from wandb.proto import wandb_internal_pb2

    for data, _ in _contents(read_bytes(path)):
        yield wandb_internal_pb2.Record.FromString(data)


def mend(path: Path) -> None:
    """Remove a partial record after the last complete one. `wandb sync` fails on a file that ends in a partial record.

    A file without any complete record is removed.
    """
    data = read_bytes(path)
    whole = max((end for _, end in _contents(data)), default=0)
    if not whole:
        path.unlink()
    elif whole < len(data):
        os.truncate(path, whole)


def _contents(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the records and the end offset of each. Stop at a wrong checksum or a truncated piece."""
    if data[: len(_HEADER)] != _HEADER:
        return
    position, parts = _HEADER_BYTES, b""
    while position + _PIECE_BYTES <= len(data):
        left = _BLOCK_BYTES - position % _BLOCK_BYTES
        if left < _PIECE_BYTES:
            position += left
            continue
        checksum = int.from_bytes(data[position : position + 4], "little")
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        kind = data[position + 6]
        piece = data[position + _PIECE_BYTES : position + _PIECE_BYTES + length]
        if len(piece) < length or zlib.crc32(bytes([kind]) + piece) != checksum:
            return
        position += _PIECE_BYTES + length
        parts = piece if kind in (_FULL, _FIRST) else parts + piece
        if kind in (_FULL, _LAST):
            yield parts, position


def _name(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def _value(item: Any) -> Any:
    """Return the value of an item: JSON text in all file versions so far. NaN and infinities are as W&B writes them."""
    return parse_json(item.value_json) if item.value_json else None
