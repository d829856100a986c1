"""Planning context: the target machine and past runs, and the memory, micro-batch and disk estimates based on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import memory_coefficients
from touchline.core.catalog import ModelInfo
from touchline.core.estimate import Dtype, MemoryEstimate, MemoryVerdict, MicroBatch, TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Measured, Missing
from touchline.core.shape import ModelShape
from touchline.data.packing.batches import largest_divisor
from touchline.estimate.cpu_memory import cpu_memory_estimate
from touchline.estimate.disk import disk_estimate
from touchline.estimate.evidence_memory import MeasuredPoint
from touchline.estimate.gpus import Gpu
from touchline.estimate.memory import memory_estimate
from touchline.estimate.points import TimePoint
from touchline.estimate.throughput import knee, shows_the_knee
from touchline.spec import defaults
from touchline.spec.experiment import TrainConfig
from touchline.spec.site import SlurmSite


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanningContext:
    """Target machine, model dimensions and points from past runs."""

    machine: TargetMachine
    """Machine that the runs will use."""
    gpu: Gpu | Missing
    """GPU type; missing for a CPU and for an unknown GPU."""
    shapes: Mapping[str, ModelShape | Missing]
    """Dimensions of the models by name."""
    memory_points: tuple[MeasuredPoint, ...] = ()
    """Measured peaks of past runs."""
    time_points: tuple[TimePoint, ...] = ()
    """Measured times of past runs."""
    cluster: SlurmSite | None = None
    """The user's settings of the cluster that runs the jobs; None on this machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatchChoice:
    """Micro-batch size and the reason for it."""

    size: int
    """Examples per forward pass."""
    reason: str
    """Reason."""


def longest_batch(lengths: ExampleLengths, rows: int, padded_tokens: int | None = None) -> MicroBatch:
    """Return the micro-batch that determines peak memory.

    Args:
        lengths: of the training split.
        rows: examples side by side.
        padded_tokens: its padded tokens, where the order of the examples is known; else as many as it can have.
    """
    longest, answers = int(lengths.total.max()), int(lengths.answer.max())
    width = longest if padded_tokens is None else -(-padded_tokens // rows)
    return MicroBatch(rows=rows, width=width, label_tokens=min(rows * answers, rows * width))


def estimate_memory(
    setup: TrainingSetup, batch: MicroBatch, context: PlanningContext, *, with_what_ifs: bool = False
) -> MemoryEstimate | Missing:
    """Estimate the peak memory of a step."""
    coefficients = memory_coefficients(setup.backend)
    if isinstance(coefficients, Missing):
        return coefficients
    points = context.memory_points
    if context.machine.kind == "cpu":
        return cpu_memory_estimate(
            setup,
            batch,
            coefficients=coefficients,
            capacity_gib=context.machine.memory,
            evidence=points,
            with_what_ifs=with_what_ifs,
        )
    gpu = None if isinstance(context.gpu, Missing) else context.gpu
    return memory_estimate(
        setup, batch, coefficients=coefficients, gpu=gpu, evidence=points, with_what_ifs=with_what_ifs
    )


def share_of_machine(context: PlanningContext, processes: int) -> PlanningContext:
    """Return the context of one of several processes of a training. On a CPU they share its memory."""
    machine = context.machine
    if machine.kind != "cpu" or processes == 1 or isinstance(machine.memory, Missing):
        return context
    memory = replace(machine.memory, value=machine.memory.value / processes)
    return replace(context, machine=replace(machine, memory=memory))


def choose_micro_batch(
    train: TrainConfig,
    setup: TrainingSetup | Missing,
    lengths: ExampleLengths,
    context: PlanningContext,
    devices: int = 1,
) -> MicroBatchChoice:
    """Choose the largest divisor of a device's part of the global batch that fits and still increases throughput."""
    if train.micro_batch_size != "auto":
        return MicroBatchChoice(size=train.micro_batch_size, reason="micro-batch as written")
    whole = max(train.global_batch_size // devices, 1)
    size, gain = _fastest(whole, setup, lengths, context)
    if isinstance(setup, Missing):
        return MicroBatchChoice(size=size, reason=f"micro-batch {size}: {gain}; memory unknown ({setup.missing})")
    while True:
        found = estimate_memory(setup, longest_batch(lengths, size), context)
        if isinstance(found, Missing):
            return MicroBatchChoice(size=size, reason=f"micro-batch {size}: {gain}; memory unknown ({found.missing})")
        if found.verdict in (MemoryVerdict.FITS, MemoryVerdict.UNKNOWN) or size == 1:
            break
        size = largest_divisor(whole, size - 1)
        gain = "the largest that fits"
    room = f"at most {found.process.high:.3g} GiB" if found.verdict is MemoryVerdict.FITS else found.verdict.value
    return MicroBatchChoice(size=size, reason=f"micro-batch {size}: {gain}; {room}")


def _fastest(
    whole: int, setup: TrainingSetup | Missing, lengths: ExampleLengths, context: PlanningContext
) -> tuple[int, str]:
    """Return the micro-batch size beyond which throughput no longer grows, and the basis: past runs or a default.

    Args:
        whole: examples per step and device.
        setup: everything but the batch.
        lengths: token lengths of the examples.
        context: the machine, and what past runs have shown.
    """
    longest = int(lengths.total.max())
    limit = defaults.MICRO_BATCH_TOKENS // longest
    reason = f"throughput no longer grows beyond about {defaults.MICRO_BATCH_TOKENS:,} computed tokens per forward pass"
    if not isinstance(setup, Missing) and shows_the_knee(setup, context.machine, context.time_points):
        share = float(lengths.answer.mean() / lengths.total.mean())
        found = knee(
            setup,
            longest,
            share,
            machine=context.machine,
            points=context.time_points,
            most=whole,
            global_rows=whole,
        )
        if not isinstance(found, Missing):
            limit, reason = found.rows, "larger ones gain less than 3% throughput in past runs"
    size = largest_divisor(whole, limit)
    return size, "the whole global batch" if size == whole else reason


_DTYPES: dict[str, Dtype] = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}


def estimate_disk(
    setup: TrainingSetup, train: TrainConfig, steps: int, *, model: ModelInfo, evaluations: int, answers: int
) -> Measured:
    """Estimate the disk usage of a completed run. Its training state is deleted when training is complete.

    Args:
        setup: its settings.
        train: its training.
        steps: its optimizer steps.
        model: its base, whose element type merged weights have.
        evaluations: checkpoints that are evaluated.
        answers: answers that each evaluation writes down.
    """
    keep = train.checkpoint.keep
    exports = train.epochs if train.checkpoint.every == "epoch" else _exports(train, steps)
    kept = exports if keep == "all" else min(exports, 2 if keep == "best" else keep)
    return disk_estimate(
        setup,
        save=train.saves,
        checkpoints=kept,
        steps=steps,
        resumes=False,
        tokenizer_bytes=model.copied_bytes,
        merged_dtype=None if train.trains_all else _DTYPES.get(model.dtype),
        evaluations=evaluations,
        answers=answers,
    ).total.quantity()


def _exports(train: TrainConfig, steps: int) -> int:
    """Return the number of checkpoints of a run with an interval: one per epoch, and those between."""
    every = train.checkpoint.every
    if every == "epoch" or every.steps is None:
        return train.epochs
    per_epoch = steps // train.epochs
    between = sum((step + 1) % every.steps == 0 and (step + 1) % per_epoch != 0 for step in range(steps))
    return train.epochs + between
