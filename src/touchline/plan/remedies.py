"""Changes of settings with which the upper memory estimate of a run fits."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from touchline.core.estimate import MemoryEstimate, MemoryVerdict
from touchline.core.quantity import Missing
from touchline.estimate.gpus import Gpu, find_gpu, gpu_names
from touchline.experiment.experiment import TrainConfig
from touchline.plan.context import PlanningContext

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
    """Yield the ways to change each setting, the mildest first."""
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
