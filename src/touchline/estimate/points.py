"""What one measured run teaches of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from touchline.core.estimate import TrainingSetup
from touchline.core.shape import ModelShape
from touchline.estimate.work import StepWork


@dataclass(frozen=True, kw_only=True, slots=True)
class CostSample:
    """Seconds that something took, and how much of it there was."""

    seconds: float
    """How long."""
    amount: float
    """Of what it grows with: tokens, bytes, samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimePoint:
    """A measured run, as far as time is concerned; the rest of it is unknown, not zero."""

    name: str
    """The run's name or id."""
    setup: TrainingSetup
    """Its settings."""
    machine: str
    """`TargetMachine.key` of where it ran, or the GPU's name as a log gives it."""
    work: StepWork
    """Its optimizer step, the mean over its steps."""
    seconds_per_step: float
    """Median over its steps after the first ones."""
    steps: int
    """Steps that the median is of."""
    clock: Literal["wall", "processor"] = "wall"
    """What was read: a clock, or the time that the process had a processor, which other users of it do not change."""
    startup: CostSample | None = None
    """From the process's start to the first step; with bytes of the weights."""
    tokenising: CostSample | None = None
    """Reading and tokenising the data; with tokens."""
    validation: CostSample | None = None
    """One validation; with its padded tokens."""
    saving: CostSample | None = None
    """One checkpoint; with its bytes."""
    evaluation: CostSample | None = None
    """The evaluation of one checkpoint; with its samples."""

    def __post_init__(self) -> None:
        if not (self.seconds_per_step > 0 and self.steps > 0):
            raise ValueError(f"{self.name}: a step takes time: {self.seconds_per_step} s over {self.steps} steps")


def stack_key(setup: TrainingSetup) -> tuple[object, ...]:
    """What must be the same for runs to share the rates of a machine."""
    return setup.backend, setup.method, setup.base_dtype, setup.compiled, setup.loss, setup.variant


def variant_key(setup: TrainingSetup) -> tuple[object, ...]:
    """What may differ within a stack and shifts the time beyond the operations it adds.

    Neither rank nor optimizer is among it: both change little that the operations do not show, and logs spell an
    optimizer in many ways.
    """
    return (
        setup.gradient_checkpointing,
        setup.attention,
        setup.adapter_dtype,
        setup.dropout > 0,
        frozenset(setup.target_modules),
    )


def model_key(shape: ModelShape) -> tuple[object, ...]:
    """What must be the same for runs to be of one model: its dimensions; names differ by tuning and by who tells."""
    return (
        shape.num_layers,
        shape.hidden_size,
        shape.intermediate_size,
        shape.num_heads,
        shape.num_kv_heads,
        shape.head_dim,
        shape.vocab_size,
    )
