"""Costs of a strategy: what its phases take at least, at most and on average, beside a design without looks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from touchline.core.errors import InputError
from touchline.core.levels import SEEDS
from touchline.core.quantity import Quantity
from touchline.core.units import seconds_to_hours
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import PlannedStrategy, StatedContrast, matches
from touchline.strategy.explore_section import cost_at_most
from touchline.strategy.group_sequential import (
    LEVEL,
    efficacy_bounds,
    futility_bounds,
    stopping_chances,
)
from touchline.strategy.look_designs import seeds_of_one_test
from touchline.strategy.state import cells_of, names_of_look


@dataclass(frozen=True, kw_only=True, slots=True)
class LookBounds:
    """One planned look, at the first share of the family's level."""

    seeds: int
    """Seeds per condition."""
    bound: float
    """Value of t that establishes a claim."""
    futility: float | None
    """Value of t at or below which it is given up; None at the last look, or if the spread is not known."""
    device_hours: float | None
    """Predicted device-hours up to this look if every contrast is still undecided; None if unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyCosts:
    """Predicted device-hours of a strategy; each None if it is not known."""

    least: float | None
    """Every contrast ends at the first look."""
    without_effect: float | None
    """Expected if no contrast has an effect."""
    promised: float | None
    """Expected if every contrast has the promised effect."""
    most: float | None
    """Every contrast continues to the last look."""
    fixed_seeds: int
    """Seeds of a design without looks: those that show the promised difference with the same power, or all."""
    fixed: float | None
    """Cost of that design."""


def device_hours(plan: Plan, runs: Iterable[PlannedRun]) -> float | None:
    """Return the predicted device-hours of runs with their evaluations; None if one of them is not known."""
    total = 0.0
    for run in runs:
        training, evaluation = training_hours(plan, run), _value(run.evaluate_seconds)
        if training is None or evaluation is None:
            return None
        total += training + seconds_to_hours(evaluation)
    return total


def training_hours(plan: Plan, run: PlannedRun) -> float | None:
    """Return the predicted device-hours of a run's training, of a cohort its share; None if they are not known."""
    if run.train is None:
        return 0.0
    cohort = plan.cohort_of(run.name)
    seconds = _value(run.train_seconds if cohort is None else cohort.train_seconds)
    if seconds is None:
        return None
    together = 1 if cohort is None else len(cohort.runs)
    return seconds_to_hours(seconds) / together * plan.devices / plan.machine.slots


def _value(found: object) -> float | None:
    return found.value if isinstance(found, Quantity) else None


def look_bounds(plan: Plan) -> tuple[LookBounds, ...]:
    """Return the planned looks; none without confirm."""
    strategy = plan.strategy
    if strategy is None or not strategy.looks:
        return ()
    contrasts = likely_contrasts(plan)
    level = LEVEL / max(len(contrasts), 1)
    efficacy = efficacy_bounds(strategy.looks, level)
    futility = _futility(strategy, level)
    before = _sum([_controls(plan), explore_hours(plan)])
    return tuple(
        LookBounds(
            seeds=seeds,
            bound=bound,
            futility=None if futility is None or seeds == strategy.looks[-1] else futility[number],
            device_hours=_sum([before, device_hours(plan, _of_look(plan, contrasts, seeds))]),
        )
        for number, (seeds, bound) in enumerate(zip(strategy.looks, efficacy, strict=True))
    )


def _futility(strategy: PlannedStrategy, level: float) -> tuple[float, ...] | None:
    effect = strategy.effect
    return None if effect is None else futility_bounds(strategy.looks, effect, level=level)


def promised_power(strategy: PlannedStrategy, contrasts: int) -> float | None:
    """Return the chance to establish a true difference of the promised size; None if the spread is not known.

    Of one contrast at the first share of the level, by the spread between seeds alone. Variation between items lowers
    it.

    Args:
        strategy: strategy with looks.
        contrasts: contrasts of the family.
    """
    if strategy.effect is None:
        return None
    level = LEVEL / max(contrasts, 1)
    bounds = efficacy_bounds(strategy.looks, level)
    return stopping_chances(strategy.looks, strategy.effect, bounds, _futility(strategy, level)).power


