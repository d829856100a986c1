"""Proposals for the save interval, and for the CPUs and memory of each run in one allocation."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from touchline.core.quantity import Missing, Quantity
from touchline.core.units import format_seconds, minutes_to_seconds, plural, seconds_to_minutes
from touchline.experiment.experiment import CheckpointConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.site import SlurmSite
from touchline.plan.optimization import Proposal
from touchline.plan.placement.types import Cluster

RESUME = "train.checkpoint.resume_minutes"
EVERY = "train.checkpoint.every"
CPUS = "compute.cpus_per_run"
MEMORY = "compute.memory_gb_per_run"
_SAVING_SHARE = 0.02
"""Fraction of the training time that saving may take before a longer interval is proposed."""


def saving_proposals(plan: Plan, fixed: Collection[str]) -> tuple[list[Proposal], list[str]]:
    """Propose longer intervals between saves if saving takes much of a training. Also return notes on unknowns.

    The plan predicts one save per epoch; saves at intervals are additional.
    """
    needs: dict[str, list[tuple[PlannedRun, float]]] = {RESUME: [], EVERY: []}
    unknown = 0
    for run in plan.runs:
        one = _one_save(run)
        if run.train is None:
            continue
        if one is None or isinstance(run.train_seconds, Missing) or run.batches is None:
            unknown += 1
            continue
        total, checkpoint = run.train_seconds.value, run.train.checkpoint
        if one > _SAVING_SHARE * min(minutes_to_seconds(checkpoint.resume_minutes), total):
            needs[RESUME].append((run, seconds_to_minutes(one / _SAVING_SHARE)))
        interval = _interval_seconds(checkpoint, total, run.batches.steps)
        if interval is not None and one > _SAVING_SHARE * interval:
            needs[EVERY].append((run, one / _SAVING_SHARE))
    notes = [] if not unknown else [f"save interval of {plural(unknown, 'run')}: the time of a save has no estimate"]
    found = [
        _proposal(key, plan, [need for _, need in entries])
        for key, entries in needs.items()
        if entries and key not in fixed
    ]
    return found, notes


def _one_save(run: PlannedRun) -> float | None:
    part = run.time_parts.get("saving")
    return part.value / run.train.epochs if isinstance(part, Quantity) and run.train is not None else None


def _interval_seconds(checkpoint: CheckpointConfig, total: float, steps: int) -> float | None:
    """Return the seconds between two checkpoints besides those at the end of each epoch. None if there are none."""
    every = checkpoint.every
    if every == "epoch":
        return None
    if every.minutes is not None:
        return minutes_to_seconds(every.minutes)
    return None if every.steps is None else total * every.steps / max(steps, 1)


def _proposal(key: str, plan: Plan, needs: list[float]) -> Proposal:
    train = next(run.train for run in plan.runs if run.train is not None)
    most = max(needs)
    if key == RESUME:
        return Proposal(
            key=key,
            before=f"{train.checkpoint.resume_minutes:g}",
            after=f"{math.ceil(most)}",
            why=f"saving then takes at most {_SAVING_SHARE:.0%} of the time; a killed run loses at most one interval",
            effect="none",
        )
    every = train.checkpoint.every
    written = (
        every if every == "epoch" else f"{{steps: {every.steps}}}" if every.steps else f"{{minutes: {every.minutes:g}}}"
    )
    return Proposal(
        key=key,
        before=written,
        after="epoch",
        why=f"a save takes {format_seconds(most * _SAVING_SHARE)}, more than {_SAVING_SHARE:.0%} of the interval",
        effect="none on the last checkpoint; there are fewer to choose the best from",
    )


def share_proposals(plan: Plan, cluster: Cluster, site: SlurmSite) -> Iterator[Proposal]:
    """Propose CPUs and memory per run, so that as many runs as the GPUs allow run at once."""
    on_node = min(cluster.gpus_per_node or cluster.gpus, cluster.gpus)
    at_once = on_node // plan.devices
    if at_once < 1:
        return
    trainings = sum(run.train is not None for run in plan.runs)
    at_once = max(min(at_once, trainings), 1)
    for key, asked, there, unit in (
        (CPUS, plan.compute.cpus_per_run or site.cpus_per_run, cluster.cpus, "CPUs"),
        (MEMORY, plan.compute.memory_gb_per_run or site.memory_gb, cluster.memory_gb, "GiB"),
    ):
        if there is None:
            continue
        share = math.floor(there / at_once)
        if share >= 1 and (asked is None or asked > share):
            yield Proposal(
                key=key,
                before="not set" if asked is None else f"{asked:g}",
                after=f"{share:g}",
                why=f"{there:g} {unit} per node for {at_once} concurrent runs",
                effect="none",
            )
