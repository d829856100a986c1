"""Lower bounds on the makespan, each with its reason. A deadline below a bound cannot be met as predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.units import plural
from touchline.plan.placement.problem import Problem, ticks_to_minutes
from touchline.plan.placement.types import Bound

_NAMED = 6
"""Jobs that a bound names."""
_TOGETHER = 8
"""Number of jobs side by side up to which a bound is computed. The area covers more."""


def lower_bounds(problem: Problem) -> tuple[Bound, ...]:
    """Return all bounds, the largest first."""
    found = [Bound(minutes=ticks_to_minutes(ticks), why=why) for ticks, why in _all(problem)]
    return tuple(sorted(found, key=lambda bound: -bound.minutes))


def _all(problem: Problem) -> Iterator[tuple[float, str]]:
    # Of equal bounds the first is reported: a pin is a decision that the user can change.
    yield from _pinned(problem)
    yield _longest_chain(problem)
    gpus = problem.cluster.gpus
    yield _area(problem, problem.gpus, gpus), f"all GPU minutes over {plural(gpus, 'GPU')}"
    nodes = len(problem.nodes)
    first = problem.nodes[0]
    over = "" if nodes == 1 else f" of {nodes} nodes"
    if first.cpus is not None:
        yield _area(problem, problem.cpus, first.cpus * nodes), f"all CPU minutes over {first.cpus * nodes} CPUs{over}"
    if first.memory is not None:
        memory = _area(problem, problem.memory, first.memory * nodes)
        yield memory, f"all memory over the {problem.cluster.memory_gb:g} GiB{' of each node' if nodes > 1 else ''}"
    yield from _side_by_side(problem)


def _longest_chain(problem: Problem) -> tuple[float, str]:
    j = max(range(problem.size), key=lambda j: (problem.tails[j], -j))
    chain = [j]
    while problem.children[chain[-1]]:
        chain.append(max(problem.children[chain[-1]], key=lambda child: (problem.tails[child], -child)))
    one = len(chain) == 1
    return problem.tails[j], f"the longest {'job' if one else 'chain'}: {_names(problem, chain)}"


def _area(problem: Problem, amounts: Sequence[int], there: int) -> float:
    return sum(ticks * amount for ticks, amount in zip(problem.ticks, amounts, strict=True)) / there


def _side_by_side(problem: Problem) -> Iterator[tuple[float, str]]:
    """Yield bounds from jobs that take more than 1/(k+1) of a node, of which at most k run at once per node."""
    first = problem.nodes[0]
    for amounts, there, what in (
        (problem.gpus, len(first.gpus), "GPUs"),
        (problem.cpus, first.cpus, "CPUs"),
        (problem.memory, first.memory, "memory"),
    ):
        reported = 0
        for side in range(1, min(_TOGETHER, there or 0) + 1):
            wide = [j for j, amount in enumerate(amounts) if there is not None and amount * (side + 1) > there]
            lanes = side * len(problem.nodes)
            # The same jobs with more room are a weaker bound.
            if len(wide) > max(lanes, reported):
                reported = len(wide)
                yield _lanes_bound(problem, wide, lanes), _lanes_words(problem, wide, lanes, what)


def _lanes_bound(problem: Problem, jobs: Sequence[int], lanes: int) -> float:
    """Return the bound for jobs of which at most `lanes` run at once."""
    work = sum(problem.ticks[j] for j in jobs) / lanes
    return min(problem.heads[j] for j in jobs) + work + min(problem.tails[j] - problem.ticks[j] for j in jobs)


def _lanes_words(problem: Problem, jobs: Sequence[int], lanes: int, what: str) -> str:
    names = _names(problem, jobs)
    if lanes == 1:
        return f"jobs too large to run at the same time ({what}), one after the other: {names}"
    return f"{len(jobs)} jobs of which at most {lanes} run at once (limited by {what}): {names}"


def _pinned(problem: Problem) -> Iterator[tuple[float, str]]:
    by_gpu: dict[int, list[int]] = {}
    for j, pin in enumerate(problem.pins):
        if pin is not None:
            by_gpu.setdefault(pin, []).append(j)
    for gpu, jobs in sorted(by_gpu.items()):
        if len(jobs) == 1:
            continue
        inner = sorted(jobs, key=lambda j: (problem.heads[j], -problem.tails[j], j))
        yield _lanes_bound(problem, jobs, 1), f"GPU {gpu} runs {len(jobs)} jobs in a row: {_names(problem, inner)}"


def _names(problem: Problem, jobs: Sequence[int]) -> str:
    shown = [problem.jobs[j].id for j in jobs[:_NAMED]]
    return ", ".join(shown) + (f" and {len(jobs) - _NAMED} more" if len(jobs) > _NAMED else "")
