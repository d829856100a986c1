"""The packers by item do what their definitions say, one item after the other."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.data.packing.simple import (
    Filled,
    batch_edges,
    best_fit_decreasing,
    first_fit,
    first_fit_decreasing,
    next_fit,
    one_each,
)

pytestmark = pytest.mark.planning

CAPACITY = 20
ITEMS = st.lists(st.integers(1, CAPACITY), max_size=60)


def rows_of(filled: Filled) -> list[list[int]]:
    return [part.tolist() for part in np.split(filled.items, filled.starts[1:])] if filled.rows else []


@given(ITEMS)
def test_next_fit_looks_at_the_last_row_only(lengths: list[int]) -> None:
    """The definition, in a loop."""
    rows: list[list[int]] = []
    for index, length in enumerate(lengths):
        if not rows or sum(lengths[i] for i in rows[-1]) + length > CAPACITY:
            rows.append([])
        rows[-1].append(index)
    assert rows_of(next_fit(np.asarray(lengths, np.int64), CAPACITY)) == rows


@given(ITEMS, st.one_of(st.none(), st.integers(1, 5)))
def test_first_fit_takes_the_first_row_with_room(lengths: list[int], most: int | None) -> None:
    """The definition, in two loops; a row that holds the most it may is full."""
    rows: list[list[int]] = []
    for index, length in enumerate(lengths):
        for row in rows:
            if sum(lengths[i] for i in row) + length <= CAPACITY and (most is None or len(row) < most):
                row.append(index)
                break
        else:
            rows.append([index])
    assert rows_of(first_fit(np.asarray(lengths, np.int64), CAPACITY, most=most)) == rows


@given(ITEMS)
def test_first_fit_decreasing_fills_row_by_row_with_the_longest_that_fits(lengths: list[int]) -> None:
    """Of equal lengths the last goes first, as LLaMA-Factory pops them."""
    left = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    rows = []
    while left:
        row: list[int] = []
        while fitting := [i for i in left if lengths[i] <= CAPACITY - sum(lengths[j] for j in row)]:
            row.append(fitting[-1])
            left.remove(fitting[-1])
        rows.append(row)
    assert rows_of(first_fit_decreasing(np.asarray(lengths, np.int64), CAPACITY)) == rows


@given(ITEMS)
def test_best_fit_decreasing_takes_the_fullest_row_and_of_equal_ones_the_longest_waiting(lengths: list[int]) -> None:
    """TRL's ties: rows with equal room stand in a queue, and go to its end when their room changes."""
    rows: list[list[int]] = []
    queue: deque[int] = deque()
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        room = {row: CAPACITY - sum(lengths[i] for i in rows[row]) for row in queue}
        fitting = [row for row in queue if room[row] >= lengths[index]]
        if fitting:
            row = min(fitting, key=lambda row: room[row])
            queue.remove(row)
        else:
            row = len(rows)
            rows.append([])
        rows[row].append(index)
        queue.append(row)
    assert rows_of(best_fit_decreasing(np.asarray(lengths, np.int64), CAPACITY)) == rows


@given(ITEMS, st.integers(1, 7), st.one_of(st.none(), st.integers(1, 5)))
def test_batches_are_packed_apart(lengths: list[int], size: int, processes: int | None) -> None:
    """Each batch as if it were alone, and every item in exactly one of them."""
    array = np.asarray(lengths, np.int64)
    edges = batch_edges(len(array), size, processes)
    assert (edges[0], edges[-1]) == (0, len(array))
    assert (np.diff(edges) <= size).all()
    for pack in (first_fit_decreasing, best_fit_decreasing):
        apart = [
            [begin + index for index in row]
            for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
            for row in rows_of(pack(array[begin:end], CAPACITY))
        ]
        assert rows_of(pack(array, CAPACITY, edges)) == apart


def test_batches_of_several_processes_are_contiguous_shares() -> None:
    """As `datasets` cuts 10 rows for 3 processes, and each share into batches of 3."""
    assert batch_edges(10, 3, 3).tolist() == [0, 3, 4, 7, 10]
    assert batch_edges(10, None, 3).tolist() == [0, 4, 7, 10]
    assert batch_edges(2, 3, 5).tolist() == [0, 1, 2]


def test_sums_and_rows_of_items_agree() -> None:
    """The two ways to look at rows."""
    lengths = np.asarray([5, 15, 1, 20, 3], np.int64)
    filled = next_fit(lengths, CAPACITY)
    assert filled.sums(lengths).tolist() == [20, 1, 20, 3]
    assert filled.row_of.tolist() == [0, 0, 1, 2, 3]
    assert one_each(3).sums(lengths[:3]).tolist() == [5, 15, 1]


@pytest.mark.parametrize("pack", [next_fit, first_fit, first_fit_decreasing, best_fit_decreasing])
def test_an_item_longer_than_a_row_is_refused(pack: object) -> None:
    """Cutting or leaving out is the trainer's decision, taken before."""
    assert callable(pack)
    with pytest.raises(ValueError, match="fits in no row of 20"):
        pack(np.asarray([3, 21], np.int64), CAPACITY)
