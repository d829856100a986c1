"""Text of foreign files made safe for a report: bounded, single-line, redacted."""

from __future__ import annotations

import os
from pathlib import Path

from touchline.backends.logtext.parts import redact
from touchline.core.files import read_head
from touchline.core.text import one_line, valid_utf8

LINE_LIMIT = 300


def clean_text(text: str) -> str:
    """Return text with control and undecodable characters replaced."""
    return one_line(valid_utf8(text), "\ufffd")


def clean_line(text: str) -> str:
    """Return a copied line of at most 300 characters, secrets redacted."""
    return redact(clean_text(text.replace("\t", " ")))[:LINE_LIMIT]


def below(root: Path, path: Path) -> str:
    """Return a path relative to `root`; paths next to it begin with `..`."""
    return clean_text(Path(os.path.relpath(path, root)).as_posix())


def bounded(path: Path, limit_bytes: int) -> str | None:
    """Return the beginning of a text file; None if it cannot be read. Pipes and devices are not opened."""
    try:
        return read_head(path, limit_bytes).decode("utf-8-sig", "replace")
    except OSError:
        return None
