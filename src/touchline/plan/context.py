"""Planning context: the target machine and past runs, and the memory and disk estimates based on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from touchline.backends.registry import memory_coefficients
from touchline.core.catalog import ModelInfo
from touchline.core.estimate import Dtype, MemoryEstimate, MicroBatch, PastRunGroup, PastRunsUsed, TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Measured, Missing
from touchline.core.shape import ModelShape
from touchline.estimate.disk import disk_estimate
from touchline.estimate.evidence_memory import MeasuredPoint
from touchline.estimate.evidence_used import evidence_used
from touchline.estimate.gpus import Gpu
from touchline.estimate.history_points import PastRun
from touchline.estimate.memory import cpu_memory_estimate, memory_estimate
from touchline.estimate.points import TimePoint
from touchline.estimate.spreads import ONE_SIZE
from touchline.experiment.training import TrainConfig
from touchline.experiment.value_types import SlurmSite


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanningContext:
    """Target machine, model dimensions and points from past runs."""

    machine: TargetMachine
    gpu: Gpu | Missing
    """GPU type; missing for a CPU and for an unknown GPU."""
    shapes: Mapping[str, ModelShape | Missing]
    memory_points: tuple[MeasuredPoint, ...] = ()
    time_points: tuple[TimePoint, ...] = ()
    past_runs: tuple[PastRun, ...] = ()
    """Past runs with these points, or with the reasons why they have none."""
    other_runs: tuple[PastRunGroup, ...] = ()
    """Past runs that were not read, with the reasons."""
    cluster: SlurmSite | None = None
    """The user's settings of the cluster that runs the jobs; None on this machine."""

    def shape_of(self, model: str) -> ModelShape | Missing:
        """Return the dimensions of a model."""
        return self.shapes.get(model, Missing(missing="its dimensions were not read"))


def estimate_memory(
    setup: TrainingSetup,
    batch: MicroBatch,
    context: PlanningContext,
    *,
    outgrown: tuple[float, float] = ONE_SIZE,
    with_what_ifs: bool = False,
) -> MemoryEstimate | Missing:
    """Estimate the peak memory of a step; `outgrown` is about all micro-batches (`estimate/spreads.py`)."""
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
        setup,
        batch,
        coefficients=coefficients,
        gpu=gpu,
        evidence=points,
        outgrown=outgrown,
        with_what_ifs=with_what_ifs,
    )


def past_runs_used(
    context: PlanningContext, setups: Sequence[TrainingSetup], time: Collection[str] | None, memory: Collection[str]
) -> PastRunsUsed:
    """Return which past runs the estimates used, and why not the others."""
    cold = replace(context, memory_points=())

    def predict(point: MeasuredPoint) -> float | None:
        found = estimate_memory(point.setup, point.batch, cold, outgrown=point.outgrown)
        return None if isinstance(found, Missing) else found.of_kind(point.kind).value

    return evidence_used(
        context.past_runs,
        context.other_runs,
        setups=setups,
        machine=context.machine,
        time=time,
        memory=memory,
        predict=predict,
    )


def share_of_machine(context: PlanningContext, processes: int) -> PlanningContext:
    """Return the context of one of several processes of a training. On a CPU they share its memory."""
    machine = context.machine
    if machine.kind != "cpu" or processes == 1 or isinstance(machine.memory, Missing):
        return context
    memory = replace(machine.memory, value=machine.memory.value / processes)
    return replace(context, machine=replace(machine, memory=memory))


_DTYPES: dict[str, Dtype] = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}


def estimate_disk(
    setup: TrainingSetup, train: TrainConfig, steps: int, *, model: ModelInfo, evaluations: int, answers: int
) -> Measured:
    """Estimate the disk usage of a completed run. Its training state is deleted when training is complete.

    Args:
        model: its base, whose element type merged weights have.
    """
    keep = train.checkpoint.keep
    exports = train.epochs if train.checkpoint.every == "epoch" else _exports(train, steps)
    kept = exports if keep == "all" else min(exports, 2 if keep == "best" else keep)
    return disk_estimate(
        setup,
        save=train.saves,
        checkpoints=kept,
        steps=steps,
        tokenizer_bytes=model.copied_bytes,
        merged_dtype=None if train.trains_all else _DTYPES.get(model.dtype),
        evaluations=evaluations,
        answers=answers,
    ).quantity()


def _exports(train: TrainConfig, steps: int) -> int:
    """Return the number of checkpoints of a run with an interval: one per epoch, and those between."""
    every = train.checkpoint.every
    if every == "epoch" or every.steps is None:
        return train.epochs
    per_epoch = steps // train.epochs
    between = sum((step + 1) % every.steps == 0 and (step + 1) % per_epoch != 0 for step in range(steps))
    return train.epochs + between
