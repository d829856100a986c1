"""Jobs to place on GPUs before a deadline, and the answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, MinLen

from touchline.core.quantity import Missing

PLACEMENT_SCHEMA_VERSION = 1
Text = Annotated[str, MinLen(1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Minutes:
    """A duration with its spread, in minutes."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    value: Annotated[float, Ge(0)]
    """The predicted duration."""
    low: Annotated[float, Ge(0)] | None = None
    """Lower end of its 90 % interval; none: as certain as it gets."""
    high: Annotated[float, Ge(0)] | None = None
    """Upper end of its 90 % interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceJob:
    """One job, as JOBS.json lists it."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    id: Text
    """Its name, unique in the list."""
    after: tuple[Text, ...] = ()
    """Jobs that must have ended before it starts."""
    gpus: Annotated[int, Ge(0)] = 1
    """GPUs that it holds while it runs."""
    cpus: Annotated[int, Ge(0)] = 0
    """CPUs that it holds."""
    memory_gb: Annotated[float, Ge(0)] = 0.0
    """Host memory that it holds, in GiB."""
    minutes: Minutes
    """How long it runs."""
    pin: int | None = None
    """The GPU that it must run on, where somebody decided; a plan of our own leaves it out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What there is to place on."""

    gpus: Annotated[int, Ge(1)]
    """GPUs in all."""
    gpus_per_node: Annotated[int, Ge(1)] | None = None
    """GPUs of one node, which a job never leaves; none: all GPUs are one node."""
    cpus: Annotated[int, Gt(0)] | None = None
    """CPUs of one node; none: not counted."""
    memory_gb: Annotated[float, Gt(0)] | None = None
    """Host memory of one node, in GiB; none: not counted."""


class DeadlineVerdict(StrEnum):
    """Whether a deadline can be met."""

    IMPOSSIBLE = "impossible"
    FITS = "fits"
    TIGHT = "tight"
    NO_DEADLINE = "no deadline"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """Something that no order of the jobs can beat."""

    minutes: float
    """No schedule ends before."""
    why: str
    """`all GPU minutes over 4 GPUs`, `the longest chain: a, b, c`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduledJob:
    """Where and when one job runs, should every duration be as predicted."""

    id: str
    """The job."""
    start_minutes: float
    """When it starts, from the beginning."""
    end_minutes: float
    """When it ends."""
    gpus: tuple[int, ...]
    """The GPUs that it holds, counted from 0 over all nodes."""
    node: int
    """The node, from 0."""
    priority: int
    """Its place in the order in which jobs are started when GPUs fall free, from 0."""
    late_end_minutes: float | None = None
    """Nine times of ten it has ended by then, as durations spread; none: no duration has an interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """The answer."""

    schema_version: int = PLACEMENT_SCHEMA_VERSION
    """Version of this form."""
    verdict: DeadlineVerdict
    """Whether the deadline can be met."""
    verdict_reason: str
    """Why, in a sentence."""
    makespan_minutes: float
    """When the last job ends, should every duration be as predicted."""
    lower_bound_minutes: float
    """No schedule is shorter."""
    bounds: tuple[Bound, ...]
    """Every bound, the greatest first."""
    deadline_minutes: float | None
    """The deadline."""
    probability: float | Missing
    """Chance to meet the deadline when jobs start by priority and durations spread as predicted, 0 to 1."""
    rule: str
    """The rule that found the order."""
    schedule: tuple[ScheduledJob, ...]
    """The jobs by start, then by name."""
    kept_gpus: int | None = None
    """How jobs are started. None: whatever fits starts, by priority. A number: a waiting job of so many GPUs or more
    keeps its place, and what is behind it starts only where, as predicted, it does not delay it. 0: no job starts
    before the one in front of it."""
    notes: tuple[str, ...] = ()
    """What the reader should know."""
