"""Expected properties of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from touchline.results.verifying.adapters import ExpectedAdapter
from touchline.results.verifying.bases import BaseTensors


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """Expected properties of a checkpoint; None fields are unknown and not compared."""

    run: str
    """Run name."""
    planned: bool = False
    """Whether touchline made it, so that its marker is required."""
    digest: str | None = None
    """Digest of the planned run."""
    base: BaseTensors | None = None
    """Base model."""
    wanted: ExpectedAdapter | None = None
    """Planned adapter."""
    saves: Literal["adapter", "merged"] | None = None
    """Planned form."""
    steps: int | None = None
    """Optimizer steps of the whole training."""
    steps_per_epoch: int | None = None
    """Optimizer steps per epoch."""
    untrained: bool = False
    """Whether its adapter is untrained by intention, as in a no-op control."""
