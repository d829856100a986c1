"""Measured points of time and memory from run records, imported or our own.

A record that cannot be used is returned with the reason instead of being guessed. Our own runs record their work
(`RunRecord.work`); for others it follows from their settings, if these are unambiguous.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from touchline.backends.facts import MemoryCoefficients, adapted
from touchline.backends.registry import memory_coefficients, traits_of
from touchline.core.estimate import Dtype, Method, MicroBatch, TrainingSetup
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.shape import ModelShape
from touchline.core.units import in_unit
from touchline.estimate.coefficients import VARIANT_BYTES
from touchline.estimate.evidence_memory import MeasuredPoint
from touchline.estimate.gpus import similar_gpus
from touchline.estimate.layers import size_of
from touchline.estimate.points import CostSample, TimePoint
from touchline.estimate.spreads import NOT_TOLD, ONE_SIZE, USUAL_COUNT, lengths_of_mean, outgrown_of, widths_of
from touchline.estimate.work import StepWork
from touchline.history.reading import OptionalText, SourcedText
from touchline.history.record import MachineFacts, RunRecord
from touchline.history.run_facts import DTYPES, flag_of

T = TypeVar("T")

_METHODS: Final = frozenset({"lora", "qlora", "full"})
_LACKING: Final = {
    "gpu": "the log names no device, or one with several memory sizes",
    "model": "the log names no model",
    "trainer": "the log does not name the trainer",
    "method": "the log does not state the method",
    "precision": "the log does not state the dtype",
    "micro_batch_size": "the log does not state the micro-batch size",
    "gradient_accumulation_steps": "the log does not state the gradient accumulation steps",
    "dataset": "the padding of its batches is unknown",
    "max_seq_len": "packed, but the log does not state the sequence length",
}
"""Reason why a record cannot be used, by the missing fact."""
_MOST_COUNTED = 10_000
"""Micro-batches of a record from which on more make no difference."""
_NARROW = 1.3
"""Ratio of longest to mean length up to which the width of a padded batch is close to either."""


def read_or_missing(
    read: Callable[[RunRecord, Callable[[str], ModelShape | Missing]], T | Missing],
    record: RunRecord,
    shape_of: Callable[[str], ModelShape | Missing],
) -> T | Missing:
    """Return a value read from a record, or missing if its figures are impossible, as in a file edited by hand."""
    try:
        return read(record, shape_of)
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        return Missing(missing=f"impossible figures: {error}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PastRun:
    """Measured points of a record, or the reasons why it has none."""

    name: str
    time: TimePoint | Missing
    memory: tuple[MeasuredPoint, ...] | Missing
    """One point per kind of memory."""


def collect_points(
    records: Iterable[RunRecord], shape_of: Callable[[str], ModelShape | Missing]
) -> tuple[PastRun, ...]:
    """Return the points of the history."""
    return tuple(
        PastRun(
            name=record.run or record.name,
            time=read_or_missing(to_time_point, record, shape_of),
            memory=read_or_missing(to_memory_points, record, shape_of),
        )
        for record in records
    )


def to_time_point(record: RunRecord, shape_of: Callable[[str], ModelShape | Missing]) -> TimePoint | Missing:
    """Return the time point of a record, or the reason why it has none."""
    seconds = _first(record.costs.seconds_per_step_without_pauses, record.costs.seconds_per_step)
    if seconds is None or seconds <= 0:
        return Missing(missing="no seconds per step")
    machine = record.machine.key
    devices = _first(record.machine.gpus)
    if devices is not None and devices > 1:
        return Missing(missing=f"{devices:.0f} devices: communication time is not modeled")
    lacking = missing_facts(record)
    if lacking or machine is None:
        return missing_facts_reason(lacking)
    setup = to_training_setup(record, shape_of)
    if isinstance(setup, Missing):
        return setup
    work = _work_of_record(record)
    if isinstance(work, Missing):
        return work
    weights = float(setup.shape.num_parameters * size_of(setup.base_dtype))
    scored = _first(record.work.validation_tokens)
    return TimePoint(
        name=record.run or record.name,
        setup=setup,
        unstated=unstated_settings(record),
        machine=machine,
        work=work,
        seconds_per_step=seconds,
        steps=max(1, int(_first(record.work.steps, record.course.steps_done) or 1)),
        whole_seconds_per_step=_first(record.work.whole_seconds_per_step),
        startup=_spent(record.work.startup_seconds, weights),
        compiling=_spent(record.work.compile_seconds, _first(record.work.compiled_shapes)),
        # The record has the label tokens; their share of all positions is that of the training.
        validation=_spent(
            record.work.validation_seconds, scored and scored * work.tokens / max(work.label_tokens, 1.0)
        ),
        saving=_spent(record.work.saving_seconds, _first(in_unit(record.costs.checkpoint_size, "B"))),
        evaluation=_spent(record.work.evaluation_seconds, _first(record.work.evaluation_samples)),
    )


def missing_facts(record: RunRecord) -> tuple[str, ...]:
    """Return the facts that a record lacks for an estimate, by the keys that state them.

    Empty also if neither time nor memory was measured, since no fact would help.
    """
    costs = record.costs
    timed = _first(costs.seconds_per_step_without_pauses, costs.seconds_per_step) is not None
    if not timed and isinstance(costs.peak_memory, Missing):
        return ()
    machine = ("gpu",) if timed and not _is_known(record.machine) else ()
    return (*machine, *_missing_settings(record), *_missing_batches(record))


def missing_facts_reason(keys: tuple[str, ...]) -> Missing:
    """Return the reason that a record lacks these facts, with the options that state them."""
    return Missing(missing="; ".join(f"{_LACKING[key]} (history import {flag_of(key)})" for key in keys))


def _is_known(machine: MachineFacts) -> bool:
    """Return True if a machine is of one type. `A100` stands for GPUs with two memories."""
    return machine.key is not None and (isinstance(machine.gpu, Missing) or len(similar_gpus(machine.gpu.value)) < 2)


def _missing_settings(record: RunRecord) -> tuple[str, ...]:
    training = record.training
    known = {
        "model": isinstance(record.model.name, SourcedText),
        "trainer": isinstance(record.stack.trainer, SourcedText),
        "method": isinstance(training.method, SourcedText),
        "precision": said_word(training.base_dtype) in DTYPES,
    }
    return tuple(key for key, is_known in known.items() if not is_known)


def _missing_batches(record: RunRecord) -> tuple[str, ...]:
    work = record.work
    if all(_first(each) is not None for each in (work.micro_batches, work.padded_tokens, work.label_tokens)):
        return ()
    batching = record.batching
    rows = _first(batching.micro_batch_size)
    known = {
        "micro_batch_size": rows is not None,
        "gradient_accumulation_steps": _first(batching.gradient_accumulation_steps, batching.global_batch_size)
        is not None,
    }
    keys = [key for key, is_known in known.items() if not is_known]
    if isinstance(sequence_width(record), Missing):
        keys.append("max_seq_len" if said_word(record.packing.packed) == "true" else "dataset")
    return tuple(keys)


def to_training_setup(record: RunRecord, shape_of: Callable[[str], ModelShape | Missing]) -> TrainingSetup | Missing:
    """Return the training setup of a record, or the settings that are missing."""
    together = _first(record.work.side_by_side)
    if together is not None and together > 1:
        return Missing(missing=f"{together:.0f} runs trained in one process: time and memory are those of all")
    lacking = _missing_settings(record)
    if lacking or not isinstance(record.model.name, SourcedText):
        return missing_facts_reason(lacking)
    shape = shape_of(record.model.name.value)
    if isinstance(shape, Missing):
        return shape
    training = record.training
    method, dtype, trainer = (said_word(said) for said in (training.method, training.base_dtype, record.stack.trainer))
    assert trainer is not None
    assert dtype is not None
    # Other kinds of adapters than LoRA are named where the method is, as PEFT names them.
    variant = method.lower() if method is not None and method.lower() in VARIANT_BYTES else "lora"
    quantization = said_word(training.quantization)
    if method is not None and variant != "lora":
        method = "qlora" if quantization == "nf4" else "lora"
    if method not in _METHODS:
        return Missing(missing=f"unknown method {str(method)[:40]!r}")
    targets = said_word(training.target_modules)
    return TrainingSetup(
        shape=shape,
        backend=trainer,
        method=cast(Method, method),
        rank=int(_first(training.rank) or 0),
        target_modules=adapted(shape, tuple(re.findall(r"[\w-]+", targets)), traits_of(trainer).layer_names)
        if targets
        else (),
        base_dtype=cast(Dtype, DTYPES[dtype]),
        adapter_dtype=cast(Dtype, DTYPES.get(said_word(training.adapter_dtype) or dtype, DTYPES[dtype])),
        optimizer=said_word(training.optimizer) or "adamw",
        gradient_checkpointing=said_word(training.gradient_checkpointing) == "true",
        attention="eager" if said_word(training.attention) == "eager" else "fused",
        variant=variant,
        compiled=said_word(training.compiled) == "true",
        dropout=_first(training.dropout) or 0.0,
        accumulates=(_passes(record) or 1.0) > 1,
        release=_release(record),
        int8_base=quantization == "int8",
        nested_scales=True if method == "qlora" and record.origin == "touchline" else None,
    )


def unstated_settings(record: RunRecord) -> tuple[str, ...]:
    """Return the fields of a record's training setup that nothing states. They are unknown, and not different."""
    training, method = record.training, said_word(record.training.method)
    adapter = {
        # touchline's older records hold no dropout, which is 0 by default.
        "dropout": isinstance(training.dropout, Quantity) or record.origin == "touchline",
        "target_modules": isinstance(training.target_modules, SourcedText),
        "rank": isinstance(training.rank, Quantity),
        # touchline's own runs hold the scales of a 4-bit base in 8 bits; of others that is not known.
        "nested_scales": method != "qlora" or record.origin == "touchline",
    }
    known = {
        "adapter_dtype": isinstance(training.adapter_dtype, SourcedText),
        **(adapter if method != "full" else {}),
        "accumulates": _passes(record) is not None,
        "optimizer": isinstance(training.optimizer, SourcedText),
        "gradient_checkpointing": isinstance(training.gradient_checkpointing, SourcedText),
        "attention": isinstance(training.attention, SourcedText),
        "compiled": isinstance(training.compiled, SourcedText),
        "release": _with_releases(record) is None or _release(record) is not None,
    }
    return tuple(name for name, is_known in known.items() if not is_known)


