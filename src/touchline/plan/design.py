"""Design of sample sizes: what numbers of seeds and items show, and what they cost (`touchline design`).

A pure function of plans of the experiment with several numbers of seeds and items, and of the spread that it counts on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from touchline.core.errors import InputError
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.table import Cell, Column, Section, Value, table_section
from touchline.core.units import (
    between,
    device_hours,
    format_seconds,
    hours_unit,
    measured,
    parse_duration,
    plural,
    seconds_to_hours,
)
from touchline.experiment.plan import Plan
from touchline.plan.power import conditions_per_level, detectable_points, number_of_contrasts
from touchline.statistics.closed_forms import COVERAGE, POWER, SpreadInput, SpreadSource
from touchline.statistics.items import Floats
from touchline.statistics.sample_sizes import FEWEST_SEEDS, MOST_SEEDS, best_within, cheapest, fewest_items, power
from touchline.statistics.spread import End, spread_at

DESIGN_SCHEMA_VERSION = 1
_NO_POWER, _FULL_POWER = 0.5, 99.5
"""Power in % below and above which a whole number would read as never and always."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignOption:
    """Numbers of seeds and items, with what they show and cost."""

    seeds: int
    """Training seeds per condition."""
    items: int
    """Test items per run."""
    power: Measured
    """Chance to establish the wanted difference, in %; the interval is over the ends of the inputs' intervals."""
    detectable: Measured
    """Difference established with 80% power, in points; the interval likewise."""
    device_hours: Measured
    """Predicted hours of devices for everything, evaluations included, as `touchline plan` counts them."""
    wall_seconds: Measured
    """Predicted time from start to end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignAnswer:
    """Design of an experiment's sample sizes."""

    schema_version: int = DESIGN_SCHEMA_VERSION
    """Version of this format."""
    experiment: str
    """Name of the experiment."""
    detect_points: float
    """Difference to establish, in points."""
    budget_hours: float | None
    """Budget in device-hours; None without one."""
    hours_unit: str
    """Unit of the hours: `GPU-hours`, `device-hours (CPU)`."""
    contrasts: int
    """Contrasts of settings, over which p values are adjusted (Holm)."""
    inputs: tuple[SpreadInput, ...]
    """Spread that is counted on, each value with its source."""
    now: DesignOption
    """The experiment as it is."""
    cheapest: DesignOption | Missing
    """Cheapest numbers that establish the difference with 80% power."""
    within_budget: DesignOption | Missing | None
    """Numbers that show the smallest difference within the budget; None without a budget."""
    alternatives: tuple[DesignOption, ...]
    """Other numbers, by seeds."""
    notes: tuple[str, ...]
    """Remarks."""
    diff: str = ""
    """Unified diff of experiment.yaml with the chosen numbers; empty if it has them."""
    applied: bool = False
    """Whether the change has been written."""

    @property
    def chosen(self) -> DesignOption | Missing:
        """The numbers that are proposed: within the budget if there is one, else the cheapest."""
        return self.cheapest if self.within_budget is None else self.within_budget

    def mark(self, option: DesignOption) -> str:
        """Return what an option is: `now`, `cheapest`, `budget`, several of them, or nothing."""
        named = (("now", self.now), ("cheapest", self.cheapest), ("budget", self.within_budget))
        return ", ".join(name for name, other in named if other == option)

    def sections(self) -> tuple[Section, ...]:
        """Return the sections that commands and notebooks show."""
        numbers = ("power (%)", "detects (points)", f"{self.hours_unit.replace('-hours', ' time')}")
        columns = (Column(label, numeric=True) for label in numbers)
        header: tuple[Column | str, ...] = (
            "design",
            *columns,
            "",
            Column("wall-clock time", numeric=True, is_wide=True),
        )
        rows = (self._row(each) for each in self.alternatives)
        return (
            Section(title="Sample sizes", lines=tuple(self._lines())),
            table_section("Alternatives", header, rows, self._about()),
            Section(title="Notes", lines=self.notes),
        )

    def _lines(self) -> Iterator[str]:
        yield f"Cheapest for {self._wanted}: {self._words(self.cheapest)}"
        yield f"Now: {self._words(self.now)}"
        if self.within_budget is not None:
            hours = f"{self.budget_hours:.3g} {self.hours_unit}"
            yield f"Smallest difference within {hours}: {self._words(self.within_budget)}"
        target, holm = f"{100 * POWER:.0f}%", ""
        if self.contrasts > 1:
            holm = f", after Holm over {plural(self.contrasts, 'contrast')}"
        yield (
            f"Question: which numbers of seeds and items establish a true difference of {self._wanted} "
            f"between two levels with {target} power? Established: by both tests of the report at 5%{holm}"
        )
        for each in self.inputs:
            yield f"Counted on: {each.kind.value} {measured(each.quantity, 3)} ({each.source.value}; {each.basis})"
        if prior := [each.kind.value for each in self.inputs if each.source is SpreadSource.PRIOR]:
            yield (
                f"Not measured: {', '.join(prior)}. Two seeds of one condition, trained first, would measure them and "
                "narrow all ranges below"
            )

    def _words(self, option: DesignOption | Missing) -> str:
        if isinstance(option, Missing):
            return f"none ({option.missing})"
        shown, hours = option.detectable, option.device_hours
        detects = f"nothing ({shown.missing})" if isinstance(shown, Missing) else f"{self._points(shown)} points"
        cost = f"hours n/a ({hours.missing})" if isinstance(hours, Missing) else device_hours(hours, self.hours_unit)
        return f"{plural(option.seeds, 'seed')} x {plural(option.items, 'item')}; detects {detects}; {cost}"

    def _row(self, option: DesignOption) -> tuple[Value, ...]:
        power, shown, time = option.power, option.detectable, option.wall_seconds
        return (
            f"{option.seeds} x {option.items:,}",
            "-" if isinstance(power, Missing) else power_text(power.value) + between(power.low, power.high, power_text),
            "-" if isinstance(shown, Missing) else self._points(shown),
            "n/a" if isinstance(option.device_hours, Missing) else device_hours(option.device_hours),
            Cell(self.mark(option)),
            "n/a" if isinstance(time, Missing) else format_seconds(time.value),
        )

    @property
    def _wanted(self) -> str:
        return f"{self.detect_points:g} point{'' if self.detect_points == 1 else 's'}"

    def _points(self, shown: Quantity) -> str:
        """Return a detectable difference; one above the wanted difference never reads as that."""
        most = self.detect_points * (1 + 1e-9)

        def text(points: float) -> str:
            return _digits_that_keep(points, lambda value: value <= most)

        return text(shown.value) + between(shown.low, shown.high, text)

    def _about(self) -> Iterator[str]:
        yield (
            f"Design: seeds x items. Power: for {self._wanted}. Detects: the difference, in points, "
            f"that is established with {100 * POWER:.0f}% power. Each row has the fewest items that give its seeds "
            "this power, or all items where these are too few. Values are for the expected spread; in parentheses, all "
            "inputs at once at the ends of their intervals. Hours are those of a plan with these numbers."
        )

    def __repr__(self) -> str:
        chosen = self.chosen
        found = "none" if isinstance(chosen, Missing) else f"{chosen.seeds} seeds x {chosen.items} items"
        return f"<design of {self.experiment!r} for {self._wanted}: {found}>"

    def _repr_html_(self) -> str:
        from touchline.core.notebook import notebook_html

        return notebook_html(f"Design of {self.experiment}", self.sections())


