"""Rules on the text of rows: broken encodings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from touchline.core.finding import Severity
from touchline.core.json_text import has_half_characters
from touchline.data import text as data_text
from touchline.data.text import short
from touchline.lint.data_view import DataRow, DataView, violation_in_rows
from touchline.lint.rule import Violation, rule

_RARE = 0.02
"""Share of the rows under which a few odd characters do no harm."""
_SMALL = 1_000
"""Rows up to which a single unusual one is reported."""
_AROUND = 12


def _rows_with(view: DataView, odd: Callable[[str], object]) -> list[DataRow]:
    return [row for row in view.rows if odd(row.prompt) or (row.answer is not None and odd(row.answer))]


def _severity(view: DataView, rows: list[DataRow]) -> Severity | None:
    return None if len(rows) >= _RARE * view.count or view.count <= _SMALL else Severity.INFO


def _around(row: DataRow, piece: str) -> str:
    text = row.prompt if piece in row.prompt else row.answer or ""
    place = text.find(piece)
    return short(text[max(0, place - _AROUND) : place + len(piece) + _AROUND])


@rule("DA360", Severity.WARNING)
def _mojibake(view: DataView) -> Iterator[Violation]:
    for find, words in ((data_text.mojibake, "UTF-8 that was read as another encoding"), (_lost, "lost characters")):
        rows = _rows_with(view, find)
        if rows:
            piece = find(rows[0].prompt) or find(rows[0].answer or "") or ""
            was = data_text.repaired(piece)
            hint = "read the source in its own encoding" if was == piece else f"{short(piece)} was {short(was)}"
            message = f"{words}: {_around(rows[0], piece)}"
            yield violation_in_rows(view, rows, message, hint=hint, severity=_severity(view, rows))


def _lost(text: str) -> str | None:
    return "\ufffd" if "\ufffd" in text else None


@rule("DA364", Severity.ERROR)
def _lone_surrogates(view: DataView) -> Iterator[Violation]:
    rows = _rows_with(view, has_half_characters)
    if rows:
        yield violation_in_rows(view, rows, "lone surrogate: half a character, which UTF-8 cannot encode")
