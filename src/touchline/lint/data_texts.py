"""Rules on the text of rows: the turns of chats, broken encodings, control characters, templates' own markers."""

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
_KNOWN = _USERS | _ASSISTANTS | _SYSTEMS | _TOOLS
_OPENAI = frozenset({"user", "assistant", "model"}) | _SYSTEMS | _TOOLS
"""Roles of turns in the form `{role, content}`."""
_TEXTS = ("content", "value")
_INSTEAD = ("tool_calls", "function_call", "reasoning_content", "thinking", "audio", "image")
"""Content of a turn in place of text."""


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


@rule("DA381", Severity.WARNING)
def unknown_role(view: DataView) -> Iterator[Violation]:
    """Report turns with a role that chats do not have."""

    def unknown(turns: Sequence[Turn]) -> str | None:
        for turn in turns:
            role = role_of(turn)
            if role is not None and role not in (_OPENAI if "role" in turn else _KNOWN):
                return role
        return None

    rows = _chats_with(view, unknown)
    if rows:
        role = unknown(turns_in(rows[0].values, view.layout.chat)) or ""
        # If every chat has it, a role mapping in the config may handle it.
        severity = Severity.INFO if len(rows) * 2 > view.count > 1 else None
        hint = f"write {role.casefold()!r}" if role.casefold() in _KNOWN else "write system, user, assistant or tool"
        yield violation_in_rows(view, rows, f"a turn's role is {short(role)}", hint=hint, severity=severity)


@rule("DA382", Severity.WARNING)
def empty_turn(view: DataView) -> Iterator[Violation]:
    """Report turns without text."""
    rows = _chats_with(view, _silent)
    if rows:
        what = _silent(turns_in(rows[0].values, view.layout.chat))
        # If every system turn is empty, a program wrote them.
        severity = Severity.INFO if len(rows) * 2 > view.count > 1 else None
        yield violation_in_rows(view, rows, f"{what}", severity=severity)


def _silent(turns: Sequence[Turn]) -> str | None:
    for place, turn in enumerate(turns, 1):
        if any(turn.get(key) for key in _INSTEAD):
            continue
        key = next((key for key in _TEXTS if key in turn), None)
        who = f"turn {place} ({role_of(turn) or 'no role'})"
        if key is None:
            return f"{who} has no 'content', its keys are {', '.join(map(repr, turn))}"
        value = turn[key]
        if value is None or (isinstance(value, str | list) and not value):
            return f"the {key} of {who} is {'null' if value is None else 'empty'}"
        if isinstance(value, str) and not value.strip():
            return f"the {key} of {who} is white space"
        if not isinstance(value, str | list | Mapping):
            return f"the {key} of {who} is not text: {value!r}"
    return None


@rule("DA383", Severity.WARNING)
def mixed_turn_formats(view: DataView) -> Iterator[Violation]:
    """Report data that mixes `{role, content}` and `{from, value}` turns."""

    def openai(turn: Turn) -> bool:
        return "role" in turn and "from" not in turn

    def sharegpt(turn: Turn) -> bool:
        return "from" in turn and "role" not in turn

    first = _chats_with(view, lambda turns: any(map(openai, turns)))
    second = _chats_with(view, lambda turns: any(map(sharegpt, turns)))
    if first and second:
        rare, usual = sorted((first, second), key=len)
        keys = ("role, content", "from, value") if rare is first else ("from, value", "role, content")
        message = f"turns are written {{{keys[0]}}} here and {{{keys[1]}}} in {len(usual):,} rows"
        yield violation_in_rows(view, rare, message)
        return
    names = [{role for turn in turns_in(row.values, view.layout.chat) if (role := role_of(turn))} for row in view.rows]
    for usual_role, other in (("gpt", "assistant"), ("human", "user")):
        if any(usual_role in name for name in names) and any(other in name for name in names):
            ordered = sorted(((usual_role, other), (other, usual_role)), key=lambda pair: _having(names, pair[0]))
            rare_role, common = ordered[0]
            rows = [row for row, each in zip(view.rows, names, strict=True) if rare_role in each]
            message = f"the role is {rare_role!r} here and {common!r} in {_having(names, common):,} rows"
            yield violation_in_rows(view, rows, message)
            return


def _having(names: Sequence[set[str]], role: str) -> int:
    return sum(role in name for name in names)


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
    """Report UTF-8 text that was read in another encoding."""
    rows = _rows_with(view, data_text.mojibake)
    if rows:
        piece = data_text.mojibake(rows[0].prompt) or data_text.mojibake(rows[0].answer or "") or ""
        message = f"UTF-8 that was read as another encoding: {_around(rows[0], piece)}"
        hint = f"{short(piece)} was {short(data_text.repaired(piece))}; read the source as UTF-8"
        yield violation_in_rows(view, rows, message, hint=hint, severity=_severity(view, rows))


def _characters(view: DataView, find: Callable[[str], str | None], words: str) -> tuple[list[DataRow], str]:
    """Return the rows with such a character and a message with the first one."""
    rows = _rows_with(view, find)
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
