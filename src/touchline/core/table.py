"""Tables and sections, declared once and rendered everywhere.

A table has columns, rows of typed values and notes. Markdown and plain text are made here; `report.page` makes HTML,
`cli.output` prints on a terminal.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from touchline.core.quantity import TOKEN_WORDS, Measured, Missing, Quantity, finite
from touchline.core.text import code, escape, fence, shorten, without_controls
from touchline.core.text import table as markdown_table
from touchline.core.units import bare, measured


class Mark(StrEnum):
    """Emphasis of a cell."""

    GOOD = "good"
    BAD = "bad"
    WARN = "warn"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True)
class Column:
    """Column and the format of its values."""

    label: str
    numeric: bool = False
    """Whether it holds numbers, which are aligned to the right."""
    note: str = ""
    key: str = ""
    """Name for `Table.only`; the heading if empty."""
    unit: str = ""
    """Unit in the heading. Values in it are shown without it."""
    code: bool = False
    """Whether its texts are names of runs or paths."""
    digits: int = 4
    """Significant digits of its quantities."""
    interval: bool = False
    """Whether its quantities are shown with their intervals."""
    form: str = ""
    """Format of its quantities; empty: with their units."""
    kind: bool = False
    """Whether the kind of a memory figure or of tokens is shown behind it."""
    is_wide: bool = False
    """Whether a terminal leaves it out first where it has no room."""

    @property
    def name(self) -> str:
        """Return the key, or the heading if there is none."""
        return self.key or self.label


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a cell with its number and emphasis."""

    text: str
    value: float | None = None
    """The number, for sorting."""
    mark: Mark | None = None
    interval: str = ""
    """Interval of the number, such as `(81.6 to 89.5)`."""
    note: str = ""
    """Explanation, shown by report.html when the cell is pointed at."""
    shade: float | None = None
    """Depth of the background in report.html, from -1 (bad) to 1 (good)."""


