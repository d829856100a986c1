"""Whether documents that share a row see each other, on a small random model of an architecture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingMode:
    """One way of keeping documents apart, as trainers do it."""

    name: str
    """What the model is given: `block mask`, `positions`, `positions and a mask of ones`, `nothing`."""
    used_by: str
    """Which trainers do it so."""
    leak: float | None
    """Largest change of a document's log-probabilities when its neighbours' tokens change, in nats; none when it
    could not be tried."""
    difference: float | None
    """Largest difference of a document's log-probabilities beside others from those that it has alone, in nats;
    none when it could not be tried."""
    isolated: bool
    """Whether both are within rounding."""
    note: str | None = None
    """Why it could not be tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IsolationCheck:
    """What was found of an architecture."""

    model_type: str
    """`model_type` of its config."""
    layers: int
    """Layers of the small model."""
    attention: str
    """Implementation of attention that was tried."""
    tolerance: float
    """What rounding alone may do, in nats."""
    versions: dict[str, str]
    """Versions of torch and transformers."""
    ways: tuple[PackingMode, ...]
    """The ways, the safest first."""
