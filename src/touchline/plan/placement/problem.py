"""Jobs, cluster and result of a placement, and the validated and numbered form in which its parts use them.

Durations are whole ticks and memory is in whole millionths of a GiB, so that sums are exact: ten jobs of 0.1 GiB fit
into 1 GiB. Jobs are sorted by name, so the result does not depend on their order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, ClassVar

from annotated_types import Ge

from touchline.core.errors import InputError
from touchline.core.finding import Finding, Severity
from touchline.core.near import did_you_mean, near_names
from touchline.core.quantity import Missing
from touchline.core.units import plural
from touchline.experiment.requests import Cluster
from touchline.experiment.value_types import Text

PLACEMENT_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Minutes:
    """Duration with its interval, in minutes."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    value: Annotated[float, Ge(0)]
    """The predicted duration."""
    low: Annotated[float, Ge(0)] | None = None
    """Lower end of its 90% interval. None if it is certain."""
    high: Annotated[float, Ge(0)] | None = None
    """Upper end of its 90% interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceJob:
    """Job as listed in JOBS.json."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    id: Text
    """Name, unique in the list."""
    after: tuple[Text, ...] = ()
    """Jobs that must end before it starts."""
    gpus: Annotated[int, Ge(0)] = 1
    """GPUs that it uses."""
    cpus: Annotated[int, Ge(0)] = 0
    """CPUs that it uses."""
    memory_gb: Annotated[float, Ge(0)] = 0.0
    """Host memory that it uses, in GiB."""
    minutes: Minutes
    """Duration."""
    pin: int | None = None
    """GPU that it must run on, if given. Plans made by touchline have none."""


class DeadlineVerdict(StrEnum):
    """Whether a deadline can be met."""

    IMPOSSIBLE = "impossible"
    FITS = "fits"
    TIGHT = "tight"
    NO_DEADLINE = "no deadline"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """Lower bound on the makespan."""

    minutes: float
    """Minutes before which no schedule ends."""
    why: str
    """Reason: `all GPU minutes over 4 GPUs`, `the longest chain: a, b, c`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduledJob:
    """Start, end and GPUs of a job if all durations are as predicted."""

    id: str
    """Job."""
    start_minutes: float
    """Start, in minutes from the beginning."""
    end_minutes: float
    """End, in minutes from the beginning."""
    gpus: tuple[int, ...]
    """GPUs that it uses, numbered from 0 over all nodes."""
    node: int
    """Node, from 0."""
    priority: int
    """Position in the order in which jobs start when GPUs become free, from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Schedule and verdict."""

    schema_version: int = PLACEMENT_SCHEMA_VERSION
    """Version of this format."""
    verdict: DeadlineVerdict
    """Whether the deadline can be met."""
    verdict_reason: str
    """Reason for the verdict."""
    makespan_minutes: float
    """End of the last job if all durations are as predicted."""
    lower_bound_minutes: float
    """Lower bound on the makespan."""
    bounds: tuple[Bound, ...]
    """All bounds, the largest first."""
    deadline_minutes: float | None
    """The deadline."""
    probability: float | Missing
    """Chance to meet the deadline with dispatch by priority and durations drawn from their intervals, 0 to 1."""
    schedule: tuple[ScheduledJob, ...]
    """Jobs by start, then by name."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""


MOST_GPUS = 100_000
"""Limit on the number of GPUs."""
_SHOWN = 8
"""Jobs of a dependency cycle that are named."""
_LARGEST = 1e9
"""Limit for GPUs, CPUs, GiB and minutes. Larger values are mistakes, and sums of them lose precision."""


def check_deadline(deadline_minutes: float | None) -> None:
    """Check a deadline. Raises InputError: it is not above 0."""
    if deadline_minutes is not None and not (math.isfinite(deadline_minutes) and deadline_minutes > 0):
        message, hint = f"a deadline of {deadline_minutes:g} minutes", "for example --deadline 6h"
        _raise([_finding("PL111", "deadline", message, hint)], "the deadline")


def _raise(findings: Sequence[Finding], what: str) -> None:
    if findings:
        raise InputError(
            f"{what}: {plural(len(findings), 'problem')}",
            findings=findings,
            hint=f"touchline check --explain {findings[0].code}",
        )


def _findings(jobs: Sequence[PlaceJob], cluster: Cluster) -> Iterator[Finding]:
    wrong = list(_cluster_faults(cluster))
    yield from wrong
    if not jobs:
        yield _finding("PL100", "jobs", "there are no jobs", 'a job is {"id": "a", "minutes": {"value": 60}}')
    for name, count in Counter(job.id for job in jobs).items():
        if count > 1:
            yield _finding("PL105", f"job {name!r}", f"{name!r} is given {count} times", "give each job its own id")
    known = list(dict.fromkeys(job.id for job in jobs))
    names = set(known)
    for job in jobs:
        subject = f"job {job.id!r}"
        yield from _value_faults(job, subject)
        for parent in dict.fromkeys(job.after):
            if parent not in names:
                message = f"{job.id!r} comes after {parent!r}, which is not in the list"
                yield _finding("PL105", subject, message, did_you_mean(near_names(parent, known, most=1)))
        if not wrong and _sensible(job.gpus) and _sensible(job.cpus):
            yield from _fit_faults(job, subject, cluster)
    if circle := _circle(jobs):
        shown = [*circle[:_SHOWN], *(["..."] if len(circle) > _SHOWN else []), circle[0]]
        yield _finding(
            "PL105",
            f"job {circle[0]!r}",
            f"{f'{len(circle)} jobs depend on each other' if len(circle) > 1 else '1 job depends on itself'} "
            "and can never start: " + " after ".join(repr(name) for name in shown),
            "remove one of these `after` entries",
        )


