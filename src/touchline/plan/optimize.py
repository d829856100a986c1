"""Search for settings that make trainings faster with equivalent results.

Every variant is planned by the planner, and the plans are compared. Learning rate, global batch size, epochs, data
and the settings that the experiment varies stay unchanged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from touchline.core.estimate import EvidenceLevel, MemoryVerdict
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import format_seconds, minutes_to_seconds, plural
from touchline.estimate.totals import sum_quantities
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.requests import Cluster
from touchline.experiment.training import CheckpointConfig, TrainConfig
from touchline.experiment.value_types import SlurmSite
from touchline.plan.jobs import group_by_reason
from touchline.plan.placement.problem import Placement

OPTIMIZATION_SCHEMA_VERSION = 1

Basis = Literal["measured", "assumed", "unknown"]
"""`measured`: the estimate is based on past runs; `assumed`: on formulas and published figures only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """Proposed value of one setting of experiment.yaml, and its effect."""

    key: str
    """Dotted key."""
    before: str
    """Current value, as written in YAML."""
    after: str
    """Proposed value."""
    why: str
    """Reason."""
    effect: str
    """Effect on the results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOption:
    """Settings and predictions of a run, before or after."""

    micro_batch_size: int
    """Examples per forward pass."""
    gradient_accumulation_steps: int
    """Micro-batches per optimizer step."""
    gradient_checkpointing: bool
    """Whether activations are recomputed in the backward pass."""
    packed: bool
    """Whether sequences hold several examples."""
    train_seconds: Measured
    """Predicted wall-clock time of the training."""
    time_basis: Basis
    """Basis of the time."""
    peak_memory: Measured
    """Predicted peak memory of the process."""
    memory_basis: Basis
    """Basis of the memory."""
    verdict: MemoryVerdict
    """Whether the process fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunChange:
    """Run before and after."""

    name: str
    """Name of the run."""
    kept: str
    """Reason why it stays unchanged; empty if it may change."""
    before: RunOption
    """With the current experiment.yaml."""
    after: RunOption
    """With all proposals."""
    evaluate_seconds: Measured
    """Predicted wall-clock time of its evaluation, which no proposal changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimization:
    """Proposals for an experiment."""

    schema_version: int = OPTIMIZATION_SCHEMA_VERSION
    """Version of this format."""
    experiment: str
    """Name of the experiment."""
    proposals: tuple[Proposal, ...]
    """Proposed changes."""
    runs: tuple[RunChange, ...]
    """All trainings."""
    training_before: Measured
    """Time of all trainings with the current experiment.yaml."""
    training_after: Measured
    """Time of all trainings with all proposals."""
    placement_before: Placement | Missing
    """Schedule of all unfinished jobs, unchanged."""
    placement_after: Placement | Missing
    """Schedule of all unfinished jobs with all proposals."""
    notes: tuple[str, ...]
    """Changes that were not proposed, with reasons, and what the figures exclude."""


CHECKPOINTING = "train.gradient_checkpointing"
MICRO_BATCH = "train.micro_batch_size"
PACKED = "train.packed"
_ORDER = (CHECKPOINTING, MICRO_BATCH, PACKED)
"""Order in which effects are listed: less recomputation, larger micro-batches, packing."""
WORTH = 0.95
"""Time relative to now above which a change is not worth making. Smaller gains are within the prediction error."""
_AS_GOOD = 1.01
"""Variants whose times differ by less than this factor are equally good, and the one with fewer changes is chosen."""

Changes = Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanVariant:
    """Plan with changed settings."""

    changes: Changes
    plan: Plan


def list_variants(train: TrainConfig, fixed: Collection[str]) -> list[dict[str, object]]:
    """Return every combination of changes worth planning."""
    options: dict[str, list[object]] = {CHECKPOINTING: [not train.gradient_checkpointing]}
    # `auto` is the largest that fits and still increases throughput, per run: one value cannot be that for all models.
    if train.micro_batch_size != "auto":
        options[MICRO_BATCH] = ["auto"]
    if train.packed != "auto":
        options[PACKED] = ["auto"]
    keys = [key for key in _ORDER if key in options and key not in fixed]
    chosen = [[(key, None), *((key, value) for value in options[key])] for key in keys]
    found = ({key: value for key, value in each if value is not None} for each in itertools.product(*chosen))
    return [each for each in found if each]


def choose_variant(
    before: Plan, tried: Sequence[PlanVariant], started: Collection[str]
) -> tuple[PlanVariant | None, list[str]]:
    """Return the variant to propose, or None, and notes on why others were rejected."""
    reason = _unpredictable(before)
    if reason is not None:
        return None, [f"no faster settings can be predicted: {reason}"]
    admissible: list[PlanVariant] = []
    refused: dict[str, list[str]] = {}
    for way in tried:
        why = _refused(before, way.plan, started)
        if why is None:
            admissible.append(way)
        else:
            refused.setdefault(why, []).append(changes_text(way.changes))
    notes = [f"not proposed: {' / '.join(dict.fromkeys(names))} ({why})" for why, names in refused.items()]
    if not admissible:
        return None, notes
    now = _score(before)
    best = min(_score(way.plan) for way in admissible)
    good = [way for way in admissible if _as_good(_score(way.plan), best)]
    way = min(good, key=lambda way: (len(way.changes), _score(way.plan)))
    found = _score(way.plan)
    if found[0] < now[0] or found[1] < WORTH * now[1]:
        return way, notes
    return None, [*notes, f"no other settings are predicted to take less than {WORTH:.0%} of the current time"]


def proposals(before: Plan, way: PlanVariant) -> list[Proposal]:
    """Return the variant's changes."""
    return [
        Proposal(
            key=key,
            before=written_value(_written(before, key)),
            after=written_value(way.changes[key]),
            why=_why(key, way),
            effect=_effect(key, way.plan),
        )
        for key in _ORDER
        if key in way.changes
    ]


