"""Tables: one declaration, the same values as Markdown and as plain text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.core.quantity import Missing, Quantity
from touchline.core.table import (
    Cell,
    Column,
    Mark,
    Section,
    Value,
    section_markdown,
    table_markdown,
    table_of,
    text_lines,
    value_text,
)

pytestmark = pytest.mark.planning

LOSS = Quantity(value=0.02345678, unit="nats", low=0.02, high=0.03)


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (None, Column("a"), "-"),
        ("", Column("a"), "-"),
        (12345, Column("a"), "12,345"),
        (LOSS, Column("a"), "0.02346 nats"),
        (LOSS, Column("a", unit="nats", digits=3), "0.0235"),
        (LOSS, Column("a", unit="s"), "0.02346 nats"),
        (LOSS, Column("a", interval=True), "0.02346 nats (0.02 to 0.03)"),
        (LOSS, Column("a", form=".1f"), "0.0"),
        (Quantity(value=123456.7, unit="tokens/s"), Column("a", unit="tokens/s", digits=3), "123,457"),
        (Quantity(value=2.0, unit="GiB", kind="reserved"), Column("a", kind=True), "2 GiB (reserved)"),
        (Quantity(value=math.nan, unit="nats"), Column("a", form=".1f"), "n/a (not a number)"),
        (Missing(missing="not evaluated"), Column("a", unit="nats"), "n/a (not evaluated)"),
        (Cell("86.0%", 0.86, interval="(81.6 to 89.5)"), Column("a"), "86.0% (81.6 to 89.5)"),
    ],
)
def test_a_value_has_the_format_of_its_column(value: Value, column: Column, text: str) -> None:
    assert value_text(value, column) == text


def test_markdown_escapes_values_aligns_numbers_and_marks_what_is_bad() -> None:
    columns = (Column("run", code=True), Column("note"), Column("score", numeric=True), Column("state"))
    rows = [("a|b", "<b>*x*</b>", Cell("1", 1, interval="(0 to 2)"), Cell("failed", mark=Mark.BAD))]
    table = table_of(columns, rows, "Runs", notes=("Interval: <Wilson>.",))
    assert table is not None
    assert table_markdown(table) == (
        "### Runs\n\n"
        "| run | note | score | state |\n"
        "| --- | --- | ---: | --- |\n"
        "| `a\\|b` | \\<b\\>\\*x\\*\\</b\\> | 1 (0 to 2) | **failed** |\n\n"
        "Interval: \\<Wilson\\>.\n"
    )


WIDE = table_of(
    ("run", Column("model", is_wide=True), Column("loss", numeric=True), "reason"),
    [
        ("135M_rank4", "SmolLM2", Missing(missing="not measured"), "as fast as any larger one"),
        ("135M_rank64", "SmolLM2", Missing(missing="not measured"), None),
    ],
)


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (None, ["run          model    loss  reason", "135M_rank4   SmolLM2   n/a  as fast as any larger one"]),
        (50, ["run          loss  reason", "135M_rank4    n/a  as fast as any larger one"]),
        (40, ["run          loss  reason", "135M_rank4    n/a  as fast as any larger", "                   one"]),
    ],
)
def test_a_terminal_wraps_at_spaces_leaves_wide_columns_out_and_says_a_reason_once(
    width: int | None, lines: list[str]
) -> None:
    assert WIDE is not None
    found = text_lines(WIDE, width)
    assert found[: len(lines)] == lines
    assert [line for line in found if "not measured" in line] == ["n/a (loss): not measured"]
    assert (found[-1] == "(not shown at this width: model)") == (width is not None)


WORDS = st.text("ab ", max_size=30) | st.sampled_from(["-", "a_name_of_" + "fifty_" * 9, "", "n/a"])


@given(st.data(), st.integers(12, 120))
def test_no_line_is_longer_than_the_terminal_and_no_word_is_broken(data: st.DataObject, width: int) -> None:
    columns = [
        Column(f"c{number}", numeric=data.draw(st.booleans()), is_wide=data.draw(st.booleans())) for number in range(4)
    ]
    rows = data.draw(st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), min_size=1, max_size=4))
    table = table_of(columns, rows)
    assert table is not None
    words = {word for row in rows for cell in row for word in cell.split()} | {"c0", "c1", "c2", "c3", "-"}
    for line in text_lines(table, width):
        assert len(line) <= width
        if "(not shown" in line:
            break
        assert {word for word in line.split() if not word.endswith("…")} <= words


def test_only_keeps_what_is_named() -> None:
    assert WIDE is not None
    assert text_lines(WIDE.only("run", "unknown")) == ["run", "135M_rank4", "135M_rank64"]


def test_without_rows_there_is_no_table_and_without_content_no_section() -> None:
    assert table_of(("a",), []) is None
    assert section_markdown(Section(title="Nothing", figures=("training",))) == ""
    text = section_markdown(Section(title="Some", paragraphs=("One.",), lines=("two",), blocks=(("three", "```"),)))
    assert text == "## Some\n\nOne.\n\nthree\n\n````text\n```\n````\n\n- two\n"
