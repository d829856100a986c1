"""Curves of fewer points keep what a reader looks for: peaks, gaps, ends."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.report.charts.losses import POINTS_A_RUN, best, budget, smoothed, thinned
from touchline.results.run_result import LossPoint

LOSSES = st.lists(st.one_of(st.floats(1e-6, 1e6), st.sampled_from([math.nan, math.inf])), max_size=400)


def points(losses: list[float]) -> list[LossPoint]:
    """Losses at steps 1, 2, ..."""
    return [LossPoint(step=index + 1, loss=loss) for index, loss in enumerate(losses)]


@given(LOSSES, st.integers(2, 120))
def test_thinned_curves_are_short_ordered_parts_of_the_curve(losses: list[float], limit: int) -> None:
    curve = points(losses)
    thin = thinned(curve, limit)
    assert len(thin) <= max(limit, 2)
    assert [point.step for point in thin] == sorted({point.step for point in thin})
    assert all(any(point is other for other in curve) for point in thin)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=400), st.integers(2, 60))
def test_the_lowest_and_the_highest_point_stay(losses: list[float], limit: int) -> None:
    thin = [point.loss for point in thinned(points(losses), limit)]
    assert min(thin) == min(losses)
    assert max(thin) == max(losses)


def test_a_single_loss_that_is_no_number_is_still_there_after_thinning() -> None:
    losses = [1.0] * 5000
    losses[2500] = math.nan
    assert any(math.isnan(point.loss) for point in thinned(points(losses), 40))


@given(LOSSES, st.integers(2, 120))
def test_smoothed_curves_lie_within_the_curve_and_have_its_ends(losses: list[float], limit: int) -> None:
    curve = points(losses)
    smooth = smoothed(curve, limit)
    finite = [point for point in curve if math.isfinite(point.loss)]
    if len(finite) >= 3:
        assert len(smooth) <= limit
        assert (smooth[0].step, smooth[-1].step) == (finite[0].step, finite[-1].step)
    if finite:
        low, high = min(p.loss for p in finite), max(p.loss for p in finite)
        assert all(low * (1 - 1e-6) <= point.loss <= high * (1 + 1e-6) + 1e-6 * high for point in smooth)


def test_the_smoothed_curve_starts_where_a_falling_curve_does() -> None:
    falling = points([math.exp(-step / 50) for step in range(400)])
    assert smoothed(falling, 40)[0].loss == pytest.approx(1.0)


def test_the_best_point_is_the_earliest_lowest_finite_one() -> None:
    found = best(points([math.nan, 2.0, 1.0, 1.0, math.inf]))
    assert found is not None
    assert found.step == 3
    assert best(points([math.nan])) is None


@pytest.mark.parametrize("runs", [1, 14, 50, 1000])
def test_no_run_gets_more_points_than_the_limit(runs: int) -> None:
    assert budget(runs) <= POINTS_A_RUN
    assert budget(50) == POINTS_A_RUN
