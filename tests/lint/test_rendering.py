"""Rules on what training and evaluation show a model: their pages are true, and what is equal is never told apart."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.faults.models_d import CHATML, rendering_of, text_of
from tests.tiers import examples

from touchline.backends.llamafactory.data import TEMPLATES
from touchline.backends.registry import training_row
from touchline.backends.simulation import RowSettings, TrainedRow
from touchline.core.catalog import Example as Row
from touchline.core.catalog import Message
from touchline.core.finding import Finding, Location, Severity
from touchline.data.rendering.text import Form, ShownRow, shown_row
from touchline.lint.rendering import RenderingView, rendered, special_tokens_in
from touchline.lint.rendering_parity import difference
from touchline.lint.rule import check_view

pytestmark = pytest.mark.planning

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<|>\uf8f0\uf8f1"), min_size=1).filter(str.strip)
BACKENDS = ("peft", "trl", "axolotl")
"""Trainers that use the model's own template."""


def view_of(backend: str, rows: list[ShownRow], settings: RowSettings | None = None, **model: str) -> RenderingView:
    text = text_of(**model)  # type: ignore[arg-type]
    view = RenderingView(
        text=text,
        settings=settings or RowSettings(),
        backend=backend,
        model="tiny",
        where_model=Location(path="models/tiny"),
        special_in_data=special_tokens_in(text, rows),
        embedding_rows=text.size,
    )
    chosen = [(name, row) for name, row in zip(("shortest", "middle", "longest"), rows, strict=False)]
    return rendered(view, chosen, training_row(backend))


def told(view: RenderingView) -> list[Finding]:
    """What all rules say, in words for nobody left out."""
    return list(check_view(view, Location(path="config.yaml"), "config"))


def chat(asked: str, answer: str, *, system: str | None = None, form: Form = "chat completion") -> ShownRow:
    first = () if system is None else (Message(role="system", content=system),)
    return ShownRow(example=Row(id="r", prompt=(*first, Message(role="user", content=asked)), answer=answer), form=form)


@settings(max_examples=examples(25))
@given(st.sampled_from(BACKENDS), WORDS, WORDS, st.none() | WORDS)
def test_a_trainer_with_the_models_own_template_differs_in_nothing(
    backend: str, asked: str, answer: str, system: str | None
) -> None:
    """Whatever the texts are: no warning and no error about the prompt, the stop token or the labels."""
    view = view_of(backend, [chat(asked, answer, system=system)])
    assert [f"{f.code} {f.message}" for f in told(view) if f.severity is not Severity.INFO] == []


@settings(max_examples=examples(25))
@given(st.sampled_from(sorted(TEMPLATES)), WORDS, WORDS)
def test_a_difference_of_the_prompts_is_told_by_exactly_one_rule(name: str, asked: str, answer: str) -> None:
    """Some rule speaks of it if and only if the tokens differ."""
    view = view_of("llamafactory", [chat(asked, answer)], RowSettings(template=name), bos="<s>", eos="</s>")
    (row,) = view.rows
    assert isinstance(row.trained, TrainedRow)
    shared = row.trained.ids[: len(row.prompt_ids)] == row.prompt_ids
    about_prompts = {"TK201", "TK202", "TK203", "TK204", "TK208"} | ({"TK205"} if difference(view, row) else set())
    codes = [f.code for f in told(view) if f.code in about_prompts]
    assert len(codes) == (0 if shared else 1), codes


def test_the_first_difference_is_shown_with_what_stands_around_it() -> None:
    (finding,) = [f for f in told(rendering_of("backend: llamafactory\ntrain: {template: qwen}")) if f.code == "TK204"]
    assert "token 1, training has '<|im_start|>system\\nYou are'" in finding.message
    assert "evaluation '<|im_start|>user\\nCapitalize" in finding.message


def test_the_label_span_is_shown_decoded_with_its_stop_token() -> None:
    """As the answer of a check, for every training that can be rendered."""
    (finding,) = [f for f in told(view_of("peft", [chat("Capitalize: quantity", "Quantity")])) if f.code == "TK219"]
    assert "'Quantity<|im_end|>'" in finding.message
    assert "2 of 15 tokens (system turn absent)" in finding.message


def test_what_cannot_be_rendered_is_information_and_no_error() -> None:
    """A backend that nobody has read, pictures, an unknown template."""
    pictures = ShownRow(example=chat("How many?", "two").example, form="instruction", media=True)
    for view in (
        view_of("swift", [chat("a", "b")]),
        view_of("trl", [pictures]),
        view_of("llamafactory", [chat("a", "b")], RowSettings(template="qwen99")),
        view_of("torchtune", [chat("a", "b")], RowSettings(model="gemma2_2b")),
    ):
        found = [f for f in told(view) if f.code != "TK219"]
        assert [(f.code, f.severity) for f in found] == [("TK220", Severity.INFO)]


def test_the_token_that_llama_factory_ends_with_must_be_one_that_evaluation_stops_at() -> None:
    """chatml on a model whose end token is another one."""
    view = view_of("llamafactory", [chat("a", "b")], RowSettings(template="chatml"), eos="<|endoftext|>")
    assert "TK221" in {finding.code for finding in told(view)}
    view = view_of("llamafactory", [chat("a", "b")], RowSettings(template="empty"))
    assert "TK206" in {finding.code for finding in told(view)}


@pytest.mark.parametrize(("limit", "found"), [(8, {"TK207", "TK209"}), (15, {"TK207"}), (40, set())])
def test_a_limit_that_cuts_the_answer_is_told(limit: int, found: set[str]) -> None:
    """Before the answer nothing is left to train; within it the end is lost."""
    row = chat("Capitalize the word", "Quantity of", form="messages")
    view = view_of("torchtune", [row], RowSettings(model="llama3_2_1b", max_seq_len=limit), eos="<|eot_id|>")
    assert {f.code for f in told(view)} & {"TK206", "TK207", "TK209"} == found


@parametrize(
    "row, form, turns",
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages", 1),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "messages", 1),
    ({"prompt": "a", "completion": "b"}, "text completion", 1),
    (
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
        "chat completion",
        1,
    ),
    ({"instruction": "do", "input": "this", "output": "b", "system": "s"}, "instruction", 2),
    ({"question": "a", "answer": "b", "image": "x.png"}, "instruction", 1),
)
def test_rows_are_known_by_their_columns(row: dict[str, object], form: str, turns: int) -> None:
    shown = shown_row(row, "r")
    assert shown is not None
    assert (shown.form, len(shown.example.prompt), shown.example.answer) == (form, turns, "b")
    assert shown.media is ("image" in row)


@parametrize(
    "row",
    {},
    {"text": "only text"},
    {"messages": [{"role": "user", "content": "a"}]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]},
    {"messages": "not a list"},
    {"prompt": "a", "completion": " "},
    {"conversations": [1, 2]},
    {"instruction": 1, "output": "b"},
)
def test_a_row_of_another_form_is_none(row: dict[str, object]) -> None:
    assert shown_row(row, "r") is None


def test_no_template_of_the_small_model_is_refused() -> None:
    """The template that the tests use is what it seems."""
    assert text_of(CHATML).render((Message(role="user", content="a"),), generation=True).endswith("assistant\n")
