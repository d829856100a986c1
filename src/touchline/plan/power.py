"""What a design can show, before anything runs: so many seeds and items, and the smallest difference that they tell.

The same functions answer here, in the checks EX108 to EX110 and in the report, so that a plan promises what the
analysis keeps. Two questions are kept apart: items answer for checkpoints, training seeds for settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.levels import SEEDS
from touchline.spec.evaluation import EvaluationTask
from touchline.spec.plan import Plan, PlannedRun
from touchline.spec.runs import ControlKind, RunKind
from touchline.statistics.power import (
    COVERAGE,
    ENOUGH_SEEDS,
    POWER,
    USUAL_FLIPS,
    smallest_difference,
    smallest_seed_difference,
)

HEADER = ("question", "design", "smallest difference shown", "among all of its kind")
_FLIPS = (0.05, USUAL_FLIPS, 0.3)
"""Shares of items that two models judge differently; how many they are is only known afterwards."""


def power_rows(plan: Plan) -> Iterator[tuple[str, ...]]:
    """Question, design, smallest difference on its own, and as one of all comparisons of its kind.

    Nothing where no run is fine-tuned or the number of test items is not known.
    """
    runs, items = _asked(plan), evaluated_items(plan)
    if not runs or not items:
        return
    family = len([run for run in runs if _has_control(plan, run)])
    for flips in _FLIPS if family else ():
        yield (
            "is a checkpoint better than its control?",
            f"{items:,} items, {100 * flips:g} % of them flip",
            _points(items, flips, 1),
            _points(items, flips, family),
        )
    factors = _factors(plan, runs)
    contrasts = sum(len(levels) - 1 for levels in factors.values())
    for factor, levels in factors.items():
        seeds = _seeds(runs, factor)
        conditions = _conditions(runs, factor)
        kind = f"{seeds} seed{'s' if seeds != 1 else ''} x {conditions} condition{'s' if conditions != 1 else ''}"
        yield (
            f"does {factor} matter? {', '.join(levels[1:])} against {levels[0]}",
            f"{kind} a level, {items:,} items",
            _deviations(seeds, 1),
            _deviations(seeds, contrasts),
        )


def power_lines(plan: Plan) -> Iterator[str]:
    """What the table means, and what it would take to show more."""
    runs, items = _asked(plan), evaluated_items(plan)
    if runs and plan.own_task is not None and items is None:
        yield (
            f"n/a (how many items {plan.task} has shows when it runs): with an argument `data` it gets the test items, "
            "whose number is known"
        )
    if not runs or not items:
        return
    yield (
        f"A difference of this size or more is shown in {100 * POWER:g} of 100 such experiments, at the "
        f"{100 * (1 - COVERAGE):.0f} % level; the last column when it is one of all comparisons of its kind (Holm's "
        "procedure, first step)."
    )
    if plan.own_task is not None:
        yield (
            f"These figures are for items that are right or wrong. Other scores of {plan.task} show smaller or larger "
            "differences, by how far they spread from item to item."
        )
    unpaired = 100 * smallest_difference(items)
    yield (
        f"Every run answers the same {items:,} items, so that runs are compared item by item; on different items it "
        f"would take {unpaired:.1f} points. Four times the items show half the difference."
    )
    if columns := list(dict.fromkeys(run.evaluate.cluster for run in runs if run.evaluate.cluster is not None)):
        yield (
            f"Items that belong together (evaluate.cluster: {', '.join(columns)}) tell less than as many that stand "
            "alone, so that for checkpoints these differences are the least that can be hoped for."
        )
    factors = _factors(plan, runs)
    if not factors:
        return
    counts = {factor: _seeds(runs, factor) for factor in factors}
    unit = (
        "Levels are compared by the paired t-test over seeds' means. Standard deviations between seeds are those of "
        "a level's mean over its conditions, from seed to seed; where a seed moves both levels alike, less is enough"
    )
    if min(counts.values()) < 2:
        yield "With one seed a difference between levels describes these checkpoints, not the settings."
    wanted = sorted({2, ENOUGH_SEEDS, 5} - set(counts.values()))
    others = "; ".join(f"{seeds} seeds would show {_deviations(seeds, 1)}" for seeds in wanted)
    yield f"{unit}. Where one is 1 point, they are points. On their own, {others}."


def evaluated_items(plan: Plan, task: EvaluationTask | None = None) -> int | None:
    """Return the fewest items that a run is evaluated on; None where that is not known.

    Args:
        plan: the plan.
        task: one of its further tasks; the experiment's own for None.
    """
    asked = task or plan.own_task
    if asked is not None and asked.is_file and not asked.takes_data:
        return None
    counts: list[int] = []
    for run in plan.runs:
        dataset, samples = plan.datasets.get(run.dataset), run.evaluate.samples
        rows = next((split.num_examples for split in dataset.splits if split.name == "test"), 0) if dataset else 0
        if rows:
            counts.append(rows if samples == "all" else min(samples, rows))
    return min(counts, default=None)


def _asked(plan: Plan) -> list[PlannedRun]:
    """The runs that the experiment asks about."""
    return [run for run in plan.runs if run.kind is RunKind.FINE_TUNED and run.control is None]


def _has_control(plan: Plan, run: PlannedRun) -> bool:
    return any(
        other.kind is RunKind.CONTROL and other.control in (None, ControlKind.BASE) and other.model == run.model
        for other in plan.runs
    )


def _factors(plan: Plan, runs: Sequence[PlannedRun]) -> dict[str, tuple[str, ...]]:
    """What varies among the runs, besides seeds."""
    there = {(level.factor, level.value) for run in runs for level in run.levels}
    found = {
        factor: tuple(level for level in levels if (factor, level) in there) for factor, levels in plan.factors.items()
    }
    return {factor: levels for factor, levels in found.items() if len(levels) > 1 and factor != SEEDS}


def _seeds(runs: Sequence[PlannedRun], factor: str) -> int:
    """The fewest seeds of any level."""
    seeds: dict[str, set[int]] = {}
    for run in runs:
        for level in run.levels:
            if level.factor == factor:
                seeds.setdefault(level.value, set()).add(run.seed)
    return min(len(each) for each in seeds.values())


def _conditions(runs: Sequence[PlannedRun], factor: str) -> int:
    """Conditions of all other factors that a level is averaged over, at the most."""
    return len(
        {
            tuple((level.factor, level.value) for level in run.levels if level.factor not in (factor, SEEDS))
            for run in runs
        }
    )


def _points(items: int, flips: float, family: int) -> str:
    from touchline.statistics.exact_power import smallest_shown

    found = smallest_shown(items, flips, coverage=1 - (1 - COVERAGE) / family)
    if found is None:
        return "nothing"
    return f"{100 * found:.1f} points{', all flips one way' if found > flips else ''}"


def _deviations(seeds: int, family: int) -> str:
    found = smallest_seed_difference(seeds, coverage=1 - (1 - COVERAGE) / family)
    return "nothing of the setting" if found is None else f"{found:.1f} standard deviations between seeds"