def _release(record: RunRecord) -> str | None:
    """Return the version of a trainer whose releases compute their loss in different ways. None: unknown, or another.

    touchline's own records hold no version of its trainers, and its programs take none before `own_release`.
    """
    trainer, coefficients = said_word(record.stack.trainer), _with_releases(record)
    if coefficients is None:
        return None
    named = (each.partition("=") for each in record.stack.versions)
    own = coefficients.own_release if record.origin == "touchline" else None
    # A package may have another word and a hyphen before the trainer's name.
    return next((version for library, _, version in named if library.rpartition("-")[2] == trainer), own)


def _with_releases(record: RunRecord) -> MemoryCoefficients | None:
    """Return the coefficients of a trainer whose loss follows its version. None for every other trainer."""
    found = memory_coefficients(said_word(record.stack.trainer) or "")
    return None if isinstance(found, Missing) or not found.releases else found


def _passes(record: RunRecord) -> float | None:
    batching = record.batching
    rows, passes, whole = (
        _first(each)
        for each in (batching.micro_batch_size, batching.gradient_accumulation_steps, batching.global_batch_size)
    )
    found = _first(record.work.micro_batches) if passes is None else passes
    return whole / rows if found is None and whole and rows else found


def sequence_width(record: RunRecord) -> float | Missing:
    """Return the mean tokens per sequence, padding included, from the settings of a run."""
    limit, mean, longest = (
        _first(each)
        for each in (record.batching.max_seq_len, record.batching.mean_tokens, record.batching.longest_tokens)
    )
    if said_word(record.packing.packed) == "true":
        return limit or missing_facts_reason(("max_seq_len",))
    rows = _first(record.batching.micro_batch_size)
    if mean and (rows == 1 or said_word(record.batching.grouped_by_length) == "true"):
        return mean
    if mean and longest and rows and longest <= _NARROW * mean:
        # The longest of so many equally likely lengths lies this far up.
        return mean + (longest - mean) * (1 - 1 / rows)
    return missing_facts_reason(("dataset",))


