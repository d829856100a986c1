"""Cohorts: runs of a sweep that train side by side on one frozen base, in the job of the first.

Runs of a cohort have the same base, data, target modules, micro-batch and steps. Rank, alpha, learning rate, warmup,
weight decay and seed are free. Runs are grouped where the lower end of the predicted gain exceeds `WORTH` and memory
fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from touchline.backends.registry import get_backend
from touchline.core.estimate import Estimate, MemoryEstimate, MemoryVerdict
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.plan.times import time_limit
from touchline.plan.totals import sum_quantities
from touchline.spec.plan import Cohort, PlannedRun

WORTH = 1.15
"""Gain below which runs are not grouped: interrupted and failed runs cost more in a group."""
MOST = 8
"""Most runs of a cohort: an interruption costs all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SideBySide:
    """Prediction for several runs trained side by side."""

    gain: Estimate | Missing
    """How many times as fast as one after the other."""
    memory: MemoryEstimate | Missing
    """Peak memory of a step of all."""


Predict = Callable[[Sequence[PlannedRun]], SideBySide]


def plan_cohorts(
    runs: Sequence[PlannedRun], devices: int, wanted: str, predict: Predict, *, slots: int = 1
) -> tuple[tuple[Cohort, ...], tuple[str, ...]]:
    """Group the runs of a plan. Return the cohorts, and why other runs are trained alone, one line per reason.

    Args:
        runs: planned runs.
        devices: data-parallel size of a run.
        wanted: `compute.cohorts`: `auto`, `always` or `never`.
        predict: gain and memory of some runs side by side.
        slots: jobs trained at once on a CPU, of which none is to stay empty.
    """
    trained = [run for run in runs if run.train is not None]
    if wanted == "never" or len(trained) < 2:
        return (), ()
    cohorts: list[Cohort] = []
    alone: dict[str, list[str]] = {}
    alike: dict[tuple[object, ...], list[PlannedRun]] = {}
    for run in trained:
        obstacle = _obstacle(run, devices)
        if obstacle is None:
            alike.setdefault(_key(run), []).append(run)
        else:
            alone.setdefault(obstacle, []).append(run.name)
    for group in alike.values():
        found, why = _grouped(group, wanted, predict, min(MOST, -(-len(group) // slots)))
        cohorts += found
        together = {name for cohort in found for name in cohort.runs}
        if left := [run.name for run in group if run.name not in together]:
            alone.setdefault(why, []).extend(left)
    return tuple(cohorts), tuple(f"{', '.join(names)}: {why}" for why, names in alone.items())


def _obstacle(run: PlannedRun, devices: int) -> str | None:
    """Return why a run cannot be trained beside others; None if it can."""
    train = run.train
    assert train is not None
    if not get_backend(train.backend).capabilities.cohorts:
        return f"the backend {train.backend} trains one run at a time"
    if devices > 1:
        return f"the training has {devices} processes"
    if train.trains_all:
        return "all weights are trained"
    if run.link is not None:
        return "it continues from another run"
    for obstacle, there in (
        ("dropout draws random numbers in each run", train.lora.dropout > 0),
        ("NEFTune draws random numbers in each run", train.neftune_alpha is not None),
        ("DoRA needs the base's weights in each run", train.lora.dora),
        (f"lora.init: {train.lora.init} changes the base", train.lora.init in ("pissa", "olora")),
        ("the output head has an adapter", "lm_head" in train.lora.target_modules),
        ("the data holds images", run.data.images is not None),
        ("compiled layers hold one adapter", train.compile),
    ):
        if there:
            return obstacle
    return None


def _key(run: PlannedRun) -> tuple[object, ...]:
    """Return a key that is equal for runs that can be trained side by side."""
    assert run.train is not None
    assert run.batches is not None
    common = replace(
        run.train,
        learning_rate=1.0,
        warmup_fraction=0.0,
        weight_decay=0.0,
        lora=replace(run.train.lora, rank=1, alpha=None),
    )
    return (run.model, run.dataset, repr(run.data), repr(common), run.batches.steps, run.batches.micro_batch_size)


def _grouped(group: Sequence[PlannedRun], wanted: str, predict: Predict, most: int) -> tuple[list[Cohort], str]:
    """Split runs that can be trained side by side into cohorts as large as memory and `most` allow. Return them, and
    why others are trained alone."""
    why = "no other run has the same base, data, target modules, micro-batch and steps"
    if len(group) > 1 and most < 2:
        why = "each has a slot of its own"
    cohorts: list[Cohort] = []
    left = list(group)
    while len(left) > 1:
        for count in range(min(len(left), most), 1, -1):
            found = predict(left[:count])
            obstacle = _not_worth(found, wanted)
            if obstacle is None:
                break
            why = obstacle
        else:
            break
        cohorts.append(_cohort(left[:count], found))
        left = left[count:]
        why = "no other run is left to train beside"
    return cohorts, why


def _not_worth(found: SideBySide, wanted: str) -> str | None:
    memory = found.memory
    if isinstance(memory, Missing):
        return f"the memory of several side by side is unknown ({memory.missing})"
    if memory.verdict in (MemoryVerdict.OOM, MemoryVerdict.UNCERTAIN):
        return f"two side by side may need {memory.process.high:.3g} GiB, which is not known to fit"
    if wanted == "always":
        return None
    gain = found.gain
    if isinstance(gain, Missing):
        return f"the gain from training side by side is unknown ({gain.missing})"
    if gain.low <= WORTH:
        return (
            f"side by side they are predicted to be {gain.value:.2f} times as fast ({gain.low:.2f}-{gain.high:.2f});"
            f" grouped where the lower end exceeds {WORTH}"
        )
    return None


def _cohort(runs: Sequence[PlannedRun], found: SideBySide) -> Cohort:
    seconds = _seconds(runs, found.gain)
    assert not isinstance(found.memory, Missing)
    return Cohort(
        runs=tuple(run.name for run in runs),
        gain=found.gain if isinstance(found.gain, Missing) else found.gain.quantity(),
        train_seconds=seconds,
        time_limit_seconds=time_limit(seconds),
        peak_memory=found.memory.process.quantity(),
    )


def _seconds(runs: Sequence[PlannedRun], gain: Estimate | Missing) -> Measured:
    """Return the time of a cohort: the start-up of one run, the steps of all over the gain, and the rest of all."""
    steps = sum_quantities([run.time_parts.get("steps", run.train_seconds) for run in runs], "s")
    if isinstance(gain, Missing):
        return gain
    if isinstance(steps, Missing):
        return steps
    faster = Quantity(
        value=steps.value / gain.value,
        unit="s",
        low=None if steps.low is None else steps.low / gain.high,
        high=None if steps.high is None else steps.high / gain.low,
        coverage=steps.coverage,
        method="steps of all runs over the predicted gain",
    )
    rest = [part for name in ("validation", "saving") for run in runs if (part := run.time_parts.get(name)) is not None]
    once = [part for name in ("start-up", "tokenising") if (part := runs[0].time_parts.get(name)) is not None]
    return sum_quantities([faster, *once, *rest], "s")
