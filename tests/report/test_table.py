"""Tables: one declaration, the same values as Markdown and as plain text."""

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report.made_report import Make, fifty, made_report

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
from touchline.data.scores import SampleScore
from touchline.report.colors import CONTROL, SeriesColor, inks, used
from touchline.report.local.reporting import sample_rows, write_lines
from touchline.report.report import Report

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


NASTY = (
    SampleScore(id="i0", target="Ä", output="</script>\n\u2028\udc80", exact=False, match=False, stop="max_tokens"),
    SampleScore(id="i0", target="Ä", output="", exact=False, match=False, repeat=1, error="no memory"),
    SampleScore(id="i1", target="1", output="1", exact=True, match=True, value=0.25, parsed=True, cluster="d1"),
)


@pytest.fixture(scope="module")
def report() -> Report:
    """A small report whose first run has been asked something strange as well."""
    made = made_report(Make(models=1, ranks=("4",), seeds=1, steps=5, items=7))
    first = next(run for run in made.runs if run.evaluations)
    odd = replace(first.evaluations[0], task="tasks/mine.py", score="f1", samples=NASTY, settings_sha256="5" * 64)
    changed = replace(first, other_evaluations=(odd,))
    return replace(made, runs=tuple(changed if run is first else run for run in made.runs))


def test_every_answer_is_a_row_with_the_same_keys(report: Report) -> None:
    """In the report's order; a score of another kind has no exact match."""
    rows = list(sample_rows(report))
    answers = [
        (run.name, record.task, record.checkpoint, sample.id, sample.repeat)
        for run in report.runs
        for record in (*run.evaluations, *run.other_evaluations)
        for sample in record.samples
    ]
    keys = ("run", "task", "checkpoint", "item", "repeat")
    assert [tuple(row[key] for key in keys) for row in rows] == answers
    assert len({tuple(row) for row in rows}) == 1
    nasty = [row for row in rows if row["task"] == "tasks/mine.py"]
    assert [row["score"] for row in nasty] == [0.0, 0.0, 0.25]
    assert [row["exact"] for row in nasty] == [False, False, None]
    assert nasty[0]["stop"] == "max_tokens"
    assert nasty[1]["error"] == "no memory"
    assert nasty[2]["parsed"] is True
    assert [row["cluster"] for row in nasty] == [None, None, "d1"]
    assert isinstance(nasty[0]["levels"], dict)
    own = [row for row in rows if row["task"] != "tasks/mine.py"]
    assert all(str(row["target"]).lower() in str(row["question"]) for row in own)
    assert all(row["prompt"] == f"<|user|>\n{row['question']}<|end|>\n<|assistant|>\n" for row in own)
    # Nobody recorded what the other task asked; the item 1 of this one is another than its i1.
    assert [(row["question"], row["prompt"]) for row in nasty] == [(None, None)] * 3


def test_lines_hold_every_row_whatever_was_written(report: Report, tmp_path: Path) -> None:
    """One object a line, also with line separators and broken characters in an answer; a failure leaves the old."""
    path = tmp_path / "samples.jsonl"
    count = write_lines(sample_rows(report), path)
    read = [json.loads(line) for line in path.read_text().split("\n") if line]
    assert count == len(read) == len(list(sample_rows(report)))
    assert [row["item"] for row in read] == [row["item"] for row in sample_rows(report)]
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        write_lines(_breaking(report), path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def _breaking(report: Report) -> Iterator[dict[str, object]]:
    yield next(iter(sample_rows(report)))
    raise ZeroDivisionError


def channels(colour: str) -> tuple[float, float, float]:
    """Linear red, green, blue."""
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return red, green, blue


def luminance(colour: str) -> float:
    """As WCAG 2 has it."""
    red, green, blue = channels(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Of two colours, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def settings(make: Make) -> list[SeriesColor]:
    """The colours of a report, without that of controls."""
    found = [ink for ink in used(inks(made_report(make))) if ink is not CONTROL]
    assert len(found) > 1, "the tests of colors would pass without any"
    return found


SMALL = Make(steps=6, items=5)


def test_runs_that_differ_in_their_seed_alone_share_a_colour() -> None:
    given = inks(made_report(SMALL))
    assert given["1B_rank4_s0"] is given["1B_rank4_s1"]
    assert given["1B_rank4_s0"] != given["1B_rank16_s0"]
    assert given["1B_base"] is CONTROL


@pytest.mark.parametrize("make", [SMALL, Make(models=1, steps=6, items=5), fifty(steps=6, items=5)])
def test_settings_have_colours_and_labels_of_their_own(make: Make) -> None:
    found = settings(make)
    for key in ("number", "label", "light", "dark"):
        assert len({getattr(ink, key) for ink in found}) == len(found)


@pytest.mark.parametrize("make", [SMALL, Make(models=1, steps=6, items=5), Make(models=5, steps=6, items=5)])
def test_colours_can_be_seen_on_their_paper(make: Make) -> None:
    for ink in [*settings(make), CONTROL]:
        assert contrast(ink.light, "#f6f8fa") > 1.8
        assert contrast(ink.dark, "#1a2028") > 2.2


def test_models_have_shapes_of_their_own_and_shades_run_one_way() -> None:
    found = settings(SMALL)
    assert len({(ink.model, ink.shape) for ink in found}) == len({ink.model for ink in found}) == 2
    for model in {ink.model for ink in found}:
        light = [luminance(ink.light) for ink in found if ink.model == model]
        dark = [luminance(ink.dark) for ink in found if ink.model == model]
        assert light == sorted(light, reverse=True)
        assert dark == sorted(dark)


def test_colour_blind_people_tell_neighbouring_settings_and_models_apart() -> None:
    """Deuteranopes see red and green as one (Viénot 1999): what is left of two colours must still differ."""

    def seen(colour: str) -> tuple[float, float]:
        red, green, blue = channels(colour)
        return 0.29275 * red + 0.70725 * green, 0.02234 * red - 0.02234 * green + blue

    for one, other in itertools.combinations(settings(SMALL), 2):
        (a, b), (c, d) = seen(one.light), seen(other.light)
        assert abs(a - c) + abs(b - d) > 0.05
