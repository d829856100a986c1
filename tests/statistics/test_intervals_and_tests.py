"""Intervals and tests: known values, laws that hold for every table, and coverage by seeded simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.statistics.paired import holm, mcnemar_exact, newcombe_paired
from touchline.statistics.proportion import wilson

pytestmark = pytest.mark.planning

COUNTS = st.integers(min_value=0, max_value=400)
TABLES = st.tuples(COUNTS, COUNTS, COUNTS, COUNTS).filter(lambda table: sum(table) > 0)
SHARES = st.integers(min_value=1, max_value=5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
COVERAGES = st.floats(min_value=0.5, max_value=0.999)


@pytest.mark.parametrize(
    ("found", "published", "tolerance"),
    [
        (wilson(187, 200), (0.8920, 0.9616), 5e-5),
        (wilson(200, 200), (0.981, 1.0), 5e-4),
        # The airways table of Newcombe 1998, method 10, and a measured run: 0.13 to 0.86 with none lost of 100.
        (newcombe_paired(36, 12, 2, 0), (0.2, 0.0569, 0.3404), 5e-5),
        (newcombe_paired(13, 73, 0, 14), (0.73, 0.623, 0.801), 6e-4),
        ((mcnemar_exact(14, 3), mcnemar_exact(0, 0)), (0.01273, 1.0), 5e-6),
        (holm([0.01, 0.04, 0.03]), (0.03, 0.06, 0.06), 1e-12),
    ],
)
def test_published_values(found: tuple[float, ...], published: tuple[float, ...], tolerance: float) -> None:
    """Those of Wilson, McNemar and Holm are checked against statsmodels."""
    assert tuple(found) == pytest.approx(published, abs=tolerance)


@given(share=SHARES, coverage=COVERAGES)
def test_laws_of_wilson(share: tuple[int, int], coverage: float) -> None:
    """It holds its share, mirrors with right and wrong, narrows with more items and widens with coverage."""
    k, n = share
    low, high = wilson(k, n, coverage)
    assert 0 <= low <= k / n <= high <= 1
    assert low < high
    assert wilson(n - k, n, coverage) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    more_low, more_high = wilson(4 * k, 4 * n, coverage)
    assert more_high - more_low < high - low
    wide_low, wide_high = wilson(k, n, coverage + (1 - coverage) / 2)
    assert wide_low <= low
    assert high <= wide_high


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *((lambda k=k, n=n: wilson(k, n), "not a share") for k, n in ((0, 0), (-1, 5), (6, 5), (1, -3))),
        # 95 is a common slip for 0.95.
        *((lambda coverage=each: wilson(3, 5, coverage), "coverage") for each in (0.0, 1.0, -0.5, 95.0)),
        *((lambda table=each: newcombe_paired(*table), "table") for each in ((0, 0, 0, 0), (1, -1, 3, 2))),
        (lambda: mcnemar_exact(-1, 2), "not counts"),
        *((lambda p=each: holm([p]), "not p values") for each in (-0.1, 1.1, float("nan"))),
    ],
)
def test_what_is_no_question_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("n", "share"), [(100, 0.97), (200, 0.9), (50, 0.5), (300, 0.99)])
def test_wilson_covers_as_often_as_it_says(n: int, share: float) -> None:
    """Exact coverage over the binomial distribution: on average near 95%, and never the 81% of a plain stderr."""
    covered = sum(
        math.comb(n, k) * share**k * (1 - share) ** (n - k)
        for k in range(n + 1)
        if wilson(k, n).low <= share <= wilson(k, n).high
    )
    assert 0.92 <= covered <= 0.995


@given(table=TABLES, coverage=COVERAGES)
def test_laws_of_newcombe(table: tuple[int, int, int, int], coverage: float) -> None:
    """It holds its difference; the models swapped turn the sign, and right and wrong swapped turn it too."""
    both, gained, lost, neither = table
    value, low, high = newcombe_paired(both, gained, lost, neither, coverage)
    assert -1 <= low <= value <= high <= 1
    assert value == (gained - lost) / sum(table)
    turned = pytest.approx((-value, -high, -low), abs=1e-12)
    assert newcombe_paired(both, lost, gained, neither, coverage) == turned
    swapped = (newcombe_paired(neither, *pair, both, coverage) for pair in ((gained, lost), (lost, gained)))
    assert any(each == turned for each in swapped)


def test_newcombe_covers_near_the_ceiling() -> None:
    """Seeded simulation of two correlated models at 95% and 92% on 100 items."""
    rng = np.random.default_rng(20)
    cells = np.array([0.89, 0.06, 0.03, 0.02])
    tables = rng.multinomial(100, cells, size=4000)
    truth = cells[1] - cells[2]
    intervals = [newcombe_paired(*(int(count) for count in table)) for table in tables]
    covered = np.mean([low <= truth <= high for _, low, high in intervals])
    assert 0.94 <= covered <= 0.99


@given(gained=st.integers(0, 200), lost=st.integers(0, 200))
def test_mcnemar_is_the_binomial_test(gained: int, lost: int) -> None:
    """The sum of every outcome that is no more likely than this one, whichever model is called the first."""
    n = gained + lost
    here = math.comb(n, gained)
    p = mcnemar_exact(gained, lost)
    assert p == mcnemar_exact(lost, gained)
    assert p == pytest.approx(sum(c for c in (math.comb(n, i) for i in range(n + 1)) if c <= here) / 2**n)


def test_mcnemar_does_not_underflow_to_zero_at_two_thousand_items() -> None:
    """Integers keep the smallest tail that a float can hold."""
    assert 0 < mcnemar_exact(1000, 0) < 1e-300
    assert mcnemar_exact(2000, 0) >= 0


@given(p_values=st.lists(st.floats(min_value=0, max_value=1), max_size=6))
def test_laws_of_holm(p_values: list[float]) -> None:
    """p <= adjusted <= min(1, m p), in the order of the raw values, and the same for every permutation."""
    adjusted = holm(p_values)
    assert len(adjusted) == len(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    if p_values:
        smallest = p_values.index(min(p_values))
        assert adjusted[smallest] == pytest.approx(min(1.0, len(p_values) * p_values[smallest]))
    for (p, q), (r, s) in itertools.combinations(zip(p_values, adjusted, strict=True), 2):
        assert (q <= s) if p <= r else (q >= s)
    assert sorted(holm(p_values[::-1])) == sorted(adjusted)