def power_text(power: float) -> str:
    """Return a power in %; one below the target never reads as the target, nor any other as 0 or 100%."""
    if not _NO_POWER <= power <= _FULL_POWER:
        return "<1" if power < _NO_POWER else ">99"
    return _digits_that_keep(power, lambda value: value >= 100 * POWER, 1 if power < 10 - _NO_POWER else 2)


def _digits_that_keep(value: float, is_met: Callable[[float], bool], digits: int = 2) -> str:
    """Return a number in significant digits, in more of them where rounding would change whether a bound is met.

    79.6 is `80`, but `79.6` beside a target of 80.
    """
    wanted = is_met(value)
    texts = [f"{float(f'{value:.{more}g}'):.{more}g}" for more in range(digits, digits + 4)]
    text = next((each for each in texts if is_met(float(each)) == wanted), repr(value))
    return f"{float(text):g}"


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

    Raises InputError: no settings are compared, or the number of items is not known.
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
    if isinstance(costs, Missing):
        return Missing(missing=f"costs are not known ({costs.missing})")
    if (best := sizing.best_within(budget, costs)) is not None:
        return best
    least = float(costs(np.array(2.0), np.array(1.0)))
    return Missing(
        missing=f"two seeds of every condition cost {least:.3g} {unit}, more than the budget of {budget:.3g}"
    )


def _not_shown(sizing: _Sizing) -> Missing:
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
