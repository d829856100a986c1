"""Conversion of a row to a chat: the turns before the answer, and the answer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from touchline.core.catalog import IMAGE_PLACE, Message
from touchline.core.finding import Severity
from touchline.core.json_text import parse_json
from touchline.data.rendering.text import ROLES, role_and_content
from touchline.experiment.data_config import DataConfig

_BRACES = re.compile(r"\{([^{}]*)\}")
# A word is meant as a column; so is what str.format would take `{input.x}`, `{input!r}` and `{input:>9}` for.
_WORD = re.compile(r"[^\W\d]\w*|input[.\[!:].*", re.DOTALL)

_ROLE_CHARACTERS = 40
"""Limit on the length of a role name; longer ones are not printed."""

Chat = tuple[tuple[Message, ...], str]
"""Turns before the answer, and the answer."""


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Problem of a row that makes it unusable as an example."""

    message: str
    """Message, equal for all rows with the same problem."""
    columns: tuple[str, ...] = ()
    in_prompt: bool = False
    """Whether the prompt refers to them in braces."""
    hint: str | None = None


class Prompt:
    """User turn, parsed once for all rows.

    Braces are replaced and nothing more: str.format would let a template reach into objects. `{word}` must be a
    column; other braces, as in an example of JSON, are a column's when there is one of that name, and else stand for
    themselves.

    Args:
        inputs: the column, or the columns, that `{input}` stands for.
    """

    def __init__(self, template: str, inputs: str | Sequence[str]) -> None:
        # Every second piece is what stood in braces.
        self._pieces = _BRACES.split(template)
        self._inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        self.columns: frozenset[str] = frozenset(
            column for n in self._pieces[1::2] if _WORD.fullmatch(n) for column in self._columns(n)
        )
        """Columns that the prompt shows."""

    def text(self, values: Mapping[str, object], problems: list[RowProblem]) -> str:
        """Return the turn for one row. Missing columns are added to `problems`."""
        written = [self._pieces[0]]
        for name, after in zip(self._pieces[1::2], self._pieces[2::2], strict=True):
            columns = self._columns(name)
            there = [column for column in columns if column in values]
            if there:
                written.append(_joined(values, there, problems))
            elif columns[0] in self.columns:
                listed = " or ".join(map(repr, columns))
                message = f"there is no column {listed}, which the prompt uses"
                problems.append(RowProblem(message, columns, in_prompt=name != "input"))
            else:
                written.append(f"{{{name}}}")
            written.append(after)
        return "".join(written)

    def _columns(self, name: str) -> tuple[str, ...]:
        return self._inputs if name == "input" else (name,)


def brace_faults(template: str, names: Iterable[str]) -> Iterator[tuple[str, str, Severity]]:
    """Yield message, hint and severity for each malformed placeholder in a prompt.

    Args:
        names: what may stand in braces: `input`, and the columns.
    """
    known = dict.fromkeys(names)
    shows_none = not any(f"{{{name}}}" in template for name in known)
    for name in known:
        word = re.escape(name)
        right = f"write {{{name}}}, with one brace on each side"
        if re.search(rf"\{{\{{\s*{word}\s*\}}\}}", template):
            message = f"{{{{{name}}}}} gives the column in braces: {{...}}. One pair of braces is enough"
            yield message, right, Severity.WARNING
        elif re.search(rf"\{{(?:\s+{word}\s*|\s*{word}\s+)\}}", template):
            yield f"{{ {name} }} has spaces inside its braces, so it is not replaced", right, Severity.ERROR
        elif re.search(rf"\{{\s*{word}(?![\w}}.!:\[]|\s*\}})", template):
            yield f"the brace before {name!r} is not closed", right, Severity.ERROR
        elif re.search(rf"(?<![\w{{]){word}\}}", template) and not re.search(rf"\{{[^{{}}]*{word}\}}", template):
            yield f"the brace after {name!r} is not opened", right, Severity.ERROR
        elif name == "input" and shows_none and (other := _OTHER_BRACES.search(template)) is not None:
            yield f"{other.group()} is not a column in braces", right, Severity.ERROR


_OTHER_BRACES = re.compile(r"\{0?\}|%s|\$input\b|\[+input\]+|<+input>+|\(input\)|\{%.*?%\}|%\(?input\)?s?%?", re.DOTALL)
"""Placeholders in other notations."""


