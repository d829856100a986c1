"""Exact search for the shortest schedule of a few jobs.

Time runs forward. Whenever resources become free, a job starts on a node that it fits on (with pins: on one choice
of GPUs), or time advances to the next end. This covers an optimal schedule: start its jobs in the order of their
starts, each as soon as the previous one has started and it fits. By induction none starts later than in that
schedule, because all running jobs started no later. Starts are therefore at 0 or at ends of jobs.

A branch is cut if a bound shows that it cannot beat the best known schedule, if a waiting job could have run before
the next event, or if an earlier branch with the same remaining jobs was at least as far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from touchline.plan.placement.problem import Problem
from touchline.plan.placement.schedule import Schedule

STEPS = 30_000
"""Search steps before giving up; eight jobs need fewer."""

_Choice = tuple[int, tuple[int, ...]]
"""Node, and the pinned GPUs on it that the job takes."""


class SearchLimitError(Exception):
    """The search reached its step limit without a proof."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """State of the search at a time at which jobs may start."""

    now: float
    running: dict[int, tuple[float, _Choice]]

    def at_least_as_far_as(self, other: _State) -> bool:
        """Return True if everything the other state allows is possible here as early. Both have the same remaining
        jobs."""
        if self.now > other.now:
            return False
        for j, (end, choice) in self.running.items():
            if end > other.now:
                theirs = other.running.get(j)
                if theirs is None or end > theirs[0] or choice != theirs[1]:
                    return False
        return True


def shortest(problem: Problem, order: Sequence[int], known: float, bound: float) -> Schedule | None:
    """Return a schedule shorter than the known one. None if there is none.

    Args:
        problem: what there is to place, a few jobs.
        order: the order in which jobs are tried; a good one finds good schedules early.
        known: the makespan to beat, in ticks.
        bound: no schedule is shorter, in ticks.

    Raises:
        SearchLimitError: it would take too long.
    """
    if known <= bound:
        return None
    search = _Search(problem, order, known, bound)
    search.start_or_wait(0)
    return search.table


class _Search:
    """Depth-first search. Every change is undone on the way back."""

    def __init__(self, problem: Problem, order: Sequence[int], known: float, bound: float) -> None:
        self.problem, self.order, self.best, self.bound = problem, order, known, bound
        self.table: Schedule | None = None
        self.steps = 0
        self.now = 0.0
        self.left = frozenset(range(problem.size))
        self.running: dict[int, tuple[float, _Choice]] = {}
        self.ends: dict[int, float] = {}
        self.placed: dict[int, tuple[float, _Choice]] = {}
        self.tried: dict[frozenset[int], list[_State]] = {}
        pinned = {pin for pin in problem.pins if pin is not None}
        self.idle_pinned = [tuple(gpu for gpu in node.gpus if gpu in pinned) for node in problem.nodes]
        self.free = [len(node.gpus) - len(these) for node, these in zip(problem.nodes, self.idle_pinned, strict=True)]
        self.cpus = [node.cpus or 0 for node in problem.nodes]
        self.memory = [node.memory or 0 for node in problem.nodes]
        self.whole = [(len(node.gpus), len(these)) for node, these in zip(problem.nodes, self.idle_pinned, strict=True)]
        self.alike = _alike(problem, order)

    def start_or_wait(self, first: int) -> None:
        """Start each job that may start, from this position in the order on, or advance time."""
        self.steps += 1
        if self.steps > STEPS:
            raise SearchLimitError
        if not self.left:
            self._finish()
            return
        if self.best <= self.bound or self._least() > self.best - 1:
            return
        state = _State(now=self.now, running=dict(self.running)) if first == 0 else None
        if state is not None and any(old.at_least_as_far_as(state) for old in self.tried.get(self.left, ())):
            return
        next_end = min((end for end, _ in self.running.values()), default=None)
        waiting_pays = next_end is not None
        for place, j in enumerate(self.order):
            if j not in self.left or any(parent not in self.ends for parent in self.problem.parents[j]):
                continue
            choices = list(self._choices(j))
            if choices and next_end is not None and self.now + self.problem.ticks[j] <= next_end:
                waiting_pays = False
            if place >= first and not any(other in self.left for other in self.alike[j]):
                for choice in choices:
                    self._start(j, choice, place)
        if waiting_pays:
            self._pass_time()
        if state is not None:
            self.tried.setdefault(self.left, []).append(state)

    def _finish(self) -> None:
        makespan = max((end for end, _ in self.running.values()), default=self.now)
        if makespan < self.best:
            self.best = makespan
            self.table = self._as_table(makespan)

    def _least(self) -> float:
        """Return a lower bound on the makespan from this state."""
        problem = self.problem
        latest = self.now
        area = 0.0
        ends = dict(self.ends)
        for j, (end, _) in self.running.items():
            ends[j] = end
            latest = max(latest, end)
            area += (end - self.now) * problem.gpus[j]
        for j in problem.order:
            if j in self.left:
                start = max((ends[parent] for parent in problem.parents[j]), default=self.now)
                start = max(start, self.now)
                ends[j] = start + problem.ticks[j]
                latest = max(latest, start + problem.tails[j])
                area += problem.ticks[j] * problem.gpus[j]
        return max(latest, self.now + area / problem.cluster.gpus)

    def _choices(self, j: int) -> Iterator[_Choice]:
        problem = self.problem
        gpus, pin = problem.gpus[j], problem.pins[j]
        seen: set[int] = set()
        for node in range(len(problem.nodes)):
            if self.cpus[node] < problem.cpus[j] or self.memory[node] < problem.memory[j]:
                continue
            if self._untouched(node):
                # Nodes on which nothing runs and to which nobody is pinned are one like the other.
                if self.free[node] in seen:
                    continue
                seen.add(self.free[node])
            idle = self.idle_pinned[node]
            for count in range(max(gpus - self.free[node], 0), min(gpus, len(idle)) + 1):
                for taken in combinations(idle, count):
                    if pin is None or pin in taken:
                        yield node, taken

    def _untouched(self, node: int) -> bool:
        size, pinned = self.whole[node]
        there = self.problem.nodes[node]
        return (
            not pinned
            and self.free[node] == size
            and self.cpus[node] == (there.cpus or 0)
            and self.memory[node] == (there.memory or 0)
        )

    def _start(self, j: int, choice: _Choice, place: int) -> None:
        node, taken = choice
        left, idle = self.left, self.idle_pinned[node]
        self.left = left - {j}
        self.idle_pinned[node] = tuple(gpu for gpu in idle if gpu not in taken)
        self._free(j, node, taken, -1)
        self.running[j] = (self.now + self.problem.ticks[j], choice)
        self.placed[j] = (self.now, choice)
        self.start_or_wait(place + 1)
        del self.running[j], self.placed[j]
        self._free(j, node, taken, 1)
        self.left, self.idle_pinned[node] = left, idle

    def _pass_time(self) -> None:
        then, now = min(end for end, _ in self.running.values()), self.now
        running, idle = self.running, list(self.idle_pinned)
        ended = {j: choice for j, (end, choice) in running.items() if end == then}
        self.running = {j: how for j, how in running.items() if j not in ended}
        for j, (node, taken) in ended.items():
            self._free(j, node, taken, 1)
            self.idle_pinned[node] = tuple(sorted((*self.idle_pinned[node], *taken)))
            self.ends[j] = then
        self.now = then
        self.start_or_wait(0)
        self.now, self.running, self.idle_pinned = now, running, idle
        for j, (node, taken) in ended.items():
            self._free(j, node, taken, -1)
            del self.ends[j]

    def _free(self, j: int, node: int, taken: Sequence[int], sign: int) -> None:
        self.free[node] += sign * (self.problem.gpus[j] - len(taken))
        self.cpus[node] += sign * self.problem.cpus[j]
        self.memory[node] += sign * self.problem.memory[j]

    def _as_table(self, makespan: float) -> Schedule:
        """Return the schedule found, with GPU numbers if any job is pinned."""
        problem = self.problem
        size = problem.size
        starts = tuple(self.placed[j][0] for j in range(size))
        nodes = tuple(self.placed[j][1][0] for j in range(size))
        if not any(pinned for _, pinned in self.whole):
            return Schedule(makespan=makespan, starts=starts, nodes=nodes, gpus=None)
        pinned = {pin for pin in problem.pins if pin is not None}
        free_at = {gpu: 0.0 for node in problem.nodes for gpu in node.gpus if gpu not in pinned}
        held: list[tuple[int, ...]] = [()] * size
        for j in sorted(range(size), key=lambda j: (starts[j], problem.ticks[j] > 0)):
            taken = self.placed[j][1][1]
            others = [gpu for gpu in problem.nodes[nodes[j]].gpus if free_at.get(gpu, makespan + 1) <= starts[j]]
            held[j] = (*taken, *others[: problem.gpus[j] - len(taken)])
            free_at.update({gpu: starts[j] + problem.ticks[j] for gpu in held[j] if gpu in free_at})
        return Schedule(makespan=makespan, starts=starts, nodes=nodes, gpus=tuple(held))


def _alike(problem: Problem, order: Sequence[int]) -> dict[int, list[int]]:
    """Return for each job the earlier jobs that are equal to it except for their name. They go first."""
    kinds = list(
        zip(
            problem.ticks,
            problem.gpus,
            problem.cpus,
            problem.memory,
            problem.pins,
            problem.parents,
            problem.children,
            strict=True,
        )
    )
    return {j: [i for i in order[:place] if kinds[i] == kinds[j]] for place, j in enumerate(order)}
