"""The division into steps and micro-batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.data.packing.batches import largest_divisor, plan_batches

pytestmark = pytest.mark.planning

SIZES = st.integers(1, 9)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), SIZES, SIZES, st.integers(1, 3), st.integers(0, 5))
def test_every_example_comes_once_an_epoch_in_global_batches(
    lengths: list[int], global_size: int, micro_size: int, epochs: int, seed: int
) -> None:
    """Each step but an epoch's last has the whole global batch; the counts are those of the batches themselves."""
    tokens = np.array(lengths, np.uint32)
    plan = plan_batches(tokens, global_batch_size=global_size, micro_batch_size=micro_size, epochs=epochs, seed=seed)
    steps = [plan.step(step) for step in range(plan.steps)]
    assert sum(len(step) for step in steps) == plan.micro_batches
    for epoch in range(epochs):
        own = [step for number, step in enumerate(steps) if plan.epoch_of(number) == epoch]
        assert len(own) == plan.steps_per_epoch
        assert sorted(int(i) for step in own for micro in step for i in micro) == list(range(len(lengths)))
        assert all(sum(len(micro) for micro in step) == global_size for step in own[:-1])
    largest = max(int(tokens[micro].max()) * len(micro) for step in steps for micro in step)
    assert plan.largest_micro_batch_tokens(tokens) == largest


@given(st.integers(1, 60), SIZES, st.integers(0, 5))
def test_the_micro_batch_changes_no_step(count: int, global_size: int, seed: int) -> None:
    """Memory is no science: the examples of each step, and their order, stay; the digest tells the plans apart."""
    tokens = np.ones(count, np.uint32)
    plans = [
        plan_batches(tokens, global_batch_size=global_size, micro_batch_size=micro, epochs=2, seed=seed)
        for micro in {1, global_size}
    ]
    orders = [[[int(i) for micro in plan.step(step) for i in micro] for step in range(plan.steps)] for plan in plans]
    assert all(order == orders[0] for order in orders)
    assert len({plan.digest for plan in plans}) == len(plans)


def test_another_seed_or_epoch_is_another_order() -> None:
    """The order is drawn anew for each epoch, and by the seed."""
    tokens = np.ones(100, np.uint32)
    one, two = (plan_batches(tokens, global_batch_size=10, micro_batch_size=5, epochs=2, seed=s) for s in (1, 2))
    assert not np.array_equal(one.orders[0], one.orders[1])
    assert not np.array_equal(one.orders[0], two.orders[0])
    assert one.digest != two.digest


@given(st.integers(1, 200), st.integers(-3, 300))
def test_the_largest_divisor_divides_and_is_within_the_limit(number: int, limit: int) -> None:
    found = largest_divisor(number, limit)
    assert number % found == 0
    assert found <= max(limit, 1)
    assert not [other for other in range(found + 1, min(number, limit) + 1) if number % other == 0]


def test_no_examples_are_refused() -> None:
    """A run without steps is a fault of the caller."""
    with pytest.raises(ValueError, match="at least one"):
        plan_batches(np.array([], np.uint32), global_batch_size=1, micro_batch_size=1, epochs=1, seed=0)
