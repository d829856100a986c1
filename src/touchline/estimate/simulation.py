"""A training step run on tensors without contents: what to simulate, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from touchline.core.estimate import MicroBatch, TrainingSetup

SimulatedLoop = Literal["trainer", "labels", "chunked"]
"""transformers' Trainer, all logits at once; ours, logits of target tokens alone; torchtune's, in eight chunks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationRequest:
    """One step of one trainer."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    setup: TrainingSetup
    """Everything but the batch; QLoRA, compiled models and kernels of a trainer's own cannot be simulated."""
    batch: MicroBatch
    """The micro-batch."""
    loop: SimulatedLoop
    """How logits become a loss."""
    float32_adapters: Literal["promoted", "autocast", "autocast_shared"] = "autocast"
    """How a float32 adapter meets a 16-bit base."""
    expands_kv: bool = False
    """Whether keys and values are held as wide as the queries."""
    keeps_outputs: bool = False
    """Whether the loop holds on to logits until the backward pass is over."""
    config: Mapping[str, object] | None = None
    """config.json of the model; none: a Llama of the shape's dimensions stands for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationResult:
    """Bytes of live tensors, each rounded up to the allocator's 512."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    peak_bytes: int
    """The most at once."""
    resident_bytes: int
    """Weights, adapter, moments of the optimizer and tables: what lies there before the step."""
    kept_bytes: int
    """Alive when the forward pass is over, what is resident included."""
    gradient_bytes: int
    """Gradients at the end."""
    parameters: int
    """Parameters of the model, without the adapter."""
    versions: Mapping[str, str]
    """Library -> version that was simulated."""
