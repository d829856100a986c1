"""Six ways to put jobs in order; which one is best varies with the jobs, and all of them cost next to nothing.

Longest job first, which most people would take, is the worst of them where jobs are chains: what counts is how long
the chain from a job on still is, and where jobs are wide, how much room it will need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from touchline.plan.placement.problem import Problem

LONGEST_CHAIN = "longest remaining chain first"
CHAIN_AND_WIDTH = "longest remaining chain x square root of GPUs first"
CHAIN_AND_AREA = "longest remaining chain x GPU minutes first"
WIDEST = "widest first, then longest remaining chain"
LONGEST_JOB = "longest job first"
FIRST_READY = "first ready first"

Weights = list[float]
"""One number a job; the greatest goes first."""


def _longest_chain(problem: Problem, widths: Sequence[float]) -> Weights:
    return list(problem.tails)


def _chain_and_width(problem: Problem, widths: Sequence[float]) -> Weights:
    return [tail * math.sqrt(width) for tail, width in zip(problem.tails, widths, strict=True)]


def _chain_and_area(problem: Problem, widths: Sequence[float]) -> Weights:
    areas = zip(problem.tails, problem.ticks, widths, strict=True)
    return [tail * ticks * width for tail, ticks, width in areas]


def _widest(problem: Problem, widths: Sequence[float]) -> Weights:
    longest = max(problem.tails)
    return [width * (longest + 1) + tail for tail, width in zip(problem.tails, widths, strict=True)]


def _longest_job(problem: Problem, widths: Sequence[float]) -> Weights:
    return list(problem.ticks)


def _first_ready(problem: Problem, widths: Sequence[float]) -> Weights:
    last = max(problem.heads)
    return [last - head for head in problem.heads]


RULES: dict[str, Callable[[Problem, Sequence[float]], Weights]] = {
    LONGEST_CHAIN: _longest_chain,
    CHAIN_AND_WIDTH: _chain_and_width,
    CHAIN_AND_AREA: _chain_and_area,
    WIDEST: _widest,
    LONGEST_JOB: _longest_job,
    FIRST_READY: _first_ready,
}
"""Every rule by its name."""


def weights_of(problem: Problem, rule: str) -> Weights:
    """The weights that a rule gives the jobs."""
    return RULES[rule](problem, problem.widths())


def order_by(weights: Sequence[float]) -> list[int]:
    """The jobs, the greatest weight first; equal ones by name."""
    return sorted(range(len(weights)), key=lambda j: (-weights[j], j))
