"""Problems of rows, one finding per kind instead of one per row."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from touchline.core.finding import Finding, Location, Severity

_SHOWN = 5


@dataclass(slots=True)
class _Kind:
    hint: str | None
    count: int = 0
    lines: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    column: int | None = None
    splits: dict[str, int] = field(default_factory=dict)


class Tally:
    """Collector of the problems of one file's rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kinds: dict[tuple[str, str, str], _Kind] = {}

    def add(
        self,
        code: str,
        subject: str,
        message: str,
        *,
        line: int | None = None,
        column: int | None = None,
        row: int | None = None,
        hint: str | None = None,
        split: str | None = None,
    ) -> None:
        """Count a problem. The first few places of each kind are kept."""
        kind = self._kinds.setdefault((code, subject, message), _Kind(hint=hint))
        if kind.count == 0:
            kind.column = column
        kind.count += 1
        if split is not None:
            kind.splits[split] = kind.splits.get(split, 0) + 1
            if len(kind.splits) > 1:
                # Lines are of the file, rows of the first split.
                row = None
        for kept, place in ((kind.lines, line), (kind.rows, row)):
            if place is not None and len(kept) < _SHOWN:
                kept.append(place)

    def findings(self) -> list[Finding]:
        """Return one error per kind, in order of first occurrence."""
        return [self._finding(code, subject, message, kind) for (code, subject, message), kind in self._kinds.items()]

    def _finding(self, code: str, subject: str, message: str, kind: _Kind) -> Finding:
        message = f"{', '.join(kind.splits)}: {message}" if kind.splits else message
        message += _places(kind)
        where = Location(path=str(self._path), line=kind.lines[0] if kind.lines else None, column=kind.column)
        return Finding(
            code=code, severity=Severity.ERROR, subject=subject, message=message, where=where, hint=kind.hint
        )


def _places(kind: _Kind) -> str:
    word, places = ("line", kind.lines) if kind.lines else ("row", kind.rows)
    more = ", ..." if kind.count > len(places) else ""
    if len(kind.splits) > 1:
        counts = ", ".join(f"{count:,} in {split}" for split, count in kind.splits.items())
        first = f", first {word} {places[0]}" if places else ""
        return f" ({kind.count:,} times: {counts}{first})"
    if kind.count > 1 and places:
        return f" ({kind.count:,} times: {word}s {', '.join(map(str, places))}{more})"
    return f" (row {kind.rows[0]})" if kind.rows and not kind.lines else ""
