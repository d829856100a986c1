"""Design of sample sizes: what numbers of seeds and items show, and what they cost.

A pure function of plans of the experiment with several numbers of seeds and items, and of the spread that it counts on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from touchline.core.finding import Finding, Severity
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import format_seconds, hours_unit, parse_duration, plural, seconds_to_hours
from touchline.experiment.plan import Plan
from touchline.plan.design.answer import CurvePoint, DesignAnswer, DesignOption, Needed
from touchline.plan.design.costs import DesignCosts, shortest_run, trained
from touchline.plan.power import number_of_contrasts
from touchline.statistics.power import COVERAGE, POWER
from touchline.statistics.sample_sizes import (
    FEWEST_SEEDS,
    MOST_SEEDS,
    Cost,
    SampleSize,
    Spread,
    balanced_items,
    best_within,
    cheapest,
    detectable,
    fewest_items,
    most_power,
    power,
)
from touchline.statistics.spread_inputs import End, spread_at
from touchline.statistics.spread_types import SpreadInput

NO_FACTOR, NO_ITEMS, TOO_SHORT, NOT_SHOWN = "DS001", "DS002", "DS003", "DS004"
"""Codes of the findings."""
_FEW_SEEDS: Final = 1e9
"""Weight of a seed against an item where costs are not known: seeds come first."""
_ALTERNATIVES: Final = (2, 3, 5, 8, 12, 20)
_CURVE_POINTS: Final = 24
_IMPOSSIBLE: Final = 1.0
"""Difference between shares that cannot be exceeded."""

PlanWith = Callable[[int, int], Plan]
"""Plan with so many seeds and items."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignQuestion:
    """Question that a design answers."""

    detect: float
    """Difference to establish, as a share."""
    budget_hours: float | None
    """Device-hours; None without a budget."""
    budget_text: str = ""
    """Budget as it was given."""
    items: tuple[int, ...] = ()
    """Numbers of items that are looked at; all if empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizing:
    """Search for numbers of seeds and items in one experiment."""

    question: DesignQuestion
    """The question."""
    inputs: tuple[SpreadInput, ...]
    """Spread that it counts on."""
    conditions: int
    """Conditions that a level is averaged over."""
    family: int
    """Contrasts of settings."""
    most_items: int
    """Items that there are."""
    costs: DesignCosts | Missing
    """Costs."""
    spreads: dict[End, Spread] = field(init=False)
    """Spread at each end of the inputs' intervals."""

    def __post_init__(self) -> None:
        spreads = {end: spread_at(self.inputs, end, self.conditions) for end in End}
        object.__setattr__(self, "spreads", spreads)

    @property
    def coverage(self) -> float:
        """Coverage at the level of the first step of Holm's procedure."""
        return 1 - (1 - COVERAGE) / self.family

    @property
    def cost(self) -> Cost:
        """Device-hours; where they are not known, seeds weigh more than any number of items."""
        known = self.costs
        if isinstance(known, Missing):
            return lambda seeds, items: np.asarray(_FEW_SEEDS * seeds + items)
        return known

    def cheapest(self, end: End) -> SampleSize | None:
        """Return the cheapest pair that establishes the wanted difference; None if there is none."""
        if self.question.items:
            return self._on_grid(end, None)
        return cheapest(
            self.question.detect,
            self.spreads[end],
            self.cost,
            most_items=self.most_items,
            most_seeds=MOST_SEEDS,
            coverage=self.coverage,
        )

    def best_within(self, hours: float) -> SampleSize | None:
        """Return the pair with the smallest detectable difference within a budget; None if two seeds cost more."""
        if self.question.items:
            return self._on_grid(End.VALUE, hours)
        return best_within(
            hours,
            self.question.detect,
            self.spreads[End.VALUE],
            self.cost,
            most_items=self.most_items,
            most_seeds=MOST_SEEDS,
            coverage=self.coverage,
        )

    def _on_grid(self, end: End, hours: float | None) -> SampleSize | None:
        """Search the pairs with the wanted numbers of items: the cheapest, or the best within so many hours."""
        seeds, items = (
            each.ravel()
            for each in np.meshgrid(
                np.arange(FEWEST_SEEDS, MOST_SEEDS + 1.0), np.asarray(sorted(self.question.items), dtype=np.float64)
            )
        )
        costs = self.cost(seeds, items)
        chances = power(seeds, items, np.asarray(self.question.detect), self.spreads[end], coverage=self.coverage)
        shown = detectable(seeds, items, self.spreads[end], coverage=self.coverage)
        allowed = chances >= POWER if hours is None else costs <= hours
        if not allowed.any():
            return None
        best = int(np.argmin(np.where(allowed, costs if hours is None else shown, np.inf)))
        return SampleSize(
            seeds=int(seeds[best]),
            items=int(items[best]),
            power=float(chances[best]),
            detectable=float(shown[best]),
            cost=float(costs[best]),
        )

    def fewest(self, seeds: int) -> int:
        """Return the fewest items with which so many seeds establish the difference, or as many as there are."""
        if self.question.items:
            counts = np.asarray(sorted(self.question.items), dtype=np.float64)
            enough = self._power(np.full(counts.shape, float(seeds)), counts, End.VALUE) >= POWER
            return int(counts[np.argmax(enough)] if enough.any() else counts[-1])
        found = fewest_items(
            np.array([seeds]), self.question.detect, self.spreads[End.VALUE], self.most_items, coverage=self.coverage
        )
        return self.most_items if np.isnan(found[0]) else int(found[0])

    def option(self, seeds: int, items: int, plan: Plan | None) -> DesignOption:
        """Return what numbers of seeds and items show, with the costs of their plan."""
        not_planned = Missing(missing="not planned")
        runs, hours, seconds = (
            (0, not_planned, not_planned) if plan is None else (len(plan.runs), plan.gpu_hours, plan.wall_seconds)
        )
        if seeds < FEWEST_SEEDS:
            one = Missing(missing="a claim about a setting needs two seeds")
            return DesignOption(
                seeds=seeds, items=items, runs=runs, power=one, detectable=one, device_hours=hours, wall_seconds=seconds
            )
        many, asked = np.array([float(seeds)]), np.array([float(items)])
        chances = {end: float(self._power(many, asked, end)[0]) for end in End}
        shown = {end: float(detectable(many, asked, self.spreads[end], coverage=self.coverage)[0]) for end in End}
        return DesignOption(
            seeds=seeds,
            items=items,
            runs=runs,
            power=_percent(chances[End.VALUE], chances[End.HIGH], chances[End.LOW]),
            detectable=_points(shown),
            device_hours=hours,
            wall_seconds=seconds,
        )

    def _power(self, seeds: np.ndarray, items: np.ndarray, end: End) -> np.ndarray:
        detect = np.asarray(self.question.detect)
        return power(seeds, items, detect, self.spreads[end], coverage=self.coverage)

    def curve(self, most_hours: float, pairs: Collection[tuple[int, int]] = ()) -> tuple[CurvePoint, ...]:
        """Return the best power by device-hours; empty where costs are not known.

        Args:
            most_hours: the last of them.
            pairs: seeds and items whose costs are among them.
        """
        if isinstance(self.costs, Missing):
            return ()
        least = float(self.cost(np.array([2.0]), np.array([1.0]))[0])
        points: list[CurvePoint] = []
        last = max(most_hours, 1.2 * least)
        own = [float(self.cost(np.array([float(seeds)]), np.array([float(items)]))[0]) for seeds, items in pairs]
        for hours in sorted(
            {*np.geomspace(least, last, _CURVE_POINTS), *(each for each in own if least < each < last)}
        ):
            best = most_power(
                float(hours),
                self.question.detect,
                self.spreads[End.VALUE],
                self.costs,
                most_items=self.most_items,
                most_seeds=MOST_SEEDS,
                coverage=self.coverage,
            )
            if best is None:
                continue
            seeds, items, value = best
            pair = np.array([float(seeds)]), np.array([float(items)])
            low, high = (float(self._power(*pair, end)[0]) for end in (End.HIGH, End.LOW))
            points.append(
                CurvePoint(device_hours=float(hours), seeds=seeds, items=items, power=value, low=low, high=high)
            )
        return tuple(points)


