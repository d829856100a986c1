"""Decisions of a strategy with their numbers, as they stand in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from touchline.experiment.strategy import StatedContrast
from touchline.statistics.conclusions import Verdict


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

    @property
    def difference(self) -> float:
        """Return the score at the level minus that of the other side."""
        return self.level - self.against


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
    """Standard error over seeds; 0 where no seed differs from another."""
    wide_error: float | None
    """Standard error with the variation between items and the chance of divergence; None if it is not known."""
    units: int | None = None
    """Independent items or clusters behind the wide error; None if unknown. Fewer than six establish nothing."""
    t: float | None
    """Smaller t of the two errors, None without one. With fewer units than seeds, that of the wide error is the t
    over seeds with its p value, which has `units` less 1 degrees of freedom."""
    p_value: float | None = None
    """One-sided p value of t as if this were the only look; None without t."""
    level: float = 0.0
    """Share of the family's one-sided level that the contrast was tested at."""
    bound: float
    """Value of t that establishes the claim."""
    futility: float | None
    """At or below it the contrast is given up; None if nothing is given up at this look."""
    low: float | None
    """Lower end of the repeated confidence interval: what the bound leaves of the difference with both errors."""
    high: float | None
    """Upper end; both ends None where there is no error."""
    corrected: float | None = None
    """Difference without what the choice of claims adds on average, at least `low`; None if it is not established."""
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
    """Device-hours of all training and evaluation jobs so far; None if unknown."""
    next_device_hours: float | None = None
    """Predicted device-hours of the runs that were not started."""

    def is_below(self, budget: float | None) -> bool:
        """Return whether the budget that ended the strategy is smaller than another one; None is not a limit."""
        if self.reason is not StopReason.BUDGET:
            return False
        return budget is None or (self.budget_device_hours is not None and self.budget_device_hours < budget)


@dataclass(frozen=True, kw_only=True, slots=True)
class Continuation:
    """Continuation with a larger budget after a stop for the budget."""

    budget_device_hours: float | None
    """Budget; None without a limit."""
    spent_device_hours: float
    """Device-hours of all training and evaluation jobs so far."""
    next_device_hours: float | None
    """Predicted device-hours of the runs that are started next; None if unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyDecision:
    """Decision with its numbers, as in the ledger: its kind says which of the parts it has."""

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


def missing_decision(decisions: Sequence[StrategyDecision]) -> str | None:
    """Return which decision is missing although later ones follow from it; None if none is."""
    for kind, what in ((DecisionKind.CUT, "point {} of explore"), (DecisionKind.LOOK, "look {}")):
        numbers = [decision.number for decision in decisions if decision.kind is kind]
        for place, number in enumerate(numbers):
            if number != place:
                return what.format(place + 1)
    return "the start of the strategy" if decisions and decisions[0].kind is not DecisionKind.BEGIN else None
