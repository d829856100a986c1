"""Choice of the micro-batch size by the layout that the trainer computes, and its memory there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from touchline.backends.protocol import ExampleLengths
from touchline.core.estimate import MemoryEstimate, MemoryVerdict, MicroBatch, TrainingSetup
from touchline.core.quantity import Missing
from touchline.core.units import measured
from touchline.data.packing.batches import largest_divisor
from touchline.estimate.throughput import knee, shows_the_knee
from touchline.experiment import defaults
from touchline.experiment.experiment import TrainConfig
from touchline.plan.context import PlanningContext


@dataclass(frozen=True, kw_only=True, slots=True)
class LargestStep:
    """Largest micro-batch of a training, as its trainer lays it out."""

    batch: MicroBatch
    setup: TrainingSetup | Missing
    """What memory and time depend on besides it."""
    memory: MemoryEstimate | Missing
    """Peak memory of its step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatchChoice:
    """Micro-batch size and the reason for it."""

    size: int
    """Rows of a forward pass on one device, as the trainer counts them."""
    why: str
    """Reason, without the memory."""

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
    """Return whether the upper memory estimate of a step fits, or nothing is known of it."""
    if isinstance(step, Missing) or isinstance(step.memory, Missing):
        return True
    return step.memory.verdict in (MemoryVerdict.FITS, MemoryVerdict.UNKNOWN)


def _fastest(
    whole: int, predict: Callable[[int], LargestStep | Missing], lengths: ExampleLengths, context: PlanningContext
) -> tuple[int, str]:
    """Return the size beyond which throughput no longer grows, and the basis: past runs, or a default."""
    most = defaults.MICRO_BATCH_TOKENS
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
