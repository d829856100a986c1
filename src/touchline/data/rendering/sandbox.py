"""Sandbox for chat templates, which are untrusted programs: jinja2's immutable sandbox with limits on loops and text.

Limits are operation counts, so the same template gives the same verdict on every machine; the process that it runs in
bounds what a single expression may take (`data.tokenizer`).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from touchline.core.errors import InputError
from touchline.core.text import shorten, valid_utf8

TEMPLATE_LIMIT_CHARACTERS = 1 << 20
OUTPUT_LIMIT_CHARACTERS = 16 << 20
_SAID_CHARACTERS = 300
LOOP_LIMIT = 1_000_000
"""Limit on loop iterations per rendering; a chat of 1,000 turns takes some thousands."""


MARKS = ("\uf8f0", "\uf8f1")
"""Private characters that a template with `mark_answers` writes around each `{% generation %}`."""


class ChatTemplateError(InputError):
    """A chat template is broken, rejects the chat, or exceeds its limits."""


class Template(Protocol):
    """Compiled chat template, in this or another process."""

    def render_all(self, chats: Sequence[Mapping[str, object]]) -> list[str]:
        """Return the texts of chats, each given by the template's variables."""


class Compile(Protocol):
    """Function that compiles a template from its source, a date, and whether answers are marked."""

    def __call__(self, source: str, date: str, *, mark_answers: bool = False) -> Template:
        """Return the compiled template."""


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`, which marks answers for other trainers; renders as its body."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _MarkedGeneration(_Generation):
    def parse(self, parser: Parser) -> list[nodes.Node]:
        body = super().parse(parser)
        return [nodes.Output([nodes.TemplateData(MARKS[0])]), *body, nodes.Output([nodes.TemplateData(MARKS[1])])]


class Sandbox(ImmutableSandboxedEnvironment):
    """Environment of chat templates that counts every loop and limits every product of text.

    Args:
        mark_answers: whether `MARKS` are written around what the template itself marks as the model's.
    """

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self, date: str, *, mark_answers: bool = False) -> None:
        # trim_blocks, lstrip_blocks and these helpers are what transformers gives templates
        # (transformers/utils/chat_template_utils.py); a template is written for them.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_MarkedGeneration if mark_answers else _Generation, loopcontrols],
            autoescape=False,
        )
        self.loops = 0
        """Loop iterations of a rendering so far."""
        self.filters["counted"] = self._counted
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = datetime.date.fromisoformat(date).strftime

    def _counted(self, items: Iterable[object]) -> Iterator[object]:
        # jinja2 passes Undefined here when the template loops over something that is not there: no turns.
        for item in items:
            self.loops += 1
            if self.loops > LOOP_LIMIT:
                raise ChatTemplateError(f"the chat template loops more than {LOOP_LIMIT:,} times")
            yield item

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for loop in list(template.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None).set_lineno(loop.lineno)
        return template

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Return a product; jinja2 calls it for the operators above."""
        if operator == "**":
            raise ChatTemplateError("the chat template raises to a power", expected="a template that only writes text")
        sized = (
            left if isinstance(left, (str, list, tuple)) else right if isinstance(right, (str, list, tuple)) else None
        )
        if sized is not None:
            times = right if sized is left else left
            if isinstance(times, int) and len(sized) * times > OUTPUT_LIMIT_CHARACTERS:
                raise ChatTemplateError("the chat template repeats a text too often")
        return super().call_binop(context, operator, left, right)


def _refuse(message: str) -> NoReturn:
    raise ChatTemplateError(f"the chat template rejects this chat: {_short(str(message))}")


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


class ChatTemplate:
    """Compiled chat template.

    Raises:
        ChatTemplateError: it is too long or does not compile.
    """

    def __init__(self, source: str, date: str, *, mark_answers: bool = False) -> None:
        if len(source) > TEMPLATE_LIMIT_CHARACTERS:
            raise ChatTemplateError(f"the chat template is longer than {TEMPLATE_LIMIT_CHARACTERS:,} characters")
        self._sandbox = Sandbox(date, mark_answers=mark_answers)
        try:
            self._template = self._sandbox.from_string(source)
        except ChatTemplateError:
            raise
        except jinja2.TemplateSyntaxError as error:
            raise ChatTemplateError(
                f"the chat template does not compile: {error.message} (line {error.lineno})"
            ) from error
        except Exception as error:
            raise ChatTemplateError(f"the chat template does not compile: {_said(error)}") from error

    def render(self, **variables: object) -> str:
        """Return the text of a chat.

        Raises:
            ChatTemplateError: the template refuses the chat, fails, loops or writes too much.
        """
        self._sandbox.loops = 0
        parts: list[str] = []
        length = 0
        try:
            for part in self._template.generate(**variables):
                length += len(part)
                if length > OUTPUT_LIMIT_CHARACTERS:
                    raise ChatTemplateError(
                        f"the chat template writes more than {OUTPUT_LIMIT_CHARACTERS:,} characters"
                    )
                parts.append(part)
        except ChatTemplateError:
            raise
        except Exception as error:
            raise ChatTemplateError(f"the chat template fails: {_said(error)}") from error
        return "".join(parts)

    def render_all(self, chats: Sequence[Mapping[str, object]]) -> list[str]:
        """Return the texts of chats.

        Raises:
            ChatTemplateError: as `render`.
        """
        return [self.render(**chat) for chat in chats]


def _said(error: Exception) -> str:
    return "it takes too much memory" if isinstance(error, MemoryError) else _short(str(error)) or type(error).__name__


def _short(text: str) -> str:
    """Return a template's own message, made printable."""
    return shorten(valid_utf8(text), _SAID_CHARACTERS)
