"""Text of foreign files and folders, made fit for a report: bounded, on one line, without secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path

from touchline.backends.logtext.redact import redact
from touchline.core.files import read_head

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
LINE_LIMIT = 300


def clean_text(text: str) -> str:
    """A name or a word as text that can be written anywhere: what is no text becomes a mark."""
    return _CONTROL.sub("\ufffd", text.encode("utf-8", "replace").decode())


def clean_line(text: str) -> str:
    """A copied line: at most 300 characters, secrets redacted."""
    return redact(clean_text(text.replace("\t", " ")))[:LINE_LIMIT]


def below(root: Path, path: Path) -> str:
    """A path as the report names it, relative to `root`; what lies beside it begins with `..`."""
    return clean_text(Path(os.path.relpath(path, root)).as_posix())


def bounded(path: Path, limit_bytes: int) -> str | None:
    """The beginning of a text file; None where it cannot be read. A pipe or a device is not opened: it may not end."""
    try:
        return read_head(path, limit_bytes).decode("utf-8-sig", "replace")
    except OSError:
        return None
