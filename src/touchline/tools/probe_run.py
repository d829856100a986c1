"""Probe of one planned run: real steps at its longest batch on this machine, stored in the history."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import batching_of, get_backend
from touchline.core.callbacks import MessageCallback
from touchline.core.errors import InputError, TouchlineError
from touchline.core.estimate import MicroBatch
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing, Quantity
from touchline.core.shape import ModelShape
from touchline.core.units import GIB
from touchline.data.lengths import token_lengths
from touchline.data.machine import load_1min, machine_here
from touchline.data.packing.forecast import settings_of
from touchline.data.shapes import shape_of_folder
from touchline.data.user_config import UserConfig
from touchline.estimate.bracket import divisors
from touchline.estimate.local.past_runs import past_runs
from touchline.estimate.points import TimePoint, model_key, stack_key
from touchline.estimate.terms import place
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.training import DEFAULT_BACKEND
from touchline.history.probe import ProbedModel, ProbeOutcome, ProbeReport, ProbeRequest, ProbeTry
from touchline.history.probes import probe_record
from touchline.history.record import RunRecord
from touchline.history.records import store_record
from touchline.plan.at_once import slots_to_try
from touchline.plan.context import PlanningContext, estimate_memory
from touchline.plan.local.context import formula_context
from touchline.run.folders import ExperimentFolder
from touchline.run.loaded_plan import LoadedPlan
from touchline.tools.probing import describe, error_of, free_host_bytes, probe, require_packages, try_batch

PROBED = DEFAULT_BACKEND
"""Trainer used by a probe."""


def heaviest(plan: Plan) -> PlannedRun:
    """Return the run with the largest predicted memory, else with the largest micro-batch.

    Raises:
        InputError: no run trains anything.
    """
    trained = [run for run in plan.runs if run.batches is not None and run.train is not None]
    if not trained:
        raise InputError("no run of this plan is trained")

    def weight(run: PlannedRun) -> tuple[float, int]:
        memory = run.peak_memory
        size = 0.0 if isinstance(memory, Missing) else memory.value
        return size, 0 if run.batches is None else run.batches.largest_micro_batch_tokens

    return max(trained, key=weight)


def probe_run(
    planned: LoadedPlan, run: PlannedRun, settings: UserConfig, *, limit_bytes: int | None, on_message: MessageCallback
) -> ProbeReport:
    """Try micro-batches of a run; every try with a memory measurement is stored in the history at once.

    Args:
        limit_bytes: host memory limit of a try; most of the free memory if None.

    Raises:
        InputError: the run trains nothing, or not with our trainer.
        HostError: the training packages are not installed.
        RunsFailedError: the first try could not be made.
    """
    if run.train is None or run.batches is None:
        raise InputError(f"{run.name} is a control without training", hint="choose a trained run with --run")
    if run.train.backend != PROBED:
        raise InputError(f"a probe runs the trainer {PROBED!r}, but {run.name} is trained by {run.train.backend!r}")
    lengths = _lengths(planned.plan, run, planned.folder.root, settings)
    batches = {size: _largest(run, lengths, size) for size in divisors(run.train.global_batch_size)}
    machine = machine_here(planned.plan.gpus_per_run)
    shape = shape_of_folder(Path(planned.plan.models[run.model].path))
    limit = free_host_bytes() if limit_bytes is None else limit_bytes
    request, keep = _request(planned.plan, run, settings, machine)
    predicted = _predicted(run, shape, batches, machine, limit)
    report = probe(request, batches, predicted=predicted, host_limit_bytes=limit, on_message=on_message, keep=keep)
    if slots_of_probe(planned.plan) > 1:
        measure_slots(planned.plan, run, planned.folder.root, settings, on_message)
    return report


_NO_MEMORY = Missing(missing="a batch of the mean size was tried, not the largest one")
MOST_STEPS = 20
"""Maximum number of steps of a quick probe."""
BUDGET_SECONDS = 4.0
"""Time budget of its steps beyond the minimum number; process start is extra."""
_BUSY = 1.5
"""Load per thread above which other processes use the machine."""
_BUSY_WORDS = "The machine was busy during the probe (load {:.1f}). Expect shorter times when it is idle."
PATIENCE_SECONDS = 180.0
"""Timeout of a quick probe."""


def unmeasured(plan: Plan, runs: Sequence[PlannedRun], settings: UserConfig) -> list[PlannedRun]:
    """Return one run per model without measurements on this machine, the one with the longest training.

    Args:
        plan: plan; one for another machine has no such runs.
    """
    if plan.executor != "local" or machine_here(plan.gpus_per_run).key != plan.machine.whole.key:
        return []
    found: dict[str, PlannedRun] = {}
    for run in runs:
        if run.train is None or run.batches is None or run.train.backend != PROBED:
            continue
        if run.model not in found or _seconds(run) > _seconds(found[run.model]):
            found[run.model] = run
    past = past_runs(settings, {PROBED}, found).time if found else ()
    return [run for run in found.values() if not _is_known(plan, run, past)]


def measure_unknown(plan: Plan, folder: ExperimentFolder, settings: UserConfig, on_message: MessageCallback) -> bool:
    """Measure some steps of each model to be trained here without measurements on this machine.

    A failed probe is reported and ignored; predictions then use formulas.

    Returns:
        Whether something was learned, so that the plan is to be made again.
    """
    learned = False
    waiting = [run for run in plan.runs if not folder.has_started(run.name)]
    unknown = unmeasured(plan, waiting, settings)
    for run in unmeasured_slots(plan, folder):
        on_message(f"No measurements of {slots_of_probe(plan)} runs at once on this machine. Running a short probe.")
        learned = measure_slots(plan, run, folder.root, settings, on_message) or learned
        unknown = [other for other in unknown if other.model != run.model]
    for run in unknown:
        on_message(f"No measurements of {run.model} on this machine. Running a short probe (skip with --no-probe).")
        try:
            one = quick_probe(plan, run, folder.root, settings)
        except TouchlineError as fault:
            on_message(f"probe failed ({fault.message}), so the plan is based on formulas")
            continue
        kept = one.outcome is ProbeOutcome.FITS or one.outcome.out_of_memory
        on_message(f"probe: {describe(one)}" + ("" if kept else ", so the plan is based on formulas"))
        if kept and (load := busy_load(one)) is not None:
            on_message(_BUSY_WORDS.format(load))
        learned = learned or kept
    return learned


WORTH_SECONDS = 60.0
"""Predicted time of all runs below which slots are not measured: a probe of them takes half a minute."""


def slots_of_probe(plan: Plan) -> int:
    """Return the number of slots that a probe of a plan measures; 1 for none."""
    trained = [run for run in plan.runs if run.train is not None]
    if any(run.train is not None and run.train.backend != PROBED for run in trained):
        return 1
    return slots_to_try(plan.machine.whole, plan.compute, len(trained))


def unmeasured_slots(plan: Plan, folder: ExperimentFolder) -> list[PlannedRun]:
    """Return one run per model, the one with the longest training, if slots may be chosen and were not measured.

    Args:
        plan: plan; slots are chosen before any training starts.
    """
    trained = [run for run in plan.runs if run.train is not None]
    seconds = sum(_seconds(run) for run in trained)
    if plan.compute.slots != "auto" or slots_of_probe(plan) < 2 or seconds < WORTH_SECONDS:
        return []
    if not isinstance(plan.slots_gain, Missing) or any(folder.has_started(run.name) for run in trained):
        return []
    if plan.machine.whole.key != machine_here(plan.gpus_per_run).key or _is_busy(plan.machine.whole):
        return []
    longest = sorted(trained, key=_seconds)
    return list({run.model: run for run in longest}.values())


def _is_busy(machine: TargetMachine) -> bool:
    load = load_1min()
    return isinstance(load, Quantity) and load.value > _BUSY * (machine.threads or 1)


def measure_slots(plan: Plan, run: PlannedRun, root: Path, settings: UserConfig, on_message: MessageCallback) -> bool:
    """Measure some steps of a run with all threads, then in slots at the same time, and store both in the history.

    Returns:
        Whether something was learned. A failed probe is reported and ignored.
    """
    count = slots_of_probe(plan)
    try:
        whole = quick_probe(plan, run, root, settings)
        on_message(f"probe: {describe(whole)}")
        if whole.seconds_per_step is None:
            return whole.outcome.out_of_memory
        if (load := busy_load(whole)) is not None:
            on_message(f"{_BUSY_WORDS.format(load)} Runs at once were not measured.")
            return True
        in_slots = quick_probe(plan, run, root, settings, count, whole.seconds_per_step)
    except TouchlineError as fault:
        on_message(f"probe failed ({fault.message})")
        return False
    seconds = in_slots.seconds_per_step
    if seconds is None:
        on_message(f"probe, {count} at once: {describe(in_slots)}")
    else:
        gain = count * whole.seconds_per_step / seconds
        on_message(f"probe, {count} at once: {describe(in_slots)}, {gain:.2f} times as fast as one after the other")
    return True


def busy_load(one: ProbeTry) -> float | None:
    """Return the machine's load before a try on a CPU if other processes used it too, else None."""
    if one.answer is None or one.answer.machine.device != "cpu" or one.answer.machine.load_1min is None:
        return None
    load = one.answer.machine.load_1min
    return load if load > _BUSY * one.answer.machine.threads else None


