"""Slots: runs trained at once on the CPU of this machine, each with its share of the threads.

Several one-thread trainings use a CPU better than one training with all threads, because small matrix products do not
divide well. Slots are taken where a probe measured both, the expected gain of the whole plan exceeds `WORTH`, and
memory fits. A wrong choice costs a few percent of the time, so the interval does not decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from touchline.core.estimate import Estimate
from touchline.core.machine import TargetMachine
from touchline.core.quantity import NO_EVIDENCE, Measured, Missing, Quantity
from touchline.core.units import plural
from touchline.data.packing.batches import largest_divisor
from touchline.estimate.totals import queued_jobs, time_of_queue
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.plan import PlannedRun

WORTH = 1.05
"""Gain below which one run is trained at a time."""
MOST = 8
"""Most slots that are chosen automatically: a probe holds that many processes in memory."""

Predict = Callable[[PlannedRun, int], Estimate | Missing]


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotChoice:
    """Number of slots of a plan."""

    count: int
    """Runs at once."""
    reason: str
    """Reason; empty where slots do not apply."""
    gain: Measured
    """How many times as fast all trainings are as one after the other with all threads."""


def slots_to_try(machine: TargetMachine, compute: ComputeConfig, trained: int) -> int:
    """Return the slots that `compute.slots` names or that are worth measuring; 1 where there are none."""
    if machine.kind != "cpu" or compute.executor != "local" or (compute.plans_for_cpu and compute.gpus_per_run > 1):
        return 1
    threads = machine.threads or 1
    if compute.slots != "auto":
        return min(compute.slots, threads)
    return largest_divisor(threads, min(trained, threads, MOST)) if trained > 1 else 1


def choose_slots(
    runs: Sequence[PlannedRun],
    machine: TargetMachine,
    compute: ComputeConfig,
    *,
    decided: SlotChoice | None,
    predict: Predict,
) -> SlotChoice:
    """Choose the number of slots of a plan.

    Args:
        runs: runs, planned with all threads for each.
        decided: choice for the runs that have started, whose number of threads stays; None if none has.
        predict: gain of a run's training in so many slots, without waiting for others.
    """
    if decided is not None:
        return decided
    trained = [run for run in runs if run.train is not None]
    count = slots_to_try(machine, compute, len(trained))
    if count == 1:
        written = "" if compute.slots == "auto" or machine.kind != "cpu" else f"{_runs(1)}: as written"
        return SlotChoice(count=1, reason=written, gain=NO_EVIDENCE)
    gain = _gain_of_plan(trained, count, predict)
    threads = plural(machine.whole_threads // count, "thread")
    if compute.slots != "auto":
        return SlotChoice(count=count, reason=f"{_runs(count)} with {threads} each: as written", gain=gain)
    if isinstance(gain, Missing):
        reason = f"{_runs(1)}: the gain of {count} slots is unknown ({gain.missing})"
        return SlotChoice(count=1, reason=reason, gain=gain)
    words = f"predicted to be {gain.value:.2f} times as fast ({gain.low:.2f} to {gain.high:.2f})"
    if (obstacle := _memory_obstacle(trained, machine, count)) is not None:
        return SlotChoice(count=1, reason=f"{_runs(1)}: {obstacle}", gain=gain)
    if gain.value <= WORTH:
        reason = f"{_runs(1)}: {count} slots are {words}, and are used only above {WORTH} times"
        return SlotChoice(count=1, reason=reason, gain=gain)
    reason = f"{_runs(count)} with {threads} each: {words} than one after the other with all threads"
    return SlotChoice(count=count, reason=reason, gain=gain)


def _runs(count: int) -> str:
    return f"{plural(count, 'run')} at a time"


def _gain_of_plan(trained: Sequence[PlannedRun], count: int, predict: Predict) -> Measured:
    """Return the gain of all trainings, in which slots may stay empty at the end or wait for a parent."""
    jobs = queued_jobs(trained, {})
    alone = time_of_queue(jobs, 1)
    if isinstance(alone, Missing):
        return alone
    gains = {run.name: predict(run, count) for run in trained}
    methods: dict[str, None] = {}
    in_slots = []
    for job in jobs:
        gain = gains[job.name]
        if isinstance(gain, Missing):
            return gain
        methods[gain.method] = None
        assert isinstance(job.seconds, Quantity)
        whole = count * job.seconds.value
        seconds = Quantity(
            value=whole / gain.value,
            unit="s",
            low=whole / gain.high,
            high=whole / gain.low,
            coverage=gain.coverage,
        )
        in_slots.append(replace(job, seconds=seconds))
    found = time_of_queue(in_slots, count)
    assert isinstance(found, Quantity)
    assert found.low is not None
    assert found.high is not None
    return Quantity(
        value=alone.value / found.value,
        unit="times",
        low=alone.value / found.high,
        high=alone.value / found.low,
        coverage=found.coverage,
        method="; ".join(methods),
    )


def _memory_obstacle(trained: Sequence[PlannedRun], machine: TargetMachine, count: int) -> str | None:
    """Return why the memory of the largest runs beside each other may not suffice; None if it does."""
    sizes = []
    for run in trained:
        if isinstance(run.peak_memory, Missing):
            return f"the memory of several runs is unknown ({run.peak_memory.missing})"
        sizes.append(run.peak_memory.value if run.peak_memory.high is None else run.peak_memory.high)
    needed = sum(sorted(sizes)[-count:])
    if isinstance(machine.memory, Missing) or needed > machine.memory.value:
        return f"{count} at once may need {needed:.3g} GiB, which is not known to fit"
    return None
