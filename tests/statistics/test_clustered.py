"""Items that go together: errors and intervals by clusters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import PCG64, Generator

from touchline.statistics.clustered import clustered_difference, clustered_error, clustered_share
from touchline.statistics.paired import newcombe_paired
from touchline.statistics.proportion import wilson

pytestmark = pytest.mark.planning

SCORES = st.lists(st.floats(0, 1), min_size=2, max_size=40)


def test_without_clusters_it_is_the_usual_standard_error() -> None:
    values = Generator(PCG64(1)).normal(size=30)
    assert clustered_error(values) == pytest.approx(values.std(ddof=1) / math.sqrt(30))
    assert clustered_error(values, [str(i) for i in range(30)]) == pytest.approx(clustered_error(values))


def test_copies_tell_nothing_more() -> None:
    """Each value five times over: the error of the values alone."""
    values = Generator(PCG64(2)).normal(size=20)
    copies, names = np.repeat(values, 5), [str(i // 5) for i in range(100)]
    assert clustered_error(copies, names) == pytest.approx(clustered_error(values))
    assert clustered_error(copies) < clustered_error(values) / 2


def test_it_is_the_sandwich_of_a_regression_on_a_constant() -> None:
    """By hand: clusters (1, 1, 0) and (0, 1) have residual totals 0.2 and -0.2; 2 / 1 * 0.08 is 0.16, over 5 items."""
    found = clustered_error(np.array([1.0, 1.0, 0.0, 0.0, 1.0]), ["a", "a", "a", "b", "b"])
    assert found == pytest.approx(math.sqrt(2 * (0.2**2 + 0.2**2)) / 5)


def test_one_cluster_tells_nothing() -> None:
    with pytest.raises(ValueError, match="one cluster alone"):
        clustered_error(np.array([1.0, 0.0]), ["a", "a"])


@given(SCORES)
def test_a_share_s_interval_holds_the_share_within_zero_and_one(scores: list[float]) -> None:
    values = np.array(scores)
    low, high = clustered_share(values)
    assert 0 <= low <= values.mean() + 1e-12
    assert values.mean() - 1e-12 <= high <= 1
    assert low < high


def test_right_or_wrong_it_is_wilson_s_but_for_few_items() -> None:
    """187 of 200 gives [0.8920, 0.9616]; Student's t in place of z makes it a hair wider."""
    found = clustered_share(np.array([1.0] * 187 + [0.0] * 13))
    assert found == pytest.approx(wilson(187, 200), abs=1e-3)
    assert found.high - found.low > wilson(187, 200).high - wilson(187, 200).low


def test_at_the_ceiling_it_still_has_a_width() -> None:
    assert clustered_share(np.ones(50)).low == pytest.approx(wilson(50, 50).low, abs=5e-3)
    ten = clustered_share(np.ones(50), [str(i // 5) for i in range(50)])
    assert ten.low < clustered_share(np.ones(50)).low - 0.1


def test_a_difference_of_right_and_wrong_is_newcombe_s_but_for_its_correction() -> None:
    """The continuity correction of the correlation makes Newcombe's a little wider."""
    second = np.array([1.0] * 80 + [1.0] * 12 + [0.0] * 3 + [0.0] * 5)
    first = np.array([1.0] * 80 + [0.0] * 12 + [1.0] * 3 + [0.0] * 5)
    value, low, high = clustered_difference(second, first)
    expected = newcombe_paired(80, 12, 3, 5)
    assert (value, low, high) == pytest.approx(expected, abs=0.012)


@given(SCORES, st.integers(0, 9))
def test_a_difference_turns_with_its_models(scores: list[float], seed: int) -> None:
    first = np.array(scores)
    second = Generator(PCG64(seed)).random(len(first))
    value, low, high = clustered_difference(second, first)
    assert -1 <= low <= value <= high <= 1
    assert clustered_difference(first, second) == pytest.approx((-value, -high, -low), abs=1e-9)


def test_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="not scores of the same items"):
        clustered_difference(np.ones(3), np.ones(4))