def strategy_costs(plan: Plan) -> StrategyCosts | None:
    """Return the costs of a strategy with confirm; None without it."""
    looks = look_bounds(plan)
    strategy = plan.strategy
    if strategy is None or not looks:
        return None
    contrasts = likely_contrasts(plan)
    level = LEVEL / max(len(contrasts), 1)
    effect = strategy.effect
    fixed_seeds = strategy.looks[-1]
    if effect is not None:
        fixed_seeds = seeds_of_one_test(effect, level=level) or fixed_seeds
    whole = device_hours(plan, _of_look(plan, contrasts, strategy.looks[-1]))
    per_seed = None if whole is None else whole / strategy.looks[-1]
    expected = [None if effect is None else _expected(plan, contrasts, level, share * effect) for share in (0.0, 1.0)]
    return StrategyCosts(
        least=looks[0].device_hours,
        without_effect=expected[0],
        promised=expected[1],
        most=looks[-1].device_hours,
        fixed_seeds=fixed_seeds,
        fixed=_sum([_controls(plan), None if per_seed is None else per_seed * fixed_seeds]),
    )


def likely_contrasts(plan: Plan) -> tuple[StatedContrast, ...]:
    """Return the contrasts of confirm; where explore chooses them, those of the conditions that cost most."""
    strategy = plan.strategy
    assert strategy is not None
    if strategy.explore is None:
        return strategy.contrasts
    explored = [run for run in plan.runs if run.phase is Phase.EXPLORE and not matches(run.levels, strategy.reference)]
    explored.sort(key=lambda run: -(device_hours(plan, [run]) or 0.0))
    return tuple(
        StatedContrast(
            name=run.name,
            level={level.factor: level.value for level in run.levels if level.factor != SEEDS},
            against=strategy.reference,
        )
        for run in explored[: strategy.explore.confirm]
    )


def likely_runs(plan: Plan) -> tuple[PlannedRun, ...]:
    """Return the runs that may be started at most: with explore, of confirm those of the conditions that cost most."""
    strategy = plan.strategy
    if strategy is None:
        return plan.runs
    names = set(names_of_look(plan, likely_contrasts(plan), strategy.looks[-1])) if strategy.looks else set()
    return tuple(run for run in plan.runs if run.phase is not Phase.CONFIRM or run.name in names)


def explore_hours(plan: Plan) -> float | None:
    """Return the predicted device-hours of explore at most; 0 without it, None if they are not known."""
    assert plan.strategy is not None
    return 0.0 if plan.strategy.explore is None else _value(cost_at_most(plan))


def _controls(plan: Plan) -> float | None:
    return device_hours(plan, [run for run in plan.runs if run.phase is None])


def _of_look(plan: Plan, contrasts: Sequence[StatedContrast], seeds: int) -> list[PlannedRun]:
    names = set(names_of_look(plan, contrasts, seeds))
    return [run for run in plan.runs if run.name in names]


def _expected(plan: Plan, contrasts: Sequence[StatedContrast], level: float, effect: float) -> float | None:
    """Return the expected cost if every contrast has this effect, in standard deviations; contrasts independent."""
    strategy = plan.strategy
    assert strategy is not None
    chances = stopping_chances(
        strategy.looks, effect, efficacy_bounds(strategy.looks, level), _futility(strategy, level)
    )
    reached, left = [], 1.0
    for established, given_up in zip(chances.established, chances.given_up, strict=True):
        reached.append(left)
        left -= established + given_up
    own = [set(names_of_look(plan, [each], strategy.looks[-1])) for each in contrasts]
    place = {seed: number for number, seed in enumerate(strategy.seeds)}
    parts = [_controls(plan), explore_hours(plan)]
    for run in _of_look(plan, contrasts, strategy.looks[-1]):
        stage = next(number for number, seeds in enumerate(strategy.looks) if place[run.seed] < seeds)
        needed = 1 - (1 - reached[stage]) ** sum(run.name in names for names in own)
        hours = device_hours(plan, [run])
        parts.append(None if hours is None else hours * needed)
    return _sum(parts)


def _sum(parts: Sequence[float | None]) -> float | None:
    known = [each for each in parts if each is not None]
    return math.fsum(known) if len(known) == len(parts) else None


def refuse_impossible(plan: Plan) -> None:
    """Refuse a strategy that could never decide anything.

    Raises:
        InputError: a contrast has no runs on one side, or the budget is smaller than the cost of one run.
    """
    strategy = plan.strategy
    if strategy is None:
        return
    for contrast in strategy.contrasts:
        if not cells_of(plan, contrast, strategy.looks[-1]):
            raise InputError(
                f"strategy.confirm.contrasts: {contrast.name} has no run on one of its sides",
                expected="levels that some planned run has; `exclude` and `pairs` may leave none",
            )
    hours = [cost for run in plan.runs if run.phase is not None and (cost := device_hours(plan, [run])) is not None]
    budget = strategy.budget_device_hours
    if budget is not None and hours and min(hours) > budget:
        raise InputError(
            f"strategy.budget is {budget:.3g} device-hours, and one run is predicted to take {min(hours):.3g}",
            expected="a budget for the runs of the first look at least",
        )
