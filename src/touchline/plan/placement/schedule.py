"""Dispatch by priority: whenever a job ends, the ready jobs that fit start in order of priority.

Dispatch never looks at when a job will end, so the same function gives the predicted schedule and, with other
durations, the actual one. Jobs with equal requirements share a heap, which keeps each decision fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from touchline.plan.placement.problem import Problem

NOTHING_CLOSED: Mapping[int, float] = {}
Ranks = Sequence[int]
"""Position of each job in the order, from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Start, node and GPUs of every job."""

    makespan: float
    """End of the last job, in ticks."""
    starts: tuple[float, ...]
    """Start of each job, in ticks."""
    nodes: tuple[int, ...]
    """Node of each job."""
    gpus: tuple[tuple[int, ...], ...] | None
    """GPUs of each job. None if any free GPUs of the node will do."""


def ranks_from_order(order: Sequence[int]) -> list[int]:
    """Return the position of each job in an order."""
    ranks = [0] * len(order)
    for place, j in enumerate(order):
        ranks[j] = place
    return ranks


def dispatch(problem: Problem, ranks: Ranks, ticks: Sequence[float], kept: int | None) -> Schedule:
    """Run the jobs by priority with the given durations.

    Args:
        problem: what there is to place.
        ranks: the place of each job in the order.
        ticks: how long each really takes.
        kept: a waiting job of so many GPUs keeps its place: what is behind it starts only where it does not delay it,
            by the predicted durations. None: whatever fits starts. 0: no job starts before the one in front
            of it, have its parents ended or not.
    """
    if kept == 0:
        return _in_order(problem, ranks, ticks)
    if not problem.pooled:
        return _on_nodes(problem, ranks, ticks, kept)
    run = _whatever_fits(problem, ranks, ticks) if kept is None else _keeping_places(problem, ranks, ticks, kept)
    return Schedule(makespan=run[1], starts=tuple(run[0]), nodes=(0,) * problem.size, gpus=None)


def makespan_of(problem: Problem, ranks: Ranks, ticks: Sequence[float], kept: int | None) -> float:
    """Return the end of the last job, in ticks; see `dispatch`."""
    if kept is None and problem.pooled:
        return _whatever_fits(problem, ranks, ticks)[1]
    return dispatch(problem, ranks, ticks, kept).makespan


def _whatever_fits(problem: Problem, ranks: Ranks, ticks: Sequence[float]) -> tuple[list[float], float]:
    """Dispatch where only the number of free GPUs counts. Return the starts and the makespan.

    This is the innermost loop, kept free of calls and of sorting beyond the heaps.
    """
    size, gpus, children = problem.size, problem.gpus, problem.children
    by_rank, waiting, heaps = _queues(problem, ranks)
    lanes = sorted(heaps.items())
    starts = [0.0] * size
    events: list[tuple[float, int]] = []
    free = problem.cluster.gpus
    now = 0.0
    while True:
        while True:
            best = size
            chosen = None
            for width, heap in lanes:
                if width > free:
                    break
                if heap and heap[0] < best:
                    best = heap[0]
                    chosen = heap
            if chosen is None:
                break
            heappop(chosen)
            j = by_rank[best]
            free -= gpus[j]
            starts[j] = now
            heappush(events, (now + ticks[j], j))
        if not events:
            return starts, now
        now = events[0][0]
        while events and events[0][0] == now:
            j = heappop(events)[1]
            free += gpus[j]
            for child in children[j]:
                waiting[child] -= 1
                if not waiting[child]:
                    heappush(heaps[gpus[child]], ranks[child])


def _queues(problem: Problem, ranks: Ranks) -> tuple[list[int], list[int], dict[int, list[int]]]:
    """Return the job at each position, the number of parents that each waits for, and the ready jobs by GPUs."""
    by_rank = ranks_from_order(ranks)
    waiting = [len(above) for above in problem.parents]
    heaps: dict[int, list[int]] = {width: [] for width in problem.gpus}
    for rank, j in enumerate(by_rank):
        if not waiting[j]:
            heaps[problem.gpus[j]].append(rank)
    return by_rank, waiting, heaps


def _keeping_places(problem: Problem, ranks: Ranks, ticks: Sequence[float], kept: int) -> tuple[list[float], float]:
    """Dispatch as `_whatever_fits`, but do not delay a waiting job of at least `kept` GPUs (backfill scheduling)."""
    size, gpus, children, predicted = problem.size, problem.gpus, problem.children, problem.ticks
    by_rank, waiting, heaps = _queues(problem, ranks)
    lanes = sorted(heaps.items())
    starts = [0.0] * size
    events: list[tuple[float, int]] = []
    free = problem.cluster.gpus
    now = 0.0
    while True:
        while True:
            best, chosen, wanted = size, None, 0
            for width, heap in lanes:
                if heap and heap[0] < best:
                    if width <= free:
                        best, chosen, wanted = heap[0], heap, 0
                    elif width >= kept:
                        best, chosen, wanted = heap[0], None, width
            if chosen is None:
                break
            heappop(chosen)
            j = by_rank[best]
            free -= gpus[j]
            starts[j] = now
            heappush(events, (now + ticks[j], j))
        if wanted and free:
            running = sorted((max(now, starts[j] + predicted[j]), j) for _, j in events)
            for j in _not_in_the_way(problem, running, wanted, free, now, [by_rank[r] for r in _waiting(lanes, free)]):
                heaps[gpus[j]].remove(ranks[j])
                heapify(heaps[gpus[j]])
                free -= gpus[j]
                starts[j] = now
                heappush(events, (now + ticks[j], j))
        if not events:
            return starts, now
        now = events[0][0]
        while events and events[0][0] == now:
            j = heappop(events)[1]
            free += gpus[j]
            for child in children[j]:
                waiting[child] -= 1
                if not waiting[child]:
                    heappush(heaps[gpus[child]], ranks[child])


def _waiting(lanes: Sequence[tuple[int, list[int]]], free: int) -> list[int]:
    """Return the positions of the waiting jobs that fit, in order."""
    return sorted(rank for width, heap in lanes if width <= free for rank in heap)


def _not_in_the_way(
    problem: Problem, running: Sequence[tuple[float, int]], wanted: int, free: int, now: float, jobs: Sequence[int]
) -> list[int]:
    """Return the jobs that may start now without delaying an earlier job that waits for `wanted` GPUs.

    Args:
        problem: what there is to place.
        running: predicted end and number of every running job, the first end first.
        wanted: GPUs that the one in front waits for.
        free: GPUs that are free now, fewer.
        now: the moment.
        jobs: those that fit, in order.
    """
    then, spare = now, free - wanted
    for end, j in running:
        then, spare = end, spare + problem.gpus[j]
        if spare >= 0:
            break
    found = []
    for j in jobs:
        gpus, early = problem.gpus[j], now + problem.ticks[j] <= then
        if gpus <= (free if early else min(free, spare)):
            found.append(j)
            free -= gpus
            spare -= 0 if early else gpus
            if not free:
                break
    return found


class FreeGpus:
    """Free resources of every node. A job goes where it leaves the fewest GPUs, on GPUs without pins first."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.free = [len(node.gpus) for node in problem.nodes]
        self.cpus = [node.cpus or 0 for node in problem.nodes]
        self.memory = [node.memory or 0 for node in problem.nodes]
        self.node_of = [node for node, each in enumerate(problem.nodes) for _ in each.gpus]
        self.pinned = any(jobs for jobs, _ in problem.pinned)
        self.idle = [sorted(node.gpus, key=problem.pinned.__getitem__) for node in problem.nodes] if self.pinned else []

    def find(self, j: int, closed: Mapping[int, float] = NOTHING_CLOSED, end: float = 0.0) -> int | None:
        """Return the node that a job fits on best. None if it does not fit now.

        Args:
            j: the job.
            closed: nodes that are kept free for another job, and from when on.
            end: when this one will have ended.
        """
        problem = self._problem
        gpus, cpus, memory, pin = problem.gpus[j], problem.cpus[j], problem.memory[j], problem.pins[j]
        if pin is not None:
            node = self.node_of[pin]
            fits = self.free[node] >= gpus and self.cpus[node] >= cpus and self.memory[node] >= memory
            return node if fits and pin in self.idle[node] and end <= closed.get(node, end) else None
        best, least = None, 0
        for node, free in enumerate(self.free):
            if free >= gpus and self.cpus[node] >= cpus and self.memory[node] >= memory:
                if node in closed and end > closed[node]:
                    continue
                if best is None or free < least:
                    best, least = node, free
                if free == gpus:
                    break
        return best

    def close(
        self, j: int, running: Sequence[tuple[float, int]], places: Sequence[int], closed: dict[int, float]
    ) -> None:
        """Reserve for a job the node that is predicted to have room for it first.

        Args:
            j: the job, which fits nowhere now.
            running: end and number of every running job, the first end first.
            places: the node of each job.
            closed: nodes that are kept already; this one is put in.
        """
        problem = self._problem
        pin = problem.pins[j]
        free, cpus, memory = list(self.free), list(self.cpus), list(self.memory)
        for end, i in running:
            node = places[i]
            free[node] += problem.gpus[i]
            cpus[node] += problem.cpus[i]
            memory[node] += problem.memory[i]
            there = pin is None or node == self.node_of[pin]
            enough = (
                free[node] >= problem.gpus[j] and cpus[node] >= problem.cpus[j] and memory[node] >= problem.memory[j]
            )
            if there and enough and node not in closed:
                closed[node] = end
                return

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


