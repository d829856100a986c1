"""`touchline check --fix`: the edits of findings, applied together and shown as a diff."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from touchline.core.errors import TouchlineError
from touchline.core.files import read_text_bounded, write_atomic
from touchline.core.finding import Edit, Finding
from touchline.experiment.document import SIZE_LIMIT_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """Changes, made or proposed."""

    text: str
    files: int
    notes: tuple[str, ...] = ()


def fix(findings: Iterable[Finding], *, write: bool) -> Changes:
    """Make the edits of some findings; an edit whose line is not what it was, or that another one has changed, is left.

    Args:
        write: whether to change the files; otherwise they are only compared.
    """
    by_file: dict[str, list[Edit]] = {}
    for finding in findings:
        for edit in finding.edits:
            if edit not in by_file.setdefault(edit.path, []):
                by_file[edit.path].append(edit)
    texts: list[str] = []
    notes: list[str] = []
    for path, edits in sorted(by_file.items()):
        try:
            before = read_text_bounded(Path(path), SIZE_LIMIT_BYTES)
        except TouchlineError as fault:
            notes.append(f"{path} is left as it is: {fault.message}")
            continue
        after = _edited(before, edits, notes)
        if after == before:
            continue
        texts.append(_diff(path, before, after))
        if write:
            write_atomic(Path(path), after)
    return Changes(text="".join(texts), files=len(texts), notes=tuple(notes))


def _edited(text: str, edits: Iterable[Edit], notes: list[str]) -> str:
    lines: list[str | None] = list(text.split("\n"))
    done: set[int] = set()
    for edit in edits:
        line = lines[edit.line - 1] if 0 < edit.line <= len(lines) else None
        if line is None or edit.line in done or line.rstrip("\r") != edit.old.rstrip("\r"):
            notes.append(f"{edit.path}:{edit.line} is left for a second look: another change touches that line")
            continue
        done.add(edit.line)
        lines[edit.line - 1] = edit.new
    return "\n".join(line for line in lines if line is not None)


def _diff(path: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), path, path, lineterm="")
    return "\n".join(lines) + "\n"
