"""Chat templates in a process of their own: whatever an expression takes, the command goes on and says so."""

import contextlib
import json
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import parametrize, refusal

from touchline.core.catalog import Example, Message
from touchline.core.finding import Finding
from touchline.data import tokenizer as templates
from touchline.data.models import load_model, load_renderer
from touchline.data.rendering import chat as chat_module
from touchline.data.rendering.chat import ChatRenderer, SpecialTokens
from touchline.data.rendering.sandbox import ChatTemplate, ChatTemplateError
from touchline.data.tokenizer import IsolatedTemplate, read_tokenizer

pytestmark = pytest.mark.planning

DATE = "2026-01-02"
CHAT: dict[str, object] = {"messages": [{"role": "user", "content": "hi {a.b}"}], "add_generation_prompt": True}

FAULTS = (
    *("{{ 1/0 }}", "{{ messages|length // 0 }}", "{% break %}", "{% continue %}", "{{ raise_exception('no') }}"),
    *("{% if %}", "{{ 'x'|nofilter }}", "{{ 5|attr }}", "{% include 'x' %}", "{{ (1e308*10)|int }}", "{{ {[]: 1} }}"),
    *("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}"),
    *("{% if 1 %}" * 300 + "{% endif %}" * 300, "{{ range(1, 2, 0)|list }}", "{{ 'a'[::0] }}", "{{ strftime_now(1) }}"),
)
"""Templates that are wrong, each in another way than the others."""

TOO_LARGE = (
    *('{{ "%1000000000d" % 1 }}', '{{ "%1000000000d" % messages|length }}', "{{ '%*d' % (3000000000, 1) }}"),
    *('{{ "a".center(1000000000) }}', '{{ "a"|center(1000000000) }}', "{{ 'x'.ljust(10000000000) }}"),
    *("{{ 'a' * 10**9 }}", "{{ 'a' * 1000000000 }}", "{{ [[]] * 1000000000 }}", "{{ 'a'|indent(3000000000) }}"),
    *("{{ '{:>3000000000}'.format(1) }}", "{{ ('\\t' * 9999999).expandtabs(999999999) }}"),
    *("{{ ('a' * 9999999).replace('a', 'b' * 16000000)|length }}", "{{ range(99999999)|list }}"),
    "{% set n = namespace(s=1) %}{% for i in range(60) %}{% set n.s = (n.s ~ 1).replace('1', '1' * 9) %}{% endfor %}",
    "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "{{ messages|tojson(indent=1000000000) }}",
)
"""Templates that take too much memory, or write or loop too much."""

ENDLESS = (
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% set n = namespace(n=99999999999) %}{% for i in range(64) %}{% set n.n = n.n * n.n %}{% endfor %}{{ n.n }}",
)
"""Templates that no count of loops or of characters ends: the second within one multiplication."""


def fault_of(source: str) -> ChatTemplateError:
    with pytest.raises(ChatTemplateError) as caught:
        IsolatedTemplate(source, DATE).render(**CHAT)
    return caught.value


def test_a_template_that_is_wrong_is_a_fault() -> None:
    for source in FAULTS:
        assert "chat template" in fault_of(source).message, source


@pytest.mark.slow
def test_a_template_that_takes_too_much_is_a_fault_within_seconds() -> None:
    """The limits are of the process and its processor time, so a busy machine changes nothing but the wait."""
    for source in TOO_LARGE:
        assert "chat template" in fault_of(source).message, source
    for source in ENDLESS:
        assert "too much time or memory" in fault_of(source).message


@pytest.mark.slow
def test_after_a_template_has_ended_its_process_others_are_rendered() -> None:
    """And the one that did is not tried again."""
    good, bad = IsolatedTemplate("{{ messages[0].content }}", DATE), IsolatedTemplate(ENDLESS[0], DATE)
    assert good.render(**CHAT) == "hi {a.b}"
    with pytest.raises(ChatTemplateError):
        bad.render(**CHAT)
    assert good.render_all([CHAT, CHAT]) == ["hi {a.b}"] * 2
    before = time.process_time()
    with pytest.raises(ChatTemplateError):
        bad.render(**CHAT)
    assert time.process_time() - before < 1


