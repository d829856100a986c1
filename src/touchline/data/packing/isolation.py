"""Isolation of packed examples, tested on a small random model of an architecture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingMode:
    """Method of isolating packed examples, as used by trainers."""

    name: str
    """Inputs of the model: `block mask`, `positions`, `positions and a mask of ones`, `nothing`."""
    used_by: str
    """Trainers that use it."""
    leak: float | None
    """Largest change of an example's log-probabilities when its neighbors' tokens change, in nats. None if untested."""
    difference: float | None
    """Largest difference of an example's log-probabilities between packed and alone, in nats. None if untested."""
    isolated: bool
    """Whether both are within rounding."""
    note: str | None = None
    """Reason why it was not tested."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IsolationCheck:
    """Result for an architecture."""

    model_type: str
    """`model_type` of its config."""
    layers: int
    """Layers of the small model."""
    attention: str
    """Tested attention implementation."""
    tolerance: float
    """Tolerance for rounding, in nats."""
    versions: dict[str, str]
    """Versions of torch and transformers."""
    ways: tuple[PackingMode, ...]
    """Methods, the safest first."""