def answer_design(
    now: Plan, items_now: int | None, sizing: Sizing, plan_with: PlanWith, notes: Sequence[str] = ()
) -> DesignAnswer:
    """Return the answer: what the design shows now, the cheapest that shows the difference, the best in the budget.

    Args:
        now: plan of the experiment as it is.
        items_now: its items.
        sizing: the search.
        plan_with: plans with other numbers of seeds and items; each is asked for once.
        notes: remarks that belong to the answer.
    """
    question, unit = sizing.question, hours_unit(now.machine.kind.upper())
    seeds_now = len({run.seed for run in trained(now)})
    items_now = sizing.most_items if items_now is None else items_now
    options: dict[tuple[int, int], DesignOption] = {}

    def option(seeds: int, items: int) -> DesignOption:
        if (seeds, items) not in options:
            planned = now if (seeds, items) == (seeds_now, items_now) else plan_with(seeds, items)
            options[seeds, items] = sizing.option(seeds, items, planned)
        return options[seeds, items]

    found = sizing.cheapest(End.VALUE)
    best = None if question.budget_hours is None else sizing.best_within(question.budget_hours)
    findings = [*_too_short(now, question, unit)]
    not_shown = Missing(
        missing=f"up to {MOST_SEEDS} seeds and {plural(sizing.most_items, 'item')} do not show it with "
        f"{100 * POWER:.0f}% power"
    )
    if found is None:
        findings.append(_finding(NOT_SHOWN, "seeds, evaluate.samples", _unshown(sizing, not_shown)))
    chosen = None if found is None else option(found.seeds, found.items)
    over = None if question.budget_hours is None else Missing(missing=_over_budget(question, unit, sizing))
    within = over if best is None else option(best.seeds, best.items)
    if over is not None and best is None and not isinstance(sizing.costs, Missing) and not findings:
        findings.append(_finding(TOO_SHORT, "--budget", over.missing))
    counts = [*_ALTERNATIVES, seeds_now, *(() if found is None else (found.seeds - 1, found.seeds, found.seeds + 1))]
    pairs = {(seeds, sizing.fewest(seeds)) for seeds in counts if FEWEST_SEEDS <= seeds <= MOST_SEEDS}
    pairs |= {(seeds_now, items_now), *(() if best is None else ((best.seeds, best.items),))}
    alternatives = tuple(option(*pair) for pair in sorted(pairs))
    most = max(
        [each.device_hours.value for each in options.values() if isinstance(each.device_hours, Quantity)], default=0.0
    )
    if chosen is not None and isinstance(chosen.device_hours, Quantity):
        most = 2.5 * chosen.device_hours.value
    if question.budget_hours is not None:
        most = max(most, 1.2 * question.budget_hours)
    return DesignAnswer(
        experiment=now.experiment,
        detect_points=100 * question.detect,
        budget_hours=question.budget_hours,
        hours_unit=unit,
        contrasts=sizing.family,
        conditions=sizing.conditions,
        most_items=sizing.most_items,
        inputs=sizing.inputs,
        now=option(seeds_now, items_now),
        cheapest=not_shown if chosen is None else chosen,
        needed=tuple(_needed(end, sizing, not_shown) for end in End),
        within_budget=within,
        alternatives=alternatives,
        balance=_balance(sizing),
        curve=sizing.curve(most, pairs),
        findings=tuple(findings),
        notes=(*notes, *_notes(now, sizing, chosen if best is None else option(best.seeds, best.items))),
    )


