"""Tokenizer, template and rows as other trainers use them: with or without added tokens, in pieces, with offsets.

`ChatRenderer` renders as touchline trains and evaluates; this renders as anybody else does, to compare the two.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from touchline.core.catalog import Example, Message
from touchline.core.json_text import has_half_characters
from touchline.core.quantity import Missing
from touchline.data.rendering.chat import (
    NO_IMAGES,
    ChatRenderer,
    ImageRule,
    SpecialTokens,
    half_character,
    parse_tokenizer,
    variables_of,
)
from touchline.data.rendering.sandbox import MARKS, ChatTemplate, ChatTemplateError, Compile, Template

Ids = tuple[int, ...]

_ANSWER_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ModelText:
    """Tokenizer and template of one model.

    Args:
        images: rule of the model's image processor, or why there is none.
    """

    def __init__(
        self,
        template: str | None,
        tokenizer_json: str,
        tokens: SpecialTokens,
        date: str,
        compile_template: Compile = ChatTemplate,
        images: ImageRule | Missing = NO_IMAGES,
    ) -> None:
        self._images = images
        self.template = template
        """The model's own chat template."""
        self.tokens = tokens
        """The special tokens that its files name."""
        self._date = date
        self._compile = compile_template
        self._json = tokenizer_json
        self._tokenizer = parse_tokenizer(tokenizer_json)
        self._templates: dict[tuple[str, bool], Template] = {}
        added = self._tokenizer.get_added_tokens_decoder()
        self.special: dict[str, int] = {token.content: number for number, token in added.items() if token.special}
        """Special tokens of the tokenizer by their text: what is written so becomes one token that ends or begins."""
        self.size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        """Tokens of the tokenizer, added ones included."""
        self.highest: int = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        """The highest id."""
        stops = {self.id(token) for token in (tokens.eos, *tokens.stops)}
        self.stop_ids: frozenset[int] = frozenset(stop for stop in stops if stop is not None)
        """Ids at which evaluation ends an answer."""

    @functools.cached_property
    def renderer(self) -> ChatRenderer:
        """Renderer that touchline uses for training and evaluation.

        Raises:
            ChatTemplateError: the template does not compile, or no token ends an answer.
        """
        return ChatRenderer(self.template, self._json, self.tokens, self._date, self._compile, self._images)

    def ids(self, text: str, *, special_tokens: bool = False) -> Ids:
        """Return the token ids of a text; with `special_tokens` including those that the tokenizer adds."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=special_tokens).ids)

    def ids_with_places(self, text: str) -> tuple[Ids, tuple[tuple[int, int], ...]]:
        """Return the token ids of a text, and the character range of each."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return tuple(encoding.ids), tuple(encoding.offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, including special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def id(self, token: str | None) -> int | None:
        """Return the id of a token. None if it is unknown."""
        found = None if token is None else self._tokenizer.token_to_id(token)
        return None if found is None else int(found)

    def name(self, number: int) -> str | None:
        """Return the token of an id. None if there is none."""
        found = self._tokenizer.id_to_token(number)
        return None if found is None else str(found)

    @property
    def bos_id(self) -> int | None:
        """Return the id of the token that begins a text. None if the model has none."""
        return self.id(self.tokens.bos)

    @property
    def marks_answers(self) -> bool:
        """Return True if the model's template marks answers by `{% generation %}`."""
        return self.template is not None and _ANSWER_MARKER.search(self.template) is not None

    def render(self, messages: Sequence[Message], *, generation: bool, template: str | None = None) -> str:
        """Return a chat as text, by the model's template or another.

        Raises:
            ChatTemplateError: there is no template, or it refuses the chat or fails.
        """
        return self._render(messages, generation, template, marked=False)

    def answers(self, messages: Sequence[Message]) -> tuple[str, tuple[tuple[int, int], ...]]:
        """Return a chat as text, and the character ranges of the marked answers.

        Raises:
            ChatTemplateError: there is no template, or it refuses the chat or fails.
        """
        marked = self._render(messages, False, None, marked=True)
        parts: list[str] = []
        spans: list[tuple[int, int]] = []
        length = start = 0
        for piece in re.split(f"([{''.join(MARKS)}])", marked):
            if piece == MARKS[0]:
                start = length
            elif piece == MARKS[1]:
                spans.append((start, length))
            else:
                parts.append(piece)
                length += len(piece)
        return "".join(parts), tuple(spans)

    def _render(self, messages: Sequence[Message], generation: bool, template: str | None, *, marked: bool) -> str:
        source = self.template if template is None else template
        if source is None:
            raise ChatTemplateError("the model has no chat template")
        key = (source, marked)
        if key not in self._templates:
            self._templates[key] = self._compile(source, self._date, mark_answers=marked)
        (text,) = self._templates[key].render_all([variables_of(messages, self.tokens, generation)])
        if has_half_characters(text):
            raise half_character("a chat, as the chat template writes it,")
        return text


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
