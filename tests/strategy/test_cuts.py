"""Rules that cut runs by their validation losses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.strategy.cuts import halving, median

LOSSES = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3),
    st.floats(0, 20) | st.sampled_from([math.nan, math.inf, -math.inf]),
    min_size=1,
    max_size=12,
)


def test_halving_continues_the_best_half_in_the_order_given() -> None:
    assert halving({"a": 2.0, "b": 1.0, "c": 3.0, "d": 1.5}, 0.5) == ("b", "d")
    assert halving({"d": 1.5, "c": 3.0, "b": 1.0, "a": 2.0}, 0.5) == ("d", "b")


@pytest.mark.parametrize(("runs", "keep", "left"), [(3, 0.5, 2), (5, 0.25, 2), (25, 0.28, 7), (1, 0.1, 1), (4, 1.0, 4)])
def test_halving_rounds_the_share_up(runs: int, keep: float, left: int) -> None:
    assert len(halving({str(number): float(number) for number in range(runs)}, keep)) == left


def test_halving_continues_the_earlier_of_equal_losses() -> None:
    assert halving({"a": 1.0, "b": 1.0, "c": 1.0}, 0.3) == ("a",)


def test_a_diverged_run_is_cut_even_where_its_place_stays_empty() -> None:
    assert halving({"a": math.nan, "b": 1.0, "c": math.inf, "d": -math.inf}, 0.75) == ("b",)
    assert median({"a": math.nan, "b": 1.0, "c": -math.inf}) == ("b",)


def test_where_all_runs_diverged_the_rules_continue_some() -> None:
    assert halving({"a": math.nan, "b": math.inf, "c": math.nan}, 0.5) == ("a", "b")
    assert median({"a": math.nan, "b": math.inf}) == ("a", "b")


def test_the_median_itself_continues() -> None:
    assert median({"a": 3.0, "b": 1.0, "c": 2.0}) == ("b", "c")
    assert median({"a": 3.0, "b": 1.0, "c": 2.0, "d": 4.0}) == ("b", "c")
    assert median({"a": 1.0, "b": 1.0}) == ("a", "b")


def test_nothing_to_compare_and_impossible_shares_are_refused() -> None:
    for rule in (lambda: halving({}, 0.5), lambda: median({})):
        with pytest.raises(ValueError, match="no runs"):
            rule()
    for keep in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="keep"):
            halving({"a": 1.0}, keep)


@given(LOSSES, st.floats(0.01, 1.0))
def test_no_cut_run_is_better_than_one_that_continues(losses: dict[str, float], keep: float) -> None:
    for kept in (halving(losses, keep), median(losses)):
        assert kept
        assert list(kept) == [run for run in losses if run in kept]
        cut = [losses[run] for run in losses if run not in kept and math.isfinite(losses[run])]
        finite = [losses[run] for run in kept if math.isfinite(losses[run])]
        if finite:
            assert len(finite) == len(kept)
            assert max(finite) <= min(cut, default=math.inf)


@given(LOSSES, st.floats(0.01, 1.0))
def test_at_most_the_share_rounded_up_continues(losses: dict[str, float], keep: float) -> None:
    assert len(halving(losses, keep)) <= max(1, math.ceil(keep * len(losses)))
