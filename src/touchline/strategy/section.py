"""Section of a plan about its strategy: phases, claims, looks with their bounds, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from touchline.core.table import Column, Section, table_section
from touchline.core.units import hours_unit, percent, plural
from touchline.experiment.plan import Plan
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import PlannedStrategy
from touchline.strategy.costs import StrategyCosts, likely_contrasts, look_bounds, promised_power, strategy_costs
from touchline.strategy.group_sequential import LEVEL

_POINTS = 100.0
_CLAIMS = ("contrast", "claimed to score higher", "than")
_LOOKS = (
    Column("look", numeric=True),
    Column("seeds per condition", numeric=True),
    Column("established at t", numeric=True),
    Column("given up at t", numeric=True),
    Column("device-hours at most", numeric=True),
)
_COSTS = ("if", Column("device-hours", numeric=True), Column("share of the fixed design", numeric=True))


def strategy_sections(plan: Plan) -> tuple[Section, ...]:
    """Return the sections about a plan's strategy; none without one."""
    strategy = plan.strategy
    if strategy is None:
        return ()
    costs = strategy_costs(plan)
    claims = [(each.name, _side(each.level), _side(each.against)) for each in strategy.contrasts]
    return (
        table_section("Strategy", _CLAIMS, claims, (*_phases(plan, strategy), *_rules(strategy))),
        table_section("Looks", _LOOKS, _looks(plan), _about_looks(plan, strategy)),
        table_section(
            "Costs of the strategy",
            _COSTS,
            () if costs is None else _costs(costs),
            _about_costs(plan, strategy, costs),
        ),
    )


def expected_lines(plan: Plan) -> Iterator[str]:
    """Yield the expected device-hours of a strategy, which stand before the totals of all planned runs."""
    costs = strategy_costs(plan)
    if costs is None:
        return
    unit = _unit(plan)
    if costs.promised is None or costs.without_effect is None:
        why = "the costs of the runs" if costs.most is None else "strategy.confirm.seed_spread"
        yield f"Expected {unit}: not known without {why}"
    else:
        yield (
            f"Expected: {_hours(costs.promised)} {unit} with the promised effect, "
            f"{_hours(costs.without_effect)} without any effect"
        )


def _unit(plan: Plan) -> str:
    return hours_unit("GPU" if plan.machine.kind == "gpu" else "CPU")


def _side(levels: Mapping[str, str]) -> str:
    return ", ".join(f"{factor} = {value}" for factor, value in levels.items())


def _phases(plan: Plan, strategy: PlannedStrategy) -> Iterator[str]:
    explore = strategy.explore
    if explore is not None:
        runs = [run for run in plan.runs if run.phase is Phase.EXPLORE]
        rule = f"the best {explore.keep:.0%} continue" if explore.policy == "halving" else "the better half continues"
        yield (
            f"Explore: {plural(len(runs), 'run')} with one seed each, compared by validation loss; {rule}, and the "
            f"reference {_side(strategy.reference)} always does."
        )
    if strategy.looks:
        chosen = "" if explore is None else f" of {plural(explore.confirm, 'chosen condition')} with the reference"
        yield f"Confirm: contrasts{chosen} on fresh seeds, {', '.join(map(str, strategy.seeds))}, in this order."


def _rules(strategy: PlannedStrategy) -> Iterator[str]:
    if strategy.explore is not None:
        yield "Cut runs keep their checkpoints, are listed as cut, and enter no test."
    if strategy.looks:
        yield (
            f"Every look tests the undecided contrasts, one-sided at {LEVEL:.1%} for the family; only these get more "
            "seeds. A run whose loss is not finite counts as score 0; any other failure holds the look."
        )
        yield "From the first decision on the design is fixed: a change of claims, seeds, looks or settings is refused."


def _looks(plan: Plan) -> Iterator[tuple[str, ...]]:
    for number, look in enumerate(look_bounds(plan), 1):
        futility = "-" if look.futility is None else f"{look.futility:.2f}"
        yield str(number), str(look.seeds), f"{look.bound:.2f}", futility, _hours(look.device_hours)


def _about_looks(plan: Plan, strategy: PlannedStrategy) -> Iterator[str]:
    if not strategy.looks:
        return
    power = promised_power(strategy, len(likely_contrasts(plan)))
    shown = (
        ", shown with unknown power"
        if power is None
        else f"; if it is true, a contrast is established with {percent(power, 0)} power, less where items vary"
    )
    yield (
        f"Promised difference: {strategy.detect * _POINTS:.3g} points{shown}. Bounds are those of the first share of "
        "the level; they become lower for the contrasts left when one is established."
    )
    if strategy.seed_spread is None:
        yield (
            "The spread of a contrast's difference between seeds is not known, so the power is not either, and nothing "
            "is given up early: strategy.confirm.seed_spread states it."
        )
    else:
        yield (
            f"Spread of a contrast's difference between seeds: {strategy.seed_spread * _POINTS:.3g} points "
            f"({strategy.seed_spread_source})."
        )


def _costs(costs: StrategyCosts) -> Iterator[tuple[str, ...]]:
    fixed = f"no looks, {plural(costs.fixed_seeds, 'seed')} per condition (fixed design)"
    rows = (
        ("every contrast ends at the first look (at least)", costs.least),
        ("no contrast has an effect (expected)", costs.without_effect),
        ("every contrast has the promised effect (expected)", costs.promised),
        ("every contrast continues to the last look (at most)", costs.most),
        (fixed, costs.fixed),
    )
    for name, hours in rows:
        if hours is not None:
            share = "-" if not costs.fixed else f"{hours / costs.fixed:.0%}"
            yield name, _hours(hours), share


def _about_costs(plan: Plan, strategy: PlannedStrategy, costs: StrategyCosts | None) -> Iterator[str]:
    if costs is not None and costs.most is None:
        yield "The costs of these runs are not known."
    if strategy.budget_device_hours is not None:
        budget = f"Budget: {strategy.budget_device_hours:.3g} {_unit(plan)}"
        known = costs is None or costs.most is not None
        yield f"{budget}; {_BUDGET if known else _NO_BUDGET}"


_BUDGET = (
    "before a look's runs are started, what is spent and what they are predicted to take must not exceed it. It is "
    "not part of the design, and may be changed at any time."
)
_NO_BUDGET = "it is not checked, because the costs are not known."


def _hours(hours: float | None) -> str:
    return "-" if hours is None else f"{hours:.3g}"
