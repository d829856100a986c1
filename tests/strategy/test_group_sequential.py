"""Group-sequential bounds of the t-test: their error, power and stopping by independent simulation, and monotony."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import PCG64, Generator
from scipy import stats
from tests.tiers import examples

from touchline.strategy.group_sequential import (
    LEVEL,
    efficacy_bounds,
    futility_bounds,
    shown_effect,
    spent,
    stopping_chances,
)

pytestmark = pytest.mark.planning

DESIGNS = ((2, 3, 4), (3, 4, 6), (2, 4, 6, 9, 12), (2, 12), (5, 10))
PATHS = 100_000


@st.composite
def some_looks(draw: st.DrawFn) -> tuple[int, ...]:
    return tuple(sorted(draw(st.sets(st.integers(2, 14), min_size=1, max_size=5))))


def simulated(
    looks: tuple[int, ...], efficacy: tuple[float, ...], futility: tuple[float, ...], effect: float
) -> tuple[list[float], list[float]]:
    """Return the shares that end at each look, established and given up: means and deviations, no angles."""
    differences = Generator(PCG64(7)).normal(effect, 1.0, size=(PATHS, looks[-1]))
    active = np.ones(PATHS, dtype=bool)
    established, given_up = [], []
    for seeds, upper, lower in zip(looks, efficacy, futility, strict=True):
        t = stats.ttest_1samp(differences[:, :seeds], 0.0, axis=1).statistic
        above, below = active & (t >= upper), active & (t <= lower)
        established.append(float(above.mean()))
        given_up.append(float(below.mean()))
        active &= ~(above | below)
    return established, given_up


def close(share: float, exact: float) -> bool:
    return abs(share - exact) <= 3 * math.sqrt(exact * (1 - exact) / PATHS) + 2e-5


@pytest.mark.parametrize("looks", DESIGNS)
@pytest.mark.parametrize("level", [LEVEL, LEVEL / 8])
def test_each_look_spends_its_share_of_the_level(looks: tuple[int, ...], level: float) -> None:
    bounds = efficacy_bounds(looks, level)
    established, _ = simulated(looks, bounds, (-math.inf,) * len(looks), 0.0)
    shares = [level * spent(seeds / looks[-1]) for seeds in looks]
    for found, earlier, later in zip(established, [0.0, *shares], shares, strict=False):
        assert close(found, later - earlier), (looks, established, shares)
    assert close(sum(established), level)


@pytest.mark.parametrize("looks", DESIGNS)
@pytest.mark.parametrize("times", [0.0, 0.5, 1.0, 2.0])
def test_chances_are_those_of_simulated_paths(looks: tuple[int, ...], times: float) -> None:
    effect = times * shown_effect(looks)
    bounds, low = efficacy_bounds(looks), futility_bounds(looks)
    chances = stopping_chances(looks, effect, bounds, low)
    established, given_up = simulated(looks, bounds, (*low[:-1], -math.inf), effect)
    for found, exact in zip([*established, *given_up], [*chances.established, *chances.given_up], strict=True):
        assert abs(found - exact) <= 3 * math.sqrt(exact * (1 - exact) / PATHS) + 2e-4, (looks, times, found, exact)


@pytest.mark.parametrize("seeds", [2, 3, 6, 12, 40])
def test_a_single_look_is_the_t_test(seeds: int) -> None:
    assert efficacy_bounds((seeds,)) == pytest.approx((stats.t.ppf(0.975, seeds - 1),), rel=1e-9)
    effect = shown_effect((seeds,))
    noncentral = stats.nct.sf(stats.t.ppf(0.975, seeds - 1), seeds - 1, effect * math.sqrt(seeds))
    assert noncentral == pytest.approx(0.8, abs=1e-6)
    assert stopping_chances((seeds,), effect, efficacy_bounds((seeds,))).power == pytest.approx(0.8, abs=2e-3)


@settings(max_examples=examples(8), deadline=None)
@given(looks=some_looks(), level=st.floats(0.0005, 0.2), share=st.floats(0.2, 0.95))
def test_a_smaller_level_has_larger_bounds_at_every_look(looks: tuple[int, ...], level: float, share: float) -> None:
    """Check the condition of Holm's rule over looks (Maurer and Bretz 2013)."""
    wide, strict = efficacy_bounds(looks, level), efficacy_bounds(looks, level * share)
    assert all(other > one for one, other in zip(wide, strict, strict=True))


@settings(max_examples=examples(8), deadline=None)
@given(looks=some_looks(), level=st.floats(0.001, 0.1))
def test_no_look_alone_has_more_than_the_level_and_futility_is_below_the_bound(
    looks: tuple[int, ...], level: float
) -> None:
    bounds = efficacy_bounds(looks, level)
    nominal = [float(stats.t.sf(bound, seeds - 1)) for bound, seeds in zip(bounds, looks, strict=True)]
    assert all(each <= level * 1.001 for each in nominal)
    low = futility_bounds(looks, level=level)
    assert low[-1] == bounds[-1]
    assert all(lower <= upper for lower, upper in zip(low, bounds, strict=True))


@settings(max_examples=examples(8), deadline=None)
@given(looks=some_looks(), effect=st.floats(0.0, 3.0), more=st.floats(0.05, 1.0))
def test_power_grows_with_the_effect_and_futility_costs_little_of_it(
    looks: tuple[int, ...], effect: float, more: float
) -> None:
    bounds, low = efficacy_bounds(looks), futility_bounds(looks)
    small, large = (stopping_chances(looks, each, bounds, low) for each in (effect, effect + more))
    assert small.power < large.power + 1e-3
    assert looks[0] - 1e-6 <= small.seeds <= looks[-1] + 1e-6
    promised = shown_effect(looks)
    with_futility = stopping_chances(looks, promised, bounds, low)
    assert 0.77 <= with_futility.power <= 0.802
    assert sum(with_futility.given_up) <= 0.1 + 2e-3


def test_a_large_promise_gives_up_no_t_that_may_still_establish_a_claim() -> None:
    looks = (3, 4, 6)
    assert futility_bounds(looks, 1000.0) == futility_bounds(looks) == futility_bounds(looks, 3.0)
    assert futility_bounds(looks, 1.0)[0] < futility_bounds(looks)[0]
    large = stopping_chances(looks, 3.0, efficacy_bounds(looks), futility_bounds(looks, 3.0))
    assert large.power > 0.995


@pytest.mark.parametrize("looks", [(), (1, 3), (4, 3), (2, 65)])
def test_looks_that_are_not_looks_are_refused(looks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"looks at .* seeds, expected increasing from 2 to at most 64"):
        efficacy_bounds(looks)
