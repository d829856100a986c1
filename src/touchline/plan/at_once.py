"""Runs at once: cohorts, which train side by side on one frozen base in the job of the first, and slots of a CPU.

Runs of a cohort have the same base, data, target modules, micro-batch and steps. Rank, alpha, learning rate, warmup,
weight decay and seed are free. Runs are grouped where the lower end of the predicted gain exceeds `WORTH` and memory
fits.

Several one-thread trainings use a CPU better than one training with all threads, because small matrix products do not
divide well. Slots are taken where a probe measured both, the expected gain of the whole plan exceeds `SLOTS_WORTH`, and
memory fits. A wrong choice costs a few percent of the time, so the interval does not decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from touchline.backends.registry import get_backend
from touchline.core.estimate import Estimate, MemoryEstimate, MemoryVerdict
from touchline.core.machine import TargetMachine
from touchline.core.quantity import NO_EVIDENCE, Measured, Missing, Quantity
from touchline.core.units import plural
from touchline.data.packing.forecast import largest_divisor
from touchline.estimate.totals import queued_jobs, sum_quantities, time_of_queue
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.plan import Cohort, PlannedRun, TrainedAlone, WhyAlone
from touchline.experiment.settings import PER_RUN, with_defaults

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


Predict = Callable[[Sequence[PlannedRun]], SideBySide]


def plan_cohorts(
    runs: Sequence[PlannedRun],
    devices: int,
    wanted: str,
    predict: Predict,
    *,
    slots: int = 1,
    starts_with: Callable[[PlannedRun], object] = lambda run: None,
) -> tuple[tuple[Cohort, ...], tuple[TrainedAlone, ...]]:
    """Group the runs of a plan. Return the cohorts, and the runs that are trained alone.

    Args:
        wanted: `compute.cohorts`: `auto`, `always` or `never`.
        slots: jobs trained at once on a CPU, of which none is to stay empty.
        starts_with: key that is equal for runs that are started together; only these are grouped.
    """
    trained = [run for run in runs if run.train is not None]
    if wanted == "never" or len(trained) < 2:
        return (), ()
    cohorts: list[Cohort] = []
    obstacles: dict[str, list[str]] = {}
    alike: dict[tuple[object, ...], list[PlannedRun]] = {}
    for run in trained:
        obstacle = _obstacle(run, devices)
        if obstacle is None:
            alike.setdefault((*_key(run), starts_with(run)), []).append(run)
        else:
            obstacles.setdefault(obstacle, []).append(run.name)
    alone = [
        TrainedAlone(runs=tuple(names), why=WhyAlone.SETTINGS, reason=reason) for reason, names in obstacles.items()
    ]
    single: list[str] = []
    for group in alike.values():
        found, left, refused = _grouped(group, wanted, predict, min(MOST, -(-len(group) // slots)))
        cohorts += found
        if refused is not None:
            alone.append(refused)
        else:
            single += [run.name for run in left]
    if single:
        reason = "no other run has the same base, data, target modules, micro-batch and steps"
        alone.append(TrainedAlone(runs=tuple(single), why=WhyAlone.NO_OTHER, reason=reason))
    return tuple(cohorts), tuple(alone)


def _obstacle(run: PlannedRun, devices: int) -> str | None:
    """Return why a run cannot be trained with others; None if it can."""
    train = run.train
    assert train is not None
    if not get_backend(train.backend).capabilities.cohorts:
        return f"the backend {train.backend} trains one run at a time"
    if devices > 1:
        return f"a run has {devices} processes"
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
    common = with_defaults(run.train, PER_RUN)
    return (run.model, run.dataset, repr(run.data), repr(common), run.batches.steps, run.batches.micro_batch_size)


def _grouped(
    group: Sequence[PlannedRun], wanted: str, predict: Predict, most: int
) -> tuple[list[Cohort], list[PlannedRun], TrainedAlone | None]:
    """Split runs that can be trained side by side into cohorts as large as memory and `most` allow. Return them, the
    runs that are left, and why these are trained alone; None where one run is left alone."""
    cohorts: list[Cohort] = []
    left = list(group)
    if len(group) > 1 and most < 2:
        names = tuple(run.name for run in group)
        return [], left, TrainedAlone(runs=names, why=WhyAlone.SLOT, reason="each has a slot of its own")
    while len(left) > 1:
        refused: list[tuple[WhyAlone, Cohort]] = []
        for count in range(min(len(left), most), 1, -1):
            found = predict(left[:count])
            why, cohort = _judge(found, wanted), _cohort(left[:count], found)
            if why is None:
                cohorts.append(cohort)
                left = left[count:]
                break
            refused.append((why, cohort))
        else:
            # The largest that memory allows says most.
            why, nearest = next((each for each in refused if each[0] is WhyAlone.GAIN), refused[-1])
            names = tuple(run.name for run in left)
            reason = _reason(why, nearest)
            return cohorts, left, TrainedAlone(runs=names, why=why, reason=reason, predicted=nearest)
    return cohorts, left, None


def _judge(found: SideBySide, wanted: str) -> WhyAlone | None:
    if isinstance(found.memory, Missing):
        return WhyAlone.UNKNOWN
    if found.memory.verdict in (MemoryVerdict.OOM, MemoryVerdict.UNCERTAIN):
        return WhyAlone.MEMORY
    if wanted == "always":
        return None
    if isinstance(found.gain, Missing):
        return WhyAlone.UNKNOWN
    return WhyAlone.GAIN if found.gain.low <= WORTH else None


def _reason(why: WhyAlone, considered: Cohort) -> str:
    """Return a refusal in words; its figures are those of the considered cohort."""
    if why is WhyAlone.MEMORY:
        return "their memory side by side is not known to fit"
    if why is WhyAlone.GAIN:
        return f"the gain may be small: its lower end is not above {WORTH}"
    if isinstance(considered.peak_memory, Missing):
        return f"their memory side by side is unknown ({considered.peak_memory.missing})"
    return "their gain side by side is unknown" + (
        f" ({considered.gain.missing})" if isinstance(considered.gain, Missing) else ""
    )


def _cohort(runs: Sequence[PlannedRun], found: SideBySide) -> Cohort:
    seconds = _seconds(runs, found.gain)
    memory = found.memory
    return Cohort(
        runs=tuple(run.name for run in runs),
        gain=found.gain.quantity(),
        train_seconds=seconds,
        saved_seconds=_saved(runs, found.gain),
        peak_memory=memory if isinstance(memory, Missing) else memory.process.quantity(),
    )


def _steps(runs: Sequence[PlannedRun]) -> Measured:
    return sum_quantities([run.time_parts.get("training", run.train_seconds) for run in runs], "s")


def _seconds(runs: Sequence[PlannedRun], gain: Estimate | Missing) -> Measured:
    """Return the time of a cohort: the start-up of one run, the steps of all over the gain, and the rest of all."""
    steps = _steps(runs)
    if isinstance(gain, Missing):
        return gain
    if isinstance(steps, Missing):
        return steps
    faster = replace(
        steps,
        value=steps.value / gain.value,
        low=None if steps.low is None else steps.low / gain.high,
        high=None if steps.high is None else steps.high / gain.low,
        method="steps of all runs over the predicted gain",
    )
    rest = [part for name in ("validation", "saving") for run in runs if (part := run.time_parts.get(name)) is not None]
    return sum_quantities([faster, *_once(runs[0]), *rest], "s")


def _saved(runs: Sequence[PlannedRun], gain: Estimate | Missing) -> Measured:
    """Return the time that a cohort saves: of the steps as the gain says, and the start-up of all runs but one."""
    steps = _steps(runs)
    if isinstance(gain, Missing):
        return gain
    if isinstance(steps, Missing):
        return steps
    ends = [steps.value if end is None else end for end in (steps.low, steps.high)]
    fewer = replace(
        steps,
        value=steps.value * (1 - 1 / gain.value),
        low=min(end * (1 - 1 / gain.low) for end in ends),
        high=max(end * (1 - 1 / gain.high) for end in ends),
        method="steps of all runs less those over the predicted gain",
    )
    return sum_quantities([fewer, *(part for run in runs[1:] for part in _once(run))], "s")


def _once(run: PlannedRun) -> list[Measured]:
    return [part for name in ("start-up", "tokenising") if (part := run.time_parts.get(name)) is not None]


SLOTS_WORTH = 1.05
"""Gain below which one run is trained at a time."""
MOST_SLOTS = 8
"""Most slots that are chosen automatically: a probe holds that many processes in memory."""

PredictSlots = Callable[[PlannedRun, int], Estimate | Missing]


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotChoice:
    """Number of slots of a plan."""

    count: int
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
    return largest_divisor(threads, min(trained, threads, MOST_SLOTS)) if trained > 1 else 1


def choose_slots(
    runs: Sequence[PlannedRun],
    machine: TargetMachine,
    compute: ComputeConfig,
    *,
    decided: SlotChoice | None,
    predict: PredictSlots,
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
    if gain.value <= SLOTS_WORTH:
        reason = f"{_runs(1)}: {count} slots are {words}, and are used only above {SLOTS_WORTH} times"
        return SlotChoice(count=1, reason=reason, gain=gain)
    reason = f"{_runs(count)} with {threads} each: {words} than one after the other with all threads"
    return SlotChoice(count=count, reason=reason, gain=gain)


def _runs(count: int) -> str:
    return f"{plural(count, 'run')} at a time"


def _gain_of_plan(trained: Sequence[PlannedRun], count: int, predict: PredictSlots) -> Measured:
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
            value=whole / gain.value, unit="s", low=whole / gain.high, high=whole / gain.low, coverage=gain.coverage
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
        sizes.append(run.peak_memory.upper)
    needed = sum(sorted(sizes)[-count:])
    if isinstance(machine.memory, Missing) or needed > machine.memory.value:
        return f"{count} at once may need {needed:.3g} GiB, which is not known to fit"
    return None