def _finding(code: str, subject: str, message: str, hint: str | None = None) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, subject=subject, message=message, hint=hint)


def _sensible(value: float) -> bool:
    return abs(value) <= _LARGEST


def _number(value: float | None) -> str:
    return "a number that is too large" if value is not None and value > _LARGEST else f"{value:g}"


def _cluster_faults(cluster: Cluster) -> Iterator[Finding]:
    for name in ("gpus", "gpus_per_node", "cpus", "memory_gb"):
        value = getattr(cluster, name)
        if value is not None and not (_sensible(value) and value > 0):
            yield _finding("PL111", f"cluster {name}", f"a cluster with {name} {_number(value)}", "more than 0")
    if _sensible(cluster.gpus) and cluster.gpus > MOST_GPUS:
        message = f"a cluster with {cluster.gpus:,} GPUs; at most {MOST_GPUS:,} are placed on"
        yield _finding("PL111", "cluster gpus", message)


def _value_faults(job: PlaceJob, subject: str) -> Iterator[Finding]:
    value, low, high = job.minutes.value, job.minutes.low, job.minutes.high
    amounts = {
        "gpus": job.gpus,
        "cpus": job.cpus,
        "memory_gb": job.memory_gb,
        "minutes.value": value,
        "minutes.low": low,
        "minutes.high": high,
    }
    bad = [name for name, each in amounts.items() if each is not None and not (_sensible(each) and each >= 0)]
    for name in bad:
        message = f"{job.id!r}: {name} is {_number(amounts[name])}; expected 0 to {_LARGEST:,.0f}"
        yield _finding("PL103", subject, message)
    if not bad and ((low is not None and low > value) or (high is not None and high < value)):
        ends = f"{'?' if low is None else format(low, 'g')} to {'?' if high is None else format(high, 'g')}"
        message = f"{job.id!r}: its interval, {ends} minutes, does not contain its value, {value:g}"
        yield _finding("PL103", subject, message, "low <= value <= high")


def _fit_faults(job: PlaceJob, subject: str, cluster: Cluster) -> Iterator[Finding]:
    node = min(cluster.gpus_per_node or cluster.gpus, cluster.gpus)
    place = "the cluster" if node == cluster.gpus else "a node"
    if job.pin is not None:
        if not 0 <= job.pin < cluster.gpus:
            there = f"there are GPUs 0 to {cluster.gpus - 1}"
            yield _finding("PL107", subject, f"{job.id!r} is pinned to GPU {_number(job.pin)}; {there}")
        elif job.gpus == 0:
            yield _finding("PL107", subject, f"{job.id!r} is pinned to GPU {job.pin} but uses no GPU", "gpus: 1")
        else:
            # The last node may be smaller than the others.
            node = min(node, cluster.gpus - job.pin // node * node)
    for asked, most, one, of in (
        (job.gpus, node, " GPUs", ""),
        (job.cpus, cluster.cpus, " CPUs", ""),
        (job.memory_gb, cluster.memory_gb, " GiB", " of memory"),
    ):
        if most is not None and asked > most:
            message = f"{job.id!r} asks for {asked:g}{one}{of}; {place} has {most:g}{one}{of}"
            yield _finding("PL107", subject, message, "jobs never span nodes" if node != cluster.gpus else None)


def _circle(jobs: Sequence[PlaceJob]) -> list[str]:
    """Return the jobs of a dependency cycle, each after the next. Empty if there is none."""
    try:
        TopologicalSorter({job.id: sorted(set(job.after)) for job in sorted(jobs, key=lambda job: job.id)}).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle[:0:-1]
    return []


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
    cluster: Cluster
    nodes: tuple[Node, ...]
    """Nodes; the last one is smaller if the GPUs do not divide evenly."""
    ticks: tuple[float, ...]
    """Predicted durations, whole numbers."""
    gpus: tuple[int, ...]
    cpus: tuple[int, ...]
    """CPUs per job; 0 if the cluster does not limit them."""
    memory: tuple[int, ...]
    """Memory per job; 0 if the cluster does not limit it."""
    pins: tuple[int | None, ...]
    pinned: tuple[tuple[int, int], ...]
    """For each GPU the number of jobs pinned to it, and its number. Other jobs take it last."""
    parents: tuple[tuple[int, ...], ...]
    children: tuple[tuple[int, ...], ...]
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
    """Validate and number jobs and cluster. Raises InputError: with every fault of the jobs and of the cluster."""
    _raise(list(_findings(jobs, cluster)), "the jobs")
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
    ticks: Sequence[float], parents: Sequence[Sequence[int]], children: Sequence[Sequence[int]], order: Sequence[int]
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
