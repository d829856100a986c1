"""Design of sample sizes: what numbers of seeds and items show, and what they cost.

A pure function of plans of the experiment with several numbers of seeds and items, and of the spread that it counts on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from touchline.core.errors import InputError
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import format_seconds, hours_unit, parse_duration, plural, seconds_to_hours
from touchline.experiment.plan import Plan
from touchline.plan.design.answer import DesignAnswer, DesignOption
from touchline.plan.power import conditions_per_level, detectable_points, number_of_contrasts
from touchline.statistics.closed_forms import COVERAGE, POWER, SpreadInput
from touchline.statistics.items import Floats
from touchline.statistics.sample_sizes import (
    FEWEST_SEEDS,
    MOST_SEEDS,
    best_within,
    cheapest,
    fewest_items,
    power,
)
from touchline.statistics.spread import End, spread_at

PLANNED_SEEDS = (2, 3, 4, 6, 8, 16, 32)
"""Numbers of seeds that are planned for their costs; the last is the most that is looked at."""
_FEW_SEEDS: Final = 1e9
"""Weight of a seed against an item where costs are not known: seeds come first."""
_ALTERNATIVES: Final = (2, 3, 5, 8, 12, 20)

PlanWith = Callable[[int, int], Plan]
"""Plan with so many seeds and items."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignCosts:
    """Device-hours by seeds and items.

    Each plan counts cohorts, slots and shared start-ups as `touchline plan` does. Between the numbers of seeds that
    were planned the hours are interpolated; evaluations take a time in proportion to their items.
    """

    hours: Mapping[int, float]
    """Device-hours by number of seeds, planned with `items` items."""
    items: int
    """Items of these plans."""
    seed_item: float
    """Hours of one more item of one seed's runs."""
    control_item: float
    """Hours of one more item of the controls."""

    def __call__(self, seeds: Floats, items: Floats) -> Floats:
        """Return the device-hours of numbers of seeds and items, elementwise."""
        planned = np.interp(seeds, list(self.hours), np.maximum.accumulate(list(self.hours.values())))
        return np.asarray(planned + (seeds * self.seed_item + self.control_item) * (items - self.items))


def design_costs(by_seeds: Mapping[int, Plan], items: int, few: Plan, fewest: int) -> DesignCosts | Missing:
    """Return the costs from plans; Missing where the hours of a training are not known.

    Args:
        by_seeds: plans with `items` items, by their number of seeds.
        few: plan with as many seeds as the first of them, and fewer items.
    """
    hours: dict[int, float] = {}
    for seeds, plan in by_seeds.items():
        if isinstance(plan.gpu_hours, Missing):
            return plan.gpu_hours
        hours[seeds] = plan.gpu_hours.value
    seeds, many = next(iter(by_seeds.items()))
    of_seeds, of_controls = (
        max(0.0, _evaluation_hours(many, trained) - _evaluation_hours(few, trained)) / max(items - fewest, 1)
        for trained in (True, False)
    )
    return DesignCosts(hours=hours, items=items, seed_item=of_seeds / seeds, control_item=of_controls)


def _evaluation_hours(plan: Plan, trained: bool) -> float:
    """Return the hours of the evaluations of fine-tuned runs or of controls, without start-ups."""
    names = {run.name for run in plan.fine_tuned}
    runs = [run for run in plan.runs if (run.name in names) is trained]
    return seconds_to_hours(
        sum(run.evaluate_seconds.value for run in runs if isinstance(run.evaluate_seconds, Quantity))
    )


class _Sizing:
    """What numbers of seeds and items show, at each end of the inputs' intervals."""

    def __init__(self, now: Plan, detect: float, inputs: Sequence[SpreadInput], most_items: int) -> None:
        self.detect, self.most_items = detect, most_items
        self.contrasts, conditions = number_of_contrasts(now), conditions_per_level(now)
        self.spreads = {end: spread_at(inputs, end, conditions) for end in End}
        # The level of the first step of Holm's procedure.
        self.coverage = 1 - (1 - COVERAGE) / self.contrasts

    def power(self, seeds: int, items: int, end: End) -> float:
        pair = np.array(float(seeds)), np.array(float(items)), np.array(self.detect)
        return float(power(*pair, self.spreads[end], coverage=self.coverage))

    def fewest_items(self, seeds: int) -> int:
        """Return the fewest items with which so many seeds establish the difference, or as many as there are."""
        found = fewest_items(
            np.array([seeds]), self.detect, self.spreads[End.VALUE], self.most_items, coverage=self.coverage
        )
        return self.most_items if np.isnan(found[0]) else int(found[0])

    def option(self, seeds: int, items: int, plan: Plan) -> DesignOption:
        """Return what numbers of seeds and items show, with the costs of their plan."""
        chance: Measured = Missing(missing="a claim about a setting needs two seeds")
        shown = chance
        if seeds >= FEWEST_SEEDS:
            low, value, high = (100 * self.power(seeds, items, end) for end in (End.HIGH, End.VALUE, End.LOW))
            chance = Quantity(value=value, unit="%", low=min(low, value), high=max(high, value))
            shown = detectable_points(self.spreads, seeds, items, self.contrasts)
        return DesignOption(
            seeds=seeds,
            items=items,
            power=chance,
            detectable=shown,
            device_hours=plan.gpu_hours,
            wall_seconds=plan.wall_seconds,
        )

    def best_within(self, hours: float, costs: DesignCosts) -> tuple[int, int] | None:
        """Return the seeds and items with the smallest detectable difference within so many hours."""
        spread = self.spreads[End.VALUE]
        return best_within(hours, spread, costs, most_items=self.most_items, coverage=self.coverage)


