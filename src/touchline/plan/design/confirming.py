"""Sample sizes of a strategy's confirm phase: the runs that it may need, and looks for a number of seeds."""

from __future__ import annotations

from dataclasses import replace

from touchline.core.quantity import Missing, Quantity
from touchline.experiment.plan import Plan
from touchline.plan.power import conditions_per_level, number_of_contrasts
from touchline.strategy.costs import likely_contrasts, likely_runs, strategy_costs
from touchline.strategy.state import cells_of


def with_likely_runs(plan: Plan) -> Plan:
    """Return a plan with the runs of confirm that explore may choose at most; other plans as they are.

    Args:
        plan: plan of any experiment; with explore and confirm it holds the seeds of every condition.
    """
    strategy = plan.strategy
    if strategy is None or strategy.explore is None or not strategy.looks:
        return plan
    costs = strategy_costs(plan)
    unknown = Missing(missing="the hours of the strategy's runs are not known")
    hours = None if costs is None else costs.most
    method = "explore at most, and confirm of the conditions that cost most"
    return replace(
        plan,
        runs=likely_runs(plan),
        gpu_hours=unknown if hours is None else Quantity(value=hours, unit="h", method=method),
        wall_seconds=Missing(missing="explore chooses the conditions"),
    )


def family_of(plan: Plan) -> tuple[int, int]:
    """Return the contrasts over which p values are adjusted, and the fewest conditions that a level is averaged over.

    Args:
        plan: plan; with a strategy's confirm these are its own contrasts.
    """
    if plan.strategy is None or not plan.strategy.looks:
        return number_of_contrasts(plan), conditions_per_level(plan)
    contrasts = likely_contrasts(plan)
    cells = [len(cells_of(plan, each, plan.strategy.looks[-1])) for each in plan.strategy.contrasts]
    return len(contrasts), max(1, min(cells, default=1))


def looks_for(seeds: int, contrasts: int) -> tuple[int, ...]:
    """Return looks that establish with 80% power what one test establishes with a number of seeds.

    Args:
        seeds: seeds of one test without looks.
        contrasts: contrasts of the family.

    Raises:
        ValueError: the looks need more seeds than a strategy may have.
    """
    from touchline.strategy.group_sequential import LEVEL, shown_effect
    from touchline.strategy.look_designs import choose_looks

    effect = shown_effect((seeds,), level=LEVEL / contrasts)
    return choose_looks(effect, contrasts=contrasts).looks
