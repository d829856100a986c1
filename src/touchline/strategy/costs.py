"""Costs of a strategy, at least, at most and on average, and the plan's sections about it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from touchline.core.quantity import Measured, Quantity
from touchline.core.table import Column, Section, table_section
from touchline.core.units import device_hours, hours_unit, measured, percent, plural, seconds_to_hours
from touchline.estimate.totals import scale_quantity, sum_quantities, totals_of
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import ExploreConfig, PlannedStrategy, StatedContrast, matches
from touchline.strategy.explore import continuing_counts, point_steps
from touchline.strategy.group_sequential import (
    LEVEL,
    StoppingChances,
    efficacy_bounds,
    futility_bounds,
    stopping_chances,
)
from touchline.strategy.state import condition_of, of_phase, references, runs_of_look


@dataclass(frozen=True, kw_only=True, slots=True)
class LookBounds:
    """One planned look, at the first share of the family's level."""

    seeds: int
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


def predicted_hours(plan: Plan, runs: Iterable[PlannedRun]) -> float | None:
    """Return the predicted device-hours of runs with their evaluations; None if one of them is not known."""
    return _sum([part for run in runs for part in (_training_hours(plan, run), _hours(run.evaluate_seconds))])


def _training_hours(plan: Plan, run: PlannedRun) -> float | None:
    if run.train is None:
        return 0.0
    cohort = plan.cohort_of(run.name)
    hours = _hours(run.train_seconds if cohort is None else cohort.train_seconds)
    together = 1 if cohort is None else len(cohort.runs)
    return None if hours is None else hours / together * plan.devices / plan.machine.slots


def _hours(seconds: object) -> float | None:
    return seconds_to_hours(seconds.value) if isinstance(seconds, Quantity) else None


def _sum(parts: Sequence[float | None]) -> float | None:
    known = [each for each in parts if each is not None]
    return math.fsum(known) if len(known) == len(parts) else None


# ---- explore ---------------------------------------------------------------------------------------------------------


def explore_cost(plan: Plan) -> Measured:
    """Return the device-hours of an explore with its evaluations, if the most expensive runs continue at each point.

    Every pause costs another start of a training. Runs are counted one by one, cohorts or not.
    """
    assert plan.strategy is not None
    assert plan.strategy.explore is not None
    runs = of_phase(plan.runs, Phase.EXPLORE)
    at, counts = plan.strategy.explore.at, continuing_counts(plan.strategy, runs)
    ranked = sorted(runs, key=lambda run: _hours(run.train_seconds) or 0.0, reverse=True)
    points = len(counts) - 1
    cut = [
        _until(run, point_steps(run, at)[:points], sum(place < left for left in counts[1:]))
        for place, run in enumerate(ranked)
    ]
    return one_by_one(plan, cut)


def one_by_one(plan: Plan, runs: Sequence[PlannedRun]) -> Measured:
    """Return the predicted device-hours of runs that are counted one by one, cohorts or not."""
    return totals_of(plan, runs, side_by_side=False)["gpu_hours"]


def _until(run: PlannedRun, points: Sequence[int], passed: int) -> PlannedRun:
    """Return a run as far as it is trained if it passes some of its points: to its end, or to the next one."""
    once = [part for name in ("start-up", "tokenising") if (part := run.time_parts.get(name)) is not None]
    again = once * min(passed, len(points))
    if passed == len(points):
        return replace(run, train_seconds=sum_quantities([run.train_seconds, *again], "s"))
    cut = shortened(run, points[passed])
    started = scale_quantity(run.evaluate_startup_seconds, 0.0, "s")
    trained = sum_quantities([cut.train_seconds, *once, *again], "s")
    return replace(cut, train_seconds=trained, evaluate_startup_seconds=started)


def shortened(run: PlannedRun, step: int) -> PlannedRun:
    """Return a run with the predicted time of its first steps and without an evaluation."""
    share = step / run.batches.steps if run.batches is not None and run.batches.steps else 1.0
    nothing = Quantity(value=0.0, unit="s", low=0.0, high=0.0)
    return replace(run, train_seconds=scale_quantity(run.train_seconds, share, "s"), evaluate_seconds=nothing)


def explore_hours(plan: Plan) -> float | None:
    """Return the predicted device-hours of explore at most; 0 without it, None if they are not known."""
    if plan.strategy is None or plan.strategy.explore is None:
        return 0.0
    found = explore_cost(plan)
    return found.value if isinstance(found, Quantity) else None


# ---- confirm ---------------------------------------------------------------------------------------------------------


