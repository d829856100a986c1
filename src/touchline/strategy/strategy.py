"""Interface of a strategy: plan, run and report ask it which runs come next, and what to say about them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from touchline.core.quantity import Measured
from touchline.core.table import Section
from touchline.core.units import plural
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import PlannedStrategy
from touchline.statistics.conclusions import ScoredRun
from touchline.strategy.decisions import RunLoss, StrategyDecision

if TYPE_CHECKING:
    from touchline.strategy.costs import StrategyCosts
    from touchline.strategy.report import StrategyReport
    from touchline.strategy.state import StrategyStatus


class RunsSoFar(Protocol):
    """What the folders of the runs show; decisions depend on nothing else."""

    def has_diverged(self, run: PlannedRun) -> bool:
        """Return whether the loss of a run was not finite."""

    def is_finished(self, run: PlannedRun) -> bool:
        """Return whether a run is trained and evaluated."""

    def has_begun(self, runs: Sequence[PlannedRun]) -> bool:
        """Return whether any of these runs was ever about to be started."""

    def loss_at(self, run: PlannedRun, step: int | None) -> RunLoss | None:
        """Return the validation loss of a run at a step, None for the last one; None if it has not come so far."""

    def scores(self, runs: Sequence[PlannedRun]) -> Mapping[str, ScoredRun]:
        """Return the scores at the last checkpoints. Raise InputError if a run has none."""

    def spent_hours(self) -> float:
        """Return the device-hours of all training and evaluation jobs so far."""


class Strategy:
    """Strategy of a plan after some decisions. This one is the grid: all runs are started, and nothing is decided."""

    settles = False
    """Whether claims are tested by this strategy, and a run that diverged is a result."""

    has_ended = True
    """Whether no decision is to come."""
    diverged: Collection[str] = ()
    """Runs that diverged and have a part in a result."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        """Plan with all its runs, those that may never be started too."""
        self.started: tuple[PlannedRun, ...] = plan.runs
        """Runs that have been made active so far."""
        self.working: tuple[PlannedRun, ...] = plan.runs
        """Runs to train and evaluate now, whether they have diverged or not."""

    # ---- the plan ----

    @property
    def likely_runs(self) -> tuple[PlannedRun, ...]:
        """Return the runs that may be started at most."""
        return self.plan.runs

    def sections(self) -> tuple[Section, ...]:
        """Return the sections of the plan that a user reviews."""
        return ()

    def expected(self) -> tuple[str, ...]:
        """Return the expected device-hours in a line, where they are less than the totals."""
        return ()

    def runs_at_most(self) -> str:
        """Return how many runs there are, or may be started at most."""
        return plural(len(self.plan.runs), "run")

    def costs(self) -> StrategyCosts | None:
        """Return the predicted costs; None where they are the plan's totals."""
        return None

    # ---- next runs ----

    decisions: tuple[StrategyDecision, ...] = ()
    cut: Mapping[str, int] = {}
    """Cut runs with the step at which they were."""
    chosen: Collection[str] = ()
    """Runs that were chosen by their validation losses."""
    pauses: Mapping[str, int | None] = {}
    """Steps to pause at by run that is compared; None is the end of its training."""

    def to_do(self, runs: RunsSoFar) -> list[PlannedRun]:
        """Return the runs to train and evaluate now."""
        return list(self.working)

    def is_unfinished(self, runs: RunsSoFar) -> bool:
        """Return whether a run is not trained and evaluated, or more may be started."""
        return not all(runs.is_finished(run) for run in self.to_do(runs))

    def next_decision(self, runs: RunsSoFar) -> StrategyDecision | None:
        """Return the decision that is due; None if it waits for runs, or if all are taken."""
        return None

    def decision_line(self, decision: StrategyDecision) -> str | None:
        """Return a decision on one line; None where there is nothing to say."""
        return None

    @property
    def has_other_design(self) -> bool:
        """Return whether the design of the plan is not that of the first decision."""
        return False

    def waiting_line(self, runs: RunsSoFar) -> str | None:
        """Return what the coming decision waits for; None if nothing is to come."""
        return None

    def budget_line(self, runs: RunsSoFar, folder: str) -> str | None:
        """Return how a strategy that its budget stopped is continued; None of another one."""
        return None

    # ---- what it says ----

    def status(self) -> StrategyStatus | None:
        """Return how far it is; None of a grid."""
        return None

    def design_words(self) -> str:
        """Return the design in one line; empty of a grid, whose factors say it."""
        return ""

    def report(self, spent: Measured) -> StrategyReport | None:
        """Return what the report says of it; None of a grid."""
        return None


def started_plan(strategy: Strategy) -> Plan:
    """Return the plan with only the runs that have been made active so far; of a grid the plan itself."""
    plan, names = strategy.plan, {run.name for run in strategy.started}
    if len(names) == len(plan.runs):
        return plan
    return replace(
        plan, runs=strategy.started, cohorts=tuple(each for each in plan.cohorts if names.issuperset(each.runs))
    )


def start_of(strategy: PlannedStrategy | None, run: PlannedRun) -> object:
    """Return a key that is equal for runs that are started together: phase, and the first look with the seed."""
    if strategy is None or run.phase is not Phase.CONFIRM:
        return run.phase
    return run.phase, strategy.stage_of(run.seed)
