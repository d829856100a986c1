"""Fitting a training into memory: choice of the micro-batch, where throughput saturates, and settings that help."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from touchline.backends.protocol import ExampleLengths
from touchline.core.estimate import MemoryEstimate, MemoryVerdict, MicroBatch, TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.core.units import measured
from touchline.data.packing.forecast import largest_divisor
from touchline.estimate.bracket import KNEE_GAIN
from touchline.estimate.gpus import Gpu, find_gpu, gpu_names
from touchline.estimate.points import TimePoint, model_key
from touchline.estimate.terms import place
from touchline.estimate.time import step_curve
from touchline.estimate.work import StepWork, work_of
from touchline.experiment.training import MICRO_BATCH_TOKENS, TrainConfig
from touchline.plan.context import PlanningContext

_APART = 1.5
"""Smallest ratio of micro-batch sizes that shows how speed grows with them."""
_MOST_ROWS = 1 << 14


@dataclass(frozen=True, kw_only=True, slots=True)
class SaturationPoint:
    """Micro-batch size at which throughput saturates."""

    rows: int
    """Smallest micro-batch for which doubling gains less than 3%, or the limit."""
    reached: bool
    tokens_per_second: dict[int, float]
    """Predicted computed tokens/s by sequences: 1, 2, 4 ..."""


def knee(
    setup: TrainingSetup,
    width: int,
    label_share: float,
    *,
    machine: TargetMachine,
    points: Sequence[TimePoint] = (),
    most: int = _MOST_ROWS,
    global_rows: int | None = None,
) -> SaturationPoint | Missing:
    """Return the micro-batch beyond which doubling gains less than 3% predicted throughput.

    Args:
        width: tokens of a row, padding included.
        label_share: share of them with a loss, 0 to 1.
        most: the most rows that are allowed, for memory's or the global batch's sake.
        global_rows: rows of an optimizer step, kept by accumulation; none: one micro-batch a step.

    Raises ValueError: no row is allowed.
    """
    if most < 1 or width < 1:
        raise ValueError("a micro-batch has at least one row of one token")
    sizes = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
    works = [_step(rows, width, label_share, global_rows) for rows in sizes]
    curve = step_curve(setup, works, machine=machine, points=points)
    if isinstance(curve, Missing):
        return curve
    found = {rows: work.tokens / seconds for rows, work, seconds in zip(sizes, works, curve, strict=True)}
    for size in sorted(found):
        larger = found.get(size * 2)
        if larger is not None and larger / found[size] - 1 < KNEE_GAIN:
            return SaturationPoint(rows=size, reached=True, tokens_per_second=found)
    return SaturationPoint(rows=most, reached=False, tokens_per_second=found)


def shows_the_knee(setup: TrainingSetup, machine: TargetMachine, points: Sequence[TimePoint]) -> bool:
    """Return True if runs of this model on this machine had micro-batches of different sizes.

    A single size shows the machine's speed but not how it grows.
    """
    sizes = [
        point.work.tokens_per_micro_batch
        for point in points
        if model_key(point.setup.shape) == model_key(setup.shape) and place(point.machine) == place(machine.key)
    ]
    return bool(sizes) and max(sizes) >= _APART * min(sizes)


def _step(rows: int, width: int, label_share: float, global_rows: int | None) -> StepWork:
    labels = round(rows * width * label_share)
    one = work_of([MicroBatch(rows=rows, width=width, label_tokens=labels)])
    return one if global_rows is None else one.times(max(1.0, global_rows / rows))


@dataclass(frozen=True, kw_only=True, slots=True)
class LargestStep:
    """Largest micro-batch of a training, as its trainer lays it out."""

    batch: MicroBatch
    setup: TrainingSetup | Missing
    """What memory and time depend on besides it."""
    memory: MemoryEstimate | Missing


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatchChoice:
    """Micro-batch size and the reason for it."""

    size: int
    """Rows of a forward pass on one device, as the trainer counts them."""
    why: str

    def reason(self, memory: MemoryEstimate | Missing) -> str:
        """Return the reason with the memory that the plan shows."""
        if isinstance(memory, Missing):
            room = f"memory unknown ({memory.missing})"
        elif memory.verdict is MemoryVerdict.FITS:
            room = f"at most {memory.process.high:.3g} GiB"
        else:
            room = f"{memory.verdict.value}, {measured(memory.process.quantity(), 3)}"
        return f"micro-batch {self.size}: {self.why}; {room}"


def choose_micro_batch(
    train: TrainConfig,
    predict: Callable[[int], LargestStep | Missing],
    lengths: ExampleLengths,
    context: PlanningContext,
    devices: int = 1,
) -> MicroBatchChoice:
    """Choose the largest divisor of a device's part of the global batch that fits and still increases throughput."""
    if train.micro_batch_size != "auto":
        return MicroBatchChoice(size=train.micro_batch_size, why="as written")
    whole = max(train.global_batch_size // devices, 1)
    size, why = _fastest(whole, predict, lengths, context)
    while not _may_stay(predict(size)):
        if size == 1:
            return MicroBatchChoice(size=1, why="the smallest")
        size, why = largest_divisor(whole, size - 1), "the largest that fits"
    return MicroBatchChoice(size=size, why=why)


def _may_stay(step: LargestStep | Missing) -> bool:
    if isinstance(step, Missing) or isinstance(step.memory, Missing):
        return True
    return step.memory.verdict in (MemoryVerdict.FITS, MemoryVerdict.UNKNOWN)


def _fastest(
    whole: int, predict: Callable[[int], LargestStep | Missing], lengths: ExampleLengths, context: PlanningContext
) -> tuple[int, str]:
    """Return the size beyond which throughput no longer grows, and the basis: past runs, or a default."""
    most = MICRO_BATCH_TOKENS
    size, reason = whole, f"throughput no longer grows beyond about {most:,} computed tokens per forward pass"
    step = predict(size)
    if (rows := _by_past_runs(whole, step, predict, lengths, context)) is not None:
        size, reason = largest_divisor(whole, rows), "larger ones gain less than 3% throughput in past runs"
    else:
        while size > 1 and not isinstance(step, Missing) and step.batch.tokens > most:
            size = largest_divisor(whole, min(size - 1, size * most // step.batch.tokens))
            step = predict(size)
    return size, "the whole global batch" if size == whole else reason


def _by_past_runs(
    whole: int,
    step: LargestStep | Missing,
    predict: Callable[[int], LargestStep | Missing],
    lengths: ExampleLengths,
    context: PlanningContext,
) -> int | None:
    """Return the rows from which on throughput no longer grows. None if past runs do not show it."""
    setup = step if isinstance(step, Missing) else step.setup
    if isinstance(setup, Missing) or not shows_the_knee(setup, context.machine, context.time_points):
        return None
    alone = predict(1)
    if isinstance(alone, Missing):
        return None
    share = float(lengths.answer.mean() / lengths.total.mean())
    found = knee(
        setup,
        alone.batch.tokens,
        share,
        machine=context.machine,
        points=context.time_points,
        most=whole,
        global_rows=whole,
    )
    return None if isinstance(found, Missing) else found.rows


Change = tuple[str, object]
"""A setting of the training, and its value."""


class Predict(Protocol):
    """Memory of another training, or of one on another machine."""

    def __call__(self, train: TrainConfig, context: PlanningContext | None = None) -> MemoryEstimate | Missing:
        """Return it; missing if the trainer does not support the training."""
        ...


def remedies(
    asked: TrainConfig, context: PlanningContext, *, packed: bool, longest: int, predict: Predict
) -> tuple[str, ...]:
    """Return the single changes with which a training's upper memory estimate fits, or else several together."""
    gpu = next((text for text, other in _larger_gpus(context) if _fits(predict(asked, other))), None)
    return (*_settings(asked, packed=packed, longest=longest, predict=predict), *([] if gpu is None else [gpu]))


def _settings(asked: TrainConfig, *, packed: bool, longest: int, predict: Predict) -> tuple[str, ...]:
    found, together = list[str](), list[Change]()
    for ways in _changes(asked, packed=packed, longest=longest):
        memories = {change: predict(_with(asked, [change])) for change in ways}
        found += [_typed(change) for change, memory in memories.items() if _fits(memory)][:1]
        together += [change for change, memory in memories.items() if not isinstance(memory, Missing)][-1:]
    if found:
        return tuple(found)
    for count in range(2, len(together) + 1):
        if _fits(predict(_with(asked, together[:count]))):
            return (" ".join(_typed(change) for change in together[:count]),)
    return ()


def _larger_gpus(context: PlanningContext) -> Iterator[tuple[str, PlanningContext]]:
    """Yield the GPU types with more memory, the smallest first, as settings and as contexts.

    Nothing where experiment.yaml does not name the type.
    """
    machine = context.machine
    if machine.source != "compute.gpu" or isinstance(context.gpu, Missing):
        return
    known = [gpu for name in gpu_names() if isinstance(gpu := find_gpu(name), Gpu)]
    for gpu in sorted(known, key=lambda each: each.capacity_gib):
        if gpu.capacity_gib > context.gpu.capacity_gib:
            other = replace(machine, name=gpu.name, memory=gpu.capacity)
            yield shlex.quote(f"compute.gpu={gpu.name}"), replace(context, gpu=gpu, machine=other)


def _changes(asked: TrainConfig, *, packed: bool, longest: int) -> Iterator[list[Change]]:
    if asked.micro_batch_size != "auto":
        yield [("micro_batch_size", "auto")]
    if not asked.gradient_checkpointing:
        yield [("gradient_checkpointing", True)]
    if asked.quantization == "none" and not asked.trains_all:
        yield [("quantization", "nf4")]
    if packed:
        halves = [asked.max_seq_len >> power for power in range(1, asked.max_seq_len.bit_length())]
        yield [("max_seq_len", tokens) for tokens in halves if tokens > longest]
    if asked.packed is True:
        yield [("packed", False)]


def _with(train: TrainConfig, changes: list[Change]) -> TrainConfig:
    return replace(train, **dict(changes))  # type: ignore[arg-type]


def _typed(change: Change) -> str:
    return f"train.{change[0]}={str(change[1]).lower()}"


def _fits(memory: MemoryEstimate | Missing) -> bool:
    return not isinstance(memory, Missing) and memory.verdict is MemoryVerdict.FITS
