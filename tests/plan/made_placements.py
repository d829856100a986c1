"""Brute force and a checker of schedules, written without anything of `touchline.plan.placement`; instances."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from touchline.experiment.requests import Cluster
from touchline.plan.placement.problem import Minutes, PlaceJob, Placement


def nodes_of(cluster: Cluster) -> list[list[int]]:
    size = cluster.gpus_per_node or cluster.gpus
    return [list(range(k, min(k + size, cluster.gpus))) for k in range(0, cluster.gpus, size)]


def brute_force(jobs: Sequence[PlaceJob], cluster: Cluster) -> float:
    """The shortest makespan on one node without pins.

    A shortest schedule starts its jobs in some order, each as soon as the one in front has started, its parents have
    ended and its GPUs, CPUs and memory are free. So every order that respects parents is tried.
    """
    best = [sum((_exact(job.minutes.value) for job in jobs), Fraction(0))]

    def fits(job: PlaceJob, running: list[PlaceJob]) -> bool:
        held = [*running, job]
        return (
            sum(each.gpus for each in held) <= cluster.gpus
            and (cluster.cpus is None or sum(each.cpus for each in held) <= cluster.cpus)
            and (cluster.memory_gb is None or sum(_exact(each.memory_gb) for each in held) <= _exact(cluster.memory_gb))
        )

    def extend(now: Fraction, ends: dict[str, Fraction], left: tuple[PlaceJob, ...]) -> None:
        latest = max(ends.values(), default=now)
        if not left or latest >= best[0]:
            best[0] = min(best[0], latest) if not left else best[0]
            return
        for job in left:
            if all(parent in ends for parent in job.after):
                ready = max([now, *(ends[parent] for parent in job.after)])
                for moment in sorted({ready, *(end for end in ends.values() if end > ready)}):
                    if fits(job, [each for each in jobs if ends.get(each.id, moment) > moment]):
                        rest = tuple(other for other in left if other is not job)
                        extend(moment, {**ends, job.id: moment + _exact(job.minutes.value)}, rest)
                        break

    extend(Fraction(0), {}, tuple(jobs))
    return float(best[0])


def _exact(number: float) -> Fraction:
    """A decimal number as it is written."""
    return Fraction(str(number))


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


WIDTHS, SHARES = (1, 2, 4, 8), (0.5, 0.2, 0.15, 0.15)


def chains(jobs: int, gpus: int, seed: int, *, spread: float = 0.0) -> list[PlaceJob]:
    """Chains of 1 to 4 stages; lognormal durations, median 60 minutes, 5 to 720; 1, 2, 4 or 8 GPUs a stage.

    Args:
        jobs: stages in all.
        gpus: GPUs there are; no stage is wider.
        seed: seed of the instance.
        spread: standard deviation of the logarithm of a duration; 0 gives durations without interval.
    """
    generator = np.random.Generator(np.random.PCG64([jobs, gpus, seed]))
    made: list[PlaceJob] = []
    chain = 0
    while len(made) < jobs:
        parent: tuple[str, ...] = ()
        for stage in range(min(int(generator.integers(1, 5)), jobs - len(made))):
            minutes = float(np.clip(60 * np.exp(generator.standard_normal()), 5, 720))
            width = min(int(generator.choice(WIDTHS, p=SHARES)), gpus)
            name = f"chain{chain:03d}_stage{stage}"
            factor = float(np.exp(1.6448536269514722 * spread))
            ends = {"low": minutes / factor, "high": minutes * factor} if spread else {}
            made.append(PlaceJob(id=name, after=parent, gpus=width, minutes=Minutes(value=minutes, **ends)))
            parent = (name,)
        chain += 1
    return made