def is_chat(value: object) -> bool:
    """Return True if a value is a list of turns."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(turn, Mapping) and role_and_content(turn)[0] is not None for turn in value)


def _joined(values: Mapping[str, object], columns: Sequence[str], problems: list[RowProblem]) -> str:
    """Return the text of a column, or of several joined by newlines without empty ones."""
    texts = []
    for column in columns:
        value = values[column]
        text = "" if value is None and len(columns) > 1 else plain_text(value)
        if text is None:
            kind, hint = _unusable(value)
            problems.append(RowProblem(f"column {column!r}, which the prompt shows, is {kind}", hint=hint))
        elif text or len(columns) == 1:
            texts.append(text)
    return "\n".join(texts)


def instruction(values: Mapping[str, object], data: DataConfig, prompt: Prompt) -> Chat | list[RowProblem]:
    """Return a row of columns as a chat, or all its problems."""
    problems: list[RowProblem] = []
    text = prompt.text(values, problems)
    answer = plain_text(values.get(data.output))
    if data.output not in values:
        message = f"there is no column {data.output!r} for the answer"
        # A file with other columns is one mistake, not one of the prompt and one of the answer.
        absent = next((fault for fault in problems if fault.columns and not fault.in_prompt), None)
        if absent is not None:
            problems.remove(absent)
            message = f"{absent.message}, and no column {data.output!r} for the answer"
        problems.append(RowProblem(message, (*(absent.columns if absent else ()), data.output)))
    elif answer is None or not answer.strip():
        kind, hint = _unusable(values[data.output])
        problems.append(RowProblem(f"the answer, column {data.output!r}, is {kind}", hint=hint))
    if not problems and not text.strip():
        problems.append(RowProblem("the prompt is empty"))
    files = image_files(values, data)
    if isinstance(files, RowProblem):
        problems.append(files)
    if problems or answer is None or isinstance(files, RowProblem):
        return problems
    return _with_images((*_system(data), Message(role="user", content=text)), (), files, answer)


def chat(values: Mapping[str, object], data: DataConfig) -> Chat | list[RowProblem]:
    """Return a row with a whole chat, or its problem."""
    column = data.messages or ""
    if column not in values:
        return [RowProblem(f"there is no column {column!r} for the chat", (column,))]
    turns = values[column]
    if isinstance(turns, str):
        # CSV has no lists: there a chat is JSON in a cell.
        try:
            turns = parse_json(turns, allow_half_characters=True)
        except (ValueError, RecursionError):
            return [RowProblem(f"column {column!r} is not a list of turns, nor JSON of one")]
    if not isinstance(turns, list) or len(turns) < 2:
        return [RowProblem(f"column {column!r} is not a list of at least two turns")]
    files = image_files(values, data)
    if isinstance(files, RowProblem):
        return [files]
    messages: list[Message] = []
    named: list[str | None] = []
    for turn in turns:
        role, said = role_and_content(turn) if isinstance(turn, dict) else (None, None)
        content, places = _text_of_parts(said) if isinstance(said, list) else (plain_text(said), [])
        if role is None or content is None:
            return [_turn_fault(turn, role)]
        if places and role == "assistant":
            return [RowProblem("an assistant turn contains an image, but images belong in earlier turns")]
        named += places
        messages.append(Message(role=role, content=content))
    if messages[-1].role != "assistant" or not messages[-1].content.strip():
        return [RowProblem("the last turn is not an assistant answer")]
    system = () if messages[0].role == "system" else _system(data)
    return _with_images((*system, *messages[:-1]), named, files, messages[-1].content)


def image_files(values: Mapping[str, object], data: DataConfig) -> list[str] | RowProblem:
    """Return the paths in a row's column of images as written. Empty without such a column."""
    if data.images is None:
        return []
    if data.images not in values:
        return RowProblem(f"there is no column {data.images!r} for the images", (data.images,))
    value = values[data.images]
    if isinstance(value, str) and value.startswith("["):
        # CSV has no lists: there it is JSON in a cell.
        try:
            value = parse_json(value)
        except (ValueError, RecursionError):
            return RowProblem(f"column {data.images!r} holds neither a path nor a list of paths")
    listed = value if isinstance(value, list) else [] if value in (None, "") else [value]
    files = [each.get("path") if isinstance(each, Mapping) else each for each in listed]
    found = [each for each in files if isinstance(each, str) and each]
    if len(found) < len(files):
        hint = "save the images as files and their paths in the column"
        return RowProblem(f"column {data.images!r} contains an image that is not a path", hint=hint)
    return found


