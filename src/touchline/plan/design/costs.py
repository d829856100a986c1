"""Device-hours of a design with other numbers of seeds and items, from a few plans of it.

Each plan counts cohorts, slots and shared start-ups as `touchline plan` does. Between the numbers of seeds that were
planned the hours are interpolated; evaluations follow the items that were planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import seconds_to_hours
from touchline.estimate.totals import sum_quantities
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import Phase
from touchline.statistics.bootstrap import Floats

PLANNED_SEEDS = (2, 3, 4, 6, 8, 16, 32)
"""Numbers of seeds that are planned; the last is the most that is looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignCosts:
    """Device-hours by seeds and items."""

    seeds: tuple[int, ...]
    """Numbers of seeds that were planned with `items_planned`, increasing."""
    hours: tuple[float, ...]
    """Device-hours of each."""
    items_planned: int
    """Items of these plans."""
    items: tuple[int, ...]
    """Numbers of items that were planned, increasing."""
    seed_hours: tuple[float, ...]
    """Hours of the evaluations of one seed's runs, by number of items."""
    control_hours: tuple[float, ...]
    """Hours of the evaluations of the controls, by number of items."""

    def __call__(self, seeds: Floats, items: Floats) -> Floats:
        """Return the device-hours of numbers of seeds and items, elementwise."""
        return np.asarray(
            np.interp(seeds, self.seeds, self.hours)
            + seeds * (np.interp(items, self.items, self.seed_hours) - self._at_plan(self.seed_hours))
            + np.interp(items, self.items, self.control_hours)
            - self._at_plan(self.control_hours)
        )

    def _at_plan(self, hours: Sequence[float]) -> float:
        return float(np.interp(self.items_planned, self.items, hours))

    @property
    def training(self) -> float:
        """Device-hours of one more seed without its items, from the first numbers of seeds to the last."""
        slope = (self.hours[-1] - self.hours[0]) / (self.seeds[-1] - self.seeds[0])
        return max(0.0, slope - self._at_plan(self.seed_hours) + self.seed_hours[0] - self.item * self.items[0])

    @property
    def item(self) -> float:
        """Device-hours of one more item of a seed."""
        if len(self.items) < 2:
            return 0.0
        return max(0.0, (self.seed_hours[-1] - self.seed_hours[0]) / (self.items[-1] - self.items[0]))


def design_costs(by_seeds: dict[int, Plan], by_items: dict[int, Plan], items_planned: int) -> DesignCosts | Missing:
    """Return the costs from plans; Missing where the hours of a training are not known.

    Args:
        by_seeds: plans with `items_planned` items, by their number of seeds; two or more.
        by_items: plans with equally many seeds, by their number of items.
        items_planned: items of the first.
    """
    hours = []
    for plan in by_seeds.values():
        if isinstance(plan.gpu_hours, Missing):
            return plan.gpu_hours
        hours.append(plan.gpu_hours.value)
    some = next(iter(by_items.values()))
    seeds = len({run.seed for run in trained(some)})
    per_seed = [evaluation_hours(trained(plan)) / seeds for plan in by_items.values()]
    controls = [evaluation_hours([run for run in plan.runs if run not in trained(plan)]) for plan in by_items.values()]
    return DesignCosts(
        seeds=tuple(by_seeds),
        hours=tuple(float(value) for value in np.maximum.accumulate(hours)),
        items_planned=items_planned,
        items=tuple(by_items),
        seed_hours=tuple(float(value) for value in np.maximum.accumulate(per_seed)),
        control_hours=tuple(float(value) for value in np.maximum.accumulate(controls)),
    )


def trained(plan: Plan) -> list[PlannedRun]:
    """Return the fine-tuned runs that are compared: no controls, nothing that only explores."""
    return [run for run in plan.fine_tuned if run.phase is not Phase.EXPLORE]


def evaluation_hours(runs: Sequence[PlannedRun]) -> float:
    """Return the hours of the evaluations whose time is known, without start-ups, as the plan's total has them."""
    known = [run.evaluate_seconds.value for run in runs if isinstance(run.evaluate_seconds, Quantity)]
    return seconds_to_hours(sum(known))


def shortest_run(plan: Plan) -> Measured:
    """Return the time of the shortest training with its evaluation, if known."""
    times = [
        sum_quantities(
            [
                run.train_seconds,
                *(each for each in (run.evaluate_seconds, run.evaluate_startup_seconds) if isinstance(each, Quantity)),
            ],
            "s",
        )
        for run in plan.fine_tuned
    ]
    known = [each for each in times if isinstance(each, Quantity)]
    if not known:
        return next((each for each in times if isinstance(each, Missing)), Missing(missing="nothing is trained"))
    return min(known, key=lambda each: each.value)


def seed_numbers(used: Sequence[int], count: int, *, first: int = 1, avoid: Sequence[int] = ()) -> tuple[int, ...]:
    """Return so many seeds: those in use first, then the smallest numbers that are not.

    Args:
        used: seeds of the experiment.
        count: how many are wanted.
        first: smallest number of a new seed.
        avoid: seeds that are used for something else.
    """
    seeds = list(dict.fromkeys(used))[:count]
    candidate = first
    while len(seeds) < count:
        if candidate not in seeds and candidate not in avoid:
            seeds.append(candidate)
        candidate += 1
    return tuple(seeds)
