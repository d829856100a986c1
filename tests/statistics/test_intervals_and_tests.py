"""Intervals and tests: known values, laws that hold for every table, and coverage by seeded simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.statistics.paired import holm, mcnemar_exact, newcombe_paired
from touchline.statistics.proportion import wilson

COUNTS = st.integers(min_value=0, max_value=400)
TABLES = st.tuples(COUNTS, COUNTS, COUNTS, COUNTS).filter(lambda table: sum(table) > 0)
SHARES = st.integers(min_value=1, max_value=5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
COVERAGES = st.floats(min_value=0.5, max_value=0.999)


def test_wilson_gives_the_published_interval() -> None:
    """187 of 200 is the vector checked against statsmodels."""
    assert wilson(187, 200) == pytest.approx((0.8920, 0.9616), abs=5e-5)


def test_wilson_at_the_ceiling_still_has_a_width() -> None:
    """200 of 200 right does not prove 100%."""
    low, high = wilson(200, 200)
    assert low == pytest.approx(0.981, abs=5e-4)
    assert high == 1.0


@given(share=SHARES, coverage=COVERAGES)
def test_wilson_holds_its_share_and_stays_within_zero_and_one(share: tuple[int, int], coverage: float) -> None:
    """0 <= low <= k / n <= high <= 1, whatever the counts."""
    k, n = share
    low, high = wilson(k, n, coverage)
    assert 0 <= low <= k / n <= high <= 1
    assert low < high


@given(share=SHARES)
def test_wilson_is_symmetric_in_right_and_wrong(share: tuple[int, int]) -> None:
    """The interval of the wrong answers mirrors that of the right ones."""
    k, n = share
    low, high = wilson(k, n)
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(share=SHARES)
def test_wilson_narrows_with_more_items_and_widens_with_coverage(share: tuple[int, int]) -> None:
    """Four times the items at the same share narrow it; a higher coverage widens it."""
    k, n = share
    low, high = wilson(k, n)
    more_low, more_high = wilson(4 * k, 4 * n)
    wide_low, wide_high = wilson(k, n, 0.99)
    assert more_high - more_low < high - low
    assert wide_low <= low
    assert high <= wide_high


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5), (1, -3)])
def test_wilson_refuses_what_is_not_a_share(k: int, n: int) -> None:
    """A share of nothing is no number."""
    with pytest.raises(ValueError, match="not a share"):
        wilson(k, n)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.5, 95.0])
def test_a_coverage_outside_zero_and_one_is_refused(coverage: float) -> None:
    """95 is a common slip for 0.95."""
    with pytest.raises(ValueError, match="coverage"):
        wilson(3, 5, coverage)


@pytest.mark.parametrize(("n", "share"), [(100, 0.97), (200, 0.9), (50, 0.5), (300, 0.99)])
def test_wilson_covers_as_often_as_it_says(n: int, share: float) -> None:
    """Exact coverage over the binomial distribution: on average near 95%, and never the 81% of a plain stderr."""
    covered = sum(
        math.comb(n, k) * share**k * (1 - share) ** (n - k)
        for k in range(n + 1)
        if wilson(k, n).low <= share <= wilson(k, n).high
    )
    assert 0.92 <= covered <= 0.995


def test_newcombe_agrees_with_the_published_example() -> None:
    """36, 12, 2, 0 is the airways table of Newcombe 1998, method 10."""
    assert newcombe_paired(36, 12, 2, 0) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)


def test_newcombe_gives_the_measured_difference() -> None:
    """0.13 to 0.86 with 73 gained and none lost of 100: +73.0 pp [62.3, 80.1]."""
    assert newcombe_paired(13, 73, 0, 14) == pytest.approx((0.73, 0.623, 0.801), abs=6e-4)


@given(table=TABLES, coverage=COVERAGES)
def test_newcombe_holds_its_difference_and_stays_within_bounds(
    table: tuple[int, int, int, int], coverage: float
) -> None:
    """-1 <= low <= difference <= high <= 1, whatever the table."""
    both, gained, lost, neither = table
    value, low, high = newcombe_paired(both, gained, lost, neither, coverage)
    assert -1 <= low <= value <= high <= 1
    assert value == (gained - lost) / sum(table)


@given(table=TABLES)
def test_newcombe_is_antisymmetric_in_the_two_models(table: tuple[int, int, int, int]) -> None:
    """The models swapped turn the sign; right and wrong swapped as well turn it too."""
    both, gained, lost, neither = table
    value, low, high = newcombe_paired(both, gained, lost, neither)
    assert newcombe_paired(both, lost, gained, neither) == pytest.approx((-value, -high, -low), abs=1e-12)
    assert newcombe_paired(neither, gained, lost, both) == pytest.approx((-value, -high, -low), abs=1e-12) or (
        newcombe_paired(neither, lost, gained, both) == pytest.approx((-value, -high, -low), abs=1e-12)
    )


def test_newcombe_covers_near_the_ceiling() -> None:
    """Seeded simulation of two correlated models at 95% and 92% on 100 items."""
    rng = np.random.default_rng(20)
    cells = np.array([0.89, 0.06, 0.03, 0.02])
    tables = rng.multinomial(100, cells, size=4000)
    truth = cells[1] - cells[2]
    intervals = [newcombe_paired(*(int(count) for count in table)) for table in tables]
    covered = np.mean([low <= truth <= high for _, low, high in intervals])
    assert 0.94 <= covered <= 0.99


@pytest.mark.parametrize("table", [(0, 0, 0, 0), (1, -1, 3, 2)])
def test_newcombe_refuses_what_is_not_a_table(table: tuple[int, int, int, int]) -> None:
    """An empty table has no difference."""
    with pytest.raises(ValueError, match="table of counts"):
        newcombe_paired(*table)


def test_mcnemar_gives_the_published_p() -> None:
    """14 against 3 is the vector checked against statsmodels."""
    assert mcnemar_exact(14, 3) == pytest.approx(0.01273, abs=5e-6)


def test_mcnemar_of_no_change_is_one() -> None:
    """Nothing turned: nothing is shown."""
    assert mcnemar_exact(0, 0) == 1.0


@given(gained=COUNTS, lost=COUNTS)
def test_mcnemar_is_symmetric_and_a_probability(gained: int, lost: int) -> None:
    """It does not matter which model is called the first."""
    p = mcnemar_exact(gained, lost)
    assert 0 < p <= 1
    assert p == mcnemar_exact(lost, gained)


@given(gained=st.integers(0, 200), lost=st.integers(0, 200))
def test_mcnemar_equals_the_binomial_test(gained: int, lost: int) -> None:
    """The same as summing every outcome that is no more likely than this one."""
    n = gained + lost
    here = math.comb(n, gained)
    assert mcnemar_exact(gained, lost) == pytest.approx(
        sum(c for c in (math.comb(n, i) for i in range(n + 1)) if c <= here) / 2**n
    )


def test_mcnemar_does_not_underflow_to_zero_at_two_thousand_items() -> None:
    """Integers keep the smallest tail that a float can hold."""
    assert 0 < mcnemar_exact(1000, 0) < 1e-300
    assert mcnemar_exact(2000, 0) >= 0


def test_mcnemar_refuses_negative_counts() -> None:
    """A count is not negative."""
    with pytest.raises(ValueError, match="not counts"):
        mcnemar_exact(-1, 2)


def test_holm_gives_the_published_values() -> None:
    """The vector checked against statsmodels, in the order given."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))


