"""A probe's tries become records of the history: what they measured counts like a run's, what did not fit as well.

A try that was cut short, timed out or crashed says nothing of memory and gives no record.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from touchline.core.machine import TargetMachine
from touchline.core.quantity import Measured, MemoryKind, Missing, Quantity
from touchline.core.shape import ModelShape
from touchline.core.status import Outcome
from touchline.core.units import GIB, format_bytes
from touchline.history.facts import RUN_FACTS, fact_at, facts_of_settings, record_from
from touchline.history.probe import ProbeAnswer, ProbeOutcome, ProbeRequest, ProbeTry
from touchline.history.readers import READERS_VERSION
from touchline.history.reading import EvidenceLine, SourcedText
from touchline.history.record import NOT_LOGGED, MachineFacts, ModelFacts, Quantities, RunRecord, WorkFacts

WHERE = "probe"
"""The place of every number: no file, but a process of this machine."""
_PROBE = Missing(missing="a probe")
_UNKNOWN = Missing(missing="unknown, because its process was killed")
_OUTCOMES = {
    ProbeOutcome.FITS: Outcome.COMPLETED,
    ProbeOutcome.GPU_OOM: Outcome.GPU_OOM,
    ProbeOutcome.HOST_OOM: Outcome.HOST_OOM,
}


_DIMENSIONS = {
    "layers": "num_layers",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "heads": "num_heads",
    "kv_heads": "num_kv_heads",
    "vocab_size": "vocab_size",
}
"""Facts of a model's dimensions, each with its field of the shape."""


