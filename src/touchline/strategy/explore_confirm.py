"""Explore and confirm: each decision that is due, from the design, the earlier decisions and the runs so far.

Decisions do not depend on when they are computed: a command that was killed before it recorded one computes the same
again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from touchline.core.errors import quoted
from touchline.core.quantity import Measured, Quantity
from touchline.core.table import Section
from touchline.core.units import plural
from touchline.estimate.totals import totals_of
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import Phase
from touchline.strategy.costs import (
    StrategyCosts,
    expected_lines,
    explore_hours,
    explore_section,
    likely_runs,
    strategy_costs,
    strategy_sections,
)
from touchline.strategy.decisions import Continuation, DecisionKind, Stop, StopReason, StrategyDecision
from touchline.strategy.design import design_digest
from touchline.strategy.evidence import look_at, scored_runs
from touchline.strategy.explore import continuing_runs, decide_choice, decide_cut, next_points, point_steps
from touchline.strategy.report import StrategyReport, design_words, strategy_report
from touchline.strategy.state import (
    State,
    StrategyStatus,
    budget_text,
    continued,
    decision_line,
    diverged_in,
    first_names,
    of_phase,
    state_of,
    status_of,
)
from touchline.strategy.strategy import RunsSoFar, Strategy


class ExploreConfirm(Strategy):
    """Sweep in one or two phases that stops when its claims are settled."""

    settles = True

    def __init__(self, plan: Plan, decisions: Sequence[StrategyDecision]) -> None:
        super().__init__(plan)
        self.state = state_of(plan, decisions)
        self.decisions = self.state.decisions
        self.cut = self.state.cut
        self.chosen = self.state.chosen or ()
        self.has_ended = self.state.stop is not None
        self.diverged = set(diverged_in(decisions))
        self.started, self.working = self.state.started, self.state.working
        self.pauses = next_points(self.state) if self.state.is_exploring else {}

    # ---- the plan ----

    @property
    def likely_runs(self) -> tuple[PlannedRun, ...]:
        """Return the runs that may be started at most."""
        return likely_runs(self.plan)

    def sections(self) -> tuple[Section, ...]:
        """Return the sections of the plan that a user reviews."""
        explore = explore_section(self.plan, self.state.strategy)
        own = strategy_sections(self.plan, self.state.strategy)
        return own if explore is None else (explore, *own)

    def expected(self) -> tuple[str, ...]:
        """Return the expected device-hours in a line."""
        return tuple(expected_lines(self.plan))

    def runs_at_most(self) -> str:
        """Return how many of the planned runs may be started at most."""
        return f"at most {len(self.likely_runs)} of {plural(len(self.plan.runs), 'planned run')}"

    def costs(self) -> StrategyCosts | None:
        """Return the costs of a strategy with confirm; None without it."""
        return strategy_costs(self.plan)

    # ---- next runs ----

    def to_do(self, runs: RunsSoFar) -> list[PlannedRun]:
        """Return the runs at work that have not diverged."""
        return [run for run in self.working if not runs.has_diverged(run)]

    def is_unfinished(self, runs: RunsSoFar) -> bool:
        """Return whether a run is not trained and evaluated, or more may be started."""
        stop = self.state.stop
        return stop is None or stop.reason is not StopReason.SETTLED or super().is_unfinished(runs)

    def next_decision(self, runs: RunsSoFar) -> StrategyDecision | None:
        """Return the decision that is due; None if it waits for runs, or if all are taken."""
        design, state = design_digest(self.plan), self.state
        if not self.decisions:
            return StrategyDecision(kind=DecisionKind.BEGIN, design=design)
        if state.stop is not None:
            more = self._continuation(state.stop, runs)
            kind = DecisionKind.CONTINUATION
            return None if more is None else StrategyDecision(kind=kind, design=design, continuation=more)
        if (stop := self._over_budget(runs)) is not None:
            return StrategyDecision(kind=DecisionKind.STOP, design=design, stop=stop)
        if state.is_exploring:
            return self._explored(runs, design)
        if not state.undecided or state.looks_taken == len(state.strategy.looks):
            return StrategyDecision(kind=DecisionKind.STOP, design=design, stop=Stop(reason=StopReason.SETTLED))
        if self._unfinished(runs):
            return None
        diverged = {run.name for run in state.working if runs.has_diverged(run)}
        look = look_at(state, runs.scores(scored_runs(state, diverged)))
        return StrategyDecision(kind=DecisionKind.LOOK, number=state.looks_taken, design=design, look=look)

    def decision_line(self, decision: StrategyDecision) -> str | None:
        """Return a decision on one line; the beginning is not worth one."""
        return None if decision.kind is DecisionKind.BEGIN else decision_line(decision, len(self.state.strategy.looks))

    @property
    def has_other_design(self) -> bool:
        """Return whether the design of the plan is not that of the first decision."""
        return bool(self.decisions) and self.decisions[0].design != design_digest(self.plan)

    def _explored(self, runs: RunsSoFar, design: str) -> StrategyDecision | None:
        """Return the cut at the next point, or after the last one the choice; None while runs have yet to reach it."""
        state, strategy, explored = self.state, self.state.strategy, continuing_runs(self.state)
        losses = [loss for run in explored if (loss := runs.loss_at(run, self.pauses[run.name])) is not None]
        if len(losses) < len(explored):
            return None
        if None in self.pauses.values():
            choice = decide_choice(strategy, explored, losses)
            return StrategyDecision(kind=DecisionKind.CHOICE, design=design, choice=choice)
        cut = decide_cut(strategy, explored, losses)
        return StrategyDecision(kind=DecisionKind.CUT, number=len(state.cuts), design=design, cut=cut)

    def _unfinished(self, runs: RunsSoFar) -> list[PlannedRun]:
        return [run for run in self.to_do(runs) if run.phase is not None and not runs.is_finished(run)]

    # ---- the budget ----

    def _over_budget(self, runs: RunsSoFar) -> Stop | None:
        """Return the stop before explore, or before the runs of a look, that are predicted to exceed the budget.

        It is judged before any of them is started, and not again: what is begun is finished.
        """
        state, budget = self.state, self.state.strategy.budget_device_hours
        coming = of_phase(state.started, Phase.EXPLORE) if state.is_exploring else state.newest
        if budget is None or not coming or runs.has_begun(coming):
            return None
        spent, predicted = runs.spent_hours(), _next_hours(state)
        if predicted is None or spent + predicted <= budget:
            return None
        return Stop(
            reason=StopReason.BUDGET, budget_device_hours=budget, spent_device_hours=spent, next_device_hours=predicted
        )

    def _continuation(self, stop: Stop, runs: RunsSoFar) -> Continuation | None:
        budget = self.state.strategy.budget_device_hours
        if not stop.is_below(budget):
            return None
        spent, predicted = runs.spent_hours(), _next_hours(continued(self.state))
        if budget is not None and predicted is not None and spent + predicted > budget:
            return None
        return Continuation(budget_device_hours=budget, spent_device_hours=spent, next_device_hours=predicted)

    # ---- what it says ----

    def waiting_line(self, runs: RunsSoFar) -> str | None:
        """Return what the coming decision waits for; None if nothing is to come."""
        state, strategy = self.state, self.state.strategy
        if state.is_exploring and strategy.explore is not None:
            waited_for = [r for r in continuing_runs(state) if runs.loss_at(r, self.pauses[r.name]) is None]
            if not waited_for:
                return None
            known = sorted({step for run in waited_for if (step := self.pauses[run.name]) is not None})
            if not known:
                return f"the choice waits for {first_names(waited_for, ' to be trained')}"
            count = len(point_steps(waited_for[0], strategy.explore.at))
            where = f"point {len(state.cuts) + 1} of {count}, step {' or '.join(map(str, known))},"
            return f"{where} waits for {first_names(waited_for)}"
        if state.stop is not None or not state.undecided:
            return None
        unfinished = self._unfinished(runs)
        look = f"look {state.looks_taken + 1} of {len(strategy.looks)}"
        return f"{look} waits for {first_names(unfinished)}" if unfinished else None

    def budget_line(self, runs: RunsSoFar, folder: str) -> str | None:
        """Return how a strategy that its budget stopped is continued; None of another one."""
        stop = self.state.stop
        if stop is None or stop.reason is not StopReason.BUDGET:
            return None
        needed = runs.spent_hours() + (_next_hours(continued(self.state)) or 0.0)
        where = quoted(folder)
        is_local = self.plan.executor == "local"
        then = f"`touchline run {where}`" if is_local else f"`touchline plan {where}` and `touchline submit {where}`"
        return (
            f"stopped by {budget_text(self.state.strategy.budget_device_hours)}. To continue with the planned "
            f"looks, set strategy.budget in experiment.yaml to {_rounded_up(needed)}h or more, then {then}"
        )

    def status(self) -> StrategyStatus | None:
        """Return how far the strategy is."""
        return status_of(self.state)

    def design_words(self) -> str:
        """Return the design in one line, as it was fixed in advance."""
        return design_words(self.state)

    def report(self, spent: Measured) -> StrategyReport | None:
        """Return what the report says of the strategy."""
        return strategy_report(self.state, spent)


def _next_hours(state: State) -> float | None:
    if state.is_exploring:
        return explore_hours(state.plan)
    hours = totals_of(state.plan, state.newest)["gpu_hours"]
    return hours.value if isinstance(hours, Quantity) else None


def _rounded_up(hours: float) -> str:
    """Return hours with three digits, at most three of them decimals, not less than they are."""
    unit = 10.0 ** max(math.floor(math.log10(hours)) - 2, -3) if hours > 0 else 1.0
    return f"{math.ceil(hours / unit) * unit:.10g}"
