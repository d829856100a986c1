"""A probe of one planned run: real steps at its longest batch on this machine, kept as evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from touchline.backends import batching_of, get_backend
from touchline.backends.protocol import Lengths
from touchline.catalog.lengths import token_lengths
from touchline.catalog.settings import Settings
from touchline.catalog.shapes import shape_of_folder
from touchline.domain.estimate import MicroBatch
from touchline.domain.machine import TargetMachine
from touchline.domain.plan import Plan, PlannedRun
from touchline.domain.probe import ProbedModel, ProbeReport, ProbeRequest, ProbeTry
from touchline.domain.quantity import Missing
from touchline.domain.record import RunRecord
from touchline.domain.shape import ModelShape
from touchline.errors import InputFault
from touchline.estimate.bracket import divisors
from touchline.evidence.history import remember
from touchline.evidence.probes import probe_record
from touchline.launch.host_memory import free_host_bytes
from touchline.launch.machine import machine_here
from touchline.launch.probing import Say, probe
from touchline.packing.forecast import settings_of
from touchline.plan.outlook import Outlook, memory_of
from touchline.steps.outlook import look_at
from touchline.steps.planning import Planned
from touchline.units import GIB

PROBED = "peft"
"""The trainer that a probe runs: our own."""


def heaviest(plan: Plan) -> PlannedRun:
    """The run that is predicted to take the most memory, else the one with the largest micro-batch.

    Raises:
        InputFault: no run trains anything.
    """
    trained = [run for run in plan.runs if run.batches is not None and run.train is not None]
    if not trained:
        raise InputFault("no run of this plan trains anything")

    def weight(run: PlannedRun) -> tuple[float, int]:
        memory = run.peak_memory
        size = 0.0 if isinstance(memory, Missing) else memory.value
        return size, 0 if run.batches is None else run.batches.largest_micro_batch_tokens

    return max(trained, key=weight)


def probe_run(
    planned: Planned, run: PlannedRun, settings: Settings, *, limit_bytes: int | None, say: Say | None
) -> ProbeReport:
    """Try micro-batches of a run; every try that says something of memory enters the history at once.

    Args:
        planned: the experiment.
        run: the run.
        settings: where models, caches and the history are.
        limit_bytes: what a try may take of the machine's memory; none: most of what is free.
        say: hears of progress.

    Raises:
        InputFault: the run trains nothing, or not with our trainer.
        EnvironmentFault: the packages that train are not installed.
        RunsFailed: the first try could not be made.
    """
    if run.train is None or run.batches is None:
        raise InputFault(f"{run.name} is a control: it trains nothing", hint="--run another one")
    if run.train.backend != PROBED:
        raise InputFault(f"a probe runs the trainer {PROBED!r}, and {run.name} is trained by {run.train.backend!r}")
    model = planned.plan.models[run.model]
    found = token_lengths(model, run.data, "train", planned.folder.root, planned.plan.date, settings.cache_dir)
    lengths = Lengths(prompt=found.prompt, answer=found.answer, prefix=found.prefix)
    batches = {size: _largest(run, lengths, size) for size in divisors(run.train.global_batch_size)}
    machine = machine_here(planned.plan.gpus_per_run)
    shape = shape_of_folder(Path(model.path))
    limit = free_host_bytes() if limit_bytes is None else limit_bytes

    def keep(one: ProbeTry) -> None:
        record = probe_record(request, one, None if isinstance(shape, Missing) else shape, machine)
        if isinstance(record, RunRecord):
            remember(settings.history_dir, record)

    request = ProbeRequest(
        model=ProbedModel(name=model.name, path=model.path),
        train=run.train,
        seed=run.seed,
        width=1,
        label_tokens=1,
        micro_batches_per_step=2 if run.batches.gradient_accumulation_steps > 1 else 1,
    )
    predicted = _predicted(run, shape, batches, machine, limit)
    return probe(request, batches, predicted=predicted, host_limit_bytes=limit, say=say, keep=keep)


def _largest(run: PlannedRun, lengths: Lengths, size: int) -> MicroBatch:
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
    """The largest size that should fit by the formula; none where it has no dimensions to go by."""
    if isinstance(shape, Missing) or run.train is None:
        return None
    outlook: Outlook = look_at(machine, {run.model: shape})
    fitting = None
    for size, batch in sorted(batches.items()):
        setup = get_backend(run.train.backend).setup(run.train, shape, machine, batch.width)
        found = memory_of(setup, batch, outlook)
        if isinstance(found, Missing):
            return None
        room = limit_bytes / GIB if machine.kind == "cpu" else getattr(found.capacity_gib, "value", None)
        if room is None:
            return None
        if found.process.value <= room:
            fitting = size
    return fitting
