"""Cells come back as they went in, whatever they hold; a cut answer is no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.slurm.table import read_closed_table, read_table

pytestmark = pytest.mark.planning

BAR = "\x1f0a1b\x1f"
CELL = st.text(st.characters(exclude_characters="\x1f", exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "\n", "a\nb", "|", "two\n\nlines", "'\"`$(id)", "\r\n", "\u2028", "%.5j", "\x1f"]
)
LAST = st.text("ABC_ ", max_size=8)
ROWS = st.integers(2, 5).flatmap(
    lambda columns: st.lists(
        st.tuples(st.lists(CELL, min_size=columns - 1, max_size=columns - 1), LAST), min_size=0, max_size=5
    ).map(lambda rows: (columns, [[*cells, last] for cells, last in rows]))
)


@given(ROWS)
def test_cells_come_back_whole(drawn: tuple[int, list[list[str]]]) -> None:
    """Header and rows, between bars and closed by bars."""
    columns, rows = drawn
    table = [[f"C{number}" for number in range(columns)], *rows]
    between = "".join(f"{BAR.join(row)}\n" for row in table)
    closed = "".join("".join(f"{cell}{BAR}" for cell in row) + "\n" for row in table)
    assert read_table(between, BAR, columns) == table
    assert read_closed_table(closed, BAR) == table


@given(ROWS, st.data())
def test_a_cut_answer_is_none_unless_it_ends_with_a_row(
    drawn: tuple[int, list[list[str]]], data: st.DataObject
) -> None:
    """Fewer rows may come back only where the cut fell between two of them: such an answer is whole."""
    columns, rows = drawn
    table = [[f"C{number}" for number in range(columns)], *rows]
    lines = ["".join(f"{cell}{BAR}" for cell in row) + "\n" for row in table]
    text = "".join(lines)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    read = read_closed_table(cut, BAR)
    assert read is None or (read == table[: len(read)] and cut == "".join(lines[: len(read)]))


@pytest.mark.parametrize("text", ["", "\n", "C0", f"C0{BAR}", f"C0{BAR}C1", "slurm_load_jobs error: too late\n"])
def test_what_is_no_table(text: str) -> None:
    assert read_closed_table(text, BAR) is None
    assert read_table(text, BAR, 2) is None
