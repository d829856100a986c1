"""Validation of a job list and a cluster. All findings are reported together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

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
_EXPECTED = f"expected 0 to {_LARGEST:,.0f}"


def check_placement_input(jobs: Sequence[PlaceJob], cluster: Cluster) -> None:
    """Check jobs and cluster.

    Raises:
        InputError: with every fault.
    """
    raise_findings(list(job_findings(jobs, cluster)), "the jobs")


def raise_findings(findings: Sequence[Finding], what: str) -> None:
    """Raise an error if there are findings.

    Raises:
        InputError: with all of them.
    """
    if findings:
        count = len(findings)
        raise InputError(
            f"{what}: {plural(count, 'problem')}",
            findings=findings,
            hint=f"touchline check --explain {findings[0].code}",
        )


def job_findings(jobs: Sequence[PlaceJob], cluster: Cluster) -> Iterator[Finding]:
    """Yield all findings on the jobs and the cluster."""
    wrong = list(_cluster_faults(cluster))
    yield from wrong
    if not jobs:
        yield error_finding("PL110", "jobs", "there are no jobs", hint='a job is {"id": "a", "minutes": {"value": 60}}')
    for name, count in Counter(job.id for job in jobs).items():
        if count > 1:
            yield error_finding(
                "PL104", f"job {name!r}", f"{name!r} is given {count} times", hint="give each job its own id"
            )
    known = list(dict.fromkeys(job.id for job in jobs))
    names = set(known)
    for job in jobs:
        subject = f"job {job.id!r}"
        yield from _value_faults(job, subject)
        for parent in dict.fromkeys(job.after):
            if parent not in names:
                near = near_names(parent, known, most=1)
                hint = did_you_mean(near)
                yield error_finding(
                    "PL105", subject, f"{job.id!r} comes after {parent!r}, which is not in the list", hint=hint
                )
        if not wrong and _sensible(job.gpus) and _sensible(job.cpus):
            yield from _fit_faults(job, subject, cluster)
    circle = _circle(jobs)
    if circle:
        shown = [*circle[:_SHOWN], *(["..."] if len(circle) > _SHOWN else []), circle[0]]
        yield error_finding(
            "PL106",
            f"job {circle[0]!r}",
            f"{f'{len(circle)} jobs depend on each other' if len(circle) > 1 else '1 job depends on itself'} "
            "and can never start: " + " after ".join(repr(name) for name in shown),
            hint="remove one of these `after` entries",
        )


def error_finding(code: str, subject: str, message: str, hint: str | None = None) -> Finding:
    """Return a finding with severity error."""
    return Finding(code=code, severity=Severity.ERROR, subject=subject, message=message, hint=hint)


def deadline_findings(deadline_minutes: float | None, correlation: float) -> list[Finding]:
    """Return the findings on a deadline and a correlation."""
    found = []
    if deadline_minutes is not None and not (math.isfinite(deadline_minutes) and deadline_minutes > 0):
        hint = "for example --deadline 6h"
        found.append(error_finding("PL111", "deadline", f"a deadline of {deadline_minutes:g} minutes", hint=hint))
    if not 0 <= correlation <= 1:
        found.append(error_finding("PL111", "correlation", f"a correlation of {correlation:g}; expected 0 to 1"))
    return found


def _sensible(value: float) -> bool:
    return abs(value) <= _LARGEST


def _number(value: float | None) -> str:
    return "a number that is too large" if value is not None and value > _LARGEST else f"{value:g}"


def _cluster_faults(cluster: Cluster) -> Iterator[Finding]:
    for name, value in (
        ("gpus", cluster.gpus),
        ("gpus_per_node", cluster.gpus_per_node),
        ("cpus", cluster.cpus),
        ("memory_gb", cluster.memory_gb),
    ):
        if value is not None and not (_sensible(value) and value > 0):
            yield error_finding(
                "PL111", f"cluster {name}", f"a cluster with {name} {_number(value)}", hint="more than 0"
            )
    if _sensible(cluster.gpus) and cluster.gpus > MOST_GPUS:
        message = f"a cluster with {cluster.gpus:,} GPUs; at most {MOST_GPUS:,} are placed on"
        yield error_finding("PL111", "cluster gpus", message)


def _value_faults(job: PlaceJob, subject: str) -> Iterator[Finding]:
    amounts = {
        "gpus": job.gpus,
        "cpus": job.cpus,
        "memory_gb": job.memory_gb,
        "minutes.value": job.minutes.value,
        "minutes.low": job.minutes.low,
        "minutes.high": job.minutes.high,
    }
    bad = {name for name, value in amounts.items() if value is not None and not (_sensible(value) and value >= 0)}
    for name in amounts:
        if name in bad:
            yield error_finding("PL103", subject, f"{job.id!r}: {name} is {_number(amounts[name])}; {_EXPECTED}")
    value, low, high = job.minutes.value, job.minutes.low, job.minutes.high
    if not bad and ((low is not None and low > value) or (high is not None and high < value)):
        ends = f"{'?' if low is None else format(low, 'g')} to {'?' if high is None else format(high, 'g')}"
        yield error_finding(
            "PL108",
            subject,
            f"{job.id!r}: its interval, {ends} minutes, does not contain its value, {value:g}",
            hint="low <= value <= high",
        )


def _fit_faults(job: PlaceJob, subject: str, cluster: Cluster) -> Iterator[Finding]:
    node = min(cluster.gpus_per_node or cluster.gpus, cluster.gpus)
    place = "the cluster" if node == cluster.gpus else "a node"
    if job.pin is not None:
        if not 0 <= job.pin < cluster.gpus:
            there = f"there are GPUs 0 to {cluster.gpus - 1}"
            yield error_finding("PL109", subject, f"{job.id!r} is pinned to GPU {_number(job.pin)}; {there}")
        elif job.gpus == 0:
            yield error_finding(
                "PL109", subject, f"{job.id!r} is pinned to GPU {job.pin} but uses no GPU", hint="gpus: 1"
            )
        else:
            # The last node may be smaller than the others.
            node = min(node, cluster.gpus - job.pin // node * node)
    for name, asked, most, unit in (
        ("GPUs", job.gpus, node, ""),
        ("CPUs", job.cpus, cluster.cpus, ""),
        ("memory", job.memory_gb, cluster.memory_gb, " GiB"),
    ):
        if most is not None and asked > most:
            yield error_finding(
                "PL107",
                subject,
                f"{job.id!r} asks for {asked:g}{unit}{'' if unit else ' ' + name}; {place} has {most:g}{unit}"
                + (f" of {name}" if unit else ""),
                hint="jobs never span nodes" if node != cluster.gpus else None,
            )


def _circle(jobs: Sequence[PlaceJob]) -> list[str]:
    """Return the jobs of a dependency cycle, each after the next. Empty if there is none."""
    after = {job.id: sorted(set(job.after)) for job in jobs}
    done: set[str] = set()
    for first in sorted(after):
        path: list[str] = []
        on_path: dict[str, int] = {}
        stack: list[tuple[str, bool]] = [(first, True)]
        while stack:
            name, entering = stack.pop()
            if not entering:
                path.pop()
                del on_path[name]
                done.add(name)
            elif name in on_path:
                return path[on_path[name] :]
            elif name not in done and name in after:
                on_path[name] = len(path)
                path.append(name)
                stack.append((name, False))
                stack += [(parent, True) for parent in reversed(after[name])]
    return []
