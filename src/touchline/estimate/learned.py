"""From what was measured to points: a metrics.jsonl of our own trainer, and records of the history.

A run that cannot be used is not guessed at: it comes back with the reason.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, cast

from touchline.domain.estimate import Dtype, Method, TrainingSetup
from touchline.domain.metrics import Metrics, StepRow
from touchline.domain.quantity import Measured, Missing
from touchline.domain.reading import Said, Word
from touchline.domain.record import RunRecord
from touchline.domain.shape import ModelShape
from touchline.estimate.points import Spent, TimePoint
from touchline.estimate.work import StepWork

_ROW_TOKENS = re.compile(r"rows of (\d+) tokens")
_METHODS: Final = frozenset({"lora", "qlora", "full"})
_DTYPES: Final = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
    "half": "float16",
}
_NARROW = 1.3
"""Longest over mean length up to which the width of a padded batch lies within some per cent of either."""
_FEW = 2
"""Steps after the first that a median needs."""


def point_of_metrics(
    metrics: Metrics,
    setup: TrainingSetup,
    *,
    name: str,
    weights_bytes: float | None = None,
    process_seconds: float | None = None,
) -> TimePoint | Missing:
    """What a run of our own trainer teaches.

    Args:
        metrics: its metrics.jsonl.
        setup: its settings; element type and kernel of attention are taken from what ran.
        name: what to call it.
        weights_bytes: size of the base's weights, if start-up is to be learned.
        process_seconds: wall time of the trainer's processes; with it start-up holds the imports too, which the trainer
            cannot see.

    Returns:
        The point, or why there is none.
    """
    if not metrics.attempts:
        return Missing(missing="no attempt began")
    attempt = metrics.attempts[-1]
    # The first step of an attempt pays for allocations, and the last of an epoch may be smaller.
    attempts = {row.attempt for row in metrics.steps}
    firsts = {min(row.step for row in metrics.steps if row.attempt == number) for number in attempts}
    steps = [row for row in metrics.steps if row.step not in firsts]
    if len(steps) < _FEW:
        return Missing(missing=f"{len(metrics.steps)} steps are too few to tell what one takes")
    usual = max(row.examples for row in steps)
    steps = [row for row in steps if row.examples == usual] or steps
    device = attempt.device
    return TimePoint(
        name=name,
        setup=replace(
            setup,
            base_dtype=cast(Dtype, _DTYPES.get(attempt.base_dtype, setup.base_dtype)),
            adapter_dtype=cast(Dtype, _DTYPES.get(attempt.adapter_dtype, setup.adapter_dtype)),
            gradient_checkpointing=attempt.gradient_checkpointing,
            attention="eager" if attempt.attention == "eager" else "fused",
        ),
        machine=device if attempt.device_kind == "cuda" else f"{device}, {attempt.threads} threads",
        work=_work_of_rows(steps, attempt.layout),
        seconds_per_step=statistics.median(row.seconds for row in steps),
        steps=len(steps),
        startup=_startup(metrics, weights_bytes, process_seconds),
        validation=_validation(metrics, steps),
        saving=_saving(metrics),
    )


def _work_of_rows(steps: list[StepRow], layout: str) -> StepWork:
    tokens = statistics.fmean(row.padded_tokens for row in steps)
    examples = statistics.fmean(row.examples for row in steps)
    limit = _ROW_TOKENS.search(layout)
    # Rows with several examples are filled to near their limit, or hold a whole micro-batch where that is less.
    micro_batches = statistics.fmean(row.micro_batches for row in steps)
    width = tokens / examples if limit is None else min(float(limit[1]), tokens / micro_batches)
    return StepWork(
        micro_batches=micro_batches,
        tokens=tokens,
        squares=tokens * width,
        label_tokens=statistics.fmean(row.target_tokens for row in steps),
    )


def _startup(metrics: Metrics, weights_bytes: float | None, process_seconds: float | None) -> Spent | None:
    if weights_bytes is None:
        return None
    if process_seconds is None:
        return Spent(seconds=metrics.attempts[-1].setup_seconds, amount=weights_bytes)
    inside = sum(row.seconds for row in metrics.steps) + sum(row.seconds for row in metrics.validations)
    inside += sum(row.seconds for row in metrics.checkpoints)
    rest = (process_seconds - inside) / len(metrics.attempts)
    return Spent(seconds=rest, amount=weights_bytes) if rest > 0 else None


def _validation(metrics: Metrics, steps: list[StepRow]) -> Spent | None:
    if not metrics.validations:
        return None
    # A validation counts its examples; their width is that of the training's.
    tokens = sum(row.padded_tokens for row in steps) / sum(row.examples for row in steps)
    return Spent(
        seconds=statistics.median(row.seconds for row in metrics.validations),
        amount=metrics.validations[-1].examples * tokens,
    )


def _saving(metrics: Metrics) -> Spent | None:
    if not metrics.checkpoints:
        return None
    return Spent(
        seconds=statistics.fmean(row.seconds for row in metrics.checkpoints),
        amount=statistics.fmean(float(row.size_bytes) for row in metrics.checkpoints),
    )


# ---- records of the history ------------------------------------------------------------------------------------------


def points_of_records(
    records: Iterable[RunRecord], shape_of: Callable[[str], ModelShape | Missing]
) -> tuple[tuple[TimePoint, ...], tuple[tuple[str, Missing], ...]]:
    """What the history teaches of time, and what of it cannot be used.

    Args:
        records: imported runs and our own.
        shape_of: the dimensions of a model by the name that a log gives it.

    Returns:
        The points, and each other record's name with the reason.
    """
    points: list[TimePoint] = []
    refused: list[tuple[str, Missing]] = []
    for record in records:
        found = point_of_record(record, shape_of)
        if isinstance(found, Missing):
            refused.append((record.name, found))
        else:
            points.append(found)
    return tuple(points), tuple(refused)


def point_of_record(record: RunRecord, shape_of: Callable[[str], ModelShape | Missing]) -> TimePoint | Missing:
    """What one record teaches of time, or why it teaches nothing."""
    seconds = _first(record.costs.seconds_per_step_without_pauses, record.costs.seconds_per_step)
    if seconds is None or seconds <= 0:
        return Missing(missing="no seconds per step")
    if not isinstance(record.model.name, Word):
        return Missing(missing="the log names no model")
    shape = shape_of(record.model.name.value)
    if isinstance(shape, Missing):
        return shape
    if not isinstance(record.machine.gpu, Word):
        return Missing(missing="the log names no device")
    devices = _first(record.machine.gpus)
    if devices is not None and devices > 1:
        return Missing(missing=f"{devices:.0f} devices: what they tell each other takes time that is not counted")
    setup = _setup_of(record, shape)
    if isinstance(setup, Missing):
        return setup
    work = _work_of_record(record, seconds)
    if isinstance(work, Missing):
        return work
    return TimePoint(
        name=record.run or record.name,
        setup=setup,
        machine=record.machine.gpu.value,
        work=work,
        seconds_per_step=seconds,
        steps=max(1, int(_first(record.course.steps_done) or 1)),
    )


def _setup_of(record: RunRecord, shape: ModelShape) -> TrainingSetup | Missing:
    training = record.training
    method, dtype, trainer = (_word(said) for said in (training.method, training.base_dtype, record.stack.trainer))
    if trainer is None:
        return Missing(missing="the log does not tell which trainer")
    if method not in _METHODS:
        return Missing(missing="the log does not tell the method")
    if dtype not in _DTYPES:
        return Missing(missing="the log does not tell the element type")
    targets = _word(training.target_modules)
    attention = _word(training.attention)
    return TrainingSetup(
        shape=shape,
        backend=trainer,
        method=cast(Method, method),
        rank=int(_first(training.rank) or 0),
        target_modules=tuple(sorted(re.findall(r"\w+", targets))) if targets else (),
        base_dtype=cast(Dtype, _DTYPES[dtype]),
        adapter_dtype=cast(Dtype, _DTYPES.get(_word(training.adapter_dtype) or dtype, _DTYPES[dtype])),
        optimizer=_word(training.optimizer) or "adamw",
        gradient_checkpointing=_word(training.gradient_checkpointing) == "true",
        attention="eager" if attention == "eager" else "fused",
    )


def _work_of_record(record: RunRecord, seconds: float) -> StepWork | Missing:
    batching = record.batching
    rows, accumulation, whole = (
        _first(each)
        for each in (batching.micro_batch_size, batching.gradient_accumulation_steps, batching.global_batch_size)
    )
    if rows is None or rows < 1:
        return Missing(missing="the log does not tell the micro-batch")
    if accumulation is None and whole is not None:
        accumulation = whole / rows
    if accumulation is None or accumulation < 1:
        return Missing(missing="the log does not tell the accumulation")
    width = _width(record, rows, accumulation, seconds)
    if isinstance(width, Missing):
        return width
    tokens = rows * width * accumulation
    return StepWork(micro_batches=accumulation, tokens=tokens, squares=tokens * width, label_tokens=tokens)


def _width(record: RunRecord, rows: float, accumulation: float, seconds: float) -> float | Missing:
    """Tokens of a row, padding included."""
    if not isinstance(record.costs.tokens_per_second, Missing):
        for rate in record.costs.tokens_per_second:
            if rate.token_unit == "padded" and rate.value > 0:
                return rate.value * seconds / (rows * accumulation)
    limit, mean, longest = (
        _first(each)
        for each in (record.batching.max_seq_len, record.batching.mean_tokens, record.batching.longest_tokens)
    )
    if _word(record.packing.packed) == "true":
        return limit if limit else Missing(missing="packed, and the log does not tell how long a row is")
    if mean and rows == 1:
        return mean
    if mean and longest and longest <= _NARROW * mean:
        # The longest of so many equally likely lengths lies this far up.
        return mean + (longest - mean) * (1 - 1 / rows)
    return Missing(missing="how far its batches were padded is not known")


def _first(*measured: Measured) -> float | None:
    return next((each.value for each in measured if not isinstance(each, Missing)), None)


def _word(said: Said) -> str | None:
    return said.value if isinstance(said, Word) else None
