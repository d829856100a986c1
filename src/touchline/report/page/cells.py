"""Tables of a report as the page shows them: sort keys, colors of runs, and numbered notes on missing values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from touchline.core.quantity import Missing, Quantity, finite
from touchline.core.table import Cell, Column, Mark, Table, Value, provenance, value_text
from touchline.report.colors import CONTROL, SeriesColor

ROWS_LIMIT = 400
"""Maximum number of rows of a table. The table of all runs has no limit."""
_SHADES = 8
_OPEN_ROWS = 12
"""Tables of at most so many rows are open when the page is loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageCell:
    """Cell of a table."""

    text: str
    sort: float | str | None = None
    """Sort key; the text if None."""
    title: str = ""
    """Tooltip."""
    ink: int | None = None
    """Number of the color before the text; None for most cells."""
    kind: str = ""
    """Class of the cell: a `Mark`, or the shade of its background."""
    note: int | None = None
    """Number of the note below the table that explains a missing value."""
    below: str = ""
    """Second line, such as the interval of a figure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageRow:
    """Row of a table."""

    cells: tuple[PageCell, ...]
    """Cells in the order of the columns."""
    run: str | None = None
    """Run of the row, which is highlighted throughout the page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageTable:
    """Table of the page."""

    title: str
    """Heading; empty if the section's heading is enough."""
    columns: tuple[Column, ...]
    rows: tuple[PageRow, ...]
    notes: tuple[str, ...]
    """Definitions and remarks."""
    reasons: tuple[str, ...]
    """Reasons for missing values, by number from 1."""
    more: int
    """Number of omitted rows."""
    is_open: bool
    """Whether the table is shown when the page is loaded."""
    is_shaded: bool
    """Whether cells have a background."""


@dataclass(kw_only=True, slots=True)
class _Reasons:
    """Reasons for a table's missing values, without duplicates."""

    found: list[str] = field(default_factory=list)

    def missing(self, reason: str) -> PageCell:
        """Return an empty cell with the number of its reason."""
        if reason not in self.found:
            self.found.append(reason)
        return PageCell(text="n/a", title=reason, kind=Mark.QUIET, note=self.found.index(reason) + 1)


def page_table(
    table: Table | None, colors: Mapping[str, SeriesColor] | None = None, limit: int | None = ROWS_LIMIT
) -> PageTable | None:
    """Return a table of the report for the page.

    Args:
        table: the table; None if the report has none.
        colors: color of each run.
        limit: maximum number of rows; None: no limit.
    """
    if table is None:
        return None
    reasons = _Reasons()
    rows = []
    for values in table.rows[:limit]:
        cells = [_cell(value, column, reasons) for value, column in zip(values, table.columns, strict=True)]
        run = cells[0].text if table.by_run else None
        if run is not None:
            cells[0] = PageCell(text=run, title=cells[0].title, ink=(colors or {}).get(run, CONTROL).number)
        rows.append(PageRow(run=run, cells=tuple(cells)))
    return PageTable(
        title=table.title,
        columns=table.columns,
        rows=tuple(rows),
        notes=table.notes,
        reasons=tuple(reasons.found),
        more=len(table.rows) - len(rows),
        is_open=len(table.rows) <= _OPEN_ROWS,
        is_shaded=any(isinstance(value, Cell) and value.shade is not None for row in table.rows for value in row),
    )


def heading(label: str) -> str:
    """Return a label with a capital letter; symbols such as `t`, `df` and `p (Holm)` stay."""
    return label if len(label.split(" ")[0]) < 3 else label[:1].upper() + label[1:]


def _cell(value: Value, column: Column, reasons: _Reasons) -> PageCell:
    match value:
        case None:
            return PageCell(text="–", sort="")
        case str():
            return PageCell(text=value or "–")
        case int():
            return PageCell(text=f"{value:,}", sort=value)
        case Cell():
            kind = _shade(value.shade) if value.shade is not None else value.mark or ""
            return PageCell(text=value.text, sort=value.value, title=value.note, kind=kind, below=value.interval)
        case Quantity() | Missing():
            known = finite(value)
            if isinstance(known, Missing):
                return reasons.missing(known.missing)
            return PageCell(text=value_text(known, column), sort=known.value, title=provenance(known))


def _shade(depth: float) -> str:
    """Return the class of a background: `hit h3`, `miss h8`."""
    return f"{'hit' if depth > 0 else 'miss'} h{round(_SHADES * abs(depth))}"
