"""What would make an experiment faster without changing what it learns: proposals, and before beside after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from touchline.core.estimate import Verdict
from touchline.core.quantity import Measured, Missing
from touchline.plan.placement.types import Placement

OPTIMIZATION_SCHEMA_VERSION = 1

Basis = Literal["measured", "assumed", "unknown"]
"""`measured`: the estimate rests on past runs; `assumed`: on formulas and published figures alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """One setting of experiment.yaml, and what another value would do."""

    key: str
    """The dotted key."""
    before: str
    """Its value now, as one would write it."""
    after: str
    """The value that is proposed."""
    why: str
    """Why."""
    training_seconds: Measured
    """All trainings together with this change and those above it; missing where it concerns no training's time."""
    effect: str
    """What it does to the results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOption:
    """A run one way."""

    micro_batch_size: int
    """Examples per forward pass."""
    gradient_accumulation_steps: int
    """Micro-batches per optimizer step."""
    gradient_checkpointing: bool
    """Whether activations are computed again."""
    packed: bool
    """Whether several examples share a row."""
    train_seconds: Measured
    """Predicted wall time of the training."""
    time_basis: Basis
    """What that rests on."""
    peak_memory: Measured
    """Predicted peak memory of the process."""
    memory_basis: Basis
    """What that rests on."""
    verdict: Verdict
    """Whether it fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunChange:
    """One run, before and after."""

    name: str
    """The run."""
    kept: str
    """Why it stays as it is; empty where it may change."""
    global_batch_size: int
    """Examples per optimizer step, before and after."""
    learning_rate: float
    """Before and after."""
    before: RunOption
    """As experiment.yaml is."""
    after: RunOption
    """With every proposal."""
    evaluate_seconds: Measured
    """Predicted wall time of its evaluation, which no proposal changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimization:
    """The answer."""

    schema_version: int = OPTIMIZATION_SCHEMA_VERSION
    """Version of this form."""
    experiment: str
    """The experiment's name."""
    proposals: tuple[Proposal, ...]
    """What to change, in the order in which the effects add up."""
    runs: tuple[RunChange, ...]
    """Every training."""
    training_before: Measured
    """All trainings together, as experiment.yaml is."""
    training_after: Measured
    """All trainings together, with every proposal."""
    placement_before: Placement | Missing
    """Everything that is left, placed as it is."""
    placement_after: Placement | Missing
    """Everything that is left, placed with every proposal."""
    notes: tuple[str, ...]
    """What was not proposed and why, and what the figures leave out."""
