"""Bootstraps, sign flips and clusters: held against scipy and exact tests, and the same for the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import PCG64, Generator

from touchline.statistics.bootstrap import (
    bootstrap_intervals,
    bootstrap_means,
    cluster_codes,
)
from touchline.statistics.clustered import clustered_difference, clustered_error, clustered_share
from touchline.statistics.paired import Floats, mcnemar_exact, newcombe_paired, sign_flip_ps
from touchline.statistics.proportion import wilson

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


def test_the_spread_of_the_draws_is_the_standard_error() -> None:
    values = rng(5).normal(size=(80, 3))
    means = bootstrap_means(values, rng(), resamples=20_000)
    assert means.shape == (20_000, 3)
    assert means.std(axis=0) == pytest.approx(values.std(axis=0) / math.sqrt(80), rel=0.02)
    assert means.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.004)


def test_whole_clusters_are_drawn() -> None:
    """Ten copies of each value tell no more than the values alone."""
    values = rng(6).normal(size=30)
    alone = bootstrap_means(values[:, None], rng(), resamples=4000).std()
    copies = np.repeat(values, 10)[:, None]
    names = [f"document {i // 10}" for i in range(300)]
    assert bootstrap_means(copies, rng(), resamples=4000, clusters=names).std() == pytest.approx(alone, rel=0.05)
    assert bootstrap_means(copies, rng(), resamples=4000).std() < alone / 2.5


def test_the_same_seed_gives_the_same_interval_and_another_one_nearly() -> None:
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


# ---- clusters --------------------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="one cluster has no spread"):
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
