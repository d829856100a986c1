"""Strategy of a plan: levels as text, looks and budget resolved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from touchline.core.levels import level_text
from touchline.core.units import parse_device_hours
from touchline.experiment.experiment import Experiment
from touchline.experiment.plan import Plan
from touchline.experiment.strategy import ConfirmConfig, PlannedStrategy, StatedContrast
from touchline.statistics.spread_inputs import End, spread_at
from touchline.statistics.spread_types import SpreadInput, SpreadKind, SpreadSource

_POINTS = 100.0


def planned_strategy(
    experiment: Experiment, fixed: PlannedStrategy | None = None, spread: SeedSpread | None = None
) -> PlannedStrategy | None:
    """Return the resolved strategy of an experiment; None without one.

    Args:
        experiment: the experiment.
        fixed: strategy as it was planned when its first decision was taken; what the file leaves open stays so.
        spread: spread between seeds by the past runs; None if they do not show it.
    """
    strategy = experiment.strategy
    if strategy is None:
        return None
    explore, confirm = strategy.explore, strategy.confirm
    hours = None if strategy.budget is None else parse_device_hours(strategy.budget)
    planned = PlannedStrategy(
        explore=explore, reference={} if explore is None else _texts(explore.reference), budget_device_hours=hours
    )
    if confirm is None:
        return planned
    found = _with_confirm(planned, confirm)
    if confirm.seed_spread is None and (known := spread if fixed is None else _spread_of(fixed)) is not None:
        found = replace(found, seed_spread=known.value, seed_spread_source=known.source)
    if confirm.looks == "auto":
        is_fixed = fixed is not None and fixed.looks and fixed.looks[-1] == len(confirm.seeds)
        contrasts = len(confirm.contrasts) if explore is None else explore.confirm
        looks = fixed.looks if fixed is not None and is_fixed else _chosen_looks(found, contrasts)
        found = replace(found, looks=looks)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedSpread:
    """Standard deviation of a contrast's difference between seeds, as a share, with its source."""

    value: float
    """The standard deviation."""
    source: str
    """Source, as the plan names it."""


def seed_spread_of(plan: Plan, spread: Sequence[SpreadInput], items: int | None) -> SeedSpread | None:
    """Return the spread of a contrast's difference between seeds by the past runs, for a plan that needs it.

    The seeds of both levels vary, and items flip in both: the variance is 2 s^2 + f / I, with the standard deviation s
    of a condition's mean score between seeds, the share f of the items that two seeds do not judge alike, and I items.

    Args:
        plan: plan whose strategy states no spread.
        spread: spread that the plan's power counts on.
        items: test items of a run; None if unknown.
    """
    between = next((each for each in spread if each.kind is SpreadKind.SEEDS), None)
    if plan.strategy is None or not plan.strategy.looks or plan.strategy.seed_spread is not None:
        return None
    if items is None or between is None or between.source not in (SpreadSource.HISTORY, SpreadSource.OWN_RUNS):
        return None
    found = spread_at(spread, End.VALUE, 1)
    value = math.sqrt(found.seeds + found.flips / items)
    return SeedSpread(value=value, source=f"{between.source.value}: {between.basis}") if value > 0 else None


def _spread_of(fixed: PlannedStrategy) -> SeedSpread | None:
    if fixed.seed_spread is None:
        return None
    return SeedSpread(value=fixed.seed_spread, source=fixed.seed_spread_source)


def _with_confirm(planned: PlannedStrategy, confirm: ConfirmConfig) -> PlannedStrategy:
    return replace(
        planned,
        contrasts=tuple(
            StatedContrast(name=each.name, level=_texts(each.level), against=_texts(each.against))
            for each in confirm.contrasts
        ),
        seeds=confirm.seeds,
        looks=() if confirm.looks == "auto" else confirm.looks,
        detect=confirm.detect / _POINTS,
        seed_spread=None if confirm.seed_spread is None else confirm.seed_spread / _POINTS,
        seed_spread_source="" if confirm.seed_spread is None else "stated",
    )


def _chosen_looks(planned: PlannedStrategy, contrasts: int) -> tuple[int, ...]:
    """Return the looks for the promised difference; without a known spread, those for what so many seeds show."""
    from touchline.strategy.look_designs import choose_looks

    return choose_looks(planned.effect, seeds=len(planned.seeds), contrasts=contrasts).looks


def _texts(levels: Mapping[str, object]) -> dict[str, str]:
    return {key: level_text(value) for key, value in levels.items()}
