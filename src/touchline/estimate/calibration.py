"""Calibration of estimates against measured values.

Coverage is the fraction of intervals that contain the measured value, with Wilson's interval. A 90% interval should
contain nine of ten values; one that contains all of them is too wide.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from touchline.core.estimate import Estimate, EvidenceLevel
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.estimate.points import TimePoint
from touchline.estimate.time import seconds_per_step
from touchline.statistics.closed_forms import Interval, wilson


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredEstimate:
    """Estimate with its measured value."""

    quantity: str
    """Estimated quantity: `seconds per step`, `peak memory`."""
    name: str
    """Run."""
    estimate: Estimate
    """Estimate made beforehand."""
    actual: float
    """Measured value, in the estimate's unit."""

    @property
    def held(self) -> bool:
        """Return True if the interval contains the measured value."""
        return self.estimate.low <= self.actual <= self.estimate.high

    @property
    def error(self) -> float:
        """Return estimate over measured value, minus 1: 0.2 is 20% too high."""
        return self.estimate.value / self.actual - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRow:
    """Calibration of one kind of estimate."""

    quantity: str
    """Estimated quantity, or `all`."""
    rung: EvidenceLevel | None
    """Evidence level of the estimates. None for all levels."""
    count: int
    """Number of estimates."""
    held: int
    """Number of intervals that contain the measured value."""
    coverage: float
    """Fraction of intervals that contain the measured value."""
    coverage_interval: Interval
    """Wilson's 95% interval of the coverage."""
    promised: float
    """Nominal coverage."""
    median_error: float
    """Median absolute relative error; 0.1 is 10%."""
    median_ratio: float
    """Median ratio of upper to lower end; infinite if lower ends are zero."""
    too_low: int
    """Measured values above the upper end."""
    too_high: int
    """Measured values below the lower end."""


def calibration(scored: Sequence[ScoredEstimate]) -> tuple[CalibrationRow, ...]:
    """Return one row per quantity and evidence level, then one per quantity over all levels.

    Estimates or measured values that are not above zero are left out.
    """
    usable = [each for each in scored if each.actual > 0 and each.estimate.value > 0]
    rows: list[CalibrationRow] = []
    for quantity in dict.fromkeys(each.quantity for each in usable):
        of_quantity = [each for each in usable if each.quantity == quantity]
        rungs = sorted({each.estimate.rung for each in of_quantity})
        rows += [_row(quantity, rung, [each for each in of_quantity if each.estimate.rung == rung]) for rung in rungs]
        rows.append(_row(quantity, None, of_quantity))
    return tuple(rows)


def leave_one_out(points: Sequence[TimePoint], machine: TargetMachine) -> tuple[ScoredEstimate, ...]:
    """Estimate every measured run from all others."""
    found: list[ScoredEstimate] = []
    for index, point in enumerate(points):
        others = [*points[:index], *points[index + 1 :]]
        answer = seconds_per_step(point.setup, point.work, machine=machine, points=others)
        if not isinstance(answer, Missing):
            found.append(score_step(point, answer.estimate))
    return tuple(found)


def score_step(point: TimePoint, estimate: Estimate) -> ScoredEstimate:
    """Return a measured run with an estimate of its step."""
    return ScoredEstimate(
        quantity="seconds per step", name=point.name, estimate=estimate, actual=point.seconds_per_step
    )


def _row(quantity: str, rung: EvidenceLevel | None, scored: Sequence[ScoredEstimate]) -> CalibrationRow:
    held = sum(each.held for each in scored)
    ratios = [each.estimate.high / each.estimate.low if each.estimate.low > 0 else math.inf for each in scored]
    return CalibrationRow(
        quantity=quantity,
        rung=rung,
        count=len(scored),
        held=held,
        coverage=held / len(scored),
        coverage_interval=wilson(held, len(scored)),
        promised=statistics.fmean(each.estimate.coverage for each in scored),
        median_error=statistics.median(abs(each.error) for each in scored),
        median_ratio=statistics.median(ratios),
        too_low=sum(each.actual > each.estimate.high for each in scored),
        too_high=sum(each.actual < each.estimate.low for each in scored),
    )