def refused(now: Plan, question: DesignQuestion, inputs: tuple[SpreadInput, ...], finding: Finding) -> DesignAnswer:
    """Return an answer that only says why there is none."""
    reason = Missing(missing=finding.message)
    seeds = len({run.seed for run in trained(now)})
    option = DesignOption(
        seeds=seeds,
        items=0,
        runs=len(now.runs),
        power=reason,
        detectable=reason,
        device_hours=now.gpu_hours,
        wall_seconds=now.wall_seconds,
    )
    return DesignAnswer(
        experiment=now.experiment,
        detect_points=100 * question.detect,
        budget_hours=question.budget_hours,
        hours_unit=hours_unit(now.machine.kind.upper()),
        contrasts=0,
        conditions=0,
        most_items=0,
        inputs=inputs,
        now=option,
        cheapest=reason,
        needed=(),
        within_budget=None,
        alternatives=(),
        balance=reason,
        curve=(),
        findings=(finding,),
        notes=(),
    )


def unanswerable(now: Plan, items: int | None, wanted: Sequence[int]) -> Finding | None:
    """Return why an experiment has no design of sample sizes; None if it has one."""
    if number_of_contrasts(now) == 0:
        return _finding(
            NO_FACTOR,
            "factors",
            "no factor has two levels, so no settings are compared; checkpoints are compared with controls over "
            "items alone",
            hint=f"touchline plan {now.experiment}: section Statistical power",
        )
    if items is None and not wanted:
        return _finding(
            NO_ITEMS, "evaluate", f"the number of test items of {now.task} is not known", hint="--items 200"
        )
    return None


def _finding(code: str, subject: str, message: str, hint: str | None = None) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, subject=subject, message=message, hint=hint)


