"""What is found in data depends on the rows and not on their order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiers import examples

from touchline.core.finding import Location
from touchline.data.candidates import mojibake, normal, repaired, short
from touchline.lint.data_view import DataView, data_rows, layout_of
from touchline.lint.rule import check_view

pytestmark = pytest.mark.planning

LABELS = st.sampled_from(
    ["yes", "no", "No", "none", "kidney parenchyma", "kidney-parenchyma", "", " ", "nan", "caf\ufffd"]
)
PROMPTS = st.sampled_from(
    ["Which organ?", "which organ", "Which tool?", "How many: 3", "How many: 4", "", "Ist es Ã¼ber?"]
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"question": PROMPTS, "answer": st.one_of(LABELS, st.integers(0, 3), st.none())},
        optional={"image": st.sampled_from(["a.png", "b.png"]), "options": st.just(["yes", "no", "none"])},
    ),
    min_size=1,
    max_size=30,
)


def view_of(train: list[dict[str, object]], test: list[dict[str, object]]) -> DataView | None:
    """A view of rows as a file would give them."""
    splits = {
        name: [(row, number) for number, row in enumerate(rows, 1)] for name, rows in (("train", train), ("test", test))
    }
    layout = layout_of(splits)
    if layout is None:
        return None
    return DataView(
        path="d.jsonl",
        format="jsonl",
        files={"train": "d.jsonl", "test": "d.jsonl"},
        splits=data_rows(splits, layout),
        layout=layout,
    )


def told(view: DataView | None) -> set[tuple[str, str]]:
    if view is None:
        return set()
    return {(f.code, f.severity.value) for f in check_view(view, Location(path="d.jsonl"), "data")}


@given(ROWS, ROWS, st.randoms(use_true_random=False))
@settings(max_examples=examples(25), deadline=None)
def test_the_order_of_rows_changes_nothing_that_is_found(train: list, test: list, rng: object) -> None:  # type: ignore[type-arg]
    before = told(view_of(train, test))
    mixed = list(train)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    rest = list(test)
    rng.shuffle(rest)  # type: ignore[attr-defined]
    assert told(view_of(mixed, rest)) == before


@given(st.lists(st.text(min_size=1, max_size=6).filter(str.strip), min_size=2, max_size=20, unique=True), st.data())
@settings(max_examples=examples(25), deadline=None)
def test_a_doubled_row_is_found_wherever_it_stands(texts: list[str], data: st.DataObject) -> None:
    rows: list[dict[str, object]] = [{"input": text, "output": f"answer {n}"} for n, text in enumerate(texts)]
    assert "DA310" not in {code for code, _ in told(view_of(rows, []))}
    place = data.draw(st.integers(0, len(rows)))
    again = dict(data.draw(st.sampled_from(rows)))
    assert "DA310" in {code for code, _ in told(view_of([*rows[:place], again, *rows[place:]], []))}


@given(st.lists(st.text(max_size=4), min_size=1, max_size=12), st.lists(st.text(max_size=4), min_size=1, max_size=12))
@settings(max_examples=examples(25), deadline=None)
def test_an_overlap_is_found_exactly_when_there_is_one(train: list[str], test: list[str]) -> None:
    view = view_of(
        [{"input": f"{t}.", "output": "x"} for t in train], [{"input": f"{t}.", "output": "x"} for t in test]
    )
    shared = set(train) & set(test)
    # One prompt for all rows is another fault, and told as that.
    assert ("DA312" in {code for code, _ in told(view)}) == (bool(shared) and len(set(train)) > 1)


@given(st.text(max_size=40))
def test_a_normal_form_is_its_own_normal_form(text: str) -> None:
    assert normal(normal(text)) == normal(text)


@given(st.text(st.characters(min_codepoint=0xC0, max_codepoint=0x2FF), min_size=1, max_size=8))
def test_text_that_was_read_in_another_encoding_is_recognised(text: str) -> None:
    broken = text.encode().decode("latin-1")
    piece = mojibake(f"before {broken} after")
    assert piece is not None
    assert repaired(piece) in text
    assert mojibake(f"before {text} after") is None or len(text) > 1


@given(st.text(max_size=200))
def test_what_a_message_shows_has_no_hidden_characters(text: str) -> None:
    assert short(text).isprintable()
    assert len(short("a" * 500)) < 70
