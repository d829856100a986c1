"""Chance to meet a deadline, from drawn durations and dispatch by priority.

Durations are log-normal with separate spreads below and above: the median is the predicted value, and the interval
contains 90% of the draws. Jobs start by priority on free GPUs, as in a real queue, not at their scheduled times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from touchline.core.units import format_minutes
from touchline.plan.placement.problem import TICKS, Problem
from touchline.plan.placement.schedule import dispatch
from touchline.plan.placement.types import Bound, DeadlineVerdict, Minutes

SAMPLES = 400
"""Draws; a chance of one half then has a standard error of 2.5 points."""
_STANDARD_DEVIATIONS = 1.6448536269514722
"""Standard deviations within which a normal variable lies with probability 0.9."""
_LONGEST = math.log(1e12)
"""Logarithm of the largest factor on a predicted duration, which prevents overflow."""


def draw_ticks(problem: Problem, samples: int, generator: np.random.Generator) -> list[list[float]]:
    """Draw durations of all jobs, `samples` times, in ticks.

    Args:
        samples: how many.
        generator: where chance comes from; each draw is followed by its mirror image, which steadies their mean.
    """
    half = -(-samples // 2)
    normal = generator.standard_normal((half, problem.size))
    both = np.concatenate([normal, -normal])[:samples]
    columns = [_spread(job.minutes, both[:, j]) for j, job in enumerate(problem.jobs)]
    drawn: list[list[float]] = np.rint(np.stack(columns, axis=1) * TICKS).tolist()
    return drawn


def chance_within(minutes: Minutes, limit: float) -> float:
    """Return the chance that a time is within a limit, in minutes; without an interval, 0 or 1."""
    ends = (minutes.low, minutes.high)
    end = ends[0] if limit < minutes.value else ends[1]
    if end is None or min(end, limit, minutes.value) <= 0 or end == minutes.value:
        return float(minutes.value <= limit)
    spread = abs(math.log(end) - math.log(minutes.value)) / _STANDARD_DEVIATIONS
    return NormalDist(0, spread).cdf(math.log(limit) - math.log(minutes.value))


def drawn_ends(problem: Problem, ranks: Sequence[int], draws: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return the end of each job in each draw, in ticks; shape [draws, jobs]."""
    starts = np.array([dispatch(problem, ranks, ticks).starts for ticks in draws])
    ends: NDArray[np.float64] = starts + np.array(draws)
    return ends


def _spread(minutes: Minutes, normal: NDArray[np.float64]) -> NDArray[np.float64]:
    value = minutes.value
    low = value if minutes.low is None else minutes.low
    high = value if minutes.high is None else minutes.high
    above, below = np.maximum(normal, 0) / _STANDARD_DEVIATIONS, np.minimum(normal, 0) / _STANDARD_DEVIATIONS
    if value <= 0:
        return above * high
    # Quotients of very small numbers overflow; differences of their logarithms do not.
    longer = value * np.exp(np.minimum(above * (math.log(high) - math.log(value)), _LONGEST))
    if low > 0:
        return longer * np.exp(below * (math.log(value) - math.log(low)))
    # An interval that begins at zero has no logarithm there.
    return np.maximum(longer + below * value, 0.0)


CONFIDENT = 0.9
"""Chance from which on a deadline fits; equal to the coverage of the intervals."""


def judge(
    bound: Bound, makespan_minutes: float, deadline_minutes: float | None, chance: float | None
) -> tuple[DeadlineVerdict, str]:
    """Return whether the deadline can be met, and why.

    Args:
        bound: the greatest lower bound.
        makespan_minutes: of the schedule that was found.
        deadline_minutes: the deadline; none: there is nothing to judge.
    """
    span, least = format_minutes(makespan_minutes), format_minutes(bound.minutes)
    if deadline_minutes is None or chance is None:
        return DeadlineVerdict.NO_DEADLINE, f"no deadline was given; the last job ends after {span}"
    limit = format_minutes(deadline_minutes)
    if bound.minutes > deadline_minutes:
        return DeadlineVerdict.IMPOSSIBLE, f"no schedule ends within {limit} as predicted: {bound.why} ({least})"
    if makespan_minutes > deadline_minutes:
        return DeadlineVerdict.TIGHT, (
            f"the best schedule found ends after {span}, past {limit}; none is shorter than {least}: {bound.why}"
        )
    reason = f"ends after {span} as predicted, within {limit}; the chance to meet it is {100 * chance:.0f}%"
    if chance >= CONFIDENT:
        return DeadlineVerdict.FITS, reason
    return DeadlineVerdict.TIGHT, f"{reason}, below {100 * CONFIDENT:.0f}%, because durations vary"
