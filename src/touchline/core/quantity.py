"""A measured or predicted number, and the absence of one.

Absent is not zero: a number that was not measured is `Missing(reason)`, all the way to the report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

Phase = Literal["after_init", "step", "eval"]
"""Phase of a memory measurement; a figure after initialization does not describe training."""
MemoryKind = Literal["allocated", "reserved", "process"]
"""Kind of memory: the framework's tensors, its cache, or the process's resident set."""
TokenUnit = Literal["padded", "real", "label"]
"""Kind of tokens in a rate: computed tokens, data tokens, or label tokens."""
TOKEN_WORDS: dict[str, str] = {"padded": "computed", "real": "non-padding", "label": "label"}
"""Name of each kind of tokens in text."""
Aggregation = Literal["last", "mean", "median", "peak", "sum"]
"""Aggregation of several measurements."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """A number that is not there, and why."""

    missing: str
    """The reason, in words that fit inside `n/a (…)`."""

    def __str__(self) -> str:
        return f"n/a ({self.missing})"

    def quantity(self) -> Missing:
        """Return it as it is, like the quantity of an estimate that is not missing."""
        return self


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
    """Nominal coverage of the interval: 0.95 for a 95% interval."""
    phase: Phase | None = None
    """Phase of the measurement."""
    kind: MemoryKind | None = None
    """Kind of memory."""
    token_unit: TokenUnit | None = None
    """Kind of tokens."""
    aggregation: Aggregation | None = None
    """Aggregation of the measurements in this number."""
    method: str | None = None
    """Method, for computed numbers."""
    where: str | None = None
    """`file:line` or the file that it was read from."""

    @property
    def lower(self) -> float:
        """Lower end of the interval; the value without one."""
        return self.value if self.low is None else self.low

    @property
    def upper(self) -> float:
        """Upper end of the interval; the value without one."""
        return self.value if self.high is None else self.high


Measured = Quantity | Missing
"""Figure in a plan, a result or a report."""

NO_EVIDENCE = Missing(missing="no evidence")
"""Missing value of an estimate until a past run has been measured."""
NOT_FINITE = Missing(missing="not a number")


def finite(value: Measured) -> Measured:
    """Return the value if it is finite, else the reason why it is missing."""
    return value if isinstance(value, Missing) or math.isfinite(value.value) else NOT_FINITE


class _Valued(Protocol):
    @property
    def value(self) -> float: ...


def number_of(measured: _Valued | Missing | None) -> float | None:
    """Return the number of a quantity or an estimate, None where it is missing."""
    return None if measured is None or isinstance(measured, Missing) else measured.value
