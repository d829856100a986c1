"""Strategy: an experiment in two phases, explore and confirm, as written, as planned and as decided.

Explore trains many conditions with one seed each and cuts some of them by validation loss. Confirm tests contrasts that
were stated beforehand, or chosen by explore, on fresh seeds, with looks at planned numbers of seeds. The plan holds all
runs that may become necessary; decisions make some of them active and stand in the ledger with their numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen, MinLen

from touchline.experiment.value_types import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Text
from touchline.statistics.conclusions import Verdict

if TYPE_CHECKING:
    from touchline.core.levels import Level

Policy = Literal["halving", "median"]
"""Rule that cuts runs by their validation losses."""


class Phase(StrEnum):
    """Phase of a run in a strategy."""

    EXPLORE = "explore"
    CONFIRM = "confirm"


# ---- as written ------------------------------------------------------------------------------------------------------
# What concerns several keys is checked in `strategy_faults`, where an error of one key hides none of another.


@dataclass(frozen=True, kw_only=True, slots=True)
class ExploreConfig:
    """First phase: every condition with one seed, the first of `seeds`; some are cut by validation loss."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    policy: Policy = "halving"
    """Rule at each point, for all runs but the reference: `halving` continues the best `keep` of them, `median` those
    whose validation loss is not above the median. Cut runs keep their checkpoints, are shown as cut, and never enter a
    test."""
    at: Annotated[tuple[Fraction, ...], MinLen(1)] = (0.25, 0.5)
    """Points at which runs are compared, as fractions of the training's steps, increasing; each at the first validation
    from there on."""
    keep: Fraction = 0.5
    """With `halving`, fraction of the runs other than the reference that continues after each point, rounded up."""
    confirm: PositiveInt = 1
    """Conditions with the lowest final validation loss that are confirmed."""
    reference: Annotated[dict[str, object], MinLen(1)]
    """Condition that they are compared with, by its levels: `{train.lora.rank: 8}`. It is never cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastConfig:
    """Claim to be tested: `level` scores higher than `against`. Other factors are averaged over."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    name: Text
    """Name in plan, ledger and report."""
    level: Annotated[dict[str, object], MinLen(1)]
    """Levels that are claimed to score higher: `{train.lora.rank: 64}`."""
    against: Annotated[dict[str, object], MinLen(1)]
    """Levels that they are compared with: `{train.lora.rank: 4}`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmConfig:
    """Second phase: contrasts on fresh seeds, with looks at planned numbers of seeds."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    contrasts: tuple[ContrastConfig, ...] = ()
    """Contrasts, stated beforehand; with `explore` they are the chosen conditions against its reference."""
    seeds: Annotated[tuple[NonNegativeInt, ...], MinLen(2), MaxLen(64)]
    """Fresh seeds, in the order of use; as many as the last look has, 64 at most."""
    looks: Annotated[tuple[Annotated[int, Ge(2)], ...], MinLen(1)] | Literal["auto"] = "auto"
    """Seeds per condition at each look, increasing to the number of `seeds`; `auto` chooses them for `detect`."""
    detect: Annotated[PositiveFloat, Le(100)] = 2.0
    """Promised difference in points. `looks: auto` shows it with 80 % power where the seeds suffice; the plan states
    the power. A contrast is given up once it is out of reach."""
    seed_spread: Annotated[PositiveFloat, Le(100)] | None = None
    """Standard deviation of a contrast's difference between seeds, in points; that of the history when not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyConfig:
    """Phases of a sweep that stops when its claims are settled."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    explore: ExploreConfig | None = None
    """Many conditions, one seed each; needs `train.validate_every_steps` or points at ends of epochs."""
    confirm: ConfirmConfig | None = None
    """Contrasts on fresh seeds."""
    budget: Text | None = None
    """Device-hours of all runs, `40h` or `40gpuh`: nothing is started that is predicted to exceed it. It may be changed
    at any time."""


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

    def digest(self, runs: Sequence[tuple[str, str]]) -> str:
        """Return the hash of the design: that of this strategy, and names and digests of the runs in order."""
        from pydantic import TypeAdapter

        stated = json.loads(TypeAdapter(PlannedStrategy).dump_json(self.design))
        text = json.dumps([stated, list(runs)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def matches(levels: Sequence[Level], wanted: Mapping[str, str]) -> bool:
    """Return whether a run has all the wanted levels."""
    own = {level.factor: level.value for level in levels}
    return all(own.get(factor) == value for factor, value in wanted.items())


# ---- as decided ------------------------------------------------------------------------------------------------------


class DecisionKind(StrEnum):
    """Kind of a decision."""

    BEGIN = "begin"
    """The design is fixed from here on."""
    CUT = "cut"
    CHOICE = "choice"
    LOOK = "look"
    STOP = "stop"
    CONTINUATION = "continuation"
    """A larger budget lifts a stop for the budget."""


class StopReason(StrEnum):
    """Reason why no further run is started."""

    SETTLED = "settled"
    """Every contrast is decided, or explore was all that was asked."""
    BUDGET = "budget"
    """The next runs are predicted to exceed the budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLoss:
    """Validation loss of a run at a point."""

    run: str
    """The run."""
    loss: float | None
    """In nats per token; None if it is not finite or the training diverged."""
    step: int | None = None
    """Optimizer step of the validation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Comparison of runs at a point of explore."""

    step: int
    """Optimizer step of the point; the last one, where runs have other numbers of steps."""
    policy: Policy
    """Rule."""
    losses: tuple[RunLoss, ...]
    """Losses of all runs that had continued so far."""
    kept: tuple[str, ...]
    """Runs that continue."""
    cut: tuple[str, ...]
    """Runs that end here."""

    @property
    def steps(self) -> dict[str, int]:
        """Return the runs that end here, each with its own step of the point."""
        own = {each.run: each.step for each in self.losses}
        return {run: own.get(run) or self.step for run in self.cut}


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Conditions that explore hands to confirm."""

    losses: tuple[RunLoss, ...]
    """Final validation losses of the runs that were not cut."""
    chosen: tuple[str, ...]
    """Their runs in explore."""
    contrasts: tuple[StatedContrast, ...]
    """Contrasts with the reference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedPair:
    """Scores of both sides of a contrast with one seed."""

    seed: int
    """The seed."""
    level: float
    """Mean score at the level, over conditions and items."""
    against: float
    """Mean score of the other side."""
    diverged: tuple[str, ...] = ()
    """Runs among them that diverged and count as 0, or as the lowest score of the look if that is below 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastLook:
    """State of one contrast at a look."""

    contrast: str
    """Name."""
    pairs: tuple[SeedPair, ...]
    """One per seed, in the order of use."""
    difference: float
    """Mean difference."""
    error: float
    """Standard error over seeds."""
    wide_error: float | None
    """Standard error with the variation between items and the chance of divergence; None if it is not known."""
    t: float | None
    """Difference over the larger error; None if that is zero."""
    p_value: float | None = None
    """One-sided p value of t as if this were the only look; None without t."""
    level: float = 0.0
    """Share of the family's one-sided level that the contrast was tested at."""
    bound: float
    """Value of t that establishes the claim."""
    futility: float | None
    """At or below it the contrast is given up; None if nothing is given up at this look."""
    low: float | None
    """Lower end of the repeated confidence interval."""
    high: float | None
    """Upper end."""
    verdict: Verdict
    """State."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One look at all undecided contrasts."""

    seeds: int
    """Seeds per condition."""
    contrasts: tuple[ContrastLook, ...]
    """Undecided contrasts in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """End of the strategy; of one for the budget until a larger budget lifts it."""

    reason: StopReason
    """Reason."""
    budget_device_hours: float | None = None
    """Budget that the next runs would have exceeded; None with another reason."""
    spent_device_hours: float | None = None
    """Device-hours of all trainings and evaluations so far; None if unknown."""
    next_device_hours: float | None = None
    """Predicted device-hours of the runs that were not started."""

    def is_below(self, budget: float | None) -> bool:
        """Return whether the budget that ended the strategy is smaller than another one; None is no limit."""
        if self.reason is not StopReason.BUDGET:
            return False
        return budget is None or (self.budget_device_hours is not None and self.budget_device_hours < budget)


@dataclass(frozen=True, kw_only=True, slots=True)
class Continuation:
    """Continuation with a larger budget after a stop for the budget."""

    budget_device_hours: float | None
    """Budget; None without a limit."""
    spent_device_hours: float
    """Device-hours of all trainings and evaluations so far."""
    next_device_hours: float | None
    """Predicted device-hours of the runs that are started next; None if unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyDecision:
    """Decision with its numbers, as in the ledger."""

    kind: DecisionKind
    """Kind."""
    number: int = 0
    """Number of the point or look, from 0."""
    design: str
    """Digest of the design."""
    cut: Cut | None = None
    """Comparison, of a cut."""
    choice: Choice | None = None
    """Choice."""
    look: Look | None = None
    """Look."""
    stop: Stop | None = None
    """End."""
    continuation: Continuation | None = None
    """Continuation after a stop for the budget."""


__all__ = [
    "Choice",
    "ConfirmConfig",
    "Continuation",
    "ContrastConfig",
    "ContrastLook",
    "Cut",
    "DecisionKind",
    "ExploreConfig",
    "Look",
    "Phase",
    "PlannedStrategy",
    "Policy",
    "RunLoss",
    "SeedPair",
    "StatedContrast",
    "Stop",
    "StopReason",
    "StrategyConfig",
    "StrategyDecision",
    "Verdict",
    "matches",
]
