"""The order of a dataset that makes a next-fit packer build our packs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.packing.cases import CASES, PackingCase
from tests.packing.drawn import problems

from touchline.data.packing.assign import PackPlan, pack
from touchline.data.packing.handoff import hand_off

pytestmark = pytest.mark.planning


def next_fit(order: list[int], lengths: list[int], max_seq_len: int) -> list[list[int]]:
    """Packs as torchtune's PackedDataset makes them, from its description."""
    packs: list[list[int]] = []
    room = 0
    for index in order:
        if lengths[index] > room or not packs:
            packs.append([])
            room = max_seq_len
        packs[-1].append(index)
        room -= lengths[index]
    return packs


def of(plan: PackPlan) -> set[frozenset[int]]:
    return {frozenset(plan.pack(number).tolist()) for number in range(plan.packs)}


@given(problems(), st.integers(0, 3))
def test_next_fit_makes_our_packs(problem: tuple[list[int], int], seed: int) -> None:
    lengths, max_seq_len = problem
    plan = pack(lengths, max_seq_len, seed=seed)
    given_over = hand_off(plan, lengths)
    assert given_over.exact
    assert given_over.difference == 0
    made = next_fit(given_over.order.tolist(), lengths, max_seq_len)
    assert {frozenset(one) for one in made} == of(plan)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_case_is_handed_over_exactly(case: PackingCase) -> None:
    """And fewer packs come of it than of the order of the file."""
    lengths = case.lengths()
    plan = pack(lengths, case.max_seq_len, seed=1)
    given_over = hand_off(plan, lengths)
    assert given_over.exact
    as_it_is = next_fit(list(range(len(lengths))), lengths.tolist(), case.max_seq_len)
    assert given_over.next_fit_packs == plan.packs <= len(as_it_is)


def test_only_the_loose_packs_stand_in_an_order() -> None:
    """The others keep their random order, so that a trainer that does not shuffle sees no trend."""
    lengths = CASES[4].lengths()
    plan = pack(lengths, 2048, seed=1)
    pack_of = np.empty(len(lengths), np.int64)
    pack_of[plan.indices] = np.repeat(np.arange(plan.packs), np.diff(plan.offsets))
    written = list(dict.fromkeys(pack_of[hand_off(plan, lengths).order].tolist()))
    least = min(int(lengths[plan.pack(number)].max()) for number in range(plan.packs))
    loose = {number for number in range(plan.packs) if 2048 - plan.tokens[number] >= least}
    assert 0 < len(loose) < plan.packs / 10
    assert written[: -len(loose)] == [number for number in range(plan.packs) if number not in loose]
    assert set(written[-len(loose) :]) == loose


def test_packs_that_next_fit_cannot_keep_apart_are_told() -> None:
    """Two packs that would fit into one are no plan of ours; next-fit joins them."""
    lengths = [4, 3, 9]
    plan = pack(lengths, 10, seed=1)
    apart = replace(
        plan,
        indices=np.array([0, 1, 2]),
        offsets=np.array([0, 1, 2, 3]),
        tokens=np.array([4, 3, 9]),
        opened=np.array([0, 1, 2]),
    )
    given_over = hand_off(apart, lengths)
    assert not given_over.exact
    assert (given_over.planned_packs, given_over.next_fit_packs, given_over.difference) == (3, 2, -1)


def test_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="holds 3 examples, not 2"):
        hand_off(pack([4, 3, 9], 10, seed=1), [4, 3])
