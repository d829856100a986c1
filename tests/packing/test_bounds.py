"""The bound that proves a packing optimal."""

from __future__ import annotations

import pytest
from hypothesis import given
from tests.packing.by_item import fewest
from tests.packing.drawn import problems

from touchline.data.packing.bounds import lower_bound
from touchline.data.packing.lengths import count_lengths

pytestmark = pytest.mark.planning


@given(problems(most=9))
def test_no_packing_is_below_the_bound(problem: tuple[list[int], int]) -> None:
    """And the bound is at least what the tokens alone ask for."""
    lengths, max_seq_len = problem
    bound = lower_bound(count_lengths(lengths, max_seq_len), max_seq_len)
    assert -(-sum(lengths) // max_seq_len) <= bound <= fewest(lengths, max_seq_len)


@pytest.mark.parametrize(
    ("lengths", "max_seq_len", "bound"),
    [
        ([], 10, 0),
        ([10, 10, 10], 10, 3),
        ([6, 6, 6, 6], 10, 4),  # each above half: none shares
        ([6, 6, 5, 5], 10, 3),  # two alone, the halves together
        ([7, 7, 4, 4, 4], 10, 4),  # no 4 fits beside a 7, and two of them share
        ([4] * 9, 10, 5),  # above a third: two a pack at most, though their tokens fit into four
        ([700] * 4000 + [130] * 4000, 2048, 2000),
    ],
)
def test_what_cannot_share_counts(lengths: list[int], max_seq_len: int, bound: int) -> None:
    assert lower_bound(count_lengths(lengths, max_seq_len), max_seq_len) == bound