def _on_nodes(problem: Problem, ranks: Ranks, ticks: Sequence[float], kept: int | None) -> Schedule:
    """Dispatch with nodes, CPUs, memory and pins."""
    size = problem.size
    room = FreeGpus(problem)
    order = ranks_from_order(ranks)
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
        closed: dict[int, float] = {}
        while heads:
            rank, shape = heappop(heads)
            j = order[rank]
            node = room.find(j, closed, now + problem.ticks[j])
            if node is None:
                if kept is not None and problem.gpus[j] >= kept:
                    running = [(max(now, starts[i] + problem.ticks[i]), i) for _, i in events]
                    room.close(j, sorted(running), places, closed)
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


def _in_order(problem: Problem, ranks: Ranks, ticks: Sequence[float]) -> Schedule:
    """Dispatch so that no job starts before the previous one in the order, in which parents precede children."""
    size = problem.size
    order = sorted(range(size), key=ranks.__getitem__)
    room = FreeGpus(problem)
    starts, places, held = [0.0] * size, [0] * size, [()] * size  # type: list[float], list[int], list[tuple[int, ...]]
    events: list[tuple[float, int]] = []
    ended: set[int] = set()
    now = 0.0

    def pass_time() -> None:
        nonlocal now
        now = events[0][0]
        while events and events[0][0] == now:
            done = heappop(events)[1]
            room.give_back(done, places[done], held[done])
            ended.add(done)

    for j in order:
        while not ended.issuperset(problem.parents[j]) or (node := room.find(j)) is None:
            pass_time()
        starts[j], places[j], held[j] = now, node, room.take(j, node)
        heappush(events, (now + ticks[j], j))
    while events:
        pass_time()
    gpus = tuple(held) if room.pinned else None
    return Schedule(makespan=now, starts=tuple(starts), nodes=tuple(places), gpus=gpus)


def name_gpus(problem: Problem, table: Schedule, ticks: Sequence[float]) -> list[tuple[int, ...]]:
    """Return the GPUs of each job: its parent's if free, so that a chain keeps its GPUs."""
    if table.gpus is not None:
        return [tuple(sorted(held)) for held in table.gpus]
    # What takes no time goes first: it gives its GPUs back at the moment at which it took them.
    held: list[tuple[int, ...]] = [()] * problem.size
    idle = [set(node.gpus) for node in problem.nodes]
    place = {j: k for k, j in enumerate(problem.order)}
    running: list[tuple[float, int]] = []
    for j in sorted(range(problem.size), key=lambda j: (table.starts[j], ticks[j] > 0, place[j])):
        while running and running[0][0] <= table.starts[j]:
            done = heappop(running)[1]
            idle[table.nodes[done]].update(held[done])
        node = table.nodes[j]
        liked = {gpu for parent in problem.parents[j] for gpu in held[parent]}
        free = sorted(idle[node], key=lambda gpu: (gpu not in liked, gpu))
        held[j] = tuple(sorted(free[: problem.gpus[j]]))
        idle[node].difference_update(held[j])
        heappush(running, (table.starts[j] + ticks[j], j))
    return held