def compare(before: Plan, after: Plan, kept: Mapping[str, str]) -> list[RunChange]:
    """Return every training before and after."""
    found: list[RunChange] = []
    for run in before.runs:
        other = after.run(run.name)
        first, second = to_run_option(run), None if other is None else to_run_option(other)
        if first is None or second is None:
            continue
        found.append(
            RunChange(
                name=run.name,
                kept=kept.get(run.name, ""),
                before=first,
                after=second,
                evaluate_seconds=run.evaluate_seconds,
            )
        )
    return found


def to_run_option(run: PlannedRun) -> RunOption | None:
    """Return a planned run as an option. None for a control."""
    train, batches = run.train, run.batches
    if train is None or batches is None:
        return None
    return RunOption(
        micro_batch_size=batches.micro_batch_size,
        gradient_accumulation_steps=batches.gradient_accumulation_steps,
        gradient_checkpointing=train.gradient_checkpointing,
        packed=train.packed is True,
        train_seconds=run.train_seconds,
        time_basis=_time_basis(run.train_seconds),
        peak_memory=run.peak_memory,
        memory_basis=_memory_basis(run),
        verdict=MemoryVerdict.UNKNOWN if isinstance(run.memory, Missing) else run.memory.verdict,
    )


def training_seconds(plan: Plan) -> Measured:
    """Return the time of all trainings of a plan, one after the other."""
    return sum_quantities([run.train_seconds for run in plan.runs if run.train is not None], "s")


def changes_text(changes: Changes) -> str:
    """Return `train.packed: auto, ...`."""
    return ", ".join(f"{key}: {written_value(value)}" for key, value in changes.items())


# ---- judging a way ---------------------------------------------------------------------------------------------------


def _trained(plan: Plan) -> Iterator[PlannedRun]:
    return (run for run in plan.runs if run.train is not None)


def _unpredictable(plan: Plan) -> str | None:
    unknown: dict[str, list[str]] = {}
    for run in _trained(plan):
        if isinstance(run.train_seconds, Missing):
            unknown.setdefault(run.train_seconds.missing, []).append(run.name)
    return group_by_reason(unknown) if unknown else None


