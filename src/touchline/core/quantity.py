"""A measured or predicted number, and the absence of one.

Absent is not zero: a number that was not measured is `Missing(reason)`, all the way to the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["after_init", "step", "eval"]
"""When a memory figure was taken; a figure after initialisation says nothing of training."""
MemoryKind = Literal["allocated", "reserved", "process"]
"""Which memory: the framework's tensors, its cache, or the whole process's resident set."""
TokenUnit = Literal["padded", "real", "label"]
"""Which tokens a rate counts: all positions computed, those of the data, or those with a loss."""
Aggregation = Literal["last", "mean", "median", "peak", "sum"]
"""How many measurements became one number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """A number that is not there, and why."""

    missing: str
    """The reason, in words that fit inside `n/a (…)`."""

    def __str__(self) -> str:
        return f"n/a ({self.missing})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """A number with its unit and, as far as they apply, what else must be known to use it."""

    value: float
    """The number itself, in `unit`."""
    unit: str
    """`s`, `GiB`, `tokens/s`, `1` ... as SI and the field write it."""
    low: float | None = None
    """Lower end of the interval."""
    high: float | None = None
    """Upper end of the interval."""
    coverage: float | None = None
    """How often such intervals hold the truth: 0.95 for a 95% interval."""
    phase: Phase | None = None
    """When it was measured."""
    kind: MemoryKind | None = None
    """Which memory it is."""
    token_unit: TokenUnit | None = None
    """Which tokens it counts."""
    aggregation: Aggregation | None = None
    """How many measurements became this number."""
    method: str | None = None
    """How it was computed, for numbers that were not read off directly."""
    where: str | None = None
    """`file:line` or the file that it was read from."""


Measured = Quantity | Missing
"""What every figure in a plan, a result or a report is."""

NO_EVIDENCE = Missing(missing="no evidence")
"""What an estimate is until a past run has been measured."""
