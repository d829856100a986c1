"""Rendering of messages to token ids and to the label span.

Training shows the model `prompt_ids + answer_ids`; evaluation shows it `prompt_ids` and reads what it writes. Both call
this module, so both see the same prompt, token for token. The answer is tokenised apart from the prompt, because that
is where generation begins: a merge across the border would be a token that generation can never write.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tokenizers import Tokenizer

from touchline.core.catalog import IMAGE_PLACE, Example, Message, RenderedExample
from touchline.core.errors import InputError
from touchline.core.json_text import has_half_characters
from touchline.core.quantity import Missing
from touchline.data.rendering.sandbox import ChatTemplate, ChatTemplateError, Compile


def common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Return the number of tokens that all prompts begin with, excluding at least the last token of each.

    The last token of a prompt predicts the first target, so it must stay the example's own.
    """
    if len(prompts) < 2:
        return 0
    # What the first and the last in order begin with, all between them begin with.
    first, last = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    for index in range(limit):
        if first[index] != last[index]:
            return index
    return max(limit, 0)


MOST_ASPECT = 200
"""Largest ratio of an image's sides that an image processor accepts."""
NO_IMAGES = Missing(missing="the model takes text only")
"""Rule of a model without a vision tower."""
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRule:
    """Rule of a Qwen-like image processor.

    It scales an image so that both sides are multiples of patch x merge pixels and its area lies between two limits;
    every merge x merge patches become one token.
    """

    token_id: int
    """Token that stands for a part of an image."""
    patch: int
    """Pixels of a patch's side."""
    merge: int
    """Patches, down and across, per token."""
    frames: int
    """Equal frames per patch; an image is a film of one."""
    least_pixels: int
    """Lower limit of the scaled area."""
    most_pixels: int
    size_of: Callable[[str], tuple[int, int]]
    mean: tuple[float, ...] = _CLIP_MEAN
    std: tuple[float, ...] = _CLIP_STD

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Return the patches of an image, down and across.

        Raises:
            ValueError: one side is more than `MOST_ASPECT` times the other.
        """
        if max(width, height) > MOST_ASPECT * min(width, height):
            raise ValueError(f"{width} x {height} pixels")
        factor = self.patch * self.merge
        down, across = round(height / factor) * factor, round(width / factor) * factor
        if down * across > self.most_pixels:
            scale = math.sqrt(height * width / self.most_pixels)
            down = max(factor, math.floor(height / scale / factor) * factor)
            across = max(factor, math.floor(width / scale / factor) * factor)
        elif down * across < self.least_pixels:
            scale = math.sqrt(self.least_pixels / (height * width))
            down = math.ceil(height * scale / factor) * factor
            across = math.ceil(width * scale / factor) * factor
        return down // self.patch, across // self.patch

    def tokens(self, width: int, height: int) -> int:
        """Return the tokens of an image."""
        down, across = self.grid(width, height)
        return down * across // self.merge**2

    def tokens_of(self, path: str) -> int:
        """Return the tokens of an image file.

        Raises:
            InputError: it cannot be read.
        """
        return self.tokens(*self.size_of(path))

    def patches_of(self, path: str) -> int:
        """Return the patches of an image file.

        Raises:
            InputError: it cannot be read.
        """
        down, across = self.grid(*self.size_of(path))
        return down * across


_TOGETHER = 8192
"""Examples rendered and tokenized together, enough for all cores."""
_TOGETHER_CHARACTERS = 2 << 20
"""Characters of examples after which no further one is taken along, to bound the memory of long ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecialTokens:
    """Special tokens of a tokenizer."""

    bos: str | None = None
    eos: str | None = None
    """End of text; in chat models the end of a turn."""
    pad: str | None = None
    unk: str | None = None
    stops: tuple[str, ...] = ()
    """Further tokens that end an answer, from generation_config.json."""


