"""Brute force and a checker of schedules, written without anything of `touchline.plan.placement`.

A shortest schedule starts its jobs in some order, each as soon as the one in front has started, its parents have ended
and its GPUs, CPUs and memory are free. So every order that respects parents is tried, with every choice of GPUs; those
of a node to which no job is pinned are alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations

from touchline.plan.placement.types import Cluster, PlaceJob, Placement

Busy = tuple[Fraction, PlaceJob, int, frozenset[int]]
"""An end, a job, its node and its GPUs."""


def nodes_of(cluster: Cluster) -> list[list[int]]:
    """The GPUs of each node."""
    size = cluster.gpus_per_node or cluster.gpus
    return [list(range(k, min(k + size, cluster.gpus))) for k in range(0, cluster.gpus, size)]


def exact(number: float) -> Fraction:
    """A decimal number as it is written."""
    return Fraction(str(number))


def brute_force(jobs: Sequence[PlaceJob], cluster: Cluster) -> float:
    """The shortest makespan, by trying everything."""
    best: list[Fraction] = [sum((exact(job.minutes.value) for job in jobs), Fraction(0))]

    def extend(now: Fraction, running: list[Busy], ended: dict[str, Fraction], left: tuple[PlaceJob, ...]) -> None:
        known = {**ended, **{busy[1].id: busy[0] for busy in running}}
        latest = max(known.values(), default=now)
        if not left:
            best[0] = min(best[0], latest)
            return
        if latest >= best[0]:
            return
        for job in left:
            if not all(parent in known for parent in job.after):
                continue
            rest = tuple(other for other in left if other is not job)
            ready = max([now, *(known[parent] for parent in job.after)])
            tried = set()
            for moment in sorted({ready, *(busy[0] for busy in running if busy[0] > ready)}):
                still = [busy for busy in running if busy[0] > moment]
                over = {**ended, **{busy[1].id: busy[0] for busy in running if busy[0] <= moment}}
                for kind, node, gpus in _choices(job, still, jobs, cluster):
                    # The same GPUs at a later moment are no help.
                    if kind not in tried:
                        tried.add(kind)
                        extend(moment, [*still, (moment + exact(job.minutes.value), job, node, gpus)], over, rest)

    extend(Fraction(0), [], {}, tuple(jobs))
    return float(best[0])


Kind = tuple[int, frozenset[int]]


def _choices(
    job: PlaceJob, running: Sequence[Busy], jobs: Sequence[PlaceJob], cluster: Cluster
) -> Iterator[tuple[Kind, int, frozenset[int]]]:
    """Where a job fits now: what makes the choice different from others, the node, and the GPUs."""
    pinned = {job.pin for job in jobs}
    for node, gpus in enumerate(nodes_of(cluster)):
        here = [busy for busy in running if busy[2] == node]
        if cluster.cpus is not None and sum(busy[1].cpus for busy in here) + job.cpus > cluster.cpus:
            continue
        held = sum((exact(busy[1].memory_gb) for busy in here), exact(job.memory_gb))
        if cluster.memory_gb is not None and held > exact(cluster.memory_gb):
            continue
        idle = [gpu for gpu in gpus if not any(gpu in busy[3] for busy in here)]
        seen = set()
        for taken in combinations(idle, job.gpus):
            kind = (node, frozenset(gpu for gpu in taken if gpu in pinned))
            if (job.pin is None or job.pin in taken) and kind not in seen:
                seen.add(kind)
                yield kind, node, frozenset(taken)


def broken_rules(placement: Placement, jobs: Sequence[PlaceJob], cluster: Cluster) -> list[str]:
    """Everything that a schedule does and may not do."""
    by_id = {job.id: job for job in jobs}
    slots = {slot.id: slot for slot in placement.schedule}
    nodes = nodes_of(cluster)
    found = []
    if sorted(slots) != sorted(by_id) or len(placement.schedule) != len(jobs):
        return ["not every job once"]
    if sorted(slot.priority for slot in placement.schedule) != list(range(len(jobs))):
        found.append("priorities")
    for slot in placement.schedule:
        job = by_id[slot.id]
        if abs(slot.end_minutes - slot.start_minutes - job.minutes.value) > 1e-6 or slot.start_minutes < 0:
            found.append(f"{slot.id}: length")
        if len(set(slot.gpus)) != job.gpus or not set(slot.gpus) <= set(nodes[slot.node]):
            found.append(f"{slot.id}: GPUs {slot.gpus} of node {slot.node}")
        if job.pin is not None and job.pin not in slot.gpus:
            found.append(f"{slot.id}: pin")
        found += [
            f"{slot.id} before {parent}"
            for parent in job.after
            if slots[parent].end_minutes > slot.start_minutes + 1e-9
        ]
    for moment in {slot.start_minutes for slot in placement.schedule}:
        running = [s for s in placement.schedule if s.start_minutes <= moment < s.end_minutes - 1e-9]
        held = [gpu for slot in running for gpu in slot.gpus]
        if len(held) != len(set(held)):
            found.append(f"a GPU twice at {moment}")
        for node in range(len(nodes)):
            here = [by_id[slot.id] for slot in running if slot.node == node]
            if cluster.cpus is not None and sum(job.cpus for job in here) > cluster.cpus:
                found.append(f"CPUs of node {node} at {moment}")
            if cluster.memory_gb is not None and sum(job.memory_gb for job in here) > cluster.memory_gb + 1e-9:
                found.append(f"memory of node {node} at {moment}")
    if abs(max(slot.end_minutes for slot in placement.schedule) - placement.makespan_minutes) > 1e-6:
        found.append("makespan")
    return found