def _text_of_parts(parts: Sequence[object]) -> tuple[str | None, list[str | None]]:
    """Return the text of a turn's parts, and the file that each image part names. No text for unknown parts."""
    written: list[str] = []
    files: list[str | None] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part, Mapping) and isinstance(part.get("text"), str):
            written.append(str(part["text"]))
        elif kind == "image" and isinstance(part, Mapping):
            named = next((part[key] for key in ("image", "path") if isinstance(part.get(key), str)), None)
            files.append(None if named is None else str(named))
            written.append(IMAGE_PLACE)
        else:
            return None, []
    return "".join(written), files


def _with_images(
    turns: tuple[Message, ...], named: Sequence[str | None], files: Sequence[str], answer: str
) -> Chat | list[RowProblem]:
    """Return a chat with its images in place, or its problem.

    Args:
        named: the file of each image part, in order; None for a part that names none.
    """
    if not named and not files:
        return turns, answer
    left = iter(files)
    paths = [next(left, None) if each is None else each for each in named]
    rest = list(left)
    places = sum(turn.content.count(IMAGE_PLACE) for turn in turns)
    if None in paths or (named and rest) or places not in (0, len(paths) + len(rest)):
        count = len([each for each in named if each is not None]) + len(files)
        hint = f"write {IMAGE_PLACE} once for each image, or nowhere, to put them before the first question"
        return [RowProblem(f"the text has {places} {IMAGE_PLACE}, but the row has {count}", hint=hint)]
    every = [each for each in (*paths, *rest) if each is not None]
    if not places:
        first = next((number for number, turn in enumerate(turns) if turn.role == "user"), None)
        if first is None:
            return [RowProblem("there is no user turn to hold the images")]
        shown = Message(role="user", content=IMAGE_PLACE * len(every) + turns[first].content)
        turns = (*turns[:first], shown, *turns[first + 1 :])
    placed: list[Message] = []
    for turn in turns:
        count = turn.content.count(IMAGE_PLACE)
        placed.append(Message(role=turn.role, content=turn.content, images=tuple(every[:count])))
        every = every[count:]
    return tuple(placed), answer


def _turn_fault(turn: object, role: str | None) -> RowProblem:
    known = " | ".join(dict.fromkeys(ROLES.values()))
    named = (turn.get("role"), turn.get("from")) if isinstance(turn, Mapping) else ()
    stated = next((each for each in named if isinstance(each, str)), None)
    untrained = "remove these chats, because tool calls and tool turns are not supported"
    if isinstance(turn, Mapping) and "tool_calls" in turn and role is not None:
        return RowProblem(f"a {role} turn calls a tool and has no text", hint=untrained)
    if stated is not None and role is None and len(stated) <= _ROLE_CHARACTERS:
        return RowProblem(
            f"a turn has the role {stated!r}, expected {known}", hint=untrained if "tool" in stated else None
        )
    return RowProblem(f"a turn is not a {{role: {known}, content: text}} or {{from: ..., value: text}}")


def cluster_of(values: Mapping[str, object], column: str) -> str | RowProblem | None:
    """Return the cluster that a row shares with others, None if it has none, or its problem."""
    if column not in values:
        return RowProblem(f"there is no column {column!r}, which evaluate.cluster names", (column,))
    value = values[column]
    text = "" if value is None else plain_text(value)
    if text is None:
        return RowProblem(f"column {column!r}, which evaluate.cluster names, is not text")
    return text if text.strip() else None


def plain_text(value: object) -> str | None:
    """Return text or a number as text. None for other values, and for text that UTF-8 cannot encode."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return None
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A whole number may be beyond a float's range, and is finite all the same.
    return None if isinstance(value, float) and not math.isfinite(value) else str(value)


def _unusable(value: object) -> tuple[str, str | None]:
    """Return the type of a value that cannot be used as text, and a suggestion."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "empty", "fill them in, or remove these rows"
    if isinstance(value, bool):
        return "true or false, not text", 'write them as words, for example "yes" and "no", or as 1 and 0'
    if isinstance(value, list | tuple):
        return "a list, not text", "write one text per row"
    if isinstance(value, Mapping):
        return "an object with fields, not text", "write each field as a column, one level deep"
    return "no text", None


def _system(data: DataConfig) -> tuple[Message, ...]:
    return (Message(role="system", content=data.system),) if data.system else ()
