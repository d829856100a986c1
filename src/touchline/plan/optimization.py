"""Result of `touchline optimize`: proposed settings, and each run before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from touchline.core.estimate import MemoryVerdict
from touchline.core.quantity import Measured, Missing
from touchline.plan.placement.types import Placement

OPTIMIZATION_SCHEMA_VERSION = 1

Basis = Literal["measured", "assumed", "unknown"]
"""`measured`: the estimate is based on past runs; `assumed`: on formulas and published figures only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """Proposed value of one setting of experiment.yaml, and its effect."""

    key: str
    """Dotted key."""
    before: str
    """Current value, as written in YAML."""
    after: str
    """Proposed value."""
    why: str
    """Reason."""
    effect: str
    """Effect on the results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOption:
    """Settings and predictions of a run, before or after."""

    micro_batch_size: int
    """Examples per forward pass."""
    gradient_accumulation_steps: int
    """Micro-batches per optimizer step."""
    gradient_checkpointing: bool
    """Whether activations are recomputed in the backward pass."""
    packed: bool
    """Whether sequences hold several examples."""
    train_seconds: Measured
    """Predicted wall-clock time of the training."""
    time_basis: Basis
    """Basis of the time."""
    peak_memory: Measured
    """Predicted peak memory of the process."""
    memory_basis: Basis
    """Basis of the memory."""
    verdict: MemoryVerdict
    """Whether the process fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunChange:
    """Run before and after."""

    name: str
    """Name of the run."""
    kept: str
    """Reason why it stays unchanged; empty if it may change."""
    before: RunOption
    """With the current experiment.yaml."""
    after: RunOption
    """With all proposals."""
    evaluate_seconds: Measured
    """Predicted wall-clock time of its evaluation, which no proposal changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimization:
    """Proposals for an experiment."""

    schema_version: int = OPTIMIZATION_SCHEMA_VERSION
    """Version of this format."""
    experiment: str
    """Name of the experiment."""
    proposals: tuple[Proposal, ...]
    """Proposed changes."""
    runs: tuple[RunChange, ...]
    """All trainings."""
    training_before: Measured
    """Time of all trainings with the current experiment.yaml."""
    training_after: Measured
    """Time of all trainings with all proposals."""
    placement_before: Placement | Missing
    """Schedule of all unfinished jobs, unchanged."""
    placement_after: Placement | Missing
    """Schedule of all unfinished jobs with all proposals."""
    notes: tuple[str, ...]
    """Changes that were not proposed, with reasons, and what the figures exclude."""
