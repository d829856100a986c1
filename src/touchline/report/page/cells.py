"""Tables of the page as data: columns, cells with what they sort by, and notes on what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.report.colors import CONTROL, SeriesColor
from touchline.report.formatting import bare, finite, format_quantity
from touchline.report.table import Column as DeclaredColumn
from touchline.report.table import Figure, Table, Value, Verdict, quantity_text

ROWS_LIMIT = 400
"""Rows of a table; the table of all runs has them all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell."""

    text: str
    """What it says."""
    sort: float | str | None = None
    """What its column is sorted by; its text when None."""
    title: str = ""
    """Said when pointed at."""
    ink: int | None = None
    """Number of the colour before it; none for most."""
    kind: str = ""
    """Class of the cell: `good`, `bad`, `warn`, `quiet`."""
    note: int | None = None
    """Number of the note below the table: why it is missing."""
    below: str = ""
    """Second line, such as the interval of a figure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column."""

    label: str
    """Its heading."""
    numeric: bool = False
    """Whether it holds numbers, which stand right."""
    title: str = ""
    """What it is, said when pointed at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """One row."""

    cells: tuple[Cell, ...]
    """In the order of the columns."""
    run: str | None = None
    """The run that it is about: it is followed through the page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageTable:
    """A table."""

    columns: tuple[Column, ...]
    """Its columns."""
    rows: tuple[TableRow, ...]
    """Its rows."""
    notes: tuple[str, ...] = ()
    """Why cells are missing, by number from 1."""
    more: int = 0
    """Rows that are left out."""


@dataclass(kw_only=True, slots=True)
class Notes:
    """Reasons of a table's missing cells, each said once."""

    reasons: list[str] = field(default_factory=list)
    """In the order of their numbers."""

    def number(self, reason: str) -> int:
        """The number of a reason, from 1."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason) + 1

    def missing(self, reason: str) -> Cell:
        """A cell that has nothing, and why."""
        return Cell(text="n/a", sort=None, title=reason, kind="quiet", note=self.number(reason))

    def measured(self, value: Measured, *, interval: bool = False, unit: bool = True, digits: int = 4) -> Cell:
        """A figure, with its unit where its column has none, or the reason why there is none."""
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
    """What a number is, how it was got and where it can be looked up."""
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
    """A cell of text."""
    return Cell(text=text, sort=sort)


def table_of(
    columns: Sequence[Column], rows: Sequence[TableRow], notes: Notes | None = None, limit: int | None = ROWS_LIMIT
) -> PageTable | None:
    """A table of the first `limit` rows; none when there are no rows."""
    if not rows:
        return None
    shown = tuple(rows[:limit])
    reasons = tuple(notes.reasons) if notes else ()
    return PageTable(columns=tuple(columns), rows=shown, notes=reasons, more=len(rows) - len(shown))
