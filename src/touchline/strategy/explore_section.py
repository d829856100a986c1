"""Section of a plan about explore: points in steps, how many runs continue after each, and the cost at most."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from touchline.core.markup import measured
from touchline.core.quantity import Measured, Quantity
from touchline.core.table import Section, table_section
from touchline.core.units import hours_unit, percent, plural
from touchline.estimate.totals import scale_quantity, sum_quantities, totals_of
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.strategy import ExploreConfig, matches
from touchline.strategy.explore import continuing_counts, explore_runs
from touchline.strategy.state import point_steps

_COLUMNS = ("point", "at step", "runs compared", "continue at most")


def explore_section(plan: Plan) -> Section | None:
    """Return the section; None of a plan without explore."""
    strategy = plan.strategy
    if strategy is None or strategy.explore is None:
        return None
    runs = explore_runs(plan.runs)
    counts = continuing_counts(strategy, runs)
    rows = _rows(strategy.explore, runs, counts)
    return table_section("Explore", _COLUMNS, rows, _lines(plan, runs, counts))


def _rows(explore: ExploreConfig, runs: Sequence[PlannedRun], counts: Sequence[int]) -> Iterator[tuple[str, ...]]:
    steps = [point_steps(run, explore.at) for run in runs]
    for number, (compared, left) in enumerate(itertools.pairwise(counts)):
        at = sorted({own[number] for own in steps})
        text = str(at[0]) if len(at) == 1 else f"{at[0]} to {at[-1]}"
        yield str(number + 1), text, str(compared), str(left)


def _lines(plan: Plan, runs: Sequence[PlannedRun], counts: Sequence[int]) -> Iterator[str]:
    assert plan.strategy is not None
    assert plan.strategy.explore is not None
    strategy, explore = plan.strategy, plan.strategy.explore
    reference = ", ".join(run.name for run in runs if matches(run.levels, strategy.reference))
    rule = (
        f"the best {percent(explore.keep, 0)} of the others, rounded up"
        if explore.policy == "halving"
        else "those of the others whose validation loss is not above their median"
    )
    yield f"Policy {explore.policy}: the reference {reference} continues, and {rule}. Runs that diverge are cut."
    if plan.pruning_evidence:
        yield f"Past sweeps: {plan.pruning_evidence}."
    points = len(counts) - 1
    if points < len(explore.at):
        used = "1 is" if points == 1 else f"{points} are"
        usable = min(len(point_steps(run, explore.at)) for run in runs)
        why = "others fall on the same validation or the end" if points == usable else "one run is left to be cut"
        yield f"{len(explore.at)} points are stated, and {used} used: {why}."
    if strategy.seeds:
        chosen = "condition" if explore.confirm == 1 else f"{explore.confirm} conditions"
        seeds = plural(len(strategy.seeds), "fresh seed")
        yield f"Confirmed with {seeds} at most: the {chosen} with the lowest final validation loss."
    unit = hours_unit("GPU" if plan.machine.kind == "gpu" else "CPU")
    at_most, grid = _hours(cost_at_most(plan), unit), _hours(_device_hours(plan, runs), unit)
    yield f"Explore takes at most {at_most}; all its runs to their ends would take {grid}."


def cost_at_most(plan: Plan) -> Measured:
    """Return the device-hours of an explore with its evaluations, if the most expensive runs continue at each point.

    Every pause costs another start of a training. Runs are counted one by one, cohorts or not.
    """
    assert plan.strategy is not None
    assert plan.strategy.explore is not None
    at, counts = plan.strategy.explore.at, continuing_counts(plan.strategy, explore_runs(plan.runs))
    ranked = sorted(explore_runs(plan.runs), key=_seconds, reverse=True)
    points = len(counts) - 1
    cut = [
        _until(run, point_steps(run, at)[:points], _points_passed(place, counts)) for place, run in enumerate(ranked)
    ]
    return _device_hours(plan, cut)


def _points_passed(place: int, counts: Sequence[int]) -> int:
    """Return the points after which the run of a rank continues."""
    return sum(place < left for left in counts[1:])


def _until(run: PlannedRun, points: Sequence[int], passed: int) -> PlannedRun:
    """Return a run as far as it is trained if it passes some of its points: to its end, or to the next one."""
    assert run.batches is not None
    once = [part for name in ("start-up", "tokenising") if (part := run.time_parts.get(name)) is not None]
    again = once * min(passed, len(points))
    if passed == len(points):
        return replace(run, train_seconds=sum_quantities([run.train_seconds, *again], "s"))
    share = points[passed] / run.batches.steps
    trained = sum_quantities([scale_quantity(run.train_seconds, share, "s"), *once, *again], "s")
    never = scale_quantity(run.evaluate_seconds, 0.0, "s")
    return replace(run, train_seconds=trained, evaluate_seconds=never, evaluate_startup_seconds=never)


def _seconds(run: PlannedRun) -> float:
    return run.train_seconds.value if isinstance(run.train_seconds, Quantity) else 0.0


def _device_hours(plan: Plan, runs: Sequence[PlannedRun]) -> Measured:
    return totals_of(plan, runs, side_by_side=False)["gpu_hours"]


def _hours(value: Measured, unit: str) -> str:
    if not isinstance(value, Quantity):
        return f"unknown {unit} ({measured(value)})"
    ends = "" if value.low is None or value.high is None else f" ({value.low:.3g} to {value.high:.3g})"
    return f"{value.value:.3g} {unit}{ends}"
