"""Rules on the text of rows: the order of turns, broken encodings, and markers of a template."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from touchline.core.finding import Severity
from touchline.data import text as data_text
from touchline.data.columns import Values
from touchline.data.text import short
from touchline.lint.data_view import DataRow, DataView, violation_in_rows
from touchline.lint.rule import Violation, rule

Turn = Mapping[str, object]

_FEW = 0.2
"""Share of the chats up to which another order is an accident."""
_USERS = frozenset({"user", "human", "prompter"})
_ASSISTANTS = frozenset({"assistant", "gpt", "model", "bot", "chatgpt", "bing", "bard"})
_SYSTEMS = frozenset({"system", "developer"})
_TOOLS = frozenset({"tool", "function", "function_call", "observation", "ipython", "tool_call", "tool_response"})


def turns_in(values: Values, column: str | None) -> Sequence[Turn]:
    """Return the turns of a row's chat; none if it is not a list of mappings."""
    turns = values.get(column or "")
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        return ()
    return turns


def role_of(turn: Turn) -> str | None:
    """Return the role as written. None if there is none."""
    role = turn.get("role", turn.get("from"))
    return role if isinstance(role, str) else None


def _chats_with(view: DataView, odd: Callable[[Sequence[Turn]], object]) -> list[DataRow]:
    if view.layout.kind != "chat":
        return []
    return [row for row in view.rows if (turns := turns_in(row.values, view.layout.chat)) and odd(turns)]


def _disorder(turns: Sequence[Turn]) -> str | None:
    """Describe a wrong order of roles. None if it is right, or tools are used."""
    roles = [(role_of(turn) or "").casefold() for turn in turns]
    if any(role in _TOOLS for role in roles) or any("tool_calls" in turn for turn in turns):
        return None
    for place, role in enumerate(roles):
        before = roles[place - 1] if place else ""
        if role in _SYSTEMS and before and before not in _SYSTEMS:
            return f"a system turn is turn {place + 1}"
        if role in _SYSTEMS and before in _SYSTEMS:
            return "two system turns follow each other"
        for name, group in (("user", _USERS), ("assistant", _ASSISTANTS)):
            if role in group and before in group:
                return f"two turns of the {name} follow each other"
        if role in _ASSISTANTS and (not before or before in _SYSTEMS):
            return "the assistant has the first turn"
    return None


@rule("DA380", Severity.WARNING)
def roles_not_alternating(view: DataView) -> Iterator[Violation]:
    """Report chats whose roles do not alternate."""
    rows = _chats_with(view, _disorder)
    if rows:
        severity = None if len(rows) <= _FEW * view.count or len(rows) == 1 else Severity.INFO
        what = _disorder(turns_in(rows[0].values, view.layout.chat))
        yield violation_in_rows(view, rows, f"{what}", severity=severity)


_RARE = 0.02
"""Share of the rows under which a few odd characters do no harm."""
_ALPACA = re.compile(r"^### (?:Instruction|Response|Input):", re.MULTILINE)
_SMALL = 1_000
"""Rows up to which a single unusual one is reported."""
_AROUND = 12


def _rows_with(view: DataView, odd: Callable[[str], object]) -> list[DataRow]:
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
    """Report text that was read in another encoding, or whose characters were lost that way."""
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
def lone_surrogates(view: DataView) -> Iterator[Violation]:
    """Report text with surrogates that stand alone."""
    rows = _rows_with(view, data_text.surrogate)
    if rows:
        yield violation_in_rows(view, rows, "lone surrogate: half a character, which UTF-8 cannot encode")


@rule("DA367", Severity.WARNING)
def chat_template_markers(view: DataView) -> Iterator[Violation]:
    """Report turns or answers with markers of a chat template."""
    if view.layout.kind == "text":
        return
    rows = _rows_with(view, data_text.chat_mark)
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
