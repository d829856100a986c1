"""Estimates scored against what happened."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.estimate.time_rows import cpu_runs

from touchline.core.estimate import Estimate, EvidenceLevel
from touchline.estimate.calibration import ScoredEstimate, calibration, leave_one_out
from touchline.statistics.proportion import wilson

pytestmark = pytest.mark.planning


def scored(
    actual: float,
    *,
    value: float = 10.0,
    factor: float = 2.0,
    rung: EvidenceLevel = EvidenceLevel.SAME_MODEL,
    name: str = "run",
) -> ScoredEstimate:
    """An estimate beside what happened."""
    estimate = Estimate(value=value, unit="s", low=value / factor, high=value * factor, method="made", rung=rung)
    return ScoredEstimate(quantity="seconds per step", name=name, estimate=estimate, actual=actual)


def test_coverage_error_and_ratio() -> None:
    rows = calibration([scored(10), scored(8), scored(25), scored(4.9), scored(20)])
    assert [row.rung for row in rows] == [EvidenceLevel.SAME_MODEL, None]
    row = rows[0]
    assert (row.count, row.held, row.too_low, row.too_high) == (5, 3, 1, 1)
    assert row.coverage == pytest.approx(0.6)
    assert row.coverage_interval == wilson(3, 5)
    assert row.promised == pytest.approx(0.9)
    assert row.median_error == pytest.approx(0.5)
    assert row.median_ratio == pytest.approx(4)


def test_rungs_and_quantities_are_told_apart() -> None:
    one = scored(10, rung=EvidenceLevel.NOTHING)
    other = ScoredEstimate(quantity="peak memory", name="m", estimate=one.estimate, actual=3)
    rows = calibration([one, scored(10), other])
    assert [(row.quantity, row.rung, row.count) for row in rows] == [
        ("seconds per step", EvidenceLevel.SAME_MODEL, 1),
        ("seconds per step", EvidenceLevel.NOTHING, 1),
        ("seconds per step", None, 2),
        ("peak memory", EvidenceLevel.NOTHING, 1),
        ("peak memory", None, 1),
    ]


def test_nothing_scored_is_no_row_and_what_has_no_ratio_is_left_out() -> None:
    assert calibration([]) == ()
    assert calibration([scored(0)]) == ()
    zero = Estimate(value=1, unit="s", low=0, high=2, method="made", rung=EvidenceLevel.NOTHING)
    (row, _) = calibration([ScoredEstimate(quantity="q", name="n", estimate=zero, actual=1)])
    assert row.median_ratio == math.inf


@given(st.lists(st.floats(0.01, 1000), min_size=1, max_size=30))
def test_counts_add_up(actuals: list[float]) -> None:
    found = [scored(actual) for actual in actuals]
    (row, everything) = calibration(found)
    assert row.held + row.too_low + row.too_high == row.count == len(actuals)
    assert everything.held == row.held
    assert row.coverage_interval.low <= row.coverage <= row.coverage_interval.high


def test_leaving_one_out_scores_every_run_without_itself() -> None:
    runs = cpu_runs()
    few = runs.points[:6]
    found = leave_one_out(few, runs.machine)
    assert [each.name for each in found] == [point.name for point in few]
    assert all(each.name not in each.estimate.evidence for each in found)
    assert [each.actual for each in found] == [point.seconds_per_step for point in few]