def _work_of_record(record: RunRecord) -> StepWork | Missing:
    work = record.work
    passes, tokens, labels = (_first(each) for each in (work.micro_batches, work.padded_tokens, work.label_tokens))
    if passes and tokens and labels is not None:
        squares = _first(work.squared_widths) or tokens * tokens / passes / _rows(record)
        return StepWork(micro_batches=passes, tokens=tokens, squares=squares, label_tokens=labels)
    batching = record.batching
    rows, passes = _first(batching.micro_batch_size), _passes(record)
    if rows is None or rows < 1:
        return missing_facts_reason(("micro_batch_size",))
    if passes is None or passes < 1:
        return missing_facts_reason(("gradient_accumulation_steps",))
    width = sequence_width(record)
    if isinstance(width, Missing):
        return width
    tokens = rows * width * passes
    return StepWork(micro_batches=passes, tokens=tokens, squares=tokens * width, label_tokens=tokens)


def _rows(record: RunRecord) -> float:
    return max(1.0, _first(record.batching.micro_batch_size) or 1.0)


def _spent(seconds: Measured, amount: float | None) -> CostSample | None:
    found = _first(seconds)
    return CostSample(seconds=found, amount=amount) if found and amount else None


def _first(*measured: Measured) -> float | None:
    return next((each.value for each in measured if not isinstance(each, Missing)), None)


