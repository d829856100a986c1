"""Dispatch by priority: whenever a job ends, the ready jobs that fit start in order of priority.

Dispatch never looks at when a job will end, so the same function gives the predicted schedule and, with other
durations, the actual one. Jobs with equal requirements share a heap, which keeps each decision fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import permutations

from touchline.plan.placement.problem import Problem

Ranks = Sequence[int]
"""Position of each job in the order, from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Start, node and GPUs of every job."""

    makespan: float
    """End of the last job, in ticks."""
    starts: tuple[float, ...]
    nodes: tuple[int, ...]
    gpus: tuple[tuple[int, ...], ...] | None
    """GPUs of each job. None if any free GPUs of the node will do."""


_FEW_JOBS = 6
"""Number of jobs up to which all orders are tried."""
_TRIES = 20_000
"""Jobs that are dispatched in all to improve the order of more jobs: 1,400 orders of 14 jobs."""


def best_order(problem: Problem) -> tuple[Ranks, Schedule]:
    """Return the position of each job in the best order found, and its schedule.

    The longest remaining chain goes first, and of wide jobs the resources that they need count too. Then single jobs
    move while that shortens the schedule.
    """
    size = problem.size
    weights = [tail * math.sqrt(width) for tail, width in zip(problem.tails, problem.widths(), strict=True)]
    order = sorted(range(size), key=lambda j: (-weights[j], j))
    if size <= _FEW_JOBS:
        return min((_dispatched(problem, each) for each in permutations(order)), key=lambda each: each[1].makespan)
    best, left, shorter = _dispatched(problem, order), _TRIES // size, True
    while shorter:
        shorter = False
        for old, new in permutations(range(size), 2):
            if not left:
                return best
            left -= 1
            moved = [*order[:old], *order[old + 1 :]]
            moved.insert(new, order[old])
            tried = _dispatched(problem, moved)
            if tried[1].makespan < best[1].makespan:
                order, best, shorter = moved, tried, True
    return best


def _dispatched(problem: Problem, order: Sequence[int]) -> tuple[Ranks, Schedule]:
    ranks = sorted(range(problem.size), key=order.__getitem__)
    return ranks, dispatch(problem, ranks, problem.ticks)


class _FreeResources:
    """Free resources of every node. A job goes where it leaves the fewest GPUs, on GPUs without pins first."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.free = [len(node.gpus) for node in problem.nodes]
        self.cpus = [node.cpus or 0 for node in problem.nodes]
        self.memory = [node.memory or 0 for node in problem.nodes]
        self.node_of = [node for node, each in enumerate(problem.nodes) for _ in each.gpus]
        self.pinned = any(jobs for jobs, _ in problem.pinned)
        self.idle = [sorted(node.gpus, key=problem.pinned.__getitem__) for node in problem.nodes] if self.pinned else []

    def find(self, j: int) -> int | None:
        """Return the node that a job fits on best. None if it does not fit now."""
        problem = self._problem
        gpus, cpus, memory, pin = problem.gpus[j], problem.cpus[j], problem.memory[j], problem.pins[j]
        if pin is not None:
            node = self.node_of[pin]
            fits = self.free[node] >= gpus and self.cpus[node] >= cpus and self.memory[node] >= memory
            return node if fits and pin in self.idle[node] else None
        best, least = None, 0
        for node, free in enumerate(self.free):
            if free >= gpus and self.cpus[node] >= cpus and self.memory[node] >= memory:
                if best is None or free < least:
                    best, least = node, free
                if free == gpus:
                    break
        return best

    def take(self, j: int, node: int) -> tuple[int, ...]:
        """Allocate a job's share of a node. GPUs are numbered only if any job is pinned."""
        problem = self._problem
        self.free[node] -= problem.gpus[j]
        self.cpus[node] -= problem.cpus[j]
        self.memory[node] -= problem.memory[j]
        if not self.pinned:
            return ()
        idle, pin = self.idle[node], problem.pins[j]
        others = [gpu for gpu in idle if gpu != pin]
        taken = others[: problem.gpus[j]] if pin is None else [pin, *others[: problem.gpus[j] - 1]]
        self.idle[node] = [gpu for gpu in idle if gpu not in taken]
        return tuple(taken)

    def give_back(self, j: int, node: int, taken: Sequence[int]) -> None:
        """Release a job's share of a node."""
        problem = self._problem
        self.free[node] += problem.gpus[j]
        self.cpus[node] += problem.cpus[j]
        self.memory[node] += problem.memory[j]
        if taken:
            self.idle[node] = sorted([*self.idle[node], *taken], key=problem.pinned.__getitem__)


def dispatch(problem: Problem, ranks: Ranks, ticks: Sequence[float]) -> Schedule:
    """Run the jobs by priority with the given durations."""
    size = problem.size
    room = _FreeResources(problem)
    order = sorted(range(size), key=ranks.__getitem__)
    shapes = list(zip(problem.gpus, problem.cpus, problem.memory, problem.pins, strict=True))
    heaps: dict[tuple[int, int, int, int | None], list[int]] = {shape: [] for shape in shapes}
    waiting = [len(above) for above in problem.parents]
    for j in order:
        if not waiting[j]:
            heaps[shapes[j]].append(ranks[j])
    starts, places, held = [0.0] * size, [0] * size, [()] * size  # type: list[float], list[int], list[tuple[int, ...]]
    events: list[tuple[float, int]] = []
    now = 0.0
    while True:
        # Within one moment nothing falls free, so what does not fit once need not be tried again.
        heads = [(heap[0], shape) for shape, heap in heaps.items() if heap]
        heapify(heads)
        while heads:
            rank, shape = heappop(heads)
            j = order[rank]
            node = room.find(j)
            if node is None:
                continue
            heappop(heaps[shape])
            if heaps[shape]:
                heappush(heads, (heaps[shape][0], shape))
            starts[j], places[j], held[j] = now, node, room.take(j, node)
            heappush(events, (now + ticks[j], j))
        if not events:
            break
        now = events[0][0]
        while events and events[0][0] == now:
            j = heappop(events)[1]
            room.give_back(j, places[j], held[j])
            for child in problem.children[j]:
                waiting[child] -= 1
                if not waiting[child]:
                    heappush(heaps[shapes[child]], ranks[child])
    gpus = tuple(held) if room.pinned else None
    return Schedule(makespan=now, starts=tuple(starts), nodes=tuple(places), gpus=gpus)


def name_gpus(problem: Problem, table: Schedule) -> list[tuple[int, ...]]:
    """Return the GPUs of each job: its parent's if free, so that a chain keeps its GPUs."""
    if table.gpus is not None:
        return [tuple(sorted(held)) for held in table.gpus]
    # What takes no time goes first: it gives its GPUs back at the moment at which it took them.
    held: list[tuple[int, ...]] = [()] * problem.size
    idle = [set(node.gpus) for node in problem.nodes]
    place = {j: k for k, j in enumerate(problem.order)}
    running: list[tuple[float, int]] = []
    for j in sorted(range(problem.size), key=lambda j: (table.starts[j], problem.ticks[j] > 0, place[j])):
        while running and running[0][0] <= table.starts[j]:
            done = heappop(running)[1]
            idle[table.nodes[done]].update(held[done])
        node = table.nodes[j]
        liked = {gpu for parent in problem.parents[j] for gpu in held[parent]}
        free = sorted(idle[node], key=lambda gpu: (gpu not in liked, gpu))
        held[j] = tuple(sorted(free[: problem.gpus[j]]))
        idle[node].difference_update(held[j])
        heappush(running, (table.starts[j] + problem.ticks[j], j))
    return held
