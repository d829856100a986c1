"""Rules on characters that do not belong into a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from touchline.core.finding import Severity
from touchline.data import text as data_text
from touchline.data.text import short
from touchline.lint.data_messages import violation_in_rows
from touchline.lint.data_view import DataRow, DataView
from touchline.lint.rule import Violation, rule

_RARE = 0.02
"""Share of the rows under which a few odd characters do no harm."""
_ALPACA = re.compile(r"^### (?:Instruction|Response|Input):", re.MULTILINE)
_SMALL = 1_000
"""Rows up to which a single unusual one is reported."""
_AROUND = 12


def _rows(view: DataView, odd: Callable[[str], object]) -> list[DataRow]:
    return [row for row in view.rows if odd(row.prompt) or (row.answer is not None and odd(row.answer))]


def _severity(view: DataView, rows: list[DataRow]) -> Severity | None:
    return None if len(rows) >= _RARE * view.count or view.count <= _SMALL else Severity.INFO


def _around(row: DataRow, piece: str) -> str:
    """Return a piece with the text around it."""
    text = row.prompt if piece in row.prompt else row.answer or ""
    place = text.find(piece)
    return short(text[max(0, place - _AROUND) : place + len(piece) + _AROUND])


@rule("DA360", Severity.WARNING)
def mojibake(view: DataView) -> Iterator[Violation]:
    """Report UTF-8 text that was read in another encoding."""
    rows = _rows(view, data_text.mojibake)
    if rows:
        piece = data_text.mojibake(rows[0].prompt) or data_text.mojibake(rows[0].answer or "") or ""
        message = f"UTF-8 that was read as another encoding: {_around(rows[0], piece)}"
        hint = f"{short(piece)} was {short(data_text.repaired(piece))}; read the source as UTF-8"
        yield violation_in_rows(view, rows, message, hint=hint, severity=_severity(view, rows))


def _characters(view: DataView, find: Callable[[str], str | None], words: str) -> tuple[list[DataRow], str]:
    """Return the rows with such a character and a message with the first one."""
    rows = _rows(view, find)
    piece = (find(rows[0].prompt) or find(rows[0].answer or "") or "") if rows else ""
    return rows, f"{words} U+{ord(piece):04X}: {_around(rows[0], piece)}" if rows else ""


@rule("DA361", Severity.WARNING)
def replacement_characters(view: DataView) -> Iterator[Violation]:
    """Report text with U+FFFD, the mark of lost characters."""
    rows, message = _characters(view, data_text.replaced, "lost characters")
    if rows:
        yield violation_in_rows(view, rows, message, severity=_severity(view, rows))


@rule("DA362", Severity.WARNING)
def control_characters(view: DataView) -> Iterator[Violation]:
    """Report text with control characters other than tab and newline."""
    rows, message = _characters(view, data_text.control, "control character")
    if rows:
        yield violation_in_rows(view, rows, message, severity=_severity(view, rows))


@rule("DA363", Severity.INFO)
def invisible_characters(view: DataView) -> Iterator[Violation]:
    """Report text with zero-width or direction-changing characters."""
    rows, message = _characters(view, data_text.invisible, "invisible character")
    if rows:
        scored = view.short and any(data_text.invisible(row.answer or "") for row in rows)
        severity = Severity.WARNING if scored or view.count <= _SMALL else None
        yield violation_in_rows(view, rows, message, severity=severity)


@rule("DA364", Severity.ERROR)
def lone_surrogates(view: DataView) -> Iterator[Violation]:
    """Report text with surrogates that stand alone."""
    rows = _rows(view, data_text.surrogate)
    if rows:
        yield violation_in_rows(view, rows, "lone surrogate: half a character, which UTF-8 cannot encode")


@rule("DA367", Severity.WARNING)
def chat_template_markers(view: DataView) -> Iterator[Violation]:
    """Report turns or answers with markers of a chat template."""
    if view.layout.kind == "text":
        return
    rows = _rows(view, data_text.chat_mark)
    if not rows:
        own = view.layout.prompts[:1] == ("instruction",)
        rows = [row for row in view.rows if _ALPACA.search(row.answer or "") or (own and _ALPACA.search(row.prompt))]
        if rows:
            found = _ALPACA.search(rows[0].answer or "") or _ALPACA.search(rows[0].prompt)
            piece = found.group() if found is not None else ""
            yield violation_in_rows(view, rows, f"the heading {short(piece)} of a prompt's template in the text")
        return
    if rows:
        piece = data_text.chat_mark(rows[0].prompt) or data_text.chat_mark(rows[0].answer or "") or ""
        # A question about templates may name one; a template that was written out is in every row.
        answered = view.count <= _SMALL and (
            view.layout.kind == "chat" or any(data_text.chat_mark(row.answer or "") for row in rows)
        )
        severity = None if answered or len(rows) * 2 >= view.count else Severity.INFO
        yield violation_in_rows(view, rows, f"the chat template's mark {short(piece)} in the text", severity=severity)
