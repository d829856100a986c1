"""Statistical power of a design before it runs: seeds, items, and the minimum detectable difference.

The checks EX108 to EX110 and the report use the same functions, so their numbers agree with the plan. Items
determine the power for comparing checkpoints; training seeds determine the power for comparing settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from touchline.core.levels import SEEDS
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import between, measured, plural
from touchline.experiment.evaluation import EvaluationTask, asked_items
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import ControlKind, RunKind
from touchline.statistics.closed_forms import COVERAGE, POWER, USUAL_FLIPS, smallest_in_points
from touchline.statistics.own_score import FEWEST_UNITS, TOO_FEW
from touchline.statistics.sample_sizes import FEWEST_SEEDS, Spread, detectable
from touchline.statistics.spread import End, spread_at
from touchline.statistics.strata import tied_factors

_FLIPS = (0.05, USUAL_FLIPS, 0.3)
"""Assumed fractions of discordant items. The actual fraction is only known after the evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detectable:
    """Minimum detectable difference of one question."""

    factor: str | None = None
    """Factor whose levels are compared; None for checkpoints against their controls."""
    flips: float | None = None
    question: str
    design: str
    difference: str
    after_holm: str
    """Difference in the first step of Holm's procedure over all comparisons of its kind."""


def detectables(plan: Plan) -> Iterator[Detectable]:
    """Yield the differences that a design can show; none if no run is fine-tuned or the test items are not known."""
    runs, items = plan.fine_tuned, evaluated_items(plan)
    if not runs or not items:
        return
    family = len([run for run in runs if _has_control(plan, run)])
    for flips in _FLIPS if family else ():
        yield Detectable(
            flips=flips,
            question="is a checkpoint better than its control?",
            design=f"{items:,} items, {100 * flips:g}% discordant",
            difference=smallest_in_points(items, flips, coverage=COVERAGE),
            after_holm=smallest_in_points(items, flips, coverage=_coverage(family)),
        )
    factors = _factors(plan, runs)
    contrasts = sum(len(levels) - 1 for levels in factors.values())
    for factor, levels in factors.items():
        seeds = _seeds(runs, factor)
        conditions = _conditions(plan, runs, factor)
        yield Detectable(
            factor=factor,
            question=f"does {factor} matter? {', '.join(levels[1:])} vs. {levels[0]}",
            design=f"{plural(seeds, 'seed')} x {plural(conditions, 'condition')} per level, {items:,} items",
            difference=_shown(plan, seeds, items, conditions, 1),
            after_holm=_shown(plan, seeds, items, conditions, contrasts),
        )


def has_one_seed(plan: Plan) -> bool:
    """Return whether levels are compared by one seed, which tests nothing of the settings."""
    factors = _factors(plan, plan.fine_tuned)
    return bool(factors) and min(_seeds(plan.fine_tuned, factor) for factor in factors) < FEWEST_SEEDS


def power_lines(plan: Plan) -> Iterator[str]:
    """Yield notes on the table, and what would lower the minimum detectable difference."""
    runs, items = plan.fine_tuned, evaluated_items(plan)
    if runs and plan.own_task is not None and items is None:
        yield (
            f"n/a (the number of items of {plan.task} is unknown before it runs): with an argument `data` it receives "
            "the test items, whose number is known"
        )
    if not runs or not items:
        return
    yield (
        f"A true difference of this size is detected with {100 * POWER:g}% power at the {100 * (1 - COVERAGE):.0f}% "
        "level. The last column is for the first step of Holm's procedure over all comparisons of its kind."
    )
    if plan.own_task is not None:
        yield (
            f"These figures hold for items scored right or wrong. For other scores of {plan.task} they depend on the "
            "spread between items."
        )
    yield f"All runs answer the same {items:,} items, so runs are compared item by item. Four times the items halve it."
    if columns := list(dict.fromkeys(run.evaluate.cluster for run in runs if run.evaluate.cluster is not None)):
        yield (
            f"Items of one cluster (evaluate.cluster: {', '.join(columns)}) carry less information than independent "
            "items, so for checkpoints the true minimum is larger."
        )
    if has_one_seed(plan):
        yield "With one seed, a difference between levels describes these checkpoints, not the settings."
    if plan.spread and _factors(plan, runs):
        yield from _counted_on(plan)


