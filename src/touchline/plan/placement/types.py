"""Types of the placement: jobs, cluster and result."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from annotated_types import Ge

from touchline.core.quantity import Missing
from touchline.experiment.value_types import Text

PLACEMENT_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Minutes:
    """Duration with its interval, in minutes."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    value: Annotated[float, Ge(0)]
    """The predicted duration."""
    low: Annotated[float, Ge(0)] | None = None
    """Lower end of its 90% interval. None if it is certain."""
    high: Annotated[float, Ge(0)] | None = None
    """Upper end of its 90% interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceJob:
    """Job as listed in JOBS.json."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    id: Text
    """Name, unique in the list."""
    after: tuple[Text, ...] = ()
    """Jobs that must end before it starts."""
    gpus: Annotated[int, Ge(0)] = 1
    """GPUs that it uses."""
    cpus: Annotated[int, Ge(0)] = 0
    """CPUs that it uses."""
    memory_gb: Annotated[float, Ge(0)] = 0.0
    """Host memory that it uses, in GiB."""
    minutes: Minutes
    """Duration."""
    pin: int | None = None
    """GPU that it must run on, if given. Plans made by touchline have none."""


class DeadlineVerdict(StrEnum):
    """Whether a deadline can be met."""

    IMPOSSIBLE = "impossible"
    FITS = "fits"
    TIGHT = "tight"
    NO_DEADLINE = "no deadline"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """Lower bound on the makespan."""

    minutes: float
    """Minutes before which no schedule ends."""
    why: str
    """Reason: `all GPU minutes over 4 GPUs`, `the longest chain: a, b, c`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduledJob:
    """Start, end and GPUs of a job if all durations are as predicted."""

    id: str
    """Job."""
    start_minutes: float
    """Start, in minutes from the beginning."""
    end_minutes: float
    """End, in minutes from the beginning."""
    gpus: tuple[int, ...]
    """GPUs that it uses, numbered from 0 over all nodes."""
    node: int
    """Node, from 0."""
    priority: int
    """Position in the order in which jobs start when GPUs become free, from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Schedule and verdict."""

    schema_version: int = PLACEMENT_SCHEMA_VERSION
    """Version of this format."""
    verdict: DeadlineVerdict
    """Whether the deadline can be met."""
    verdict_reason: str
    """Reason for the verdict."""
    makespan_minutes: float
    """End of the last job if all durations are as predicted."""
    lower_bound_minutes: float
    """Lower bound on the makespan."""
    bounds: tuple[Bound, ...]
    """All bounds, the largest first."""
    deadline_minutes: float | None
    """The deadline."""
    probability: float | Missing
    """Chance to meet the deadline with dispatch by priority and durations drawn from their intervals, 0 to 1."""
    schedule: tuple[ScheduledJob, ...]
    """Jobs by start, then by name."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""
