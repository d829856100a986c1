"""Layout of a chat: what a template writes around the texts of its turns.

Most templates write these texts out and ask little of them. A template runs once with stand-ins for them. A stand-in
can be written, joined to other text and stripped; whether it contains, begins or ends with some text is answered with
no, and kept as a condition. Anything else that a template asks, such as the length, leaves it without a layout. So the
template takes the same path for all texts that fulfil the conditions, and the layout gives what it would write.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from jinja2 import nodes

from touchline.data.rendering.sandbox import OUTPUT_LIMIT_CHARACTERS, ChatTemplateError, Sandbox, render_limited

_CAPTURING = (
    nodes.AssignBlock,
    nodes.Block,
    nodes.CallBlock,
    nodes.Extends,
    nodes.FilterBlock,
    nodes.FromImport,
    nodes.Import,
    nodes.Include,
    nodes.Macro,
)
"""Statements that hand what was written back to the template, which can then look at it."""
_TESTS = {
    "boolean": False,
    "callable": False,
    "defined": True,
    "false": False,
    "float": False,
    "integer": False,
    "iterable": True,
    "mapping": False,
    "none": False,
    "number": False,
    "sequence": True,
    "string": True,
    "true": False,
    "undefined": False,
}
"""Tests whose result is the same for all texts."""


class Part(NamedTuple):
    """Text of a turn."""

    turn: int
    """Number of the turn, from 0."""
    strips: tuple[tuple[str, str | None], ...] = ()
    """Methods `strip`, `lstrip` and `rstrip` with their argument, in order."""

    def text(self, contents: Sequence[str]) -> str:
        """Return it, given the texts of all turns."""
        text = contents[self.turn]
        for method, characters in self.strips:
            text = getattr(text, method)(characters)
        return text


class Condition(NamedTuple):
    """Condition that the text of a turn does not begin with, end with or contain another."""

    part: Part
    """The text."""
    method: str
    """`startswith`, `endswith` or `__contains__`."""
    other: str
    """The other text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Chat of a template with places for the texts of its turns, none of them empty."""

    pieces: tuple[str | Part, ...]
    """Constant text and the texts of turns, in order."""
    conditions: tuple[Condition, ...]
    """Conditions on the texts."""

    def write(self, contents: Sequence[str]) -> str | None:
        """Return the chat, given the texts of all turns. None if the template may write these differently."""
        if not all(contents):
            return None
        if any(getattr(each.part.text(contents), each.method)(each.other) for each in self.conditions):
            return None
        text = "".join([piece if isinstance(piece, str) else piece.text(contents) for piece in self.pieces])
        return text if len(text) <= OUTPUT_LIMIT_CHARACTERS else None

    def to_json(self) -> object:
        """Return it as JSON values."""
        return [self.pieces, self.conditions]

    @classmethod
    def from_json(cls, value: Any) -> Layout:
        """Return the layout of `to_json`."""
        pieces, conditions = value
        return cls(
            pieces=tuple(piece if isinstance(piece, str) else _part(piece) for piece in pieces),
            conditions=tuple(Condition(_part(part), method, other) for part, method, other in conditions),
        )


def _part(value: Any) -> Part:
    turn, strips = value
    return Part(turn, tuple((method, characters) for method, characters in strips))


def find_layout(source: str, date: str, marked: bool, chat: Mapping[str, Any]) -> Layout | None:
    """Return the layout of a template for chats like one. None if the template looks at the texts of the turns.

    Args:
        source: the template's text.
        date: ISO date that `strftime_now` gives.
        marked: whether marks are written around answers.
        chat: the template's variables; only the texts of the turns may differ.
    """
    conditions: list[Condition] = []
    places: list[Part] = []
    # No template holds its own hash.
    mark = f"\uf8f2{hashlib.sha256(source.encode()).hexdigest()[:16]}-"

    def written(value: object) -> object:
        if not isinstance(value, _StandIn):
            return value
        parts: list[str] = []
        for piece in value._pieces:
            if isinstance(piece, str):
                parts.append(piece)
            else:
                parts.append(f"{mark}{len(places)}\uf8f3")
                places.append(piece)
        return "".join(parts)

    turns = [{**turn, "content": _StandIn((Part(number),), conditions)} for number, turn in enumerate(chat["messages"])]
    sandbox = Sandbox(date, mark_answers=marked, finalize=written)
    sandbox.filters.update({name: _guarded_filter(name, use) for name, use in sandbox.filters.items()})
    sandbox.tests.update({name: _guarded_test(name, use) for name, use in sandbox.tests.items()})
    try:
        tree = sandbox.parse(source)
        if any(tree.find_all(_CAPTURING)) or any(loop.recursive for loop in tree.find_all(nodes.For)):
            return None
        text = render_limited(sandbox.from_string(source), {**chat, "messages": turns})
    except (ChatTemplateError, _LookedAtError):
        return None
    pieces = re.split(f"{mark}([0-9]+)\uf8f3", text)
    return Layout(
        pieces=tuple(places[int(piece)] if at % 2 else piece for at, piece in enumerate(pieces)),
        conditions=tuple(dict.fromkeys(conditions)),
    )


class _LookedAtError(BaseException):
    """A template asks more of a text than a layout can give. No Exception, since jinja2 catches some of these."""


def _refuse(*_: object, **__: object) -> NoReturn:
    raise _LookedAtError


class _StandIn:
    """Stand-in for the text of a turn, or for a text that it is part of."""

    __slots__ = ("_conditions", "_pieces")

    def __init__(self, pieces: tuple[str | Part, ...], conditions: list[Condition]) -> None:
        self._pieces = pieces
        self._conditions = conditions

    def __add__(self, other: object) -> _StandIn:
        return self._joined(self._pieces, _pieces_of(other))

    def __radd__(self, other: object) -> _StandIn:
        return self._joined(_pieces_of(other), self._pieces)

    def __bool__(self) -> bool:
        # Only a text that was stripped may be empty.
        if any(piece if isinstance(piece, str) else not piece.strips for piece in self._pieces):
            return True
        raise _LookedAtError

    def __contains__(self, other: object) -> bool:
        return self._unlike("__contains__", other)

    def startswith(self, other: object) -> bool:
        """Return False on condition."""
        return self._unlike("startswith", other)

    def endswith(self, other: object) -> bool:
        """Return False on condition."""
        return self._unlike("endswith", other)

    def strip(self, characters: object = None) -> _StandIn:
        """Return the stripped text."""
        return self._stripped("strip", characters)

    def lstrip(self, characters: object = None) -> _StandIn:
        """Return the text stripped at its beginning."""
        return self._stripped("lstrip", characters)

    def rstrip(self, characters: object = None) -> _StandIn:
        """Return the text stripped at its end."""
        return self._stripped("rstrip", characters)

    def _joined(self, first: tuple[str | Part, ...], second: tuple[str | Part, ...]) -> _StandIn:
        return _StandIn((*first, *second), self._conditions)

    def _part(self) -> Part:
        if len(self._pieces) != 1 or isinstance(self._pieces[0], str):
            raise _LookedAtError
        return self._pieces[0]

    def _stripped(self, method: str, characters: object) -> _StandIn:
        if not (characters is None or isinstance(characters, str)):
            raise _LookedAtError
        part = self._part()
        return _StandIn((part._replace(strips=(*part.strips, (method, characters))),), self._conditions)

    def _unlike(self, method: str, other: object) -> bool:
        if not isinstance(other, str):
            raise _LookedAtError
        self._conditions.append(Condition(self._part(), method, other))
        return False

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __hash__ = __str__ = __repr__ = __format__ = _refuse
    __getattr__ = __getitem__ = __index__ = __iter__ = __len__ = _refuse


def _pieces_of(value: object) -> tuple[str | Part, ...]:
    if isinstance(value, _StandIn):
        return value._pieces
    if isinstance(value, str):
        return (value,)
    raise _LookedAtError


def _guarded_filter(name: str, use: Callable[..., object]) -> Callable[..., object]:
    """Return a filter that refuses stand-ins unless it strips them or leaves them as they are."""

    @functools.wraps(use)
    def guarded(*values: Any, **named: Any) -> object:
        if not any(isinstance(value, _StandIn) for value in (*values, *named.values())):
            return use(*values, **named)
        if name == "trim" and isinstance(values[0], _StandIn):
            return values[0].strip(*values[1:], *named.values())
        if name == "string":
            return values[0]
        if name in ("default", "d"):
            return use(*values, **named)
        raise _LookedAtError

    return guarded


def _guarded_test(name: str, use: Any) -> Any:
    """Return a test that refuses stand-ins unless its result is the same for all texts."""

    @functools.wraps(use)
    def guarded(*values: object, **named: object) -> Any:
        if not any(isinstance(value, _StandIn) for value in (*values, *named.values())):
            return use(*values, **named)
        if name in _TESTS and len(values) == 1:
            return _TESTS[name]
        raise _LookedAtError

    return guarded