def _counted_on(plan: Plan) -> Iterator[str]:
    """Yield the spread that the table counts on with its sources, and the command that varies the design."""
    counted = "; ".join(f"{each.kind.value} {measured(each.quantity, 3)} ({each.source.value})" for each in plan.spread)
    yield f"Levels are compared by both tests of the report. Counted on: {counted}"
    if not plan.strategy:
        yield f"Seeds and items that a difference needs, with costs: touchline design {plan.experiment}"


def _shown(plan: Plan, seeds: int, items: int, conditions: int, family: int) -> str:
    if seeds < FEWEST_SEEDS:
        return "not testable with one seed"
    if not plan.spread:
        return "unknown: the plan has no spread between seeds"
    shown = detectable_points({end: spread_at(plan.spread, end, conditions) for end in End}, seeds, items, family)
    if isinstance(shown, Missing):
        return shown.missing
    return f"{shown.value:.1f} points{between(shown.low, shown.high, '{:.1f}'.format)}"


def detectable_points(spreads: Mapping[End, Spread], seeds: int, items: int, family: int) -> Measured:
    """Return the difference that a design shows in points, with an interval over the ends of the counted spread."""
    low, value, high = (
        100
        * float(detectable(np.array(float(seeds)), np.array(float(items)), spreads[end], coverage=_coverage(family)))
        for end in (End.LOW, End.VALUE, End.HIGH)
    )
    if items < FEWEST_UNITS:
        return Missing(missing=f"{plural(items, 'test item')}: {TOO_FEW}")
    if value > 100:
        return Missing(missing="more than 100 points")
    return Quantity(value=value, unit="points", low=low, high=min(high, 100.0))


def _coverage(family: int) -> float:
    return 1 - (1 - COVERAGE) / family


def evaluated_items(plan: Plan, task: EvaluationTask | None = None) -> int | None:
    """Return the smallest number of test items of any run, of several test sets in the one named first. None if it is
    unknown.

    Args:
        task: one of its further tasks; the experiment's own for None.
    """
    asked = task or plan.own_task
    if asked is not None and asked.is_file and not asked.takes_data:
        return None
    counts: list[int] = []
    for run in plan.runs:
        dataset = plan.datasets.get(run.dataset)
        rows = next((split.num_examples for split in dataset.splits if split.name == "test"), 0) if dataset else 0
        if rows:
            counts.append(asked_items(run.evaluate, rows))
    return min(counts, default=None)


def number_of_contrasts(plan: Plan) -> int:
    """Return the contrasts between levels: the family over which the report adjusts p values of settings."""
    return sum(len(levels) - 1 for levels in _factors(plan, plan.fine_tuned).values())


def conditions_per_level(plan: Plan) -> int:
    """Return the fewest conditions of other factors that a level of any factor is averaged over; 1 without factors."""
    runs = plan.fine_tuned
    return min((_conditions(plan, runs, factor) for factor in _factors(plan, runs)), default=1)


def _has_control(plan: Plan, run: PlannedRun) -> bool:
    return any(
        other.kind is RunKind.CONTROL and other.control in (None, ControlKind.BASE) and other.model == run.model
        for other in plan.runs
    )


def _factors(plan: Plan, runs: Sequence[PlannedRun]) -> dict[str, tuple[str, ...]]:
    """Return the factors that vary among the runs, seeds excluded; of those that change together the first."""
    followers = {factor for group in _tied(plan, runs) for factor in group[1:]}
    there = {(level.factor, level.value) for run in runs for level in run.levels}
    found = {
        factor: tuple(level for level in levels if (factor, level) in there) for factor, levels in plan.factors.items()
    }
    return {
        factor: levels
        for factor, levels in found.items()
        if len(levels) > 1 and factor != SEEDS and factor not in followers
    }


def _tied(plan: Plan, runs: Sequence[PlannedRun]) -> tuple[tuple[str, ...], ...]:
    """Return the factors that change together, as the report counts them: their levels are one contrast."""
    return tied_factors([{level.factor: level.value for level in run.levels} for run in runs], list(plan.factors))


def _seeds(runs: Sequence[PlannedRun], factor: str) -> int:
    seeds: dict[str, set[int]] = {}
    for run in runs:
        for level in run.levels:
            if level.factor == factor:
                seeds.setdefault(level.value, set()).add(run.seed)
    return min(len(each) for each in seeds.values())


def _conditions(plan: Plan, runs: Sequence[PlannedRun], factor: str) -> int:
    """Return the largest number of conditions of the other factors that a level is averaged over."""
    held = {SEEDS, factor, *(each for group in _tied(plan, runs) if group[0] == factor for each in group)}
    return len({tuple((level.factor, level.value) for level in run.levels if level.factor not in held) for run in runs})
