"""Simulated training step on tensors without data: request and result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from touchline.core.estimate import MicroBatch, TrainingSetup

SimulatedLoop = Literal["trainer", "labels", "chunked"]
"""Training loop: transformers' Trainer (all logits at once), ours (logits of label tokens only), or one
in eight chunks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationRequest:
    """Step of one trainer to simulate."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    setup: TrainingSetup
    """Everything but the batch. QLoRA, compiled models and a trainer's own kernels cannot be simulated."""
    batch: MicroBatch
    """Micro-batch."""
    loop: SimulatedLoop
    """Training loop, which determines the loss computation."""
    float32_adapters: Literal["promoted", "autocast", "autocast_shared"] = "autocast"
    """Treatment of a float32 adapter on a 16-bit base model."""
    expands_kv: bool = False
    """Whether keys and values are stored as wide as the queries."""
    label_chunk: int | None = None
    """Label tokens with logits at once, in our loop; None for all."""
    keeps_outputs: bool = False
    """Whether the loop keeps the logits until the backward pass is over."""
    config: Mapping[str, object] | None = None
    """config.json of the model. None for a Llama with the dimensions of the shape."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationResult:
    """Bytes of live tensors, each rounded up to the allocator's 512."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    peak_bytes: int
    """Peak."""
    resident_bytes: int
    """Weights, adapter, optimizer moments and tables before the step."""
    kept_bytes: int
    """Live after the forward pass, including resident memory."""
    gradient_bytes: int
    """Gradients at the end."""
    parameters: int
    """Parameters of the model, without the adapter."""
    versions: Mapping[str, str]
    """Version of each simulated library."""
