"""Chat templates: the label span is the answer and its stop token, and a template can do nothing but write text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.core.catalog import Example, Message
from touchline.data.rendering import chat as chat_module
from touchline.data.rendering.chat import ChatRenderer, SpecialTokens
from touchline.data.rendering.sandbox import ChatTemplate, ChatTemplateError

pytestmark = pytest.mark.planning

DATE = "2026-01-02"
TOKENS = SpecialTokens(bos="<|im_start|>", eos="<|im_end|>")


@pytest.fixture(scope="session")
def renderer(tiny_model: Path) -> ChatRenderer:
    template = (tiny_model / "chat_template.jinja").read_text()
    return ChatRenderer(template, (tiny_model / "tokenizer.json").read_text(), TOKENS, DATE)


def example(prompt: str, answer: str) -> Example:
    return Example(id="x", prompt=(Message(role="user", content=prompt),), answer=answer)


@given(st.text(min_size=1), st.text(min_size=1).filter(lambda text: "<|" not in text))
def test_the_label_span_decodes_to_exactly_the_answer_and_its_stop_token(
    renderer: ChatRenderer, prompt: str, answer: str
) -> None:
    """Whatever the texts are: no header, no trailing newline, nothing missing; the prompt is that of evaluation."""
    row = example(prompt, answer)
    rendered = renderer.example(row)
    assert renderer.decode(rendered.answer_ids, keep_special=True) == answer + "<|im_end|>"
    assert rendered.answer_ids[-1] in renderer.stop_ids
    assert rendered.prompt_ids == renderer.prompt_ids(row.prompt)
    assert renderer.decode(rendered.prompt_ids, keep_special=True) == renderer.prompt_text(row.prompt)


def test_a_template_that_closes_no_turn_gets_the_stop_token(tiny_model: Path) -> None:
    turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    template = turns + "{% if add_generation_prompt %}assistant: {% endif %}"
    renderer = ChatRenderer(template, (tiny_model / "tokenizer.json").read_text(), TOKENS, DATE)
    ids = renderer.example(example("hi", "Ho")).answer_ids
    assert renderer.decode(ids, keep_special=True) == "Ho<|im_end|>"


def test_a_template_whose_prompt_changes_with_the_answer_is_refused(tiny_model: Path) -> None:
    template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    renderer = ChatRenderer(template, (tiny_model / "tokenizer.json").read_text(), TOKENS, DATE)
    with pytest.raises(ChatTemplateError, match="a different prompt"):
        renderer.example(example("hi", "Ho"))


def test_no_token_is_added_that_the_template_does_not_write(tiny_model: Path) -> None:
    """A template that writes the begin token itself gets it once."""
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    renderer = ChatRenderer(template, (tiny_model / "tokenizer.json").read_text(), TOKENS, DATE)
    ids = renderer.prompt_ids((Message(role="user", content="hi"),))
    assert renderer.decode(ids, keep_special=True) == "<|im_start|>hi"


def test_the_date_is_the_frozen_one() -> None:
    """A template that prints a date prints the plan's."""
    assert ChatTemplate("{{ strftime_now('%d %b %Y') }}", "2024-07-26").render() == "26 Jul 2024"


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 100000000 }}",
        "{{ [1] * 100000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ range(10000000) | list }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no system turn') }}",
        "{% include '/etc/passwd' %}",
        "{% if %}",
        "x" * ((1 << 20) + 1),
        "{{ undefined.attribute }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_hostile_template_is_a_fault(template: str) -> None:
    """Loops, huge texts, escapes from the sandbox, files, recursion: each ends in words."""
    with pytest.raises(ChatTemplateError):
        ChatTemplate(template, DATE).render(messages=[])


def test_groups_of_examples_change_nothing(renderer: ChatRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [example(f"Say {'x' * n}", f"y {n}") for n in range(9)]
    together = list(renderer.examples(examples))
    for count, characters in ((1, 1 << 20), (4, 1 << 20), (100, 20)):
        monkeypatch.setattr(chat_module, "_TOGETHER", count)
        monkeypatch.setattr(chat_module, "_TOGETHER_CHARACTERS", characters)
        assert list(renderer.examples(examples)) == together