def said_word(said: OptionalText) -> str | None:
    """Return the word of a fact; None where nothing says it."""
    return said.value if isinstance(said, SourcedText) else None


def to_memory_points(
    record: RunRecord, shape_of: Callable[[str], ModelShape | Missing]
) -> tuple[MeasuredPoint, ...] | Missing:
    """Return one memory point per kind of memory, or the reason why there is none."""
    if isinstance(record.costs.peak_memory, Missing):
        return record.costs.peak_memory
    setup = to_training_setup(record, shape_of)
    if isinstance(setup, Missing):
        return setup
    batch = _largest(record)
    if isinstance(batch, Missing):
        return batch
    if batch.rows < 1 or batch.width < 1:
        return Missing(missing="its largest micro-batch is empty")
    name, unstated, outgrown = record.run or record.name, unstated_settings(record), _outgrown(record, batch)
    points = tuple(
        MeasuredPoint(
            setup=setup,
            batch=batch,
            kind=peak.kind,
            peak_gib=size.value,
            name=name,
            unstated=unstated,
            outgrown=outgrown,
        )
        for peak in record.costs.peak_memory
        if peak.kind is not None and peak.phase == "step" and peak.value > 0
        if isinstance(size := in_unit(peak, "GiB"), Quantity) and size.unit == "GiB"
    )
    return points or Missing(missing="no peak measured during training")


def _outgrown(record: RunRecord, largest: MicroBatch) -> tuple[float, float]:
    """Return what `outgrown_of` says of a record's micro-batches, by their mean width or by the mean length."""
    if said_word(record.packing.packed) == "true":
        return ONE_SIZE
    work, batching = record.work, record.batching
    passes, tokens = _first(work.micro_batches), _first(work.padded_tokens)
    if passes and tokens:
        count = min((_first(work.steps) or USUAL_COUNT) * passes, _MOST_COUNTED)
        mean = min(tokens / passes / largest.rows, largest.width)
        return outgrown_of(lengths_of_mean(largest.width, mean, max(1, int(count))))
    mean_or_none, longest = _first(batching.mean_tokens), _first(batching.longest_tokens)
    if not mean_or_none or not longest:
        return NOT_TOLD
    lengths = lengths_of_mean(math.ceil(longest), min(mean_or_none, longest), USUAL_COUNT * largest.rows)
    return outgrown_of(widths_of(lengths, largest.rows))


def _largest(record: RunRecord) -> MicroBatch | Missing:
    """Return the largest micro-batch: as recorded, or sequences times the longest possible one."""
    work = record.work
    facts = (work.largest_rows, work.largest_width, work.largest_label_tokens)
    if all(isinstance(fact, Quantity) for fact in facts):
        rows, width, labels = (math.ceil(fact.value) for fact in facts if isinstance(fact, Quantity))
        return MicroBatch(rows=rows, width=width, label_tokens=min(labels, rows * width))
    micro = record.batching.micro_batch_size
    if not isinstance(micro, Quantity) or micro.value < 1:
        return missing_facts_reason(("micro_batch_size",))
    longest = record.batching.longest_tokens
    width_or_none = math.ceil(longest.value) if isinstance(longest, Quantity) else sequence_width(record)
    if isinstance(width_or_none, Missing):
        return width_or_none
    rows, width = int(micro.value), math.ceil(width_or_none)
    return MicroBatch(rows=rows, width=width, label_tokens=rows * width)
