"""Training speed and remaining time, from its last steps, combined with the plan at first."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from touchline.core.estimate import COVERAGE
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.data.metrics import StepRow, timed_steps, token_rate
from touchline.experiment.plan import PlannedRun
from touchline.run.recent import NOT_MEASURED, Recent

ENOUGH_STEPS = 10
"""Number of steps from which only the measurement counts."""
_Z = 1.6449
"""Half-width of a 90% interval in standard deviations."""
_MAD_TO_SD = 1.4826
"""Ratio of standard deviation to median absolute deviation for a normal distribution."""
_DRIFT = 0.1
"""Relative drift of the step time between parts of a training: sequence lengths, other load."""
_ENOUGH_FOR_ALL = 50
"""Number of steps from which the overall mean is unaffected by the slow first ones."""


_OUTLIER = 10.0
"""Multiple of the median at which a step time is capped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Seconds per step: center, and spread of its logarithm."""

    seconds: float
    """Center."""
    spread: float
    """Standard deviation of the logarithm of the mean over the steps to come."""
    steps: int
    """Number of measured steps; 0 if from the plan."""

    @property
    def low(self) -> float:
        """Lower end of the 90% interval."""
        return self.seconds * math.exp(-_Z * self.spread)

    @property
    def high(self) -> float:
        """Upper end of the 90% interval."""
        return self.seconds * math.exp(_Z * self.spread)


def steady(recent: Recent) -> list[StepRow]:
    """Return the last steps that rates are computed from."""
    return timed_steps(recent.steps, is_cut=not recent.whole)


def measured_pace(steps: Sequence[StepRow]) -> Pace | None:
    """Return the typical step time with a robust spread; None without steps."""
    if not steps:
        return None
    middle = statistics.median(step.seconds for step in steps)
    logs = [math.log(step.seconds / middle) for step in steps]
    spread = _MAD_TO_SD * statistics.median(abs(value) for value in logs)
    # Half a dozen steps in a row that happen to be alike say little about the others.
    own = max(spread, _DRIFT) / math.sqrt(len(steps))
    mean = statistics.fmean(min(step.seconds, _OUTLIER * middle) for step in steps)
    # Steps of unlike lengths: the time of many is their mean's, not their median's.
    typical = mean if len(steps) >= ENOUGH_STEPS else middle
    return Pace(seconds=typical, spread=math.hypot(own, _DRIFT), steps=len(steps))


def with_history(pace: Pace | None, recent: Recent) -> Pace | None:
    """Average the pace with that of the whole training; a difference widens the spread."""
    last = recent.steps[-1] if recent.steps else None
    if pace is None or last is None or last.step < _ENOUGH_FOR_ALL or last.elapsed_seconds <= 0:
        return pace
    apart = math.log(last.elapsed_seconds / last.step / pace.seconds)
    return Pace(seconds=pace.seconds * math.exp(apart / 2), spread=math.hypot(pace.spread, apart / 2), steps=pace.steps)


def planned_pace(run: PlannedRun) -> Pace | None:
    """Return the planned interval of a step as a spread of its logarithm."""
    plan = run.seconds_per_step
    if isinstance(plan, Missing) or plan.value <= 0:
        return None
    low, high = plan.low or plan.value, plan.high or plan.value
    spread = math.log(high / low) / (2 * _Z) if 0 < low < high else 1.0
    return Pace(seconds=plan.value, spread=max(spread, _DRIFT), steps=0)


def combined(measured: Pace | None, planned: Pace | None) -> Pace | None:
    """Return the measured pace; with few steps, the mean with the plan's weighted by precision."""
    if measured is None or planned is None:
        return measured or planned
    if measured.steps >= ENOUGH_STEPS:
        return measured
    weights = measured.spread**-2, planned.spread**-2
    share = weights[0] / sum(weights)
    middle = share * math.log(measured.seconds) + (1 - share) * math.log(planned.seconds)
    # The two may disagree by more than either admits; then neither is sure.
    apart = abs(math.log(measured.seconds / planned.seconds)) * math.sqrt(share * (1 - share))
    return Pace(seconds=math.exp(middle), spread=math.hypot(sum(weights) ** -0.5, apart), steps=measured.steps)


def seconds_left(run: PlannedRun, recent: Recent, waited_seconds: float | None) -> Measured:
    """Return the predicted time until the training ends if it runs from now on.

    Args:
        recent: its last metrics rows.
        waited_seconds: seconds since its attempt began; None if none is running.
    """
    if run.batches is None:
        return Missing(missing="not trained")
    left = run.batches.steps - recent.steps_done
    if not recent.steps and recent.steps_done == 0:
        return _whole(run, waited_seconds)
    pace = combined(with_history(measured_pace(steady(recent)), recent), planned_pace(run))
    if pace is None:
        return Missing(missing="no step has been measured, and the plan has no estimate")
    left = max(left, 0)
    share = left / run.batches.steps
    value, low, high = _pauses(run, recent, share)
    rests = f"{left} steps at the pace of the last {pace.steps}" if pace.steps else f"{left} steps as planned"
    if 0 < pace.steps < ENOUGH_STEPS and planned_pace(run) is not None:
        rests += ", weighted with the plan's"
    return Quantity(
        value=left * pace.seconds + value,
        unit="s",
        low=left * pace.low + low,
        high=left * pace.high + high,
        coverage=COVERAGE,
        method=f"{rests}, with validation and saving",
    )


def _whole(run: PlannedRun, waited_seconds: float | None) -> Measured:
    """Return the planned time minus the elapsed time, before the first step."""
    plan = run.train_seconds
    if isinstance(plan, Missing):
        return plan
    passed = waited_seconds or 0.0
    low, high = plan.low if plan.low is not None else plan.value, plan.high if plan.high is not None else plan.value
    return Quantity(
        value=max(plan.value - passed, 0.0),
        unit="s",
        low=max(low - passed, 0.0),
        high=max(high - passed, 0.0),
        coverage=plan.coverage,
        method="as planned, minus elapsed time" if passed else "as planned",
    )


def _pauses(run: PlannedRun, recent: Recent, share: float) -> tuple[float, float, float]:
    """Return (center, low, high) of future validations and savings; validations as measured, else as planned."""
    value = low = high = 0.0
    done = recent.steps_done / run.batches.steps if run.batches is not None and run.batches.steps else 0.0
    for name in ("validation", "saving"):
        if name == "validation" and recent.validation_seconds > 0 and done > 0:
            seconds = recent.validation_seconds / done * share
            value, low, high = value + seconds, low + seconds, high + seconds
            continue
        part = run.time_parts.get(name)
        if isinstance(part, Quantity):
            value += part.value * share
            low += (part.low if part.low is not None else part.value) * share
            high += (part.high if part.high is not None else part.value) * share
    return value, low, high


def tokens_per_second(recent: Recent) -> Measured:
    """Return non-padding tokens per wall-clock second over the last steps."""
    steps = steady(recent)
    if not steps:
        return NOT_MEASURED
    return Quantity(
        value=token_rate(steps),
        unit="tokens/s",
        token_unit="real",
        aggregation="mean",
        method=f"last {len(steps)} steps",
    )
