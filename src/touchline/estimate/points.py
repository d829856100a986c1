"""Measured time of one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from touchline.core.estimate import TrainingSetup
from touchline.core.shape import ModelShape
from touchline.estimate.work import StepWork


@dataclass(frozen=True, kw_only=True, slots=True)
class CostSample:
    """Seconds of a phase, and the amount that it scales with."""

    seconds: float
    """Seconds."""
    amount: float
    """Amount that it scales with: tokens, bytes, samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimePoint:
    """Measured time of a run. Phases that were not measured are None, not zero."""

    name: str
    """Name or id of the run."""
    setup: TrainingSetup
    """Settings of the run."""
    machine: str
    """`TargetMachine.key` of its machine, or the GPU's name from a log."""
    work: StepWork
    """Mean optimizer step."""
    seconds_per_step: float
    """Median over its steps after the first ones."""
    steps: int
    """Number of steps behind the median."""
    whole_seconds_per_step: float | None = None
    """Of a probe of slots: the same step with all threads and nothing beside it, measured just before."""
    clock: Literal["wall", "cpu"] = "wall"
    """Wall-clock time, or CPU time of the process, which other users of the CPU do not change."""
    startup: CostSample | None = None
    """From the start of the process to the first step; with bytes of the weights."""
    compiling: CostSample | None = None
    """Compiling before the first step; with the shapes that were compiled."""
    tokenising: CostSample | None = None
    """Reading and tokenizing the data; with tokens."""
    validation: CostSample | None = None
    """One validation; with its computed tokens."""
    saving: CostSample | None = None
    """One checkpoint; with its bytes."""
    evaluation: CostSample | None = None
    """Evaluation of one checkpoint; with its samples."""

    def __post_init__(self) -> None:
        if not (self.seconds_per_step > 0 and self.steps > 0):
            raise ValueError(f"{self.name}: a step takes time: {self.seconds_per_step} s over {self.steps} steps")


def stack_key(setup: TrainingSetup) -> tuple[object, ...]:
    """Return a key that is equal for runs that share the rates of a machine."""
    form = (setup.method, setup.int8_base, setup.base_dtype)
    return setup.backend, form, setup.compiled, setup.loss, setup.variant


def variant_key(setup: TrainingSetup) -> tuple[object, ...]:
    """Return a key of the settings that affect time beyond the operations that they add.

    Rank is not among them: its effect is mostly in the operations.
    """
    return (
        setup.gradient_checkpointing,
        setup.attention,
        setup.adapter_dtype,
        setup.dropout > 0,
        frozenset(setup.target_modules),
        setup.optimizer_family,
    )


def model_key(shape: ModelShape) -> tuple[object, ...]:
    """Return a key that is equal for runs of one model: its dimensions, since names vary."""
    return (
        shape.num_layers,
        shape.hidden_size,
        shape.intermediate_size,
        shape.num_heads,
        shape.num_kv_heads,
        shape.head_dim,
        shape.vocab_size,
    )