def quick_probe(
    plan: Plan,
    run: PlannedRun,
    root: Path,
    settings: UserConfig,
    slots: int = 1,
    whole_seconds_per_step: float | None = None,
) -> ProbeTry:
    """Measure some steps of a run at its usual batch in a separate process, and store them in the history.

    Args:
        slots: processes that do the same steps at the same time.
        whole_seconds_per_step: of a probe of slots, the same step with all threads and nothing next to it.

    Raises:
        InputError: the model cannot be loaded.
        HostError: the training packages are not installed, or the history is not writable.
        RunsFailedError: no step could be made.
    """
    assert run.batches is not None
    require_packages()
    machine = machine_here(plan.gpus_per_run) if slots == 1 else replace(plan.machine.whole, slots=slots)
    request, keep = _request(plan, run, settings, machine, largest=False, whole_seconds_per_step=whole_seconds_per_step)
    one, fault = try_batch(
        replace(request, steps=MOST_STEPS, budget_seconds=BUDGET_SECONDS),
        run.batches.micro_batch_size,
        _usual(run, _lengths(plan, run, root, settings)),
        free_host_bytes() // slots,
        PATIENCE_SECONDS,
        slots=slots,
        threads=None if slots == 1 else machine.threads_per_run,
    )
    if fault is not None:
        raise error_of(fault)
    if slots == 1 or one.outcome is ProbeOutcome.FITS:
        keep(one)
    return one


