"""Bootstraps, sign flips and clusters: held against scipy and exact tests, and the same for the same seed."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import PCG64, Generator
from tests.cases import parametrize

from touchline.statistics.closed_forms import wilson
from touchline.statistics.items import (
    Floats,
    bootstrap_intervals,
    bootstrap_means,
    cluster_codes,
    clustered_difference,
    clustered_share,
    holm,
    mcnemar_exact,
    newcombe_paired,
    sign_flip_ps,
    squared_errors,
)

pytestmark = pytest.mark.planning


def rng(seed: int = 1) -> Generator:
    return Generator(PCG64(seed))


def sign_flip_p(differences: Floats, rng: Generator, resamples: int = 10_000) -> float:
    return sign_flip_ps(differences[:, None], rng, resamples=resamples)[0]


def test_percentiles_are_those_of_scipy_but_for_the_expansion() -> None:
    from scipy.stats import bootstrap

    values = rng(3).exponential(size=60)
    expected = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=rng(4)).confidence_interval
    # 1.04 is what Student's t with 59 degrees of freedom and n - 1 make of it.
    (found,) = bootstrap_intervals(values[:, None], rng(), resamples=20_000)
    mean = values.mean()
    assert (mean - found.low) / (mean - expected.low) == pytest.approx(1.03, abs=0.03)
    assert (found.high - mean) / (expected.high - mean) == pytest.approx(1.03, abs=0.03)


def test_draws_are_of_whole_clusters_and_of_their_seed() -> None:
    values = rng(5).normal(size=(80, 3))
    means = bootstrap_means(values, rng(), resamples=20_000)
    assert means.shape == (20_000, 3)
    assert means.std(axis=0) == pytest.approx(values.std(axis=0) / math.sqrt(80), rel=0.02)
    assert means.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.004)
    # Ten copies of each value tell no more than the values alone.
    values = rng(6).normal(size=30)
    alone = bootstrap_means(values[:, None], rng(), resamples=4000).std()
    copies = np.repeat(values, 10)[:, None]
    names = [f"document {i // 10}" for i in range(300)]
    assert bootstrap_means(copies, rng(), resamples=4000, clusters=names).std() == pytest.approx(alone, rel=0.05)
    assert bootstrap_means(copies, rng(), resamples=4000).std() < alone / 2.5
    differences = (rng(7).random(50) - rng(8).random(50))[:, None]
    (first,) = bootstrap_intervals(differences, rng(1))
    assert [first] == bootstrap_intervals(differences, rng(1))
    assert bootstrap_intervals(differences, rng(2))[0] == pytest.approx(first, abs=0.01)


@pytest.mark.parametrize("items", [0, 1])
def test_nothing_is_said_of_the_spread_of_one_item(items: int) -> None:
    with pytest.raises(ValueError, match="one item or cluster has no spread"):
        bootstrap_intervals(np.ones((items, 1)), rng())


def test_other_clusters_and_no_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="cluster names"):
        cluster_codes(["a"], 2)
    with pytest.raises(ValueError, match="0 draws"):
        bootstrap_means(np.ones((3, 1)), rng(), resamples=0)


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 30))
def test_flips_of_right_and_wrong_are_mcnemar_s_test(gained: int, lost: int, same: int) -> None:
    differences = np.array([1.0] * gained + [-1.0] * lost + [0.0] * same)
    assert sign_flip_p(differences, rng()) == pytest.approx(mcnemar_exact(gained, lost))


@pytest.mark.parametrize(("gained", "lost"), [(20, 9), (40, 38), (30, 12)])
def test_drawn_signs_come_near_the_exact_test(gained: int, lost: int) -> None:
    differences = np.array([1.0] * gained + [-1.0] * lost)
    exact = mcnemar_exact(gained, lost)
    assert sign_flip_p(differences, rng(), resamples=20_000) == pytest.approx(exact, abs=3 * math.sqrt(exact / 20_000))


def test_they_are_those_of_scipy() -> None:
    from scipy.stats import permutation_test

    differences = np.round(rng(11).normal(0.15, 0.6, size=60), 2)
    expected = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=rng(12)
    ).pvalue
    assert sign_flip_p(differences, rng(), resamples=20_000) == pytest.approx(float(expected), abs=0.01)


@given(st.lists(st.floats(-1, 1, allow_nan=False), min_size=1, max_size=40), st.integers(0, 5))
def test_it_is_a_probability_and_knows_no_direction(differences: list[float], seed: int) -> None:
    values = np.array(differences)
    p = sign_flip_p(values, rng(seed), resamples=200)
    assert 0 < p <= 1
    assert p == sign_flip_p(-values, rng(seed), resamples=200)


def test_what_drawn_signs_cannot_resolve_is_bounded_from_above() -> None:
    """Two hundred gains: far less than one in ten thousand, and no less than the exact test."""
    p = sign_flip_p(np.ones(200), rng())
    assert mcnemar_exact(200, 0) <= p < 1e-40


def test_columns_share_their_signs_and_keep_their_own_p() -> None:
    columns = rng(13).normal(size=(40, 3)) + np.array([0.0, 0.2, 1.0])
    found = sign_flip_ps(columns, rng(), resamples=5000)
    assert found[0] > 0.05 > found[2]
    assert found[1] == sign_flip_p(columns[:, 1], rng(), resamples=5000)
    assert sign_flip_ps(np.zeros((5, 2)), rng()) == [1.0, 1.0]


SCORES = st.lists(st.floats(0, 1), min_size=2, max_size=40)


def _error(values: Floats, clusters: Sequence[str] | None = None) -> float:
    return math.sqrt(float(squared_errors(values, clusters)))


def test_standard_errors_of_clusters() -> None:
    values = Generator(PCG64(1)).normal(size=30)
    assert _error(values) == pytest.approx(values.std(ddof=1) / math.sqrt(30))
    assert _error(values, [str(i) for i in range(30)]) == pytest.approx(_error(values))
    # Each value five times over: the error of the values alone.
    values = Generator(PCG64(2)).normal(size=20)
    copies, names = np.repeat(values, 5), [str(i // 5) for i in range(100)]
    assert _error(copies, names) == pytest.approx(_error(values))
    assert _error(copies) < _error(values) / 2
    # By hand: clusters (1, 1, 0) and (0, 1) have residual totals 0.2 and -0.2; 2 / 1 * 0.08 is 0.16, over 5 items.
    found = _error(np.array([1.0, 1.0, 0.0, 0.0, 1.0]), ["a", "a", "a", "b", "b"])
    assert found == pytest.approx(math.sqrt(2 * (0.2**2 + 0.2**2)) / 5)
    with pytest.raises(ValueError, match="one cluster has no spread"):
        _error(np.array([1.0, 0.0]), ["a", "a"])


@given(SCORES)
def test_a_share_s_interval_holds_the_share_within_zero_and_one(scores: list[float]) -> None:
    values = np.array(scores)
    low, high = clustered_share(values)
    assert 0 <= low <= values.mean() + 1e-12
    assert values.mean() - 1e-12 <= high <= 1
    assert low < high


def test_intervals_of_right_and_wrong() -> None:
    """187 of 200 gives [0.8920, 0.9616]; Student's t in place of z makes it a hair wider."""
    found = clustered_share(np.array([1.0] * 187 + [0.0] * 13))
    assert found == pytest.approx(wilson(187, 200), abs=1e-3)
    assert found.high - found.low > wilson(187, 200).high - wilson(187, 200).low
    assert clustered_share(np.ones(50)).low == pytest.approx(wilson(50, 50).low, abs=5e-3)
    ten = clustered_share(np.ones(50), [str(i // 5) for i in range(50)])
    assert ten.low < clustered_share(np.ones(50)).low - 0.1
    # The continuity correction of the correlation makes Newcombe's a little wider.
    second = np.array([1.0] * 80 + [1.0] * 12 + [0.0] * 3 + [0.0] * 5)
    first = np.array([1.0] * 80 + [0.0] * 12 + [1.0] * 3 + [0.0] * 5)
    assert clustered_difference(second, first) == pytest.approx(newcombe_paired(80, 12, 3, 5), abs=0.012)


@given(SCORES, st.integers(0, 9))
def test_a_difference_turns_with_its_models(scores: list[float], seed: int) -> None:
    first = np.array(scores)
    second = Generator(PCG64(seed)).random(len(first))
    low, high = clustered_difference(second, first)
    assert -1 <= low <= second.mean() - first.mean() <= high <= 1
    assert clustered_difference(first, second) == pytest.approx((-high, -low), abs=1e-9)


def test_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="not scores of the same items"):
        clustered_difference(np.ones(3), np.ones(4))


COUNTS = st.integers(min_value=0, max_value=400)
TABLES = st.tuples(COUNTS, COUNTS, COUNTS, COUNTS).filter(lambda table: sum(table) > 0)
SHARES = st.integers(min_value=1, max_value=5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
COVERAGES = st.floats(min_value=0.5, max_value=0.999)


@parametrize(
    "found, published, tolerance",
    (wilson(187, 200), (0.8920, 0.9616), 5e-5),
    (wilson(200, 200), (0.981, 1.0), 5e-4),
    # The airways table of Newcombe 1998, method 10, and a measured run: 0.13 to 0.86 with none lost of 100.
    (newcombe_paired(36, 12, 2, 0), (0.0569, 0.3404), 5e-5),
    (newcombe_paired(13, 73, 0, 14), (0.623, 0.801), 6e-4),
    ((mcnemar_exact(14, 3), mcnemar_exact(0, 0)), (0.01273, 1.0), 5e-6),
    (holm([0.01, 0.04, 0.03]), (0.03, 0.06, 0.06), 1e-12),
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


@parametrize(
    "call, message",
    *((lambda k=k, n=n: wilson(k, n), "not a share") for k, n in ((0, 0), (-1, 5), (6, 5), (1, -3))),
    # 95 is a common slip for 0.95.
    *((lambda coverage=each: wilson(3, 5, coverage), "coverage") for each in (0.0, 1.0, -0.5, 95.0)),
    *((lambda table=each: newcombe_paired(*table), "table") for each in ((0, 0, 0, 0), (1, -1, 3, 2))),
    (lambda: mcnemar_exact(-1, 2), "not counts"),
    *((lambda p=each: holm([p]), "not p values") for each in (-0.1, 1.1, float("nan"))),
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
    low, high = newcombe_paired(both, gained, lost, neither, coverage)
    assert -1 <= low <= (gained - lost) / sum(table) <= high <= 1
    turned = pytest.approx((-high, -low), abs=1e-12)
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
    covered = np.mean([low <= truth <= high for low, high in intervals])
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
