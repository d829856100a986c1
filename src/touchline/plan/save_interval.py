"""Proposals for the save interval, and for the CPUs and memory of each run in one allocation."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from touchline.core.quantity import Missing, Quantity
from touchline.core.units import format_seconds, minutes_to_seconds, plural
from touchline.experiment.experiment import CheckpointConfig
from touchline.experiment.plan import Plan
from touchline.experiment.site import SlurmSite
from touchline.plan.optimize import Proposal
from touchline.plan.placement.types import Cluster

EVERY = "train.checkpoint.every"
CPUS = "compute.cpus_per_run"
MEMORY = "compute.memory_gb_per_run"
_SAVING_SHARE = 0.02
"""Fraction of the training time that saving may take before a longer interval is proposed."""


def saving_proposals(plan: Plan, fixed: Collection[str]) -> tuple[list[Proposal], list[str]]:
    """Propose a longer interval between checkpoints if saving takes much of a training. Also return notes on unknowns.

    The plan predicts one save per epoch; saves at intervals are additional.
    """
    slowest, unknown = 0.0, 0
    for run in plan.runs:
        if run.train is None:
            continue
        part = run.time_parts.get("saving")
        if not isinstance(part, Quantity) or isinstance(run.train_seconds, Missing) or run.batches is None:
            unknown += 1
            continue
        one = part.value / run.train.epochs
        interval = _interval_seconds(run.train.checkpoint, run.train_seconds.value, run.batches.steps)
        if interval is not None and one > _SAVING_SHARE * interval:
            slowest = max(slowest, one)
    notes = [] if not unknown else [f"save interval of {plural(unknown, 'run')}: the time of a save has no estimate"]
    if not slowest or EVERY in fixed:
        return [], notes
    every = next(run.train.checkpoint.every for run in plan.runs if run.train is not None)
    assert every != "epoch"
    proposal = Proposal(
        key=EVERY,
        before=f"{{steps: {every.steps}}}" if every.steps else f"{{minutes: {every.minutes:g}}}",
        after="epoch",
        why=f"a save takes {format_seconds(slowest)}, more than {_SAVING_SHARE:.0%} of the interval",
        effect="none on the last checkpoint; there are fewer to choose the best from",
    )
    return [proposal], notes


def _interval_seconds(checkpoint: CheckpointConfig, total: float, steps: int) -> float | None:
    """Return the seconds between two checkpoints besides those at the end of each epoch. None if there are none."""
    every = checkpoint.every
    if every == "epoch":
        return None
    if every.minutes is not None:
        return minutes_to_seconds(every.minutes)
    return None if every.steps is None else total * every.steps / max(steps, 1)


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