P_VALUES = st.lists(st.floats(min_value=0, max_value=1), max_size=12)


@given(p_values=P_VALUES)
def test_holm_never_lowers_a_p_and_never_beats_bonferroni(p_values: list[float]) -> None:
    """p <= adjusted <= min(1, m p)."""
    adjusted = holm(p_values)
    assert len(adjusted) == len(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= 1
    if p_values:
        smallest = min(range(len(p_values)), key=lambda i: p_values[i])
        assert adjusted[smallest] == pytest.approx(min(1.0, len(p_values) * p_values[smallest]))


@given(p_values=st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=5))
def test_holm_keeps_the_order_and_does_not_depend_on_it(p_values: list[float]) -> None:
    """Sorted as the raw values are, and the same for every permutation."""
    adjusted = holm(p_values)
    for (p, q), (r, s) in itertools.combinations(zip(p_values, adjusted, strict=True), 2):
        assert (q <= s) if p <= r else (q >= s)
    assert sorted(holm(list(reversed(p_values)))) == sorted(adjusted)


@pytest.mark.parametrize("p_values", [[-0.1], [1.1], [float("nan")]])
def test_holm_refuses_what_is_not_a_p_value(p_values: list[float]) -> None:
    """A p value lies within 0 and 1."""
    with pytest.raises(ValueError, match="not p values"):
        holm(p_values)
