"""How fast a training goes, and how long it still takes: from its own last steps, and from the plan before there are
enough of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from touchline.core.estimate import COVERAGE
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.data.metrics import after_warm_up
from touchline.run.recent import NOT_MEASURED, Recent, RecentStep
from touchline.spec.plan import PlannedRun

ENOUGH_STEPS = 10
"""From so many steps on, what was measured is believed alone."""
_Z = 1.6449
"""Half-width, in standard deviations, of an interval that holds 90 %."""
_MAD_TO_SD = 1.4826
"""A normal distribution's standard deviation over its median absolute deviation."""
_DRIFT = 0.1
"""Relative spread of a pace from one part of a training to the next, beyond what its steps show: lengths of rows,
neighbours on the machine."""
_ENOUGH_FOR_ALL = 50
"""From so many steps on, the mean over all of them is no longer that of the first, slow ones."""


_OUTLIER = 10.0
"""A step that took so many times the median's time was held up by something else; it counts as one of that length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Seconds of one step: the middle, and the spread of its logarithm."""

    seconds: float
    """The middle."""
    spread: float
    """Standard deviation of the logarithm of the mean over the steps to come."""
    steps: int
    """Measured steps that it rests on; 0 when it is the plan's."""

    @property
    def low(self) -> float:
        """Lower end of the 90 % interval."""
        return self.seconds * math.exp(-_Z * self.spread)

    @property
    def high(self) -> float:
        """Upper end of the 90 % interval."""
        return self.seconds * math.exp(_Z * self.spread)


def steady(recent: Recent) -> list[RecentStep]:
    """Return the steps after warm-up, or all where there are no others."""
    kept = [step for step in after_warm_up(recent.steps, is_cut=not recent.whole) if step.seconds > 0]
    return kept or [step for step in recent.steps if step.seconds > 0]


def measured_pace(steps: Sequence[RecentStep]) -> Pace | None:
    """The median step with a robust spread; None without steps."""
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
    """The pace, held against the mean over the whole training: where the two differ, the machine does not keep one."""
    last = recent.steps[-1] if recent.steps else None
    if pace is None or last is None or last.step < _ENOUGH_FOR_ALL or last.elapsed_seconds <= 0:
        return pace
    apart = math.log(last.elapsed_seconds / last.step / pace.seconds)
    return Pace(seconds=pace.seconds * math.exp(apart / 2), spread=math.hypot(pace.spread, apart / 2), steps=pace.steps)


def planned_pace(run: PlannedRun) -> Pace | None:
    """The plan's interval of a step, as a spread of its logarithm."""
    plan = run.seconds_per_step
    if isinstance(plan, Missing) or plan.value <= 0:
        return None
    low, high = plan.low or plan.value, plan.high or plan.value
    spread = math.log(high / low) / (2 * _Z) if 0 < low < high else 1.0
    return Pace(seconds=plan.value, spread=max(spread, _DRIFT), steps=0)


def combined(measured: Pace | None, planned: Pace | None) -> Pace | None:
    """The measured pace; before there are enough steps, weighed with the plan's by how sure each of them is."""
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
    """Until the training ends, should it go on from now.

    Args:
        run: as planned.
        recent: its last rows.
        waited_seconds: since its attempt began; none while none runs.
    """
    if run.batches is None:
        return Missing(missing="nothing is trained")
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
        rests += ", weighed with the plan's"
    return Quantity(
        value=left * pace.seconds + value,
        unit="s",
        low=left * pace.low + low,
        high=left * pace.high + high,
        coverage=COVERAGE,
        method=f"{rests}, with validation and saving",
    )


def _whole(run: PlannedRun, waited_seconds: float | None) -> Measured:
    """Before the first step: the plan's time, less what has passed."""
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
        method="as planned, less what has passed" if passed else "as planned, from its start",
    )


def _pauses(run: PlannedRun, recent: Recent, share: float) -> tuple[float, float, float]:
    """(middle, low, high) of the validations and savings to come: validations as they were, else as planned."""
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
    """Real tokens over wall time of the last steps."""
    steps = steady(recent)
    seconds = sum(step.seconds for step in steps)
    if not steps or seconds <= 0:
        return NOT_MEASURED
    return Quantity(
        value=sum(step.real_tokens for step in steps) / seconds,
        unit="tokens/s",
        token_unit="real",
        aggregation="mean",
        method=f"last {len(steps)} steps",
    )
