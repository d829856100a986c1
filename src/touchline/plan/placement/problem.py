"""Validated and numbered form of jobs and cluster, used by all parts of the placement.

Durations are whole ticks and memory is in whole millionths of a GiB, so that sums are exact: ten jobs of 0.1 GiB fit
into 1 GiB. Jobs are sorted by name, so the result does not depend on their order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

from touchline.plan.placement.types import Cluster, PlaceJob
from touchline.plan.placement.validation import check_placement_input

TICKS = 10**9
"""Ticks per minute. A float represents them exactly for seventeen years."""
_MEMORY_PARTS = 10**6
"""Parts per GiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """Node with its resources."""

    gpus: tuple[int, ...]
    """Its GPUs, numbered over all nodes."""
    cpus: int | None
    """Its CPUs. None if they are not limited."""
    memory: int | None
    """Its memory, in millionths of a GiB. None if it is not limited."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Problem:
    """Jobs and cluster by number: job `j` is `jobs[j]`, and every list has one entry per job."""

    jobs: tuple[PlaceJob, ...]
    """Jobs, sorted by name."""
    cluster: Cluster
    nodes: tuple[Node, ...]
    """Nodes; the last one is smaller if the GPUs do not divide evenly."""
    ticks: tuple[float, ...]
    """Predicted durations, whole numbers."""
    gpus: tuple[int, ...]
    """GPUs per job."""
    cpus: tuple[int, ...]
    """CPUs per job; 0 if the cluster does not limit them."""
    memory: tuple[int, ...]
    """Memory per job; 0 if the cluster does not limit it."""
    pins: tuple[int | None, ...]
    """GPU that each job must run on."""
    pinned: tuple[tuple[int, int], ...]
    """For each GPU the number of jobs pinned to it, and its number. Other jobs take it last."""
    parents: tuple[tuple[int, ...], ...]
    """Jobs that must end before it starts."""
    children: tuple[tuple[int, ...], ...]
    """Jobs that wait for it."""
    order: tuple[int, ...]
    """Topological order, parents before children."""
    heads: tuple[float, ...]
    """Longest chain before each job, without it."""
    tails: tuple[float, ...]
    """Longest chain from each job on, including it."""

    @property
    def size(self) -> int:
        """Return the number of jobs."""
        return len(self.jobs)

    def widths(self) -> tuple[float, ...]:
        """Return the share of a node that each job takes, in GPUs, by its scarcest resource."""
        node = self.nodes[0]
        found = []
        for gpus, cpus, memory in zip(self.gpus, self.cpus, self.memory, strict=True):
            shares = [gpus / len(node.gpus)]
            shares += [cpus / node.cpus] if node.cpus else []
            shares += [memory / node.memory] if node.memory else []
            found.append(max(shares) * len(node.gpus))
        return tuple(found)


def compile_problem(jobs: Sequence[PlaceJob], cluster: Cluster) -> Problem:
    """Validate and number jobs and cluster.

    Raises:
        InputError: with every fault of the jobs and of the cluster.
    """
    check_placement_input(jobs, cluster)
    ordered = tuple(sorted(jobs, key=lambda job: job.id))
    number = {job.id: j for j, job in enumerate(ordered)}
    parents = tuple(tuple(sorted({number[parent] for parent in job.after})) for job in ordered)
    children: list[list[int]] = [[] for _ in ordered]
    for j, above in enumerate(parents):
        for parent in above:
            children[parent].append(j)
    ticks = tuple(float(round(job.minutes.value * TICKS)) for job in ordered)
    order = tuple(TopologicalSorter(dict(enumerate(parents))).static_order())
    heads, tails = _heads_and_tails(ticks, parents, children, order)
    nodes = _nodes(cluster)
    counted_cpus = tuple(job.cpus if cluster.cpus is not None else 0 for job in ordered)
    counted_memory = tuple(_parts(job.memory_gb) if cluster.memory_gb is not None else 0 for job in ordered)
    gpus = tuple(job.gpus for job in ordered)
    pins = Counter(job.pin for job in ordered)
    return Problem(
        jobs=ordered,
        cluster=cluster,
        nodes=nodes,
        ticks=ticks,
        gpus=gpus,
        cpus=counted_cpus,
        memory=counted_memory,
        pins=tuple(job.pin for job in ordered),
        pinned=tuple((pins[gpu], gpu) for gpu in range(cluster.gpus)),
        parents=parents,
        children=tuple(tuple(below) for below in children),
        order=order,
        heads=heads,
        tails=tails,
    )


def _nodes(cluster: Cluster) -> tuple[Node, ...]:
    size = min(cluster.gpus_per_node or cluster.gpus, cluster.gpus)
    memory = None if cluster.memory_gb is None else _parts(cluster.memory_gb)
    return tuple(
        Node(gpus=tuple(range(first, min(first + size, cluster.gpus))), cpus=cluster.cpus, memory=memory)
        for first in range(0, cluster.gpus, size)
    )


def _parts(gib: float) -> int:
    return round(gib * _MEMORY_PARTS)


def _heads_and_tails(
    ticks: Sequence[float],
    parents: Sequence[Sequence[int]],
    children: Sequence[Sequence[int]],
    order: Sequence[int],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    heads, tails = [0.0] * len(ticks), list(ticks)
    for j in order:
        heads[j] = max((heads[parent] + ticks[parent] for parent in parents[j]), default=0.0)
    for j in reversed(order):
        tails[j] += max((tails[child] for child in children[j]), default=0.0)
    return tuple(heads), tuple(tails)


def ticks_to_minutes(ticks: float) -> float:
    """Convert ticks to minutes."""
    return ticks / TICKS


def minutes_to_ticks(minutes: float) -> float:
    """Convert minutes to ticks; infinity stays infinity."""
    return float(round(minutes * TICKS)) if math.isfinite(minutes) else minutes
