"""One row to one chat: the turns before the answer, and the answer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from touchline.domain.catalog import Message
from touchline.domain.experiment import DataConfig
from touchline.jsontext import parse_json

_BRACES = re.compile(r"\{([^{}]*)\}")
# A word is meant as a column; so is what str.format would take `{input.x}`, `{input!r}` and `{input:>9}` for.
_WORD = re.compile(r"[^\W\d]\w*|input[.\[!:].*", re.DOTALL)
_ROLES = ("system", "user", "assistant")

Chat = tuple[tuple[Message, ...], str]
"""The turns before the answer, and the answer."""


@dataclass(frozen=True, slots=True)
class RowFault:
    """Why a row is no example."""

    message: str
    """What is wrong; the same for all rows with the same fault."""
    column: str | None = None
    """The column that is not there, for a hint."""


class Prompt:
    """A user's turn, taken apart once for all rows.

    Braces are replaced and nothing more: str.format would let a template reach into objects. `{word}` must be a
    column; other braces, as in an example of JSON, are a column's when there is one of that name, and else stand for
    themselves.

    Args:
        template: the turn, with columns in braces.
        input_column: the column that `{input}` stands for.
    """

    def __init__(self, template: str, input_column: str) -> None:
        # Every second piece is what stood in braces.
        self._pieces = _BRACES.split(template)
        self._input = input_column
        self.columns: frozenset[str] = frozenset(self._column(n) for n in self._pieces[1::2] if _WORD.fullmatch(n))
        """Columns that every row must have."""

    def text(self, values: Mapping[str, object], faults: list[RowFault]) -> str:
        """The turn for one row; what the row lacks is added to `faults`."""
        written = [self._pieces[0]]
        for name, after in zip(self._pieces[1::2], self._pieces[2::2], strict=True):
            column = self._column(name)
            if column in values:
                value = plain_text(values[column])
                if value is None:
                    faults.append(RowFault(f"column {column!r}, which the prompt shows, is no text"))
                written.append(value or "")
            elif column in self.columns:
                faults.append(RowFault(f"there is no column {column!r}, which the prompt asks for", column))
            else:
                written.append(f"{{{name}}}")
            written.append(after)
        return "".join(written)

    def _column(self, name: str) -> str:
        return self._input if name == "input" else name


def instruction(values: Mapping[str, object], data: DataConfig, prompt: Prompt) -> Chat | list[RowFault]:
    """A row of columns as a chat, or everything that is wrong with it."""
    faults: list[RowFault] = []
    text = prompt.text(values, faults)
    answer = plain_text(values.get(data.output))
    if data.output not in values:
        faults.append(RowFault(f"there is no column {data.output!r} for the answer", data.output))
    elif answer is None or not answer.strip():
        faults.append(RowFault(f"the answer, column {data.output!r}, is empty or no text"))
    if not faults and not text.strip():
        faults.append(RowFault("the prompt is empty"))
    if faults or answer is None:
        return faults
    return (*_system(data), Message(role="user", content=text)), answer


def chat(values: Mapping[str, object], data: DataConfig) -> Chat | list[RowFault]:
    """A row with a whole chat, or what is wrong with it."""
    column = data.messages or ""
    if column not in values:
        return [RowFault(f"there is no column {column!r} for the chat", column)]
    turns = values[column]
    if isinstance(turns, str):
        # CSV has no lists: there a chat is JSON in a cell.
        try:
            turns = parse_json(turns, allow_half_characters=True)
        except (ValueError, RecursionError):
            return [RowFault(f"column {column!r} is no list of turns, and no JSON of one")]
    if not isinstance(turns, list) or len(turns) < 2:
        return [RowFault(f"column {column!r} is no list of at least two turns")]
    messages: list[Message] = []
    for turn in turns:
        role = turn.get("role") if isinstance(turn, dict) else None
        content = plain_text(turn.get("content")) if isinstance(turn, dict) else None
        if role not in _ROLES or content is None:
            return [RowFault(f"a turn is no {{role: {' | '.join(_ROLES)}, content: text}}")]
        messages.append(Message(role=str(role), content=content))
    if messages[-1].role != "assistant" or not messages[-1].content.strip():
        return [RowFault("the last turn is no answer of the assistant")]
    system = () if messages[0].role == "system" else _system(data)
    return (*system, *messages[:-1]), messages[-1].content


def cluster_of(values: Mapping[str, object], column: str) -> str | RowFault | None:
    """What a row says that it shares with other rows; None for one that stands alone, or what is wrong with it."""
    if column not in values:
        return RowFault(f"there is no column {column!r}, which evaluate.cluster asks for", column)
    value = values[column]
    text = "" if value is None else plain_text(value)
    if text is None:
        return RowFault(f"column {column!r}, which evaluate.cluster asks for, is no text")
    return text if text.strip() else None


def plain_text(value: object) -> str | None:
    """Text or a number as text; None for what is neither, and for text that UTF-8 cannot hold."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return None
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return str(value)


def _system(data: DataConfig) -> tuple[Message, ...]:
    return (Message(role="system", content=data.system),) if data.system else ()
