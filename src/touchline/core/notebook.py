"""Rows as a pandas DataFrame, and sections as HTML in the colors of the page. Foreign text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from touchline.core.errors import HostError, install_hint
from touchline.core.table import Cell, Column, Mark, Section, Table, Value, value_text
from touchline.core.text import valid_utf8, without_controls

if TYPE_CHECKING:
    import pandas


def data_frame(
    rows: Sequence[Mapping[str, object]], *, index: str, columns: Sequence[str] | None = None
) -> pandas.DataFrame:
    """Return rows as a DataFrame.

    Args:
        rows: values by column.
        columns: names of all columns (default: those of the rows).

    Raises:
        HostError: pandas is not installed.
    """
    try:
        from pandas import DataFrame
    except ImportError:
        raise HostError("pandas is not installed", hint=install_hint("pandas")) from None
    return DataFrame(rows, columns=columns).set_index(index)


ROWS_LIMIT = 30
"""Rows of a table that a notebook shows; files and frames have all."""
_COLORS = {Mark.GOOD: "#2a9d6f", Mark.BAD: "#e0574b", Mark.WARN: "#c9820a", Mark.QUIET: "#8a919c"}
"""Middle tones, readable on light and on dark paper."""


def notebook_html(title: str, sections: Iterable[Section], below: str = "") -> str:
    """Return an overview for a notebook.

    Args:
        sections: what it shows; empty ones are left out.
        below: a last line, such as the path of the whole.
    """
    shown = [section for section in sections if not section.is_empty]
    body = Markup("").join(_section(section) for section in shown)
    last = Markup('<p style="margin:6px 0 0;opacity:.7">{}</p>').format(_text(below)) if below else ""
    return str(
        Markup(
            '<div style="max-width:100%;overflow-x:auto;font-size:13px;line-height:1.45;color:inherit">'
            '<p style="margin:0 0 4px"><b>{}</b></p>{}{}</div>'
        ).format(_text(title), body, last)
    )


def _section(section: Section) -> Markup:
    head = Markup('<p style="margin:8px 0 2px;opacity:.7">{}</p>').format(_text(section.title)) if section.title else ""
    texts = Markup("").join(Markup('<p style="margin:2px 0">{}</p>').format(_text(t)) for t in section.paragraphs)
    tables = Markup("").join(_table(table) for table in section.tables)
    items = Markup("").join(Markup("<li>{}</li>").format(_text(line)) for line in section.lines)
    listed = Markup('<ul style="margin:2px 0;padding-left:20px">{}</ul>').format(items) if items else ""
    blocks = Markup("").join(
        Markup('<p style="margin:2px 0">{}</p><pre style="margin:2px 0;line-height:1.3">{}</pre>').format(
            _text(above), Markup("\n").join(_text(line) for line in block.splitlines())
        )
        for above, block in section.blocks
    )
    return Markup("{}{}{}{}{}").format(head, texts, tables, listed, blocks)


def _table(table: Table) -> Markup:
    heads = Markup("").join(
        Markup('<th scope="col" style="text-align:{}">{}</th>').format(_side(column), _text(column.label))
        for column in table.columns
    )
    rows = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(_cell(value, column) for value, column in zip(row, table.columns, strict=True))
        )
        for row in table.rows[:ROWS_LIMIT]
    )
    more = len(table.rows) - ROWS_LIMIT
    notes = (*([f"{more:,} more rows"] if more > 0 else []), *table.notes)
    below = Markup("").join(Markup('<p style="margin:2px 0;opacity:.7">{}</p>').format(_text(n)) for n in notes)
    return Markup(
        '<table cellpadding="4" style="border-collapse:collapse;margin:0;color:inherit">'
        '<thead><tr style="border-bottom:1px solid rgba(128,128,128,.5)">{}</tr></thead><tbody>{}</tbody></table>{}'
    ).format(heads, rows, below)


def _cell(value: Value, column: Column) -> Markup:
    mark = value.mark if isinstance(value, Cell) else None
    color = f";color:{_COLORS[mark]}" if mark is not None else ""
    text = _text(value_text(value, column))
    return Markup('<td style="text-align:{}{}">{}</td>').format(_side(column), color, text)


def _side(column: Column) -> str:
    return "right" if column.numeric else "left"


def _text(text: str) -> Markup:
    """Return foreign text as HTML, without characters that no page can hold."""
    return escape(valid_utf8(without_controls(text)))