Value = str | int | Measured | Cell | None
"""Value of a cell. None is a dash."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    title: str = ""
    notes: tuple[str, ...] = ()
    """Definitions and remarks, shown below the rows."""
    by_run: bool = False
    """Whether the first column names the run of a row."""

    @property
    def header(self) -> tuple[str, ...]:
        """Return the headings."""
        return tuple(column.label for column in self.columns)

    def only(self, *keys: str) -> Table:
        """Return the table with some of its columns; keys that it lacks are ignored."""
        kept = [place for place, column in enumerate(self.columns) if column.name in keys]
        rows = tuple(tuple(row[place] for place in kept) for row in self.rows)
        return replace(self, columns=tuple(self.columns[place] for place in kept), rows=rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Heading with paragraphs, tables and lists."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[str, ...] = ()
    """Groups of figures that belong to the section."""
    blocks: tuple[tuple[str, str], ...] = ()
    """Pairs of a sentence and preformatted text."""
    lines: tuple[str, ...] = ()
    """Items of a list at the end."""

    @property
    def is_empty(self) -> bool:
        """Return True if the section has no text and no table."""
        return not (self.paragraphs or self.tables or self.lines or self.blocks)


def table_of(
    columns: Iterable[Column | str],
    rows: Iterable[Iterable[Value]],
    title: str = "",
    *,
    by_run: bool = False,
    notes: Iterable[str] = (),
) -> Table | None:
    """Return a table. None if it has no rows. A column of text may be given by its heading alone."""
    made = tuple(tuple(row) for row in rows)
    declared = tuple(Column(column) if isinstance(column, str) else column for column in columns)
    return Table(declared, made, title, tuple(notes), by_run) if made else None


def present(*tables: Table | None) -> tuple[Table, ...]:
    """Return the tables that have rows."""
    return tuple(table for table in tables if table is not None)


def table_section(
    title: str, columns: Iterable[Column | str], rows: Iterable[Iterable[Value]], lines: Iterable[str] = ()
) -> Section:
    """Return a section with one table, then lines."""
    return Section(title=title, tables=present(table_of(columns, rows)), lines=tuple(lines))


def value_text(value: Value, column: Column) -> str:
    """Return a value as plain text in the format of its column."""
    match value:
        case None:
            return "-"
        case str():
            return value or "-"
        case int():
            return f"{value:,}"
        case Cell():
            return f"{value.text} {value.interval}".rstrip()
        case Quantity() | Missing():
            return _quantity_text(value, column)


def _quantity_text(value: Measured, column: Column) -> str:
    known = finite(value)
    if isinstance(known, Missing):
        return str(known)
    if column.form:
        return format(known.value, column.form)
    if known.unit == column.unit:
        is_short = abs(known.value) < 10**column.digits
        return f"{known.value:,.{column.digits}g}" if is_short else f"{known.value:,.0f}"
    text = measured(known, column.digits) if column.interval else bare(known, column.digits)
    kind = known.kind or TOKEN_WORDS.get(known.token_unit or "")
    return f"{text} ({kind})" if column.kind and kind is not None else text


def provenance(value: Measured) -> str:
    """Return the definition of a number, its method and its source."""
    if isinstance(value, Missing):
        return value.missing
    parts = (
        f"{value.kind} memory" if value.kind else "",
        f"{TOKEN_WORDS[value.token_unit]} tokens" if value.token_unit else "",
        value.aggregation or "",
        value.method or "",
        f"from {value.where}" if value.where else "",
    )
    return ", ".join(part for part in parts if part)


# ---- Markdown --------------------------------------------------------------------------------------------------------


def table_markdown(table: Table, level: int = 3) -> str:
    """Return a table in Markdown: its heading at a level, the rows, then the notes."""
    body = markdown_table(
        [escape(label) for label in table.header],
        [[_markdown(value, column) for value, column in zip(row, table.columns, strict=True)] for row in table.rows],
        right=tuple(place for place, column in enumerate(table.columns) if column.numeric),
    )
    heading = f"{'#' * level} {escape(table.title)}\n" if table.title else ""
    return "\n".join(part for part in (heading, body, *(f"{escape(note)}\n" for note in table.notes)) if part)


def section_markdown(section: Section, level: int = 2) -> str:
    """Return a section in Markdown, without its figures; empty if the section is."""
    if section.is_empty:
        return ""
    parts = [f"{'#' * level} {escape(section.title)}\n"]
    parts += [f"{escape(text)}\n" for text in section.paragraphs]
    parts += [table_markdown(table, level + 1) for table in section.tables]
    for sentence, text in section.blocks:
        parts += [f"{escape(sentence)}\n", fence(text.split("\n"))]
    if section.lines:
        parts.append("\n".join(f"- {escape(line)}" for line in section.lines) + "\n")
    return "\n".join(parts)


def _markdown(value: Value, column: Column) -> str:
    if isinstance(value, Cell):
        text = code(value.text) if column.code else escape(value.text)
        # An interval holds numbers only, and brackets of a link would need another bracket behind them.
        return " ".join(part for part in (f"**{text}**" if value.mark is Mark.BAD else text, value.interval) if part)
    text = value_text(value, column)
    return code(text) if column.code and text != "-" and not isinstance(value, Missing) else escape(text)


# ---- plain text ------------------------------------------------------------------------------------------------------


GAP = 2
"""Spaces between the columns of a terminal."""
_NARROWEST = 16
"""Characters below which a column of text is not wrapped further."""


def text_lines(table: Table, width: int | None = None) -> list[str]:
    """Return a table for a terminal: without borders, numbers to the right, no word broken.

    Where the width is too small, wide columns go first, the last one first; then text wraps at spaces; then columns
    go from the right. The last lines say why values are missing, each reason once, and what is not shown.

    Args:
        table: the table; its title and notes are not part of the lines.
        width: characters of a line; None for no limit.
    """
    columns = table.columns
    rows = [
        tuple(
            without_controls("n/a" if isinstance(value, Missing) else value_text(value, column))
            for value, column in zip(row, columns, strict=True)
        )
        for row in (table.header, *table.rows)
    ]
    kept = list(range(len(columns)))
    natural = [max(len(row[place]) for row in rows) for place in kept]
    # A wrapped column is as wide as its longest word, and no narrower than a few words.
    least = [
        min(natural[place], max(_NARROWEST, *(len(word) for row in rows for word in row[place].split() or [""])))
        for place in kept
    ]

    def taken(widths: Sequence[int]) -> int:
        return sum(widths[place] for place in kept) + GAP * (len(kept) - 1)

    if width is not None:
        for place in [place for place in reversed(kept) if columns[place].is_wide]:
            if taken(natural) > width:
                kept.remove(place)
        while len(kept) > 2 and taken(least) > width:
            kept.pop()
        # Two columns stay; words that do not fit even then end in an ellipsis.
        for place in reversed(kept):
            least[place] = max(1, least[place] - max(taken(least) - width, 0))
        while (over := taken(natural) - width) > 0:
            spare = {place: natural[place] - least[place] for place in kept}
            widest = max(kept, key=lambda place: (spare[place] > 0, natural[place]))
            if spare[widest] <= 0:
                break
            natural[widest] -= min(over, spare[widest])
    lines = [line for row in rows for line in _wrapped([row[place] for place in kept], kept, natural, columns)]
    notes = [*_reasons(table, kept)]
    if hidden := [column.label for place, column in enumerate(columns) if place not in kept and column.label]:
        notes.append(f"(not shown at this width: {', '.join(hidden)})")
    for note in notes:
        lines += [note] if width is None else textwrap.wrap(note, width, break_long_words=False, break_on_hyphens=False)
    return lines


def _reasons(table: Table, kept: Sequence[int]) -> Iterator[str]:
    """Yield why values of the shown columns are missing, a line per reason."""
    reasons: dict[str, list[str]] = {}
    for place in kept:
        for row in table.rows:
            if isinstance(value := row[place], Missing):
                reasons.setdefault(value.missing, []).append(table.columns[place].label)
    for reason, labels in reasons.items():
        yield without_controls(f"n/a ({', '.join(dict.fromkeys(labels))}): {reason}")


def _wrapped(
    cells: Sequence[str], places: Sequence[int], widths: Sequence[int], columns: Sequence[Column]
) -> Iterator[str]:
    """Yield the lines of a row."""
    parts = [
        textwrap.wrap(
            " ".join(shorten(word, widths[place]) for word in cell.split(" ")), widths[place], break_on_hyphens=False
        )
        if len(cell) > widths[place]
        else [cell]
        for cell, place in zip(cells, places, strict=True)
    ]
    for each in itertools.zip_longest(*parts, fillvalue=""):
        yield (
            (" " * GAP)
            .join(
                text.rjust(widths[place]) if columns[place].numeric else text.ljust(widths[place])
                for text, place in zip(each, places, strict=True)
            )
            .rstrip()
        )
