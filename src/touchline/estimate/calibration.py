"""Estimates held against what happened: the proof that intervals mean what they say.

Coverage is the share of intervals that held the truth, with Wilson's interval of that share; an interval of 90 % should
hold nine of ten, not all: one that always holds says too little.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from touchline.core.estimate import Estimate, Rung
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.estimate.points import TimePoint
from touchline.estimate.time import seconds_per_step
from touchline.statistics.proportion import Interval, wilson


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredEstimate:
    """One estimate beside what happened."""

    quantity: str
    """What was estimated: `seconds per step`, `peak memory`."""
    name: str
    """The run."""
    estimate: Estimate
    """What was said before."""
    actual: float
    """What was measured, in the estimate's unit."""

    @property
    def held(self) -> bool:
        """Whether the interval held the truth."""
        return self.estimate.low <= self.actual <= self.estimate.high

    @property
    def error(self) -> float:
        """Estimate over truth, minus 1: 0.2 is a fifth too much."""
        return self.estimate.value / self.actual - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRow:
    """How well one kind of estimate did."""

    quantity: str
    """What was estimated, or `all`."""
    rung: Rung | None
    """What the estimates rested on; none: all rungs."""
    count: int
    """Estimates."""
    held: int
    """Intervals that held the truth."""
    coverage: float
    """Their share."""
    coverage_interval: Interval
    """Wilson's 95 % interval of that share."""
    promised: float
    """The share that the intervals promised."""
    median_error: float
    """Median of the errors' sizes; 0.1 is 10 %."""
    median_ratio: float
    """Median of upper over lower end; infinite where lower ends are zero."""
    too_low: int
    """Truths above the upper end."""
    too_high: int
    """Truths below the lower end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationMark:
    """One point of the picture: predicted against measured, with its interval."""

    name: str
    """The run."""
    quantity: str
    """What was estimated."""
    unit: str
    """Of all three numbers and the truth."""
    rung: Rung
    """What the estimate rested on."""
    predicted: float
    """The estimate."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""
    measured: float
    """The truth."""
    outside: bool
    """Whether the interval missed it."""


def calibration(scored: Sequence[ScoredEstimate]) -> tuple[CalibrationRow, ...]:
    """One row a quantity and rung, then one a quantity over all rungs; nothing where nothing was scored.

    Estimates or truths that are not above zero have no ratio and are left out.
    """
    usable = [each for each in scored if each.actual > 0 and each.estimate.value > 0]
    rows: list[CalibrationRow] = []
    for quantity in dict.fromkeys(each.quantity for each in usable):
        of_quantity = [each for each in usable if each.quantity == quantity]
        rungs = sorted({each.estimate.rung for each in of_quantity})
        rows += [_row(quantity, rung, [each for each in of_quantity if each.estimate.rung == rung]) for rung in rungs]
        rows.append(_row(quantity, None, of_quantity))
    return tuple(rows)


def calibration_marks(scored: Sequence[ScoredEstimate]) -> tuple[CalibrationMark, ...]:
    """What a picture of predicted against measured shows, in the order given."""
    return tuple(
        CalibrationMark(
            name=each.name,
            quantity=each.quantity,
            unit=each.estimate.unit,
            rung=each.estimate.rung,
            predicted=each.estimate.value,
            low=each.estimate.low,
            high=each.estimate.high,
            measured=each.actual,
            outside=not each.held,
        )
        for each in scored
    )


def leave_one_out(points: Sequence[TimePoint], machine: TargetMachine) -> tuple[ScoredEstimate, ...]:
    """Every measured run estimated from all others.

    Args:
        points: the runs.
        machine: where they ran.
    """
    found: list[ScoredEstimate] = []
    for index, point in enumerate(points):
        others = [*points[:index], *points[index + 1 :]]
        answer = seconds_per_step(point.setup, point.work, machine=machine, points=others)
        if not isinstance(answer, Missing):
            found.append(score_step(point, answer.estimate))
    return tuple(found)


def score_step(point: TimePoint, estimate: Estimate) -> ScoredEstimate:
    """A measured run beside an estimate of its step."""
    return ScoredEstimate(
        quantity="seconds per step", name=point.name, estimate=estimate, actual=point.seconds_per_step
    )


def _row(quantity: str, rung: Rung | None, scored: Sequence[ScoredEstimate]) -> CalibrationRow:
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
