"""Strategy of an experiment with its decisions and the state after them, as the report gets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.strategy import PlannedStrategy
from touchline.strategy.decisions import StrategyDecision
from touchline.strategy.state import StrategyState, strategy_state


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyRecord:
    """Strategy with its decisions so far."""

    plan: Plan
    """Plan with all its runs, those that may never be started too."""
    planned: PlannedStrategy
    """Its strategy."""
    decisions: tuple[StrategyDecision, ...]
    """Decisions in order."""
    state: StrategyState
    """State after them."""

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """Return all planned runs."""
        return self.plan.runs


def strategy_record(plan: Plan, decisions: Sequence[StrategyDecision]) -> StrategyRecord | None:
    """Return the strategy of a plan with its decisions; None without a strategy.

    Args:
        plan: the plan, with all its runs.
        decisions: decisions in the ledger, in order.
    """
    if plan.strategy is None:
        return None
    return StrategyRecord(
        plan=plan, planned=plan.strategy, decisions=tuple(decisions), state=strategy_state(plan, decisions)
    )
