"""Checks of a cluster's facts for this user's jobs: ok, warning or error, each with an action.

sbatch decides: `--test-only` runs with the user's own settings. The other checks explain a refusal, or find what sbatch
accepts silently and fails hours later.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from touchline.core.near import did_you_mean, near_names
from touchline.core.units import format_seconds, plural
from touchline.estimate.gpus import similar_gpus
from touchline.experiment.value_types import SlurmSite
from touchline.slurm.site_facts import ClusterFacts, DoctorCheck, PartitionFacts, Status, first_number

CONFIG = "in the user's config file"


def check_cluster(facts: ClusterFacts, site: SlurmSite, *, gpus_here: int) -> Iterator[DoctorCheck]:
    """Yield all checks of the cluster."""
    if not facts.partitions:
        problems = "; ".join(f"{command}: {words}" for command, words in facts.problems.items())
        yield _found(
            "controller",
            "error",
            f"SLURM does not answer: {problems or 'it lists no partition'}",
            "US120",
            "retry in a minute, then ask the site's support whether the controller is down",
        )
        return
    yield _ok("controller", f"SLURM {facts.version or 'of an unknown version'}: {_listed(facts.partitions)}")
    yield from _partition(facts, site)
    yield from _gpus(chosen_partitions(facts, site), site, gpus_here)
    yield from _accounting(facts)
    yield from _taken(facts)


def chosen_partitions(facts: ClusterFacts, site: SlurmSite) -> list[PartitionFacts]:
    """Return the partitions of jobs: the named ones, or the default."""
    if site.partition is None:
        return [part for part in facts.partitions if part.default]
    wanted = site.partition.split(",")
    return [part for part in facts.partitions if part.name in wanted]


def _partition(facts: ClusterFacts, site: SlurmSite) -> Iterator[DoctorCheck]:
    names = [part.name for part in facts.partitions]
    if site.partition is None:
        default = next((part for part in facts.partitions if part.default), None)
        if default is None:
            yield _found(
                "partition",
                "error",
                "the cluster has no default partition, and slurm.partition is not set",
                "US121",
                f"slurm.partition {CONFIG}, one of {', '.join(names)}",
            )
            return
        yield from _usable(default, "the cluster's default partition")
        return
    for name in site.partition.split(","):
        part = next((part for part in facts.partitions if part.name == name), None)
        if part is None:
            near = near_names(name, names, most=1)
            yield _found(
                "partition",
                "error",
                f"unknown partition {name!r}",
                "US121",
                did_you_mean(near, f"slurm.partition {CONFIG}, one of {', '.join(names)}"),
            )
        else:
            yield from _usable(part, "slurm.partition")


def _usable(part: PartitionFacts, whose: str) -> Iterator[DoctorCheck]:
    if not part.up:
        yield _found("partition", "warning", f"{part.name} ({whose}) is not up: jobs wait there", "US121", "sinfo -s")
        return
    longest = "no maximum time limit" if part.max_seconds is None else f"at most {format_seconds(part.max_seconds)}"
    usual = "" if part.default_seconds is None else f", default {format_seconds(part.default_seconds)}"
    yield _ok("partition", f"{part.name} ({whose}): {longest}{usual}")


def _gpus(chosen: Sequence[PartitionFacts], site: SlurmSite, gpus_here: int) -> Iterator[DoctorCheck]:
    kinds = {kind: count for part in chosen for kind, count in part.gpus.items()}
    names = ", ".join(part.name for part in chosen)
    if not chosen:
        return
    if not kinds:
        if site.gpu_type is not None:
            hint = f"set another slurm.partition {CONFIG}, or remove slurm.gpu_type"
            yield _found("GPUs", "error", f"{names} has no GPUs, but slurm.gpu_type is set", "US122", hint)
            return
        hint = f"set another slurm.partition {CONFIG}, or compute.gpus_per_run=0 for runs on the CPU"
        yield _found("GPUs", "warning", f"{names} has no GPUs", "US122", hint)
        return
    offered = ", ".join(f"{count} {kind} GPUs".replace("  ", " ") for kind, count in kinds.items())
    if site.gpu_type is not None and site.gpu_type not in kinds:
        near = near_names(site.gpu_type, [kind for kind in kinds if kind], most=1)
        hint = did_you_mean(near, f"change slurm.gpu_type {CONFIG}, or remove it")
        message = f"{names} has no GPUs of type {site.gpu_type!r} (a node there has {offered})"
        yield _found("GPUs", "error", message, "US122", hint)
        return
    yield _ok("GPUs", f"a node of {names} has {offered}")
    if not gpus_here and site.gpu_type is None:
        near = [name for kind in kinds for name in similar_gpus(kind)]
        yield _found(
            "planning",
            "warning",
            "this machine has no GPU, so experiments must name the GPU of the nodes",
            "US133",
            f"compute.gpu: {near[-1] if near else 'A100-80GB'} in experiment.yaml (cpu: train on CPUs), "
            f"or slurm.gpu_type {CONFIG}",
        )


def _accounting(facts: ClusterFacts) -> Iterator[DoctorCheck]:
    if facts.accounting:
        yield _ok("accounting", "sacct reports how finished jobs ended")
        return
    problem = next((words for name, words in facts.problems.items() if name.startswith("sacctmgr")), None)
    age = first_number(facts.config.get("MinJobAge", ""))
    kept = "" if age is None else f", and the queue forgets them after {format_seconds(float(age))} (MinJobAge)"
    yield _found(
        "accounting",
        "warning",
        f"no accounting, so the end of a killed job is unknown{kept}" + ("" if problem is None else f" ({problem})"),
        "US129",
        "no action needed: jobs write exit records, and jobs without one are shown as UNKNOWN",
    )


def _taken(facts: ClusterFacts) -> Iterator[DoctorCheck]:
    words = shlex.join(facts.tried)
    if facts.taken:
        yield _ok("sbatch", f"accepts a job with these settings: {facts.answer}")
    elif facts.taken is None:
        yield _found("sbatch", "warning", f"gave no answer: {facts.answer}", "US120", f"try again: {words}")
    else:
        yield _found("sbatch", "error", f"rejects a job with these settings: {facts.answer}", "US131", words)


def _listed(partitions: Sequence[PartitionFacts]) -> str:
    shown = [
        f"{part.name}{' (default)' if part.default else ''}, {plural(part.nodes, 'node')}"
        + (f" with {sum(part.gpus.values())} GPUs" if part.gpus else "")
        for part in partitions
    ]
    return "; ".join(shown)


def _ok(name: str, message: str) -> DoctorCheck:
    return DoctorCheck(area="SLURM", name=name, status="ok", message=message)


def _found(name: str, status: Status, message: str, code: str, hint: str) -> DoctorCheck:
    return DoctorCheck(area="SLURM", name=name, status=status, message=message, code=code, hint=hint)
