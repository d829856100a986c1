"""Result of `touchline estimate`, as its `--json` prints it."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.estimate import MemoryVerdict, PastRunsUsed, WhatIf
from touchline.core.quantity import Measured

ESTIMATE_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryAnswer:
    """Peak memory of a step on one device."""

    allocated_gib: Measured
    """Peak memory allocated by tensors."""
    reserved_gib: Measured
    """Peak memory reserved, including the allocator's cache."""
    process_gib: Measured
    """Peak memory of the process, as the device reports it."""
    breakdown: dict[str, float]
    """GiB of allocated memory by part: weights, adapter, optimizer, gradients, layers, logits, other."""
    after_init_gib: Measured
    """Memory allocated before the first step, which some trainers print as their peak."""
    capacity_gib: Measured
    """Memory of the device."""
    verdict: MemoryVerdict
    """Whether the process fits."""
    assumption: str
    """Assumption with the largest effect on the estimate."""
    what_ifs: tuple[WhatIf, ...]
    """Alternative settings worth considering."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimateAnswer:
    """Estimate for a training without an experiment."""

    schema_version: int = ESTIMATE_SCHEMA_VERSION
    """Version of this format."""
    model: str
    """Name of the model whose dimensions were found."""
    source: str
    """File or table with its dimensions."""
    parameters: int
    """Its parameters."""
    trained_parameters: int
    """Parameters with a gradient."""
    settings: dict[str, str]
    """Settings that were requested or assumed, by name."""
    padded_tokens: int
    """Computed tokens per micro-batch, padding included. Memory and time grow with them."""
    memory: MemoryAnswer
    """Peak memory of a step."""
    largest_micro_batch: Measured
    """Largest micro-batch that fits; the upper end is the largest that might fit."""
    seconds_per_step: Measured
    """Time of an optimizer step."""
    steps: Measured
    """Optimizer steps; missing if the number of examples is not given."""
    total_seconds: Measured
    """Time of all steps."""
    adapter_size: Measured
    """Size of the adapter on disk."""
    notes: tuple[str, ...]
    """Assumptions, extrapolations, unknowns, and the past runs in one line."""
    past_runs: PastRunsUsed
    """Past runs that were found, those used for time and for memory, and why not the others."""