@lru_cache(maxsize=4)
def parse_tokenizer(tokenizer_json: str) -> Tokenizer:
    """Parse a tokenizer, without truncation and padding; equal files share one, which is not to be changed."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class ChatRenderer:
    """Renderer of chats for one model.

    Args:
        images: rule of the model's image processor, or why there is none.

    Raises:
        ChatTemplateError: the template does not compile.
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
        self.images = images
        """Rule of the model's image processor, or why there is none."""
        self._template = None if template is None else compile_template(template, date)
        self._tokenizer = parse_tokenizer(tokenizer_json)
        self._tokens = tokens
        stops = {self._id(token) for token in (tokens.eos, *tokens.stops)} - {None}
        self.stop_ids: frozenset[int] = frozenset(stop for stop in stops if stop is not None)
        """Ids that end an answer."""
        if not self.stop_ids:
            raise ChatTemplateError("the tokenizer has no token that ends an answer", expected="an eos_token")
        pad = self._id(tokens.pad)
        self.pad_id: int = pad if pad is not None else min(self.stop_ids)
        """Id for padding; masked everywhere, so a model without one pads with a stop token."""

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """Return the prompt as text, up to and including the marker of the assistant's turn."""
        (text,) = self._texts([(messages, True)])
        return text

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the prompt as token ids, with the tokens of its images. Only the template writes special tokens."""
        return self.with_image_tokens(self.encode(self.prompt_text(messages)), images_of(messages), "the prompt")

    def with_image_tokens(self, ids: tuple[int, ...], images: Sequence[str], what: str) -> tuple[int, ...]:
        """Return a prompt with one token per part of each image, in place of the one that the template writes.

        Raises:
            InputError: an image cannot be read.
            ChatTemplateError: the template does not write one token per image.
        """
        if isinstance(self.images, Missing):
            return ids
        token = self.images.token_id
        if ids.count(token) != len(images):
            raise ChatTemplateError(
                f"the chat template writes {ids.count(token)} image tokens, but {what} has {len(images)} images",
                expected="one per image, and none in the text",
            )
        if not images:
            return ids
        counts = iter([self.images.tokens_of(path) for path in images])
        found: list[int] = []
        for id in ids:
            found += [id] * (next(counts) if id == token else 1)
        return tuple(found)

    def example(self, example: Example) -> RenderedExample:
        """Return an example's prompt and its answer with the stop token, as token ids.

        Raises:
            ChatTemplateError: the template writes an answer's turn differently from the prompt of one.
        """
        return next(self.examples([example]))

    def examples(self, examples: Iterable[Example]) -> Iterator[RenderedExample]:
        """Yield every example's prompt and its answer with the stop token, as token ids.

        Raises:
            ChatTemplateError: the template writes an answer's turn differently from the prompt of one.
        """
        for some in _together(examples):
            chats: list[tuple[Sequence[Message], bool]] = []
            for example in some:
                turns = (*example.prompt, Message(role="assistant", content=example.answer))
                chats += [(example.prompt, True), (turns, False)]
            texts = self._texts(chats)
            prompts, wholes = texts[::2], texts[1::2]
            for example, prompt, whole in zip(some, prompts, wholes, strict=True):
                _check(example, prompt, whole)
            rests = [whole[len(prompt) :] for prompt, whole in zip(prompts, wholes, strict=True)]
            encoded = self._encoded(prompts), self._encoded(rests)
            for example, rest, prompt_ids, rest_ids in zip(some, rests, *encoded, strict=True):
                images = images_of(example.prompt)
                yield RenderedExample(
                    prompt_ids=self.with_image_tokens(prompt_ids, images, f"example {example.id}"),
                    answer_ids=self._answer(rest, rest_ids, example),
                    images=images,
                )

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        """Return the text of token ids, by default without special tokens; the tokens of an image as one."""
        token = None if isinstance(self.images, Missing) else self.images.token_id
        shown = [id for at, id in enumerate(ids) if id != token or at == 0 or ids[at - 1] != token]
        return str(self._tokenizer.decode(shown, skip_special_tokens=not keep_special))

    def _answer(self, rest: str, ids: tuple[int, ...], example: Example) -> tuple[int, ...]:
        """Return the tokens of an answer up to its stop token, given what the template writes after the prompt."""
        answer = example.answer if rest.startswith(example.answer) else example.answer.strip()
        if not rest.startswith(answer):
            raise ChatTemplateError(f"the chat template changes the answer of example {example.id}: {rest[:60]!r}")
        for position, token in enumerate(ids):
            if token in self.stop_ids:
                return ids[: position + 1]
        # The template closes no turn: the model would never learn to stop, so the stop token is put there.
        return (*self.encode(answer), self._id(self._tokens.eos) or min(self.stop_ids))

    def _texts(self, chats: Sequence[tuple[Sequence[Message], bool]]) -> list[str]:
        """Return the texts of chats, given their turns and whether the marker of the next answer follows.

        Raises:
            InputError: a chat has images, and the model takes none.
        """
        if isinstance(self.images, Missing) and any(images_of(turns) for turns, _ in chats):
            raise InputError(
                f"the chats have images, but {self.images.missing}",
                expected="a vision-language model with its image processor",
            )
        if self._template is None:
            return [
                "".join(f"{turn.content}\n" if turn.role != "assistant" else turn.content for turn in turns)
                for turns, _ in chats
            ]
        return self._template.render_all([variables_of(turns, self._tokens, generation) for turns, generation in chats])

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a rendered text; no special tokens are added."""
        if has_half_characters(text):
            raise half_character("a chat, as the chat template writes it,")
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _encoded(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [tuple(encoding.ids) for encoding in found]

    def _id(self, token: str | None) -> int | None:
        if token is None:
            return None
        found = self._tokenizer.token_to_id(token)
        return None if found is None else int(found)


def _together(examples: Iterable[Example]) -> Iterator[list[Example]]:
    some: list[Example] = []
    characters = 0
    for example in examples:
        some.append(example)
        characters += len(example.answer) + sum(len(turn.content) for turn in example.prompt)
        if len(some) == _TOGETHER or characters >= _TOGETHER_CHARACTERS:
            yield some
            some, characters = [], 0
    if some:
        yield some


def _check(example: Example, prompt: str, whole: str) -> None:
    if not whole.startswith(prompt):
        raise ChatTemplateError(
            f"the chat template writes a different prompt when there is an answer (example {example.id})",
            expected="a template whose rendered chat begins with its generation prompt",
        )
    if has_half_characters(whole):
        raise half_character(f"example {example.id}, as the chat template writes it,")


def variables_of(messages: Sequence[Message], tokens: SpecialTokens, generation: bool) -> dict[str, object]:
    """Return the variables of a chat template; `generation` requests the marker of the assistant's turn."""
    return {
        "messages": [{"role": message.role, "content": _content(message)} for message in messages],
        "add_generation_prompt": generation,
        "bos_token": tokens.bos or "",
        "eos_token": tokens.eos or "",
        "pad_token": tokens.pad or "",
        "unk_token": tokens.unk or "",
        "tools": None,
        "documents": None,
    }


def images_of(messages: Iterable[Message]) -> tuple[str, ...]:
    """Return the files of the images of turns, in order."""
    return tuple(path for message in messages for path in message.images)


def _content(message: Message) -> str | list[dict[str, str]]:
    """Return a turn as templates expect it: text, or parts if it holds images."""
    if not message.images:
        return message.content
    first, *rest = message.content.split(IMAGE_PLACE)
    parts = [{"type": "text", "text": first}]
    for text in rest:
        parts += [{"type": "image"}, {"type": "text", "text": text}]
    return [part for part in parts if part["type"] == "image" or part["text"]]


def half_character(what: str) -> ChatTemplateError:
    """Return the problem of a text that no tokenizer accepts."""
    return ChatTemplateError(
        f"{what} contains half of a surrogate pair, which a tokenizer cannot read",
        expected="whole Unicode characters",
        hint="touchline check DATASET names the rows (DA364)",
    )
