"""Which example goes into which pack."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.packing.cases import CASES
from tests.packing.drawn import problems

from touchline.data.packing.assign import PackPlan, pack
from touchline.data.packing.histogram import pack_histogram
from touchline.data.packing.lengths import count_lengths

pytestmark = pytest.mark.planning

NARROW = CASES[0].lengths()
CHATS = CASES[4].lengths()


def check(plan: PackPlan, lengths: list[int], max_seq_len: int) -> None:
    """Every example once, no pack empty or too full, and the figures are those of the packs."""
    packs = [plan.pack(number) for number in range(plan.packs)]
    assert sorted(int(index) for one in packs for index in one) == list(range(len(lengths)))
    tokens = [sum(lengths[index] for index in one) for one in packs]
    assert tokens == plan.tokens.tolist()
    assert all(0 < count <= max_seq_len for count in tokens)
    assert all([lengths[i] for i in one] == sorted((lengths[i] for i in one), reverse=True) for one in packs)
    assert plan.lower_bound <= plan.packs
    for at, number in enumerate(plan.opened):
        assert all(max_seq_len - tokens[number] < lengths[packs[later][0]] for later in plan.opened[at + 1 :])


@given(problems(), st.integers(0, 3))
def test_every_example_is_in_one_pack(problem: tuple[list[int], int], seed: int) -> None:
    lengths, max_seq_len = problem
    plan = pack(lengths, max_seq_len, seed=seed)
    check(plan, lengths, max_seq_len)
    packing = pack_histogram(count_lengths(lengths, max_seq_len), max_seq_len)
    assert (plan.packs, plan.lower_bound) == (packing.packs, packing.lower_bound)


def test_the_seed_decides() -> None:
    """The same seed the same packs, another seed others; a generator counts as a seed."""
    one, same, other = (pack(CHATS, 2048, seed=seed) for seed in (1, 1, 2))
    drawn = pack(CHATS, 2048, seed=np.random.Generator(np.random.PCG64(1)))
    for plan in (same, drawn):
        assert np.array_equal(one.indices, plan.indices)
        assert np.array_equal(one.offsets, plan.offsets)
        assert np.array_equal(one.opened, plan.opened)
    assert not np.array_equal(one.indices, other.indices)


def test_the_packs_stand_in_no_order() -> None:
    """A trainer that reads them as they stand sees no trend of lengths, nor the order of the file."""
    plan = pack(CHATS, 2048, seed=3)
    longest = CHATS[plan.indices[plan.offsets[:-1]]].astype(float)
    place = np.arange(plan.packs)
    assert abs(np.corrcoef(place, longest)[0, 1]) < 0.1
    assert abs(np.corrcoef(place, plan.indices[plan.offsets[:-1]])[0, 1]) < 0.1


def test_equal_lengths_are_dealt_at_random() -> None:
    """Which of the equal examples meet is the seed's choice: any two share a pack about as often as any other two."""
    lengths = [10] * 6
    met = np.zeros((6, 6), int)
    for seed in range(300):
        plan = pack(lengths, 20, seed=seed)
        for number in range(plan.packs):
            one, two = plan.pack(number)
            met[one, two] += 1
            met[two, one] += 1
    pairs = met[np.triu_indices(6, 1)]
    assert pairs.sum() == 900
    assert pairs.min() > 35  # 60 each on average, standard deviation 7
    assert pairs.max() < 90


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.int64])
def test_the_element_type_makes_no_difference(dtype: type[np.integer]) -> None:
    plan = pack(NARROW.astype(dtype), 512, seed=1)
    assert np.array_equal(plan.indices, pack(NARROW.tolist(), 512, seed=1).indices)


@pytest.mark.parametrize("distinct", [300, 70_000])
def test_lengths_beyond_16_bits_are_sorted_all_the_same(distinct: int) -> None:
    """By their rank where the ranks fit into 16 bits, by themselves where they do not."""
    lengths = np.arange(distinct) + 65_500
    plan = pack(lengths, 200_000, seed=1)
    assert np.array_equal(np.sort(plan.indices), np.arange(distinct))
    assert np.array_equal(np.add.reduceat(lengths[plan.indices], plan.offsets[:-1]), plan.tokens)
    assert plan.tokens.max() <= 200_000


def test_nothing_to_pack_is_no_pack() -> None:
    assert pack([], 100, seed=1).packs == 0


@pytest.mark.parametrize(
    ("lengths", "max_seq_len", "words"),
    [
        ([5, 12, 3, 20], 10, r"example 1 \(from 0\) has 12 tokens, more than max_seq_len 10 \(2 of 4 examples"),
        ([5, 0, 3], 10, r"example 1 \(from 0\) has 0 tokens"),
        ([5, -1, 3], 10, r"example 1 \(from 0\) has -1 tokens"),
        ([], 0, "max_seq_len is 0"),
        ([1.5], 10, "integer array"),
        ([[1]], 10, "one-dimensional"),
    ],
)
def test_what_cannot_be_packed_is_refused(lengths: list[int], max_seq_len: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pack(lengths, max_seq_len, seed=1)
