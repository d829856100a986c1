"""Measured time of one run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

from touchline.core.estimate import TrainingSetup
from touchline.core.shape import ModelShape
from touchline.estimate.work import StepWork


@dataclass(frozen=True, kw_only=True, slots=True)
class CostSample:
    """Seconds of a phase, and the amount that it scales with."""

    seconds: float
    amount: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TimePoint:
    """Measured time of a run. Phases that were not measured are None, not zero."""

    name: str
    setup: TrainingSetup
    machine: str
    """`TargetMachine.key` of its machine, or the GPU's name from a log."""
    work: StepWork
    seconds_per_step: float
    """Median over its steps after the first ones."""
    steps: int
    whole_seconds_per_step: float | None = None
    """Of a probe of slots: the same step with all threads and nothing next to it, measured just before."""
    clock: Literal["wall", "cpu"] = "wall"
    """Wall-clock time, or CPU time of the process, which other users of the CPU do not change."""
    startup: CostSample | None = None
    """From the start of the process to the first step; with bytes of the weights."""
    compiling: CostSample | None = None
    """Compiling before the first step; with the shapes that were compiled."""
    validation: CostSample | None = None
    """One validation; with its computed tokens."""
    saving: CostSample | None = None
    """One checkpoint; with its bytes."""
    evaluation: CostSample | None = None
    """Evaluation of one checkpoint; with its samples."""
    unstated: tuple[str, ...] = ()
    """Fields of `setup` that its log does not state."""

    def __post_init__(self) -> None:
        if not (self.seconds_per_step > 0 and self.steps > 0):
            raise ValueError(f"{self.name}: a step takes time: {self.seconds_per_step} s over {self.steps} steps")


class _Measured(Protocol):
    @property
    def setup(self) -> TrainingSetup: ...
    @property
    def unstated(self) -> tuple[str, ...]: ...


Point = TypeVar("Point", bound=_Measured)


_USUAL = frozenset({"attention", "compiled", "optimizer", "release"})
"""Settings that hardly anybody changes."""


def doubts(point: _Measured, setup: TrainingSetup) -> tuple[str, ...]:
    """Return the settings of a request that a measured run may have had otherwise.

    Its log does not state them, and they often differ, or the requested value is an unusual one.
    """
    return tuple(
        name for name in point.unstated if name not in _USUAL or getattr(setup, name) != getattr(point.setup, name)
    )


def otherwise(setup: TrainingSetup, name: str) -> TrainingSetup:
    """Return a request with another usual value of a setting that a log does not state."""
    every = tuple(linear.name for linear in setup.shape.linears)
    fewer = every[: max(1, len(every) // 3)]
    others: dict[str, object] = {
        "adapter_dtype": "bfloat16" if setup.adapter_dtype == "float32" else "float32",
        "dropout": 0.0 if setup.dropout else 0.05,
        "target_modules": fewer if set(setup.target_modules) == set(every) else every,
        "rank": 4 * setup.rank,
        "nested_scales": not setup.nested_scales,
        "accumulates": not setup.accumulates,
        "gradient_checkpointing": not setup.gradient_checkpointing,
        "attention": "fused" if setup.attention == "eager" else "eager",
        "compiled": not setup.compiled,
        "optimizer": "adamw" if setup.optimizer_family != "adamw" else "adamw_8bit",
        # An old one.
        "release": "0",
    }
    return replace(setup, **{name: others[name]})  # type: ignore[arg-type]


def as_requested(points: Iterable[Point], setup: TrainingSetup) -> list[Point]:
    """Return measured points with the requested value of each setting that their logs do not state.

    Those that may well have been otherwise stay in `unstated`: such a run is no repetition of the request.
    """
    return [
        replace(  # type: ignore[type-var]
            point,
            setup=replace(point.setup, **{name: getattr(setup, name) for name in point.unstated}),
            unstated=doubts(point, setup),
        )
        if point.unstated
        else point
        for point in points
    ]


def stack_settings(setup: TrainingSetup) -> dict[str, object]:
    """Return the settings that runs share that share the rates of a machine, by name."""
    return {
        "trainer": setup.backend,
        "method": setup.method,
        "8-bit base": setup.int8_base,
        "base dtype": setup.base_dtype,
        "compilation": setup.compiled,
        "loss": setup.loss,
        "adapter type": setup.variant,
    }


def stack_key(setup: TrainingSetup) -> tuple[object, ...]:
    """Return a key that is equal for runs that share the rates of a machine."""
    return tuple(stack_settings(setup).values())


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
