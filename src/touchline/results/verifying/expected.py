"""What a checkpoint is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from touchline.results.verifying.adapters import ExpectedAdapter
from touchline.results.verifying.bases import BaseTensors


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What a checkpoint is measured against; what is none is not known, and not compared."""

    run: str
    """The run."""
    planned: bool = False
    """Whether touchline made it: then its marker must be there."""
    digest: str | None = None
    """Digest of the planned run."""
    base: BaseTensors | None = None
    """Its base."""
    wanted: ExpectedAdapter | None = None
    """Its adapter, as planned."""
    saves: Literal["adapter", "merged"] | None = None
    """What was to be saved."""
    steps: int | None = None
    """Optimizer steps of the whole training."""
    steps_per_epoch: int | None = None
    """Optimizer steps of an epoch."""
    untrained: bool = False
    """Whether its adapter changes nothing by intention, as that of a no-op control."""
