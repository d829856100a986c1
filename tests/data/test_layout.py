"""A layout gives what the template writes, or there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from touchline.data import templates
from touchline.data.rendering.layout import Layout, find_layout
from touchline.data.rendering.sandbox import MARKS, ChatTemplate, ChatTemplateError
from touchline.data.templates import IsolatedTemplate

pytestmark = pytest.mark.planning

DATE = "2026-01-02"
START = "{% for m in messages %}"
END = "{% endfor %}"
WRITES = {
    "chatml": START + "<|im_start|>{{ m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}" + END,
    "stripped": START + "{{ '[' + m.role + ']' + m['content'] | trim + '[end]' }}{{ m.content.strip() }}" + END,
    "opening": START
    + "{% set content = m.content %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    + "{{ content }}{{ content | default('') | string }}"
    + END,
    "types": START
    + "{% if m.content is string and m.content is not none %}{{ m.content }}"
    + "{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}"
    + END,
    "present": START + "{% if m.content %}{{ m.content }}{% else %}nothing{% endif %}" + END,
    "thinking": START
    + "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    + "{% elif m.content.startswith('<tool>') and m.content.endswith('</tool>') %}tool"
    + "{% else %}{{ m.content.lstrip('\n').rstrip('ab') }}{% endif %}"
    + END,
    "namespace": "{% set ns = namespace(last='') %}"
    + START
    + "{% set ns.last = m.content %}"
    + END
    + "{{ strftime_now('%d %b') }}{{ ns.last }}{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}",
    "marked": START + "{% generation %}{{ m.content }}{% endgeneration %}" + END,
    "system": "{% if messages[0].role == 'system' %}{% set said = messages[0].content %}"
    + "{% set messages = messages[1:] %}{% else %}{% set said = '' %}{% endif %}"
    + START
    + "{{ (said + '\n\n' if loop.first else '') + m.content }}"
    + END,
}
"""Templates with a layout."""
LOOKS = {
    "length": "{{ m.content | length }}",
    "len-call": "{% if m.content|count > 3 %}long{% endif %}",
    "equal": "{% if m.content == 'a' %}x{% endif %}{{ m.content }}",
    "order": "{% if m.content < 'b' %}x{% endif %}",
    "upper": "{{ m.content.upper() }}{{ m.content | upper }}",
    "index": "{{ m.content[0] }}",
    "slice": "{{ m.content[:1] }}",
    "loop": "{% for c in m.content %}{{ c }}-{% endfor %}",
    "split": "{{ m.content.split('a') }}",
    "joined": "{{ ['x', m.content] | join(',') }}",
    "mapped": "{{ messages | map(attribute='content') | join(',') }}",
    "json": "{{ m | tojson }}",
    "dumped": "{{ m }}",
    "formatted": "{{ '%s!' | format(m.content) }}{{ '%s' % m.content }}",
    "tilde": "{{ 'x' ~ m.content }}",
    "key": "{{ {m.content: 1}.items() }}",
    "list index": "{{ ['a', 'b'][m.content] }}",
    "block": "{% set x %}{{ m.content }}{% endset %}{{ x | length }}",
    "macro": "{% macro f(t) %}{{ t }}{% endmacro %}{{ f(m.content) | length }}",
    "filtered": "{% filter upper %}{{ m.content }}{% endfilter %}",
    "stripped is empty": "{% if m.content | trim %}x{% endif %}",
    "sorted": "{{ messages | sort(attribute='content') | map(attribute='role') | list }}",
    "unique": "{{ messages | unique(attribute='content') | list | length }}",
    "same": "{{ m.content is sameas 'a' }}",
    "member": "{{ m.content in ['a', 'b'] }}",
    "attribute": "{{ m.content.foo }}{{ m.content.isupper() }}",
    "times": "{{ m.content * 2 }}",
    "recursive": "{% for x in [m.content] recursive %}{{ x }}{% endfor %}",
    "equal turns": "{{ messages[0] == messages[1] }}",
}
"""What a template may ask of a text that a layout cannot tell."""
TEXT = st.text(st.sampled_from("ab \n<>/AZ\u00e9\uf8f2\uf8f3{}%0-")) | st.sampled_from(
    ["x</think>\ny", "<tool>a</tool>", "<tool>", "  ", "{{ m }}"]
)


def _chat(roles: Sequence[str], contents: Sequence[str]) -> dict[str, Any]:
    turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    return {"messages": turns, "add_generation_prompt": True, "bos_token": "<s>"}


@pytest.mark.parametrize("name", WRITES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_layout_writes_what_the_template_writes(name: str, data: st.DataObject) -> None:
    """Whatever the texts are, marks and braces included; where it may not be so, the layout has no answer."""
    roles = data.draw(st.sampled_from([("user",), ("system", "user"), ("user", "assistant", "user")]))
    source, marked = WRITES[name], name == "marked"
    layout = find_layout(source, DATE, marked, _chat(roles, ["a"] * len(roles)))
    assert layout is not None
    for _ in range(5):
        contents = [data.draw(TEXT) for _ in roles]
        text = layout.write(contents)
        assert text in (None, ChatTemplate(source, DATE, mark_answers=marked).render(**_chat(roles, contents)))
        if all(contents) and name != "thinking":
            assert text is not None


def test_conditions_leave_texts_to_the_template() -> None:
    """A text with another path through the template has no layout, and the others do."""
    layout = find_layout(WRITES["thinking"], DATE, False, _chat(["user"], ["a"]))
    assert layout is not None
    assert layout.write(["\nx b"]) == "x "
    for text in ("a</think>", "<tool>", ""):
        assert layout.write([text]) is None
    assert layout.write(["x</tool>"]) == "x</tool>"


def test_marks_of_answers_are_part_of_the_layout() -> None:
    layout = find_layout(WRITES["marked"], DATE, True, _chat(["user"], ["a"]))
    assert layout is not None
    assert layout.write(["b"]) == f"{MARKS[0]}b{MARKS[1]}"


@pytest.mark.parametrize("name", LOOKS)
def test_a_template_that_looks_at_the_texts_has_no_layout(name: str) -> None:
    source = START + LOOKS[name] + END
    assert find_layout(source, DATE, False, _chat(["user", "user"], ["a", "b"])) is None


def test_layouts_go_through_json() -> None:
    layout = find_layout(WRITES["thinking"], DATE, False, _chat(["user", "assistant"], ["a", "b"]))
    assert layout is not None
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, object]]:
    """The requests to the process of templates."""
    found: list[Mapping[str, object]] = []
    real = templates._SERVICE.ask

    def ask(key: int, template: Sequence[object], asked: Mapping[str, object]) -> dict[str, object]:
        found.append(asked)
        return real(key, template, asked)

    monkeypatch.setattr(templates._SERVICE, "ask", ask)
    return found


def _count(requests: Sequence[Mapping[str, object]]) -> int:
    return sum(len(chats) for request in requests if isinstance(chats := request.get("chats"), list))


def test_many_chats_of_one_form_are_rendered_once(requests: list[Mapping[str, object]]) -> None:
    """One to compare the layout with; the others are put together here."""
    chats = [_chat(["user"], [f"text {n}"]) for n in range(1000)]
    template = IsolatedTemplate(WRITES["chatml"], DATE)
    assert template.render_all(chats) == ChatTemplate(WRITES["chatml"], DATE).render_all(chats)
    assert [len(request) for request in requests] == [1, 1, 1]
    assert _count(requests) == 1


def test_chats_without_a_layout_are_rendered_each(requests: list[Mapping[str, object]]) -> None:
    """Those that do not fulfil its conditions, those with other values than texts, and all of a template that looks."""
    chats = [_chat(["user"], [f"text {n}" if n % 2 else f"</think>{n}"]) for n in range(400)]
    chats[7]["messages"][0]["extra"] = 1
    template = IsolatedTemplate(WRITES["thinking"], DATE)
    assert template.render_all(chats) == ChatTemplate(WRITES["thinking"], DATE).render_all(chats)
    assert _count(requests) == 201
    requests.clear()
    looks = START + LOOKS["length"] + END
    assert IsolatedTemplate(looks, DATE).render_all(chats) == ChatTemplate(looks, DATE).render_all(chats)
    assert _count(requests) == 400


def test_a_layout_that_is_not_confirmed_is_not_used(
    requests: list[Mapping[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layout, "from_json", lambda _: Layout(pieces=("wrong",), conditions=()))
    chats = [_chat(["user"], [f"text {n}"]) for n in range(100)]
    assert IsolatedTemplate(WRITES["chatml"], DATE).render_all(chats)[3].endswith("text 3<|im_end|>\n")
    assert _count(requests) == 101


def test_chats_of_many_forms_ask_for_few_layouts(
    requests: list[Mapping[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "_LAYOUTS_AT_MOST", 3)
    chats = [_chat(["user"] * (1 + n % 20), ["a"] * (1 + n % 20)) for n in range(60)]
    template = IsolatedTemplate(WRITES["chatml"], DATE)
    assert template.render_all(chats) == ChatTemplate(WRITES["chatml"], DATE).render_all(chats)
    assert sum("layout" in request for request in requests) == 3


def test_a_template_that_refuses_a_chat_refuses_it_among_many() -> None:
    source = (
        START + "{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}{{ m.content }}" + END
    )
    chats = [_chat(["user"], ["a"])] * 50 + [_chat(["system"], ["a"])]
    with pytest.raises(ChatTemplateError, match="no system turn"):
        IsolatedTemplate(source, DATE).render_all(chats)