def refuse_unanswerable(now: Plan, most_items: int | None) -> int:
    """Return the items that there are.

    Raises:
        InputError: no settings are compared, or the number of items is not known.
    """
    if number_of_contrasts(now) == 0:
        raise InputError(
            f"{now.experiment}: no factor has two levels, so no settings are compared; checkpoints are compared with "
            "controls over items alone",
            hint=f"touchline plan {now.experiment} --show power",
        )
    if most_items is None:
        raise InputError(
            f"{now.experiment}: the number of test items of {now.task} is not known",
            expected="a task that receives the test items by an argument `data`",
        )
    return most_items


def answer_design(
    now: Plan,
    detect: float,
    budget_hours: float | None,
    inputs: tuple[SpreadInput, ...],
    *,
    items_now: int,
    most_items: int,
    costs: DesignCosts | Missing,
    plan_with: PlanWith,
) -> DesignAnswer:
    """Return the answer: what the design shows now, the cheapest that shows the difference, the best in the budget.

    Args:
        detect: difference to establish, as a share.
        budget_hours: device-hours; None without a budget.
        costs: device-hours by seeds and items.
        plan_with: plans with other numbers of seeds and items; each is asked for once.
    """
    sizing, unit = _Sizing(now, detect, inputs, most_items), hours_unit(now.machine.kind.upper())
    seeds_now = len({run.seed for run in now.fine_tuned})
    options: dict[tuple[int, int], DesignOption] = {}

    def option(seeds: int, items: int) -> DesignOption:
        if (seeds, items) not in options:
            planned = now if (seeds, items) == (seeds_now, items_now) else plan_with(seeds, items)
            options[seeds, items] = sizing.option(seeds, items, planned)
        return options[seeds, items]

    cost = (lambda seeds, items: np.asarray(_FEW_SEEDS * seeds + items)) if isinstance(costs, Missing) else costs
    found = cheapest(detect, sizing.spreads[End.VALUE], cost, most_items=most_items, coverage=sizing.coverage)
    within = None if budget_hours is None else _within(sizing, budget_hours, costs, unit)
    counts = {*_ALTERNATIVES, seeds_now, *(() if found is None else range(found[0] - 1, found[0] + 2))}
    pairs = {(seeds, sizing.fewest_items(seeds)) for seeds in counts if FEWEST_SEEDS <= seeds <= MOST_SEEDS}
    pairs |= {(seeds_now, items_now), *((within,) if isinstance(within, tuple) else ())}
    alternatives = tuple(option(*pair) for pair in sorted(pairs))
    best = within if isinstance(within, Missing | None) else option(*within)
    shown = _not_shown(sizing) if found is None else option(*found)
    chosen = shown if best is None else best
    return DesignAnswer(
        experiment=now.experiment,
        detect_points=100 * detect,
        budget_hours=budget_hours,
        hours_unit=unit,
        contrasts=sizing.contrasts,
        inputs=inputs,
        now=option(seeds_now, items_now),
        cheapest=shown,
        within_budget=best,
        alternatives=alternatives,
        notes=tuple(_notes(now, costs, chosen)),
    )


def _within(sizing: _Sizing, budget: float, costs: DesignCosts | Missing, unit: str) -> tuple[int, int] | Missing:
    """Return the best seeds and items within a budget, or why there are none."""
    if isinstance(costs, Missing):
        return Missing(missing=f"costs are not known ({costs.missing})")
    if (best := sizing.best_within(budget, costs)) is not None:
        return best
    least = float(costs(np.array(2.0), np.array(1.0)))
    return Missing(
        missing=f"two seeds of every condition cost {least:.3g} {unit}, more than the budget of {budget:.3g}"
    )


def _not_shown(sizing: _Sizing) -> Missing:
    """Return why a difference is not shown, and how many items would be enough."""
    text = (
        f"up to {MOST_SEEDS} seeds and {plural(sizing.most_items, 'item')} do not show it with {100 * POWER:.0f}% power"
    )
    more = fewest_items(np.array([8.0]), sizing.detect, sizing.spreads[End.VALUE], 10_000_000, coverage=sizing.coverage)
    enough = "" if np.isnan(more[0]) else f"; with 8 seeds, {int(more[0]):,} items would be enough"
    return Missing(missing=f"{text}{enough}")


def _notes(now: Plan, costs: DesignCosts | Missing, chosen: DesignOption | Missing) -> Iterator[str]:
    if isinstance(costs, Missing):
        yield f"costs are not known ({costs.missing}): the fewest seeds come first, then the fewest items"
    elif isinstance(now.gpu_hours, Quantity) and now.gpu_hours.method:
        yield now.gpu_hours.method
    seconds = Missing(missing="") if isinstance(chosen, Missing) else chosen.wall_seconds
    if now.deadline is not None and isinstance(seconds, Quantity) and parse_duration(now.deadline) < seconds.value:
        yield (
            f"the proposed design takes {format_seconds(seconds.value)} on this machine, longer than "
            f"compute.deadline: {now.deadline}"
        )
    if any(run.evaluate.cluster is not None for run in now.runs):
        yield "items of one cluster carry less information than independent items: count clusters instead"


def seed_numbers(used: Sequence[int], count: int) -> tuple[int, ...]:
    """Return so many seeds: those in use first, then the smallest numbers that are not."""
    seeds = list(dict.fromkeys(used))[:count]
    candidate = 1
    while len(seeds) < count:
        if candidate not in seeds:
            seeds.append(candidate)
        candidate += 1
    return tuple(seeds)