def _workers() -> list[psutil.Process]:
    """The processes that render here; what another test has left unread is none."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "template_worker" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_a_process_that_is_killed_from_outside_is_replaced() -> None:
    template = IsolatedTemplate("{{ messages|length }}", DATE)
    assert template.render(**CHAT) == "1"
    (worker,) = _workers()
    worker.kill()
    with pytest.raises(ChatTemplateError):
        template.render(**CHAT)
    assert IsolatedTemplate("{{ messages|length }}", DATE).render(**CHAT) == "1"


def test_a_command_has_one_process_whatever_it_renders() -> None:
    for number in range(5):
        assert IsolatedTemplate(f"{number}{{{{ messages|length }}}}", DATE).render(**CHAT) == f"{number}1"
    assert len(_workers()) == 1


def test_the_process_imports_nothing_from_its_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jinja2.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    service = templates._Service()
    monkeypatch.setattr(templates, "_SERVICE", service)
    assert IsolatedTemplate("{{ messages|length }}", DATE).render(**CHAT) == "1"
    service.close()


def with_template(model: Path, folder: Path, template: str) -> Path:
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_rows_and_models_are_rendered_by_it(tiny_model: Path, tmp_path: Path) -> None:
    """A constant that is computed when the template is compiled, and one that depends on the chat."""
    findings: list[Finding] = []
    read_tokenizer(with_template(tiny_model, tmp_path / "compiled", TOO_LARGE[3]), findings)
    read_tokenizer(with_template(tiny_model, tmp_path / "constant", TOO_LARGE[4]), findings)
    assert [finding.code for finding in findings] == ["TK103"]
    folder = with_template(tiny_model, tmp_path / "rendered", "{{ '%1000000000d' % messages|length }}")
    renderer = load_renderer(load_model(str(folder), tmp_path), DATE)
    with pytest.raises(ChatTemplateError):
        renderer.example(Example(id="train-1", prompt=(Message(role="user", content="a"),), answer="b"))


def test_half_a_character_is_a_fault_wherever_it_comes_from(tiny_model: Path, tmp_path: Path) -> None:
    """From a template, from a prompt, and from an answer."""
    folder = with_template(tiny_model, tmp_path / "half", r'{{ "\ud800" }}{{ messages[0].content }}')
    row = Example(id="train-1", prompt=(Message(role="user", content="a"),), answer="b")
    with pytest.raises(ChatTemplateError, match="surrogate"):
        load_renderer(load_model(str(folder), tmp_path), DATE).prompt_ids(row.prompt)
    renderer = load_renderer(load_model(str(tiny_model), tmp_path), DATE)
    for prompt, answer in (("a\ud800", "b"), ("a", "\udfffb")):
        half = Example(id="train-7", prompt=(Message(role="user", content=prompt),), answer=answer)
        with pytest.raises(ChatTemplateError, match=r"train-7.*surrogate"):
            renderer.example(half)


def test_special_tokens_that_no_file_can_hold_are_a_fault(tiny_model: Path, tmp_path: Path) -> None:
    folder = with_template(tiny_model, tmp_path / "special", "{{ messages[0].content }}")
    config = json.loads((tiny_model / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "\ud800"}))
    model = load_model(str(folder), tmp_path)
    assert [finding.code for finding in model.findings if "surrogate" in finding.message] == ["TK103"]
    refusal(load_renderer, model, DATE)


TOKENS = SpecialTokens(bos="<|im_start|>", eos="<|im_end|>")


@pytest.fixture(scope="session")
def renderer(tiny_model: Path) -> ChatRenderer:
    template = (tiny_model / "chat_template.jinja").read_text()
    return ChatRenderer(template, (tiny_model / "tokenizer.json").read_text(), TOKENS, DATE)


def example(prompt: str, answer: str) -> Example:
    return Example(id="x", prompt=(Message(role="user", content=prompt),), answer=answer)


@given(st.text(min_size=1), st.text(min_size=1).filter(lambda text: "<|" not in text))
def test_the_label_span_is_the_answer_and_its_stop_token(renderer: ChatRenderer, prompt: str, answer: str) -> None:
    """Whatever the texts are: no header, no trailing newline, nothing missing; the prompt is that of evaluation."""
    row = example(prompt, answer)
    rendered = renderer.example(row)
    assert renderer.decode(rendered.answer_ids, keep_special=True) == answer + "<|im_end|>"
    assert rendered.answer_ids[-1] in renderer.stop_ids
    assert rendered.prompt_ids == renderer.prompt_ids(row.prompt)
    assert renderer.decode(rendered.prompt_ids, keep_special=True) == renderer.prompt_text(row.prompt)


def test_stop_tokens_and_prompts_of_templates(tiny_model: Path) -> None:
    turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    template = turns + "{% if add_generation_prompt %}assistant: {% endif %}"
    renderer = ChatRenderer(template, (tiny_model / "tokenizer.json").read_text(), TOKENS, DATE)
    ids = renderer.example(example("hi", "Ho")).answer_ids
    assert renderer.decode(ids, keep_special=True) == "Ho<|im_end|>"
    template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    renderer = ChatRenderer(template, (tiny_model / "tokenizer.json").read_text(), TOKENS, DATE)
    with pytest.raises(ChatTemplateError, match="a different prompt"):
        renderer.example(example("hi", "Ho"))
    # A template that writes the begin token itself gets it once.
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    renderer = ChatRenderer(template, (tiny_model / "tokenizer.json").read_text(), TOKENS, DATE)
    ids = renderer.prompt_ids((Message(role="user", content="hi"),))
    assert renderer.decode(ids, keep_special=True) == "<|im_start|>hi"


def test_the_date_is_the_frozen_one() -> None:
    """A template that prints a date prints the plan's."""
    assert ChatTemplate("{{ strftime_now('%d %b %Y') }}", "2024-07-26").render() == "26 Jul 2024"


@parametrize(
    "template",
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
