"""Sections of a plan about its strategy: phases, claims, points, looks with their bounds, and what it costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from touchline.core.quantity import Measured, Quantity
from touchline.core.table import Column, Section, table_section
from touchline.core.units import device_hours, hours_unit, measured, percent, plural
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import ExploreConfig, PlannedStrategy
from touchline.strategy.costs import (
    StrategyCosts,
    explore_cost,
    likely_contrasts,
    look_bounds,
    one_by_one,
    promised_power,
    strategy_costs,
)
from touchline.strategy.explore import continuing_counts, point_steps
from touchline.strategy.group_sequential import LEVEL
from touchline.strategy.state import of_phase, references

_POINTS = 100.0
_CLAIMS = ("contrast", "claimed to score higher", "than")
_LOOKS = (
    Column("look", numeric=True),
    Column("seeds per condition", numeric=True),
    Column("established at t", numeric=True),
    Column("given up at t", numeric=True),
    Column("device-hours at most", numeric=True),
)
_COSTS = ("if", Column("device-hours", numeric=True))
_EXPLORE = ("point", "at step", "runs compared", "continue at most")


def strategy_sections(plan: Plan, strategy: PlannedStrategy) -> tuple[Section, ...]:
    """Return the sections that a user reviews: phases with their claims, looks, and costs."""
    costs = strategy_costs(plan)
    claims = [(each.name, side_text(each.level), side_text(each.against)) for each in strategy.contrasts]
    return (
        table_section("Strategy", _CLAIMS, claims, _phases(strategy)),
        table_section("Looks", _LOOKS, _looks(plan), _about_looks(plan, strategy) if strategy.looks else ()),
        table_section(
            "Costs of the strategy",
            _COSTS,
            () if costs is None else _costs(costs),
            _about_costs(plan, strategy, costs),
        ),
    )


def expected_lines(plan: Plan) -> Iterator[str]:
    """Yield the expected device-hours of a strategy."""
    costs = strategy_costs(plan)
    if costs is None:
        return
    if costs.promised is None or costs.without_effect is None:
        why = "the costs of the runs" if costs.most is None else "strategy.confirm.seed_spread"
        yield f"Expected {_unit(plan)}: unknown without {why}"
    else:
        yield (
            f"Expected: {_hours(costs.promised)} {_unit(plan)} with the promised effect, "
            f"{_hours(costs.without_effect)} without any effect"
        )


def side_text(levels: Mapping[str, str]) -> str:
    """Return the levels of a side as they are written in experiment.yaml."""
    return ", ".join(f"{factor} = {value}" for factor, value in levels.items())


def _unit(plan: Plan) -> str:
    return hours_unit("GPU" if plan.machine.kind == "gpu" else "CPU")


def _phases(strategy: PlannedStrategy) -> Iterator[str]:
    explore = strategy.explore
    if strategy.looks:
        chosen = "" if explore is None else f" of {plural(explore.confirm, 'chosen condition')} with the reference"
        yield f"Confirm: contrasts{chosen} on fresh seeds, {', '.join(map(str, strategy.seeds))}, in this order."
    if explore is not None:
        yield "Cut runs keep their checkpoints, are listed as cut, and are not tested."
    if strategy.looks:
        yield (
            f"Each look tests the undecided contrasts, one-sided at {LEVEL:.1%} for the family. Only these get "
            "more seeds. A run with a loss that is not finite counts as score 0. A look waits for runs that "
            "failed otherwise."
        )
        yield "The first decision fixes the design: claims, seeds, looks and settings cannot change after it."


def _looks(plan: Plan) -> Iterator[tuple[str, ...]]:
    for number, look in enumerate(look_bounds(plan), 1):
        futility = "-" if look.futility is None else f"{look.futility:.2f}"
        yield str(number), str(look.seeds), f"{look.bound:.2f}", futility, _hours(look.device_hours)


def _about_looks(plan: Plan, strategy: PlannedStrategy) -> Iterator[str]:
    power = promised_power(strategy, len(likely_contrasts(plan)))
    shown = (
        ", with unknown power"
        if power is None
        else f", established with {percent(power, 0)} power if true, less where items vary"
    )
    yield (
        f"Promised difference: {strategy.detect * _POINTS:.3g} points{shown}. Bounds are for the first part of "
        "the level. They become lower for the other contrasts when one is established."
    )
    yield (
        "The spread between seeds of a contrast's difference is unknown, so the power is unknown and no contrast "
        "is given up early. Set strategy.confirm.seed_spread."
        if strategy.seed_spread is None
        else f"Spread between seeds of a contrast's difference: {strategy.seed_spread * _POINTS:.3g} points "
        f"({strategy.seed_spread_source})."
    )


def _costs(costs: StrategyCosts) -> Iterator[tuple[str, ...]]:
    for name, hours in (
        ("every contrast ends at the first look (at least)", costs.least),
        ("no contrast has an effect (expected)", costs.without_effect),
        ("every contrast has the promised effect (expected)", costs.promised),
        ("every contrast continues to the last look (at most)", costs.most),
    ):
        if hours is not None:
            yield name, _hours(hours)


def _about_costs(plan: Plan, strategy: PlannedStrategy, costs: StrategyCosts | None) -> Iterator[str]:
    is_known = costs is None or costs.most is not None
    if not is_known:
        yield "The costs of these runs are unknown."
    if strategy.budget_device_hours is not None:
        rule = (
            "limit for hours spent plus the predicted hours of a look's runs, checked before they start. You can "
            "change it at any time."
            if is_known
            else "not checked, because the costs are unknown."
        )
        yield f"Budget: {strategy.budget_device_hours:.3g} {_unit(plan)}, {rule}"


def _hours(hours: float | None) -> str:
    return "-" if hours is None else f"{hours:.3g}"


# ---- explore ---------------------------------------------------------------------------------------------------------


def explore_section(plan: Plan, strategy: PlannedStrategy) -> Section | None:
    """Return points in steps, how many runs continue after each, and the cost at most; None without explore."""
    explore = strategy.explore
    if explore is None:
        return None
    runs = of_phase(plan.runs, Phase.EXPLORE)
    counts = continuing_counts(strategy, runs)
    reference = ", ".join(run.name for run in references(strategy, runs))
    lines = [
        f"The reference {reference} continues, and the best {percent(explore.keep, 0)} of the others, rounded up. Runs "
        "that diverge are cut.",
        *_about_points(explore, runs, len(counts) - 1),
    ]
    if strategy.seeds:
        chosen = "condition" if explore.confirm == 1 else f"{explore.confirm} conditions"
        seeds = plural(len(strategy.seeds), "fresh seed")
        lines.append(f"Confirmed with at most {seeds}: the {chosen} with the lowest final validation loss.")
    at_most, grid = (_interval(cost, _unit(plan)) for cost in (explore_cost(plan), one_by_one(plan, runs)))
    lines.append(f"Explore takes at most {at_most}. Without cuts it would take {grid}.")
    return table_section("Explore", _EXPLORE, _points(explore, runs, counts), lines)


def _points(explore: ExploreConfig, runs: Sequence[PlannedRun], counts: Sequence[int]) -> Iterator[tuple[str, ...]]:
    steps = [point_steps(run, explore.at) for run in runs]
    for number, (compared, left) in enumerate(itertools.pairwise(counts)):
        at = sorted({own[number] for own in steps})
        text = str(at[0]) if len(at) == 1 else f"{at[0]} to {at[-1]}"
        yield str(number + 1), text, str(compared), str(left)


def _about_points(explore: ExploreConfig, runs: Sequence[PlannedRun], points: int) -> Iterator[str]:
    if points < len(explore.at):
        usable = min(len(point_steps(run, explore.at)) for run in runs)
        why = "others are at the same validation or at the end" if points == usable else "one run is left to cut"
        used = f"{points} {'is' if points == 1 else 'are'}"
        yield f"{len(explore.at)} points are given, but {used} used: {why}."


def _interval(value: Measured, unit: str) -> str:
    if not isinstance(value, Quantity):
        return f"unknown {unit} ({measured(value)})"
    return device_hours(value, unit)
