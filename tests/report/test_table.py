"""Tables: one declaration, the same values as Markdown and as plain text."""

from __future__ import annotations

import math

import pytest

from touchline.core.quantity import Missing, Quantity
from touchline.core.table import (
    Cell,
    Column,
    Mark,
    Section,
    Value,
    plain_rows,
    section_markdown,
    table_markdown,
    table_of,
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


def test_only_keeps_the_columns_that_are_named() -> None:
    table = table_of((Column("a"), Column("b", is_wide=True), Column("c", key="third")), [("1", "2", "3")])
    assert table is not None
    assert plain_rows(table.only("third", "unknown")) == [("3",)]


def test_without_rows_there_is_no_table_and_without_content_no_section() -> None:
    assert table_of(("a",), []) is None
    assert section_markdown(Section(title="Nothing", figures=("training",))) == ""
    text = section_markdown(Section(title="Some", paragraphs=("One.",), lines=("two",), blocks=(("three", "```"),)))
    assert text == "## Some\n\nOne.\n\nthree\n\n````text\n```\n````\n\n- two\n"
