"""Tables of a report, declared once for RESULTS.md, report.html and a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from touchline.core.table import Column, Table, Value, table_of

T = TypeVar("T")


def table_from(
    items: Sequence[T],
    columns: Iterable[tuple[Column, Callable[[T], Value]]],
    title: str = "",
    *,
    by_run: bool = False,
    notes: Iterable[str] = (),
) -> Table | None:
    """Return a table of a row per item, from columns with what they show of it. None without items."""
    declared = tuple(columns)
    rows = [tuple(show(item) for _, show in declared) for item in items]
    return table_of([column for column, _ in declared], rows, title, by_run=by_run, notes=notes)
