"""Deadline verdict with its reason."""

from __future__ import annotations

from dataclasses import replace

from touchline.plan.placement.bounds import lower_bounds
from touchline.plan.placement.problem import Problem, compile_problem
from touchline.plan.placement.types import Bound, DeadlineVerdict, Minutes

CONFIDENT = 0.9
"""Chance from which on a deadline fits; equal to the coverage of the intervals."""


def judge(
    problem: Problem, bound: Bound, makespan_minutes: float, deadline_minutes: float | None, chance: float | None
) -> tuple[DeadlineVerdict, str]:
    """Return whether the deadline can be met, and why.

    Args:
        problem: the jobs.
        bound: the greatest lower bound.
        makespan_minutes: of the schedule that was found.
        deadline_minutes: the deadline; none: there is nothing to judge.
        chance: to meet it.
    """
    span, least = duration_text(makespan_minutes), duration_text(bound.minutes)
    if deadline_minutes is None or chance is None:
        return DeadlineVerdict.NO_DEADLINE, f"no deadline was given; the last job ends after {span}"
    limit = duration_text(deadline_minutes)
    if bound.minutes > deadline_minutes:
        reason = f"no schedule ends within {limit} as predicted: {bound.why} ({least})"
        return DeadlineVerdict.IMPOSSIBLE, f"{reason}; {_low_ends(problem, deadline_minutes)}"
    if makespan_minutes > deadline_minutes:
        return DeadlineVerdict.TIGHT, (
            f"the best schedule found ends after {span}, past {limit}; none is shorter than {least}: {bound.why}"
        )
    reason = f"ends after {span} as predicted, within {limit}; the chance to meet it is {100 * chance:.0f}%"
    if chance >= CONFIDENT:
        return DeadlineVerdict.FITS, reason
    return DeadlineVerdict.TIGHT, f"{reason}, below {100 * CONFIDENT:.0f}%, because durations vary"


def _low_ends(problem: Problem, deadline_minutes: float) -> str:
    if all(job.minutes.low is None for job in problem.jobs):
        return "no job has an interval"
    jobs = [
        replace(job, minutes=Minutes(value=job.minutes.value if job.minutes.low is None else job.minutes.low))
        for job in problem.jobs
    ]
    low = lower_bounds(compile_problem(jobs, problem.cluster))[0]
    if low.minutes > deadline_minutes:
        return f"nor if every job took only the low end of its interval: {low.why} ({duration_text(low.minutes)})"
    return f"if every job took only the low end of its interval, the bound would be {duration_text(low.minutes)}"


def duration_text(minutes: float) -> str:
    """Return `6 h 40 min`, `12 min`, `0.4 min`."""
    whole = round(minutes)
    if whole < 1:
        return f"{minutes:.2g} min"
    hours, rest = divmod(whole, 60)
    return f"{hours} h {rest} min" if hours and rest else (f"{hours} h" if hours else f"{rest} min")
