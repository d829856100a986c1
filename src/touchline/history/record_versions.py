"""Digests of a file that grows, by which a longer log is known to begin with a shorter one.

Each source of a record is kept with the digests of its first line, its first two lines, and so on: one for each of the
first 64 lines, from there every 9 % more, within the first MiB. A trainer_state.json is rewritten as a whole, but its
log_history only grows: its entries count as lines. Configs and other documents do not grow.
"""

from __future__ import annotations

import hashlib
import json
import re

from touchline.core.json_text import parse_json

HEAD_BYTES = 1 << 20
"""Bytes at a log's beginning that are compared: megabytes of equal lines are not a coincidence."""
_EACH = 64
_FACTOR = 1.09
_DIGITS = 8
_DOCUMENTS = (".json", ".yaml", ".yml", ".toml", ".sh", ".slurm", ".sbatch")
_LINE_END = re.compile(rb"[\r\n]")
DOCUMENT_LIMIT_BYTES = 64 << 20
"""A larger document is not parsed."""


def is_document(name: str) -> bool:
    """Return True if a file of that name is a document or a script, rewritten as a whole, and no log."""
    return name.lower().endswith(_DOCUMENTS)


def growth(name: str, content: bytes) -> str:
    """Return the digests of a file that grows.

    Args:
        name: the file's name; its suffix distinguishes logs from documents.
        content: of a log its first `HEAD_BYTES`, of a document everything.
    """
    # What stands behind the last line's end may be half a line.
    pieces = _history(content) if is_document(name) else _LINE_END.split(content[:HEAD_BYTES])[:-1]
    digest = hashlib.sha256()
    found: list[str] = []
    mark = 1.0
    for number, piece in enumerate(pieces, 1):
        digest.update(piece)
        digest.update(b"\n")
        if number >= mark:
            found.append(digest.hexdigest()[:_DIGITS])
            mark = number + 1 if number < _EACH else max(number + 1, mark * _FACTOR)
    return "".join(found)


def _history(content: bytes) -> list[bytes]:
    """Return the entries of a trainer state's log_history; of another document nothing."""
    if len(content) > DOCUMENT_LIMIT_BYTES or b'"log_history"' not in content:
        return []
    try:
        rows = parse_json(content)["log_history"]
        return [json.dumps(row, sort_keys=True).encode() for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
