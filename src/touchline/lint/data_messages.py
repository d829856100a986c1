"""Locations and counts in messages of rules on data: one violation for all rows with one problem."""

from __future__ import annotations

from collections.abc import Sequence

from touchline.core.finding import Severity, Where
from touchline.core.text import first_of
from touchline.lint.data_view import DataRow, DataView
from touchline.lint.rule import Violation

_SHOWN = 5


def violation_in_rows(
    view: DataView,
    rows: Sequence[DataRow],
    message: str,
    *,
    hint: str | None = None,
    severity: Severity | None = None,
) -> Violation:
    """Return a violation at the first of some rows, with their count and first lines in the message."""
    first = rows[0]
    at = view.where(first)
    if len(rows) > 1:
        message = f"{message} ({len(rows):,} rows of {view.count:,}: {places(view, rows)})"
    elif at.line is None:
        message = f"{message} ({first.split} row {first.number:,})"
    return Violation(message=message, at=at, hint=hint, subject=first.split, severity=severity)


def places(view: DataView, rows: Sequence[DataRow]) -> str:
    """Return `lines 3, 7, ...`, or `train rows 3, 7` in formats without lines."""
    lines = [view.where(row).line for row in rows[:_SHOWN]]
    if all(line is not None for line in lines):
        numbers = [view.where(row).line for row in rows[: _SHOWN + 1]]
        return f"line{'s' if len(lines) > 1 else ''} {first_of(map(str, numbers), _SHOWN)}"
    return f"row{'s' if len(lines) > 1 else ''} {first_of((str(row.number) for row in rows), _SHOWN)}"


def at_file(view: DataView, split: str | None = None) -> Where:
    """Return the location of a split's file, or of the first file."""
    files = view.files
    return Where(path=files.get(split or view.trained, next(iter(files.values()), view.path)))


def percent(count: int, total: int) -> str:
    """Format a share in percent, never rounded to 0 or 100 unless it is exactly that."""
    share = 100 * count / total if total else 0.0
    if 0 < count < total:
        share = min(max(share, 0.01), 99.99)
    return f"{share:.3g}%" if share < 99.5 or count == total else f"{share:.2f}%"
