"""Strategy: an experiment in two phases, explore and confirm, as written and as planned.

Explore trains many conditions with one seed each and cuts some of them by validation loss. Confirm tests contrasts that
were stated beforehand, or chosen by explore, on fresh seeds, with looks at planned numbers of seeds. The plan holds all
runs that may become necessary; decisions make some of them active and stand in the ledger with their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen, MinLen

from touchline.experiment.value_types import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Text

if TYPE_CHECKING:
    from touchline.core.levels import Level

# ---- as written ------------------------------------------------------------------------------------------------------
# What concerns several keys is checked in `strategy_faults`, where an error of one key hides none of another.


@dataclass(frozen=True, kw_only=True, slots=True)
class ExploreConfig:
    """First phase: each condition with the first of `seeds`. Some are stopped early because of their validation
    loss."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    at: Annotated[tuple[Fraction, ...], MinLen(1)] = (0.25, 0.5)
    """Points at which runs are compared, as increasing fractions of the steps. Each takes the first validation from
    there on."""
    keep: Fraction = 0.5
    """Fraction of the runs (without the reference) that continues after each point, rounded up: those with the lowest
    validation losses. Stopped runs keep their checkpoints, are marked as cut, and never enter a test."""
    confirm: PositiveInt = 1
    """Number of conditions to confirm, by lowest final validation loss."""
    reference: Annotated[dict[str, object], MinLen(1)]
    """Condition that the others are compared with, by its levels: `{train.lora.rank: 8}`. It is never cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastConfig:
    """Claim to test: `level` scores higher than `against`, averaged over the other factors."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    name: Text
    """Name in plan, ledger and report."""
    level: Annotated[dict[str, object], MinLen(1)]
    """Levels claimed to score higher: `{train.lora.rank: 64}`."""
    against: Annotated[dict[str, object], MinLen(1)]
    """Levels to compare with: `{train.lora.rank: 4}`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmConfig:
    """Second phase: contrasts on fresh seeds, tested at planned numbers of seeds."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    contrasts: tuple[ContrastConfig, ...] = ()
    """Contrasts, stated in advance. With `explore` they are the chosen conditions against its reference."""
    seeds: Annotated[tuple[NonNegativeInt, ...], MinLen(2), MaxLen(64)]
    """Fresh seeds in the order of use, at most 64. Their number is that of the last look."""
    looks: Annotated[tuple[Annotated[int, Ge(2)], ...], MinLen(1)] | Literal["auto"] = "auto"
    """Seeds per condition at each test, increasing to the number of `seeds`. `auto` chooses them for `detect`."""
    detect: Annotated[PositiveFloat, Le(100)] = 2.0
    """Difference to detect, in points. `looks: auto` aims at 80% power for it, and the plan states the power. A
    contrast is given up when it is out of reach."""
    seed_spread: Annotated[PositiveFloat, Le(100)] | None = None
    """Standard deviation between seeds of a contrast's difference, in points (default: from the history)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyConfig:
    """Two phases of runs that end when the claims are settled."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    explore: ExploreConfig | None = None
    """Many conditions, one seed each. It needs `train.validate_every_steps`, or points at ends of epochs."""
    confirm: ConfirmConfig | None = None
    """Contrasts on fresh seeds."""
    budget: Text | None = None
    """Limit on the device-hours of all runs, `40h` or `40gpuh`. A run that is predicted to exceed it is not started.
    You can change it at any time."""


# ---- as planned ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class StatedContrast:
    """Contrast with its levels as text, by factor: as in `PlannedRun.levels`."""

    name: str
    """Name."""
    level: dict[str, str]
    """Levels that are claimed to score higher."""
    against: dict[str, str]
    """Levels that they are compared with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStrategy:
    """Strategy of a plan, with everything resolved. A change of its design after the first decision is refused."""

    explore: ExploreConfig | None
    """First phase; None without one."""
    reference: dict[str, str] = field(default_factory=dict)
    """Levels of the reference of explore."""
    contrasts: tuple[StatedContrast, ...] = ()
    """Stated contrasts; empty where explore chooses them."""
    seeds: tuple[int, ...] = ()
    """Seeds of confirm, in the order of use; empty without it."""
    looks: tuple[int, ...] = ()
    """Seeds per condition at each look."""
    detect: float = 0.0
    """Promised difference, as a share of the items (0.02 is two points)."""
    seed_spread: float | None = None
    """Standard deviation of a contrast's difference between seeds that futility is judged by, as a share; None if it
    is unknown: then nothing is given up early."""
    seed_spread_source: str = ""
    """Source of it: `stated`, or the past runs."""
    budget_device_hours: float | None = None
    """Limit of all runs together; not part of the design."""

    @property
    def design(self) -> PlannedStrategy:
        """Return what the first decision fixes: all but the budget, which only says how many of the looks are taken."""
        return replace(self, budget_device_hours=None)

    @property
    def effect(self) -> float | None:
        """Return the promised difference in standard deviations between seeds; None if that is not known."""
        return None if self.seed_spread is None else self.detect / self.seed_spread

    def stage_of(self, seed: int) -> int:
        """Return the number of the first look that a seed of confirm is needed for, from 0."""
        place = self.seeds.index(seed)
        return next(number for number, seeds in enumerate(self.looks) if place < seeds)


def matches(levels: Sequence[Level], wanted: Mapping[str, str]) -> bool:
    """Return whether a run has all the wanted levels."""
    own = {level.factor: level.value for level in levels}
    return all(own.get(factor) == value for factor, value in wanted.items())
