"""Validation of a job list and a cluster. All findings are reported together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter

from touchline.core.errors import InputError
from touchline.core.finding import Finding, Severity
from touchline.core.near import did_you_mean, near_names
from touchline.core.units import plural
from touchline.plan.placement.types import Cluster, PlaceJob

MOST_GPUS = 100_000
"""Limit on the number of GPUs."""
_SHOWN = 8
"""Jobs of a dependency cycle that are named."""
_LARGEST = 1e9
"""Limit for GPUs, CPUs, GiB and minutes. Larger values are mistakes, and sums of them lose precision."""


def check_placement_input(jobs: Sequence[PlaceJob], cluster: Cluster) -> None:
    """Check jobs and cluster.

    Raises:
        InputError: with every fault.
    """
    _raise(list(_findings(jobs, cluster)), "the jobs")


def check_deadline(deadline_minutes: float | None) -> None:
    """Check a deadline.

    Raises:
        InputError: it is not above 0.
    """
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
