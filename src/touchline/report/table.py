"""Table of the report, declared once and rendered to RESULTS.md here and to report.html by `page.cells`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from touchline.core.markup import code, escape
from touchline.core.markup import table as markdown_table
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.report.formatting import bare, finite, format_quantity


@dataclass(frozen=True, slots=True)
class Column:
    """Column and the format of its values."""

    label: str
    """Heading, in lower case."""
    numeric: bool = False
    """Whether it holds numbers, which are aligned to the right."""
    title: str = ""
    """Explanation, shown by report.html when the heading is pointed at."""
    code: bool = False
    """Whether its texts are names of runs or paths."""
    digits: int = 4
    """Significant digits of its quantities."""
    interval: bool = False
    """Whether its quantities are shown with their intervals."""
    form: str = ""
    """Format of quantities whose unit is in the heading; empty: with their units."""
    kind: bool = False
    """Whether the kind of a memory figure is shown behind it."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Number with a custom format."""

    text: str
    """Formatted number."""
    value: float | None = None
    """The number, for sorting."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Word for a good or bad state."""

    text: str
    """Text of the verdict."""
    is_good: bool | None = None
    """None if it is neither good nor bad."""


Value = str | int | Measured | Figure | Verdict | None
"""Value of a cell. None is a dash."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows."""

    columns: tuple[Column, ...]
    """The columns."""
    rows: tuple[tuple[Value, ...], ...]
    """Rows, with a value per column."""
    by_run: bool = True
    """Whether the first column names the run of a row."""

    def first(self, most: int) -> Table:
        """Return the table limited to its first rows."""
        return Table(self.columns, self.rows[:most], self.by_run)


def table_of(columns: Iterable[Column], rows: Iterable[Iterable[Value]], *, by_run: bool = True) -> Table | None:
    """Return a table. None if it has no rows."""
    made = tuple(tuple(row) for row in rows)
    return Table(tuple(columns), made, by_run) if made else None


def quantity_text(value: Measured, column: Column) -> str:
    """Return a quantity in the format of its column."""
    known = finite(value)
    if isinstance(known, Missing):
        return str(known)
    if column.form:
        return format(known.value, column.form)
    text = format_quantity(known, column.digits) if column.interval else bare(known, column.digits)
    return f"{text} ({known.kind})" if column.kind and known.kind is not None else text


def to_markdown(table: Table) -> str:
    """Return a table for RESULTS.md."""
    return markdown_table(
        [escape(column.label) for column in table.columns],
        [[_markdown(value, column) for value, column in zip(row, table.columns, strict=True)] for row in table.rows],
        right=tuple(place for place, column in enumerate(table.columns) if column.numeric),
    )


def _markdown(value: Value, column: Column) -> str:
    match value:
        case None:
            return "-"
        case str():
            return (code(value) if column.code else escape(value)) if value else "-"
        case int():
            return f"{value:,}"
        case Figure():
            return escape(value.text)
        case Verdict():
            return f"**{value.text}**" if value.is_good is False else value.text
        case Quantity() | Missing():
            return escape(quantity_text(value, column))
