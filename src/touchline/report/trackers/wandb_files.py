"""What a run's offline files of W&B hold: their records, read with W&B's own message types.

The file is a log as LevelDB has it: blocks of 32 KiB, in them pieces with checksum, length and kind; a record may be
several pieces. W&B itself reads it in Go only, since 0.30.
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
"""Of the file: four letters, two bytes of magic, one of version."""
_BLOCK_BYTES = 32768
_PIECE_BYTES = 7
"""Before each piece: checksum, length, kind."""
_FULL, _FIRST, _LAST = 1, 2, 4


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a run's history, oldest first, each with `_step`; up to where a kill cut the file off."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            row = {_name(item): _value(item) for item in record.history.item}
            row.setdefault("_step", record.history.step.num)
            yield row


def records(path: Path) -> Iterator[Any]:
    """Every whole record of the file, as `wandb.proto.wandb_internal_pb2.Record`."""
    from wandb.proto import wandb_internal_pb2

    for data, _ in _contents(read_bytes(path)):
        yield wandb_internal_pb2.Record.FromString(data)


def mend(path: Path) -> None:
    """Take off what a kill left behind the last whole record: `wandb sync` gives up on a file that ends in half of one.

    Where nothing of the file is whole, it is removed.
    """
    data = read_bytes(path)
    whole = max((end for _, end in _contents(data)), default=0)
    if not whole:
        path.unlink()
    elif whole < len(data):
        os.truncate(path, whole)


def _contents(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The records and where each ends; a checksum that is wrong, or a piece that is cut off, ends them all."""
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
    """JSON text in files of every version so far; NaN and infinities as W&B writes them."""
    return parse_json(item.value_json) if item.value_json else None
