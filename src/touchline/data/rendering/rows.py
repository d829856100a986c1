"""Conversion of dataset rows to chats by the column conventions of trainers.

Only what is unmistakable is taken; a row of another form is none of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from touchline.core.catalog import Example, Message

Form = Literal["messages", "chat completion", "text completion", "instruction"]
"""Format of a row: chat; prompt and completion as turns or as texts; or columns that a trainer joins."""

_TURNS = ("messages", "conversations", "conversation", "chat")
ROLES = {
    **{"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"},
    **{"model": "assistant", "bot": "assistant", "chatgpt": "assistant"},
}
"""Names of chat roles in datasets."""
_ASKED = ("question", "input", "prompt", "query")
_ANSWERED = ("answer", "output", "response", "completion")
_MEDIA = ("image", "images", "image_path", "image_filename", "video", "videos", "audio", "audios")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownRow:
    """Row as a chat."""

    example: Example
    form: Form
    media: bool = False
    """Whether it has images or audio, whose tokens are not counted."""


def shown_row(row: Mapping[str, object], name: str) -> ShownRow | None:
    """Return a row as a chat. None if its columns are unknown or its last turn is not an answer.

    Args:
        name: what to call it, `train-17`.
    """
    media = any(row.get(key) for key in _MEDIA)
    turns = next((row[key] for key in _TURNS if isinstance(row.get(key), list)), None)
    if isinstance(turns, list):
        chat = _chat(turns)
        return None if chat is None else _row(name, chat[:-1], chat[-1].content, "messages", media)
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        chat = _chat([*prompt, *completion])
        return None if chat is None else _row(name, chat[:-1], chat[-1].content, "chat completion", media)
    if isinstance(prompt, str) and isinstance(completion, str):
        return _row(name, _asked(prompt, None), completion, "text completion", media)
    system = row.get("system")
    if isinstance(row.get("instruction"), str) and isinstance(row.get("output"), str):
        joined = "\n".join(str(row[key]) for key in ("instruction", "input") if row.get(key))
        return _row(name, _asked(joined, system), str(row["output"]), "instruction", media)
    asked = next((row[key] for key in _ASKED if isinstance(row.get(key), str)), None)
    answer = next((row[key] for key in _ANSWERED if isinstance(row.get(key), str)), None)
    if not isinstance(asked, str) or not isinstance(answer, str):
        return None
    return _row(name, _asked(asked, system), answer, "instruction", media)


def _row(name: str, prompt: tuple[Message, ...], answer: str, form: Form, media: bool) -> ShownRow | None:
    if not prompt or not answer.strip():
        return None
    return ShownRow(example=Example(id=name, prompt=prompt, answer=answer), form=form, media=media)


def _asked(text: str, system: object) -> tuple[Message, ...]:
    first = (Message(role="system", content=system),) if isinstance(system, str) and system else ()
    return (*first, Message(role="user", content=text))


def role_and_content(turn: Mapping[str, object]) -> tuple[str | None, object]:
    """Return role and content of a turn, written as {role, content} or {from, value}; no role if it is unknown."""
    role = turn.get("role", turn.get("from"))
    known = ROLES.get(role.casefold()) if isinstance(role, str) else None
    return known, turn.get("content", turn.get("value"))


def _chat(turns: list[object]) -> tuple[Message, ...] | None:
    messages: list[Message] = []
    for turn in turns:
        if not isinstance(turn, dict):
            return None
        role, content = role_and_content(turn)
        if role is None or not isinstance(content, str):
            return None
        messages.append(Message(role=role, content=content))
    if len(messages) < 2 or messages[-1].role != "assistant":
        return None
    return tuple(messages)