def _refused(before: Plan, after: Plan, started: Collection[str]) -> str | None:
    for run in _trained(before):
        other = after.run(run.name)
        if other is None:
            return f"{run.name} would be removed"
        if other.digest == run.digest:
            continue
        if run.name in started:
            return f"{run.name} has started and would change"
        if isinstance(other.train_seconds, Missing):
            return f"{run.name}: {other.train_seconds.missing}"
        if isinstance(other.memory, Missing):
            return f"{run.name}: its memory is unknown: {other.memory.missing}"
        if other.memory.verdict is not MemoryVerdict.FITS and not _needs_less(run, other):
            return f"{run.name} may not fit: {other.memory.verdict.value}"
    return None


def _needs_less(run: PlannedRun, other: PlannedRun) -> bool:
    if isinstance(run.memory, Missing) or isinstance(other.memory, Missing):
        return False
    return other.memory.process.high <= run.memory.process.high


def _score(plan: Plan) -> tuple[int, float]:
    """Return the number of runs that may not fit and the seconds of all trainings; lower is better."""
    unsure = sum(
        isinstance(run.memory, Missing) or run.memory.verdict is not MemoryVerdict.FITS for run in _trained(plan)
    )
    total = training_seconds(plan)
    return unsure, total.value if isinstance(total, Quantity) else float("inf")


def _as_good(score: tuple[int, float], best: tuple[int, float]) -> bool:
    return score[0] == best[0] and score[1] <= _AS_GOOD * best[1]


# ---- words -----------------------------------------------------------------------------------------------------------


def _time_basis(value: Measured) -> Basis:
    if isinstance(value, Missing):
        return "unknown"
    return "measured" if value.where else "assumed"


def _memory_basis(run: PlannedRun) -> Basis:
    if isinstance(run.memory, Missing):
        return "unknown"
    return "assumed" if run.memory.process.rung is EvidenceLevel.NOTHING else "measured"


def _written(plan: Plan, key: str) -> object:
    """Return the value of a key in the plan's first training. Keys with the value `auto` do not occur."""
    train = next(run.train for run in plan.runs if run.train is not None)
    return getattr(train, key.removeprefix("train."))


def written_value(value: object) -> str:
    """Return a value as written in YAML."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _why(key: str, way: PlanVariant) -> str:
    runs = list(_trained(way.plan))
    if key == CHECKPOINTING:
        if way.changes[key]:
            return "recomputes activations in the backward pass: slower, but it fits"
        return "activations need not be recomputed: every run is predicted to fit without it"
    if key == MICRO_BATCH:
        sizes = dict.fromkeys(_batches(run) for run in runs)
        return (
            f"the largest that fits and still increases throughput, per run: {', '.join(sizes)} (micro x accumulation)"
        )
    packed = sum(run.train is not None and run.train.packed is True for run in runs)
    return f"the option that is predicted to be faster and fits: {packed} of {len(runs)} runs packed"


def _batches(run: PlannedRun) -> str:
    batches = run.batches
    return "?" if batches is None else f"{batches.micro_batch_size} x {batches.gradient_accumulation_steps}"


def _effect(key: str, plan: Plan) -> str:
    if key == CHECKPOINTING:
        return "none: the same operations, with results stored or recomputed"
    rounding = {
        MICRO_BATCH: "other summation order: equal up to rounding; examples, order and global batch size stay",
        PACKED: "the same examples in other sequences: equal up to rounding if packed examples are isolated "
        "(touchline pack check-isolation)",
    }[key]
    drops = any(run.train is not None and run.train.lora.dropout > 0 for run in plan.runs)
    return f"{rounding}; with dropout, the masks differ" if drops else rounding


def speedup_text(before: Measured, after: Measured) -> str:
    """Return `20:00:00 to 4:00:00, 5.0 times as fast`. Empty if either is missing."""
    if isinstance(before, Missing) or isinstance(after, Missing) or after.value <= 0:
        return ""
    factor = before.value / after.value
    return f"{format_seconds(before.value)} to {format_seconds(after.value)}, {factor:.2g} times as fast"


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
