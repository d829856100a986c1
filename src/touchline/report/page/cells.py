"""Tables of the page as data: columns, cells with sort keys, and notes on missing values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.report.colors import CONTROL, SeriesColor
from touchline.report.formatting import bare, finite, format_quantity
from touchline.report.table import Column as DeclaredColumn
from touchline.report.table import Figure, Table, Value, Verdict, quantity_text

ROWS_LIMIT = 400
"""Maximum number of rows of a table. The table of all runs has no limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Cell of a table."""

    text: str
    """Text of the cell."""
    sort: float | str | None = None
    """Sort key; the text if None."""
    title: str = ""
    """Tooltip."""
    ink: int | None = None
    """Number of the color before the text; None for most cells."""
    kind: str = ""
    """Class of the cell: `good`, `bad`, `warn`, `quiet`."""
    note: int | None = None
    """Number of the note below the table that explains a missing value."""
    below: str = ""
    """Second line, such as the interval of a figure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """Column of a table."""

    label: str
    """Heading."""
    numeric: bool = False
    """Whether it holds numbers, which are aligned to the right."""
    title: str = ""
    """Tooltip that explains the column."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """Row of a table."""

    cells: tuple[Cell, ...]
    """Cells in the order of the columns."""
    run: str | None = None
    """Run of the row, which is highlighted throughout the page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageTable:
    """Table of the page."""

    columns: tuple[Column, ...]
    """Columns of the table."""
    rows: tuple[TableRow, ...]
    """Rows of the table."""
    notes: tuple[str, ...] = ()
    """Reasons for missing values, by number from 1."""
    more: int = 0
    """Number of omitted rows."""


@dataclass(kw_only=True, slots=True)
class Notes:
    """Reasons for a table's missing values, without duplicates."""

    reasons: list[str] = field(default_factory=list)
    """Reasons in the order of their numbers."""

    def number(self, reason: str) -> int:
        """Return the number of a reason, from 1."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason) + 1

    def missing(self, reason: str) -> Cell:
        """Return an empty cell with its reason."""
        return Cell(text="n/a", sort=None, title=reason, kind="quiet", note=self.number(reason))

    def measured(self, value: Measured, *, interval: bool = False, unit: bool = True, digits: int = 4) -> Cell:
        """Return a figure, with its unit if its column has none, or the reason why it is missing."""
        known = finite(value)
        if isinstance(known, Missing):
            return self.missing(known.missing)
        text = format_quantity(known, digits) if interval else bare(known if unit else replace(known, unit="1"), digits)
        return Cell(text=text, sort=known.value, title=provenance(known))

    def value(self, value: Value, column: DeclaredColumn) -> Cell:
        """Return the cell of a value."""
        match value:
            case None:
                return plain("–", "")
            case str():
                return plain(value)
            case int():
                return plain(f"{value:,}", value)
            case Figure():
                return plain(value.text, value.value)
            case Verdict():
                return Cell(text=value.text, kind={True: "good", False: "bad", None: ""}[value.is_good])
            case Quantity() | Missing():
                known = finite(value)
                if isinstance(known, Missing):
                    return self.missing(known.missing)
                return Cell(text=quantity_text(known, column), sort=known.value, title=provenance(known))


def provenance(value: Measured) -> str:
    """Return the definition of a number, its method and its source."""
    if isinstance(value, Missing):
        return value.missing
    parts = (
        f"{value.kind} memory" if value.kind else "",
        f"{value.token_unit} tokens" if value.token_unit else "",
        f"{value.aggregation}" if value.aggregation else "",
        value.method or "",
        f"from {value.where}" if value.where else "",
    )
    return ", ".join(part for part in parts if part)


def page_table(table: Table | None, colors: Mapping[str, SeriesColor] | None = None) -> PageTable | None:
    """Return a table of the report for the page."""
    if table is None:
        return None
    notes = Notes()
    rows = []
    for values in table.rows:
        cells = [notes.value(value, column) for value, column in zip(values, table.columns, strict=True)]
        run = str(values[0]) if table.by_run else None
        if run is not None:
            cells[0] = Cell(text=run, ink=(colors or {}).get(run, CONTROL).number)
        rows.append(TableRow(run=run, cells=tuple(cells)))
    columns = [Column(label=_heading(each.label), numeric=each.numeric, title=each.title) for each in table.columns]
    return table_of(columns, rows, notes)


def _heading(label: str) -> str:
    """Return a label with a capital letter; symbols of one or two letters stay."""
    return label if len(label) < 3 else label[:1].upper() + label[1:]


def plain(text: str, sort: float | str | None = None) -> Cell:
    """Return a cell of text."""
    return Cell(text=text, sort=sort)


def table_of(
    columns: Sequence[Column], rows: Sequence[TableRow], notes: Notes | None = None, limit: int | None = ROWS_LIMIT
) -> PageTable | None:
    """Return a table of the first `limit` rows. None if there are no rows."""
    if not rows:
        return None
    shown = tuple(rows[:limit])
    reasons = tuple(notes.reasons) if notes else ()
    return PageTable(columns=tuple(columns), rows=shown, notes=reasons, more=len(rows) - len(shown))
