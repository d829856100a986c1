"""Strategy: which of the planned runs come next, the grid with all of them or explore and confirm.

In: a plan, and the decisions in its ledger. Out: runs to start, decisions from results, and what plan and report say
about both, as tables and sentences.
"""

from collections.abc import Sequence

from touchline.experiment.plan import Plan
from touchline.strategy.decisions import StrategyDecision
from touchline.strategy.strategy import Strategy


def strategy_of(plan: Plan, decisions: Sequence[StrategyDecision] = ()) -> Strategy:
    """Return the strategy of a plan after some decisions."""
    if plan.strategy is None:
        return Strategy(plan)
    # Its statistics load only where there is something to decide.
    from touchline.strategy.explore_confirm import ExploreConfirm

    return ExploreConfirm(plan, decisions)