def likely_contrasts(plan: Plan) -> tuple[StatedContrast, ...]:
    """Return the contrasts of confirm; where explore chooses them, those of the conditions that cost most."""
    strategy = plan.strategy
    assert strategy is not None
    if strategy.explore is None:
        return strategy.contrasts
    runs = [run for run in of_phase(plan.runs, Phase.EXPLORE) if not matches(run.levels, strategy.reference)]
    runs.sort(key=lambda run: -(predicted_hours(plan, [run]) or 0.0))
    return tuple(
        StatedContrast(name=run.name, level=condition_of(run), against=strategy.reference)
        for run in runs[: strategy.explore.confirm]
    )


def likely_runs(plan: Plan) -> tuple[PlannedRun, ...]:
    """Return the runs that may be started at most: with explore, of confirm those of the conditions that cost most."""
    strategy = plan.strategy
    if strategy is None:
        return plan.runs
    needed = runs_of_look(plan, likely_contrasts(plan), strategy.looks[-1]) if strategy.looks else []
    names = {run.name for run in needed}
    return tuple(run for run in plan.runs if run.phase is not Phase.CONFIRM or run.name in names)


def look_bounds(plan: Plan) -> tuple[LookBounds, ...]:
    """Return the planned looks; none without confirm."""
    strategy = plan.strategy
    if strategy is None or not strategy.looks:
        return ()
    contrasts = likely_contrasts(plan)
    efficacy, futility = _bounds(strategy, len(contrasts))
    before = [_control_hours(plan), explore_hours(plan)]
    return tuple(
        LookBounds(
            seeds=seeds,
            bound=efficacy[number],
            futility=None if futility is None or seeds == strategy.looks[-1] else futility[number],
            device_hours=_sum([*before, predicted_hours(plan, runs_of_look(plan, contrasts, seeds))]),
        )
        for number, seeds in enumerate(strategy.looks)
    )


def _bounds(strategy: PlannedStrategy, contrasts: int) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    level = LEVEL / max(contrasts, 1)
    effect = strategy.effect
    futility = None if effect is None else futility_bounds(strategy.looks, effect, level=level)
    return efficacy_bounds(strategy.looks, level), futility


def _chances(strategy: PlannedStrategy, contrasts: int, effect: float) -> StoppingChances:
    return stopping_chances(strategy.looks, effect, *_bounds(strategy, contrasts))


def promised_power(strategy: PlannedStrategy, contrasts: int) -> float | None:
    """Return the chance to establish a true difference of the promised size; None if the spread is not known.

    Of one contrast at the first share of the level, by the spread between seeds alone. Variation between items lowers
    it.
    """
    return None if strategy.effect is None else _chances(strategy, contrasts, strategy.effect).power


def strategy_costs(plan: Plan) -> StrategyCosts | None:
    """Return the costs of a strategy with confirm; None without it."""
    looks, strategy = look_bounds(plan), plan.strategy
    if strategy is None or not looks:
        return None
    contrasts, effect = likely_contrasts(plan), strategy.effect
    return StrategyCosts(
        least=looks[0].device_hours,
        without_effect=None if effect is None else _expected(plan, contrasts, 0.0),
        promised=None if effect is None else _expected(plan, contrasts, effect),
        most=looks[-1].device_hours,
    )


def _control_hours(plan: Plan) -> float | None:
    return predicted_hours(plan, of_phase(plan.runs, None))


def _expected(plan: Plan, contrasts: Sequence[StatedContrast], effect: float) -> float | None:
    """Return the expected cost if every contrast has this effect, in standard deviations; contrasts independent."""
    strategy = plan.strategy
    assert strategy is not None
    chances = _chances(strategy, len(contrasts), effect)
    reached, left = [], 1.0
    for established, given_up in zip(chances.established, chances.given_up, strict=True):
        reached.append(left)
        left -= established + given_up
    last = strategy.looks[-1]
    own = [{run.name for run in runs_of_look(plan, [each], last)} for each in contrasts]
    parts = [_control_hours(plan), explore_hours(plan)]
    for run in runs_of_look(plan, contrasts, last):
        needed = 1 - (1 - reached[strategy.stage_of(run.seed)]) ** sum(run.name in names for names in own)
        hours = predicted_hours(plan, [run])
        parts.append(None if hours is None else hours * needed)
    return _sum(parts)


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
            "Costs of the strategy", _COSTS, () if costs is None else _costs(costs), _about_costs(plan, strategy, costs)
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
            f"Expected: {_hours_text(costs.promised)} {_unit(plan)} with the promised effect, "
            f"{_hours_text(costs.without_effect)} without any effect"
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
        yield str(number), str(look.seeds), f"{look.bound:.2f}", futility, _hours_text(look.device_hours)


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
            yield name, _hours_text(hours)


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


def _hours_text(hours: float | None) -> str:
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
