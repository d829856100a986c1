"""The fit of rates to times: what it finds again, what it does with little, and that it is certain near what it saw."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import some
from tests.tiers import examples

from touchline.estimate.regression import Fit, Rates, RegressionSample, fit, log_seconds

pytestmark = pytest.mark.planning


def rates(power: float = 1.0, **changes: float) -> Rates:
    """Three terms: a constant, one on the host, one on the device."""
    base = Rates(
        means=np.log(np.array([0.01, 0.001, 1e-6])),
        sigmas=np.array([1.0, 1.0, 1.0]),
        host=np.array([False, True, False]),
        alone=np.array([True, False, False]),
        power=power,
        model_sigma=0.1,
        rate_sigma=0.1,
        variant_sigma=0.1,
        setting_sigma=0.05,
        weight=4.0,
    )
    return replace(base, **changes)


def row(launches: float, tokens: float, *, model: str = "a", setting: str = "") -> RegressionSample:
    return RegressionSample(amounts=(1.0, launches, tokens), model=model, variant="v", setting=setting, noise=0.03)


def truth(launches: float, tokens: float) -> float:
    """Logarithm of the seconds of a machine that is not what the prior expects."""
    return math.log(0.03 + 0.002 * launches + 3e-6 * tokens)


GRID = [(launches, tokens) for launches in (10.0, 40.0) for tokens in (100.0, 3000.0, 50000.0, 400000.0)]


def fitted(count: int, prior: Rates | None = None) -> Fit:
    """A fit to so many points of the grid."""
    chosen = GRID[:count]
    rows = [row(*point, setting=str(index)) for index, point in enumerate(chosen)]
    return fit(prior or rates(), rows, [truth(*point) for point in chosen])


def test_points_teach_rates() -> None:
    found = fitted(len(GRID))
    for launches, tokens in [(20.0, 1000.0), (25.0, 20000.0), (10.0, 200000.0)]:
        value, _ = found.predict(row(launches, tokens))
        assert value == pytest.approx(truth(launches, tokens), abs=0.05)
    found = fit(rates(), [], [])
    value, sigma = found.predict(row(10, 1000))
    assert value == pytest.approx(math.log(0.01 + 0.01 + 0.001))
    assert sigma > 0.5
    assert found.scale == 1


def test_one_point_already_narrows_the_rest() -> None:
    before = fit(rates(), [], [])
    # What the prior expects, so that nothing but the knowledge of it changes.
    seen = row(10, 100000, setting="0")
    after = fit(rates(), [seen], [before.predict(seen)[0]])
    for tokens in (1000.0, 30000.0, 300000.0):
        assert after.predict(row(10, tokens))[1] < before.predict(row(10, tokens))[1]
    # Nearest what was seen, most.
    widths = [after.predict(row(10, tokens))[1] for tokens in (100000.0, 10000.0, 1000.0, 10.0)]
    assert widths == sorted(widths)


@given(
    factors=st.lists(st.floats(0.8, 1.25), max_size=6),
    launches=st.floats(5, 80),
    tokens=st.floats(100, 1e6),
    asked=st.floats(100, 1e6),
)
@settings(deadline=None, max_examples=examples(25))
def test_a_run_as_predicted_widens_nothing(factors: list[float], launches: float, tokens: float, asked: float) -> None:
    rows = [row(*point, setting=str(index)) for index, point in enumerate(GRID[: len(factors)])]
    logs = [truth(*point) + math.log(factor) for point, factor in zip(GRID, factors, strict=False)]
    before = fit(rates(), rows, logs)
    new = row(launches, tokens, setting="new")
    after = fit(rates(), [*rows, new], [*logs, before.predict(new)[0]])
    assert after.predict(row(launches, asked))[1] <= before.predict(row(launches, asked))[1]


def test_points_widen_and_narrow() -> None:
    seen = row(10, 100000, model="a", setting="0")
    found = fit(rates(), [seen], [truth(10, 100000)])
    own, other = found.predict(row(10, 100000)), found.predict(row(10, 100000, model="b"))
    assert own[1] < other[1]
    assert abs(own[0] - truth(10, 100000)) < abs(other[0] - truth(10, 100000))
    found = fit(rates(), [row(10, 1000, setting=str(i)) for i in range(40)], [truth(10, 1000)] * 40)
    assert found.predict(row(10, 1000))[1] >= found.scale * 0.03
    calm, wild = (fitted(4), fit(rates(), fitted(4).rows, [truth(*p) + (-1) ** i for i, p in enumerate(GRID[:4])]))
    assert wild.scale > 2 * calm.scale


@given(
    points=st.lists(
        st.tuples(st.floats(1, 1000), st.floats(1, 1e6), st.floats(-6, 6), st.sampled_from("ab")), max_size=8
    ),
    power=st.sampled_from([1.0, 3.0]),
    launches=st.floats(1, 1000),
    tokens=st.floats(1, 1e6),
    more=st.floats(1.0, 10),
)
@settings(deadline=None, max_examples=examples(25))
def test_whatever_was_measured_time_grows_with_every_amount(
    points: list[tuple[float, float, float, str]], power: float, launches: float, tokens: float, more: float
) -> None:
    rows = [row(one, two, model=model, setting=str(i)) for i, (one, two, _, model) in enumerate(points)]
    found = fit(rates(power), rows, [log for _, _, log, _ in points])
    value, sigma = found.predict(row(launches, tokens))
    assert math.isfinite(value)
    assert sigma > 0
    assert found.predict(row(launches, tokens * more))[0] >= value - 1e-12
    assert found.predict(row(launches * more, tokens))[0] >= value - 1e-12
    # Twice the work, the constant included, takes twice the time.
    double = replace(row(launches, tokens), amounts=(2.0, 2 * launches, 2 * tokens))
    assert found.predict(double)[0] == pytest.approx(value + math.log(2))


@given(launches=st.floats(0, 1e4), tokens=st.floats(0, 1e9), power=st.floats(1, 8))
def test_shares_are_the_derivative(launches: float, tokens: float, power: float) -> None:
    prior = rates(power)
    amounts = (1.0, launches, tokens)
    value, slope = log_seconds(prior.means, amounts, prior)
    assert slope.sum() == pytest.approx(1)
    step = 1e-6
    for index in range(3):
        moved = prior.means.copy()
        moved[index] += step
        assert (log_seconds(moved, amounts, prior)[0] - value) / step == pytest.approx(slope[index], abs=1e-4)


def test_the_slower_side_counts_where_they_overlap() -> None:
    prior = rates(power=8.0)
    host = math.exp(log_seconds(prior.means, (0, 100, 1), prior)[0])
    device = math.exp(log_seconds(prior.means, (0, 1, 1e6), prior)[0])
    both = math.exp(log_seconds(prior.means, (0, 100, 1e6), prior)[0])
    assert host == pytest.approx(0.1, rel=0.01)
    assert device == pytest.approx(1, rel=0.01)
    assert device <= both <= 1.01 * device


def test_one_run_that_shared_its_machine_bends_nothing() -> None:
    grid = [(launches, tokens) for launches in (10.0, 20.0, 40.0) for _, tokens in GRID[:4]]
    rows = [row(*point, setting=str(index)) for index, point in enumerate(grid)]
    logs = [truth(*point) for point in grid]
    calm = fit(rates(), rows, logs)
    logs[5] += math.log(3)
    wild = fit(rates(), rows, logs)
    for point in some(grid):
        value, sigma = wild.predict(row(*point))
        assert value == pytest.approx(truth(*point), abs=0.1)
        # But it is not forgotten: the next run may be like it.
        assert sigma > 1.5 * calm.predict(row(*point))[1]


def test_leaving_one_out_is_what_a_fit_without_it_says() -> None:
    """Up to the change of slope that the one point makes, which is most where it stands alone."""
    prior = rates()
    rows = [row(*point, setting=str(index)) for index, point in enumerate(GRID)]
    generator = np.random.default_rng(3)
    logs = [truth(*point) + float(generator.normal(0, 0.03)) for point in GRID]
    residuals, sigmas = fit(prior, rows, logs).left_out()
    for index in range(len(GRID)):
        without = fit(prior, rows[:index] + rows[index + 1 :], logs[:index] + logs[index + 1 :])
        value, sigma = without.predict(rows[index])
        assert residuals[index] == pytest.approx(logs[index] - value, abs=sigma)
        assert 0.5 < float(sigmas[index]) / sigma < 2
