"""What `touchline estimate`, `touchline pack` and `touchline results` answer, as their `--json` gives it."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.estimate import Verdict, WhatIf
from touchline.core.quantity import Measured

ESTIMATE_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryAnswer:
    """Peak memory of a step on one device."""

    allocated_gib: Measured
    """Tensors of the framework."""
    reserved_gib: Measured
    """With the cache of its allocator."""
    process_gib: Measured
    """What the device shows for the process."""
    breakdown: dict[str, float]
    """GiB of what is allocated, by part: weights, adapter, optimizer, gradients, layers, logits, other."""
    after_init_gib: Measured
    """What is allocated before the first step: the figure that some trainers print as their peak."""
    capacity_gib: Measured
    """Memory of the device."""
    verdict: Verdict
    """Whether the process fits."""
    assumption: str
    """What moves the figure most."""
    what_ifs: tuple[WhatIf, ...]
    """Changes worth considering."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimateAnswer:
    """A what-if without an experiment."""

    schema_version: int = ESTIMATE_SCHEMA_VERSION
    """Version of this form."""
    model: str
    """The model's name, as its dimensions were found."""
    source: str
    """Where its dimensions were read."""
    parameters: int
    """Its parameters."""
    trained_parameters: int
    """Parameters with a gradient."""
    settings: dict[str, str]
    """Everything that was asked for or assumed, by name."""
    padded_tokens: int
    """Tokens of a micro-batch, padding included: what memory and time grow with."""
    memory: MemoryAnswer
    """Peak memory of a step."""
    simulated_gib: Measured
    """Peak of the tensors in a simulation of the model's own code; missing when none was asked for."""
    largest_micro_batch: Measured
    """The most rows that surely fit; its upper end is the most that could."""
    seconds_per_step: Measured
    """Time of an optimizer step."""
    steps: Measured
    """Optimizer steps; missing when the number of examples is not given."""
    total_seconds: Measured
    """Time of all steps."""
    adapter_size: Measured
    """Size of the adapter on disk."""
    notes: tuple[str, ...]
    """What is assumed, extrapolated or unknown."""