def probe_record(
    request: ProbeRequest,
    one: ProbeTry,
    shape: ModelShape | None,
    machine: TargetMachine,
    *,
    whole_seconds_per_step: float | None = None,
) -> RunRecord | Missing:
    """Return the record of one try; `history.store_record` stores it.

    Args:
        shape: the model's dimensions; none where they are not known.
        whole_seconds_per_step: of a try in slots, the same step with all threads and nothing next to it.
    """
    if one.outcome not in _OUTCOMES:
        return Missing(missing=f"the probe failed: {one.message}")
    answer, batch, train = one.answer, one.batch, request.train
    per_row, passes = request.examples_per_row, request.micro_batches_per_step
    known: dict[str, Any] = {
        **dict.fromkeys(RUN_FACTS, _PROBE),
        **_training(request, shape, answer),
        **_costs(request, one),
        "versions": () if answer is None else tuple(sorted(f"{k}={v}" for k, v in answer.machine.versions.items())),
        "trainer": _text(train.backend),
        "micro_batch_size": _number(one.micro_batch_size, "1"),
        "gradient_accumulation_steps": _number(passes, "1"),
        "global_batch_size": _number(one.micro_batch_size * passes, "1"),
        "max_seq_len": _number(max(train.max_seq_len, batch.width), "tokens"),
        "mean_tokens": _number(batch.width / per_row, "tokens", aggregation="mean"),
        "longest_tokens": _number(-(-batch.width // per_row), "tokens"),
        "grouped_by_length": NOT_LOGGED,
        "dataset": NOT_LOGGED,
        "packed": _text(str(per_row > 1).lower()),
        "total_examples": _number(batch.rows * per_row, "examples"),
        "total_sequences": _number(batch.rows, "1"),
        "packing_density": _number(per_row, "1"),
        "packing_efficiency": _number(100, "%", method="rows filled by construction"),
        "steps_done": _number(0 if answer is None else len(answer.step_seconds), "steps"),
        "steps_total": _number(request.steps, "steps"),
        "outcome": _text(_OUTCOMES[one.outcome].value),
        "segment_list": (),
        "proofs": (EvidenceLine(where=WHERE, text=one.message, says=one.outcome.value),) if one.message else (),
    }
    return replace(
        record_from(f"probe {request.model.name} {batch.rows}x{batch.width}", known, notes=_notes(request, one)),
        reader_version=READERS_VERSION,
        origin="touchline",
        model=_model(request, shape, answer),
        machine=_machine(machine, answer),
        work=_work(request, one, whole_seconds_per_step),
    )


def _model(request: ProbeRequest, shape: ModelShape | None, known: ProbeAnswer | None) -> ModelFacts:
    none = Missing(missing="the model's dimensions are unknown")
    parameters: Measured = none
    if known is not None and known.work is not None:
        parameters = _number(known.work.base_parameters, "parameters")
    elif shape is not None:
        parameters = _number(shape.num_parameters, "parameters")
    return ModelFacts(
        name=_text(request.model.name),
        parameters=parameters,
        **{key: none if shape is None else _number(getattr(shape, name), "1") for key, name in _DIMENSIONS.items()},
    )


def _training(request: ProbeRequest, shape: ModelShape | None, known: ProbeAnswer | None) -> dict[str, object]:
    train, lora = request.train, request.train.lora
    work = None if known is None else known.work
    trainable: Measured = _UNKNOWN
    if work is not None:
        trainable = _number(work.trainable_parameters, "parameters")
    elif shape is not None:
        count = shape.num_parameters if train.trains_all else shape.adapter_parameters(lora.rank, lora.target_modules)
        trainable = _number(count, "parameters")
    return {
        **{fact_at(f"training.{name}"): fact for name, fact in facts_of_settings(train, _number, WHERE).items()},
        "trainable_parameters": trainable,
        "dtype": _UNKNOWN if known is None else _text(known.machine.base_dtype),
        "optimizer": _UNKNOWN if work is None else _text(work.optimizer),
        "gradient_checkpointing": _text(str(train.gradient_checkpointing).lower()),
        "attention": _UNKNOWN if work is None else _text(work.attention),
    }


def _machine(machine: TargetMachine, known: ProbeAnswer | None) -> MachineFacts:
    """Return the device; a CPU's threads belong to its name, since times with other threads do not compare."""
    name, threads = machine.name, machine.threads_per_run
    if known is not None:
        name, threads = known.machine.name, known.machine.threads
    memory = machine.memory if known is None else _memory_gib(known.machine.memory_bytes)
    if machine.kind == "cpu":
        return MachineFacts(
            gpu=Missing(missing="trained on a CPU"),
            gpu_memory=Missing(missing="trained on a CPU"),
            gpus=_number(0, "1"),
            processor=_text(name),
            threads=Missing(missing="not known") if threads is None else _number(threads, "1"),
            at_once=_number(machine.slots, "1"),
        )
    return MachineFacts(gpu=_text(name), gpu_memory=memory, gpus=_number(1, "1"))


def _work(request: ProbeRequest, one: ProbeTry, whole: float | None) -> WorkFacts:
    batch, times = one.batch, request.micro_batches_per_step
    answer = one.answer
    setup = None if answer is None else answer.setup_seconds
    return WorkFacts(
        micro_batches=_number(times, "1"),
        padded_tokens=_number(batch.tokens * times, "tokens"),
        squared_widths=_number(batch.rows * batch.width**2 * times, "1"),
        label_tokens=_number(batch.label_tokens * times, "tokens"),
        steps=_number(request.steps - 1, "1"),
        largest_rows=_number(batch.rows, "1"),
        largest_width=_number(batch.width, "tokens"),
        largest_label_tokens=_number(batch.label_tokens, "tokens"),
        startup_seconds=Missing(missing="not reached") if setup is None else _number(setup, "s"),
        side_by_side=_number(1, "runs"),
        whole_seconds_per_step=Missing(missing="not a probe of slots")
        if whole is None
        else _number(whole, "s", phase="step"),
    )


def _costs(request: ProbeRequest, one: ProbeTry) -> dict[str, object]:
    none = Missing(missing="it did not fit")
    seconds, rate = one.seconds_per_step, one.tokens_per_second
    each: Measured = none
    fast: Quantities = none
    examples: Measured = none
    if seconds is not None and rate is not None and one.answer is not None and one.answer.work is not None:
        how = f"median of {request.steps - 1} steps after the first"
        each = _number(seconds, "s", phase="step", aggregation="median", method=how)
        labels = one.batch.label_tokens * request.micro_batches_per_step / seconds
        fast = (
            _number(rate, "tokens/s", token_unit="padded", aggregation="median", method=how),
            _number(labels, "tokens/s", token_unit="label", aggregation="median", method=how),
        )
        per_second = one.answer.work.examples_per_step / seconds
        examples = _number(per_second, "examples/s", aggregation="median", method=how)
    memory = None if one.answer is None else one.answer.memory
    peaks: list[Quantity] = []
    loaded: Measured = none
    if memory is not None and one.answer is not None:
        kind: MemoryKind = "process" if one.answer.machine.device == "cpu" else "allocated"
        # Weights that are mapped from their file are resident only once they have been read.
        counted = "untouched weights are not counted" if kind == "process" else None
        loaded = _memory_gib(memory.loaded_bytes, phase="after_init", kind=kind, method=counted)
        sizes: tuple[tuple[MemoryKind, int | None], ...] = (
            ("allocated", memory.allocated_bytes),
            ("reserved", memory.reserved_bytes),
            ("process", memory.process_bytes),
        )
        for kind, size in sizes:
            read = memory.method if kind == "process" else None
            if size is not None:
                peaks.append(_memory_gib(size, phase="step", kind=kind, aggregation="peak", method=read))
    return {
        "seconds_per_step": each,
        "seconds_per_step_without_pauses": each,
        "tokens_per_second": fast,
        "examples_per_second": examples,
        "peak_memory": tuple(peaks) or none,
        "memory_after_init": loaded,
    }


def _notes(request: ProbeRequest, one: ProbeTry) -> tuple[str, ...]:
    batch = one.batch
    work = None if one.answer is None else one.answer.work
    notes = [
        f"a probe: {batch.rows} x {batch.width} computed tokens including padding, {batch.label_tokens} label "
        "tokens, synthetic data"
    ]
    if work is not None:
        notes.append(f"layout {work.layout}")
    if one.answer is not None and one.answer.setup_seconds is not None:
        notes.append(f"{one.answer.setup_seconds:.1f} s from process start to the first step")
    if one.answer is not None and one.answer.machine.load_1min is not None:
        notes.append(f"machine load before it {one.answer.machine.load_1min:.1f}")
    if one.outcome is ProbeOutcome.HOST_OOM:
        notes.append(f"process memory limit {format_bytes(one.limit_bytes)}")
    if request.gpu_limit_bytes is not None:
        notes.append(f"GPU memory limit {format_bytes(request.gpu_limit_bytes)}")
    return tuple(notes)


def _memory_gib(size_bytes: float, **more: Any) -> Quantity:
    return _number(size_bytes / GIB, "GiB", **more)


def _number(value: float, unit: str, **more: Any) -> Quantity:
    return Quantity(value=value, unit=unit, where=WHERE, **more)


def _text(value: object) -> SourcedText:
    return SourcedText(value=str(value), where=WHERE)