def _too_short(now: Plan, question: DesignQuestion, unit: str) -> list[Finding]:
    """Return findings on a deadline or a budget that is shorter than one run."""
    one = shortest_run(now)
    if isinstance(one, Missing):
        return []
    found = []
    between = (
        "" if one.low is None or one.high is None else f" ({format_seconds(one.low)} to {format_seconds(one.high)})"
    )
    length = f"the shortest run is predicted to take {format_seconds(one.value)}{between}"
    if now.deadline is not None and parse_duration(now.deadline) < one.value:
        found.append(
            _finding(
                TOO_SHORT,
                "compute.deadline",
                f"compute.deadline: {now.deadline} is shorter than one run: {length}, evaluation included",
                hint="a later deadline, fewer epochs or a faster machine",
            )
        )
    hours = seconds_to_hours(one.value) * now.devices
    if question.budget_hours is not None and question.budget_hours < hours:
        found.append(
            _finding(
                TOO_SHORT,
                "--budget",
                f"a budget of {question.budget_hours:.3g} {unit} is less than one run: {length} on "
                f"{plural(now.devices, 'device')}, evaluation included",
                hint=f"--budget {_round_up(2 * hours)}h",
            )
        )
    return found


def _round_up(value: float) -> float:
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / scale) * scale:.2g}")


def _over_budget(question: DesignQuestion, unit: str, sizing: Sizing) -> str:
    if isinstance(sizing.costs, Missing):
        return f"costs are not known ({sizing.costs.missing})"
    least = float(sizing.cost(np.array([2.0]), np.array([float(min(sizing.question.items, default=1))]))[0])
    return f"two seeds of every condition cost {least:.3g} {unit}, more than the budget of {question.budget_hours:.3g}"


def _unshown(sizing: Sizing, reason: Missing) -> str:
    """Return why a difference is not shown, and how many items would be enough."""
    text = f"{100 * sizing.question.detect:g} points: {reason.missing}"
    more = fewest_items(
        np.array([8.0]), sizing.question.detect, sizing.spreads[End.VALUE], 10_000_000, coverage=sizing.coverage
    )
    if not np.isnan(more[0]):
        text += f"; with 8 seeds, {int(more[0]):,} items would be enough"
    return text


def _needed(end: End, sizing: Sizing, not_shown: Missing) -> Needed:
    found = sizing.cheapest(end)
    if found is None:
        return Needed(end=end, seeds=not_shown, items=not_shown)
    return Needed(end=end, seeds=found.seeds, items=found.items)


def _balance(sizing: Sizing) -> Measured:
    if isinstance(sizing.costs, Missing):
        return sizing.costs
    spread, costs = sizing.spreads[End.VALUE], sizing.costs
    found = balanced_items(costs.training, costs.item, spread)
    if not math.isfinite(found):
        return Missing(missing="items cost nothing, or seeds do not differ: as many items as there are")
    return Quantity(
        value=found,
        unit="items",
        method=f"sqrt({costs.training:.4g} hours per seed without items / {costs.item:.4g} hours per item of a seed "
        f"x variance of flips {spread.flips:.4g} / variance of seeds {spread.seeds:.4g})",
    )


def _notes(now: Plan, sizing: Sizing, chosen: DesignOption | None) -> list[str]:
    notes = []
    if isinstance(sizing.costs, Missing):
        notes.append(
            f"costs are not known ({sizing.costs.missing}): the fewest seeds come first, then the fewest items"
        )
    elif isinstance(now.gpu_hours, Quantity) and now.gpu_hours.method:
        notes.append(now.gpu_hours.method)
    if chosen is not None and now.deadline is not None and isinstance(chosen.wall_seconds, Quantity):
        limit = parse_duration(now.deadline)
        if limit < chosen.wall_seconds.value:
            notes.append(
                f"the proposed design takes {format_seconds(chosen.wall_seconds.value)} on this machine, longer than "
                f"compute.deadline: {now.deadline}"
            )
    if any(run.evaluate.cluster is not None for run in now.runs):
        notes.append("items of one cluster carry less information than items that stand alone: count clusters instead")
    return notes


def _percent(value: float, low: float, high: float) -> Quantity:
    return Quantity(value=100 * value, unit="%", low=100 * min(low, value), high=100 * max(high, value))


def _points(shown: dict[End, float]) -> Measured:
    if shown[End.VALUE] > _IMPOSSIBLE:
        return Missing(missing="more than 100 points")
    low, high = (min(shown[end], _IMPOSSIBLE) for end in (End.LOW, End.HIGH))
    return Quantity(value=100 * shown[End.VALUE], unit="points", low=100 * low, high=100 * high)


def with_change(
    answer: DesignAnswer, diff: str, *, applied: bool, looks: tuple[int, ...] | None = None
) -> DesignAnswer:
    """Return the answer with the change of experiment.yaml that it proposes."""
    return replace(answer, diff=diff, applied=applied, looks=answer.looks if looks is None else looks)