def _is_known(plan: Plan, run: PlannedRun, past: Sequence[TimePoint]) -> bool:
    assert run.train is not None
    shape = shape_of_folder(Path(plan.models[run.model].path))
    if isinstance(shape, Missing):
        # Without dimensions no estimate could use what is measured.
        return True
    setup = get_backend(run.train.backend).setup(run.train, shape, plan.machine, 1, plan.data_parallel_size)
    return any(
        model_key(point.setup.shape) == model_key(shape)
        and place(point.machine) == place(plan.machine.whole.key)
        and stack_key(point.setup) == stack_key(setup)
        for point in past
    )


def _seconds(run: PlannedRun) -> float:
    return 0.0 if isinstance(run.train_seconds, Missing) else run.train_seconds.value


def _usual(run: PlannedRun, lengths: ExampleLengths) -> MicroBatch:
    """Return a micro-batch with the mean number of tokens of the run's micro-batches."""
    assert run.train is not None
    forecast = get_backend(run.train.backend).forecast(run.train, lengths, run.seed)
    if isinstance(forecast, Missing) or run.batches is None:
        raise InputError(f"the batches of {run.name} are unknown")
    tokens = float(forecast.micro_batch_tokens.mean())
    rows = max(1, min(forecast.largest.rows, run.batches.micro_batch_size))
    width = max(2, math.ceil(tokens / rows))
    share = forecast.largest.label_tokens / forecast.largest.tokens
    return MicroBatch(rows=rows, width=width, label_tokens=min(max(rows, round(rows * width * share)), rows * width))


def _lengths(plan: Plan, run: PlannedRun, root: Path, settings: UserConfig) -> ExampleLengths:
    model = plan.models[run.model]
    found = token_lengths(model, run.data, "train", root, plan.date, settings.cache_dir)
    return ExampleLengths(prompt=found.prompt, answer=found.answer, prefix=found.prefix)


def _request(
    plan: Plan,
    run: PlannedRun,
    settings: UserConfig,
    machine: TargetMachine,
    *,
    largest: bool = True,
    whole_seconds_per_step: float | None = None,
) -> tuple[ProbeRequest, Callable[[ProbeTry], None]]:
    """Return the common request of all tries of a run, and a function that stores a try in the history.

    Without the `largest` batch a try measures speed only, not the memory of the training.
    """
    assert run.train is not None
    assert run.batches is not None
    model = plan.models[run.model]
    shape = shape_of_folder(Path(model.path))
    request = ProbeRequest(
        model=ProbedModel(name=model.name, path=model.path),
        train=run.train,
        seed=run.seed,
        width=1,
        label_tokens=1,
        micro_batches_per_step=2 if run.batches.gradient_accumulation_steps > 1 else 1,
    )

    def keep(one: ProbeTry) -> None:
        dimensions = None if isinstance(shape, Missing) else shape
        record = probe_record(request, one, dimensions, machine, whole_seconds_per_step=whole_seconds_per_step)
        if isinstance(record, RunRecord):
            costs = record.costs if largest else replace(record.costs, peak_memory=_NO_MEMORY)
            store_record(settings.history_dir, replace(record, costs=costs))

    return request, keep


def _largest(run: PlannedRun, lengths: ExampleLengths, size: int) -> MicroBatch:
    assert run.train is not None
    settings = settings_of(replace(run.train, micro_batch_size=size, packed=False), seed=run.seed)
    largest = batching_of(PROBED).forecast(lengths.total, settings, lengths.answer).largest
    return replace(largest, label_tokens=max(largest.label_tokens, largest.rows))


def _predicted(
    run: PlannedRun,
    shape: ModelShape | Missing,
    batches: Mapping[int, MicroBatch],
    machine: TargetMachine,
    limit_bytes: int,
) -> int | None:
    """Return the largest size predicted to fit; None without model dimensions."""
    if isinstance(shape, Missing) or run.train is None:
        return None
    context: PlanningContext = formula_context(machine, {run.model: shape})
    fitting = None
    for size, batch in sorted(batches.items()):
        setup = get_backend(run.train.backend).setup(run.train, shape, machine, batch.width)
        found = estimate_memory(setup, batch, context)
        if isinstance(found, Missing):
            return None
        room = limit_bytes / GIB if machine.kind == "cpu" else getattr(found.capacity_gib, "value", None)
        if room is None:
            return None
        if found.process.value <= room:
            fitting = size
    return fitting
