"""Types of the spread that a design counts on; light, because a plan holds them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from touchline.core.quantity import Quantity


class SpreadKind(StrEnum):
    """Quantity that a design counts on."""

    SEEDS = "spread between seeds"
    FLIPS = "items that flip between seeds"
    EFFECT = "items that a level changes"


class SpreadSource(StrEnum):
    """Source of a value."""

    OWN_RUNS = "this experiment's runs"
    HISTORY = "history"
    PRIOR = "prior range, not measured"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpreadInput:
    """Value with its interval and source."""

    kind: SpreadKind
    """Quantity."""
    quantity: Quantity
    """Standard deviation of a condition's mean score in points, or share of the items in %."""
    source: SpreadSource
    """Source."""
    basis: str
    """Description of its sample."""
