"""Quantiles of Student's t, held against tables and against another implementation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.statistics.student import t_distribution, t_quantile, t_tail

pytestmark = pytest.mark.planning


@pytest.mark.parametrize(("freedom", "expected"), [(1, 6.3138), (4, 2.1318), (10, 1.8125), (1_000_000, 1.6449)])
def test_they_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert t_quantile(0.95, freedom) == pytest.approx(expected, abs=1e-4)


@given(st.floats(0.5, 0.999), st.one_of(st.integers(1, 200), st.integers(4_990, 5_010)))
def test_they_are_those_of_scipy(probability: float, freedom: int) -> None:
    from scipy.stats import t

    assert t_quantile(probability, freedom) == pytest.approx(float(t.ppf(probability, freedom)), abs=1e-6, rel=1e-7)


@given(st.floats(0, 100), st.floats(1, 4_000))
def test_tails_between_whole_degrees_of_freedom_are_those_of_scipy(value: float, freedom: float) -> None:
    from scipy.stats import t

    assert t_tail(value, freedom) == pytest.approx(float(t.sf(value, freedom)), rel=1e-8, abs=1e-300)
    assert t_quantile(0.975, freedom) == pytest.approx(float(t.ppf(0.975, freedom)), rel=1e-8)


def test_the_ends_of_the_tail() -> None:
    assert t_tail(0.0, 2.5) == 0.5
    assert t_tail(float("inf"), 2.5) == 0.0
    with pytest.raises(ValueError, match="no tail"):
        t_tail(-1.0, 2.5)


@given(st.floats(0, 50), st.integers(1, 200))
def test_a_quantile_is_where_the_distribution_says(value: float, freedom: int) -> None:
    share = t_distribution(value, freedom)
    assert 0.5 <= share <= 1
    if share < 0.9999:
        assert t_quantile(share, freedom) == pytest.approx(value, abs=1e-4, rel=1e-4)


@pytest.mark.parametrize(("probability", "freedom"), [(0.4, 3), (1.0, 3), (0.9, 0)])
def test_impossible_ones_are_refused(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(probability, freedom)
