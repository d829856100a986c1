"""Explore of a strategy: what it needs of a plan, its points, and its decisions from validation losses.

At each point the runs that continue so far are compared by their validation losses there, and some are cut. The
reference is not compared: it always continues. After the last point the survivors train to their ends, and those with
the lowest final validation losses are confirmed against the reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from touchline.backends.registry import capabilities, get_backend
from touchline.core.catalog import DatasetInfo
from touchline.core.finding import Finding, Severity
from touchline.core.levels import SEEDS
from touchline.core.units import plural
from touchline.experiment.plan import PlannedRun
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import ExploreConfig, PlannedStrategy, StatedContrast, matches
from touchline.strategy.cuts import halving, median
from touchline.strategy.decisions import Choice, Cut, RunLoss
from touchline.strategy.state import StrategyState, point_steps

_KEY = "strategy.explore"


def explore_runs(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs of explore, cut ones included."""
    return [run for run in runs if run.phase is Phase.EXPLORE]


def continuing_runs(state: StrategyState) -> list[PlannedRun]:
    """Return the runs of explore that have not been cut."""
    return [run for run in explore_runs(state.started) if run.name not in state.cut]


def next_point(run: PlannedRun, strategy: PlannedStrategy, state: StrategyState) -> int | None:
    """Return the optimizer step of a run's next point; None after the last one, and if one run is left to be cut."""
    if len(_candidates(strategy, continuing_runs(state))) < 2:
        return None
    steps = point_steps(run, _explore(strategy).at)
    return steps[state.cuts_taken] if state.cuts_taken < len(steps) else None


def _candidates(strategy: PlannedStrategy, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs that may be cut: all but the reference."""
    return [run for run in runs if not matches(run.levels, strategy.reference)]


# ---- decisions -------------------------------------------------------------------------------------------------------


def decide_cut(strategy: PlannedStrategy, runs: Sequence[PlannedRun], losses: Sequence[RunLoss]) -> Cut:
    """Return the cut at a point.

    Args:
        strategy: strategy with an explore.
        runs: runs that continued so far, in the plan's order.
        losses: validation loss of each at the point.
    """
    explore = _explore(strategy)
    compared = {
        each.run: math.nan if each.loss is None else each.loss
        for run, each in zip(runs, losses, strict=True)
        if not matches(run.levels, strategy.reference)
    }
    continuing = set(survivors(explore, compared))
    kept = tuple(run.name for run in runs if run.name not in compared or run.name in continuing)
    return Cut(
        step=max((each.step or 0 for each in losses), default=0),
        policy=explore.policy,
        losses=tuple(losses),
        kept=kept,
        cut=tuple(run.name for run in runs if run.name not in kept),
    )


def survivors(explore: ExploreConfig, losses: Mapping[str, float]) -> tuple[str, ...]:
    """Return the runs that continue after a point, in the order given.

    Args:
        explore: the policy.
        losses: loss of each compared run, in nats; not finite if it diverged.
    """
    return halving(losses, explore.keep) if explore.policy == "halving" else median(losses)


def decide_choice(strategy: PlannedStrategy, runs: Sequence[PlannedRun], losses: Sequence[RunLoss]) -> Choice:
    """Return the choice after explore: the conditions with the lowest final losses, of equal ones the earlier.

    Args:
        strategy: strategy with an explore.
        runs: runs that were not cut, in the plan's order.
        losses: final validation loss of each. One that diverged is not chosen.
    """
    explore = _explore(strategy)
    loss_of = {each.run: each.loss for each in losses}
    known = [(loss, run) for run in runs if (loss := loss_of[run.name]) is not None]
    ranked = sorted(known, key=lambda item: item[0])
    best = [run for _, run in ranked if not matches(run.levels, strategy.reference)][: explore.confirm]
    against = [_condition(run) for run in runs if matches(run.levels, strategy.reference)]
    return Choice(
        losses=tuple(losses),
        chosen=tuple(run.name for run in best),
        contrasts=tuple(
            StatedContrast(name=run.name, level=_condition(run), against=reference)
            for run in best
            for reference in against
            if strategy.seeds
        ),
    )


def _condition(run: PlannedRun) -> dict[str, str]:
    """Return the levels of a run without its seed."""
    return {level.factor: level.value for level in run.levels if level.factor != SEEDS}


def _explore(strategy: PlannedStrategy) -> ExploreConfig:
    assert strategy.explore is not None
    return strategy.explore


# ---- what it needs of a plan -----------------------------------------------------------------------------------------


def explore_faults(
    strategy: PlannedStrategy | None, runs: Sequence[PlannedRun], datasets: Iterable[DatasetInfo]
) -> list[Finding]:
    """Return the errors of an explore that show once its runs are planned; none without one."""
    if strategy is None or strategy.explore is None:
        return []
    found = [run for run in explore_runs(runs) if run.train is not None and run.batches is not None]
    return [
        *_backend_faults(found),
        *_validation_faults(found, datasets),
        *_reference_faults(strategy, found),
        *_comparison_faults(found),
        *_point_faults(strategy.explore, found),
        *_count_faults(strategy, found),
    ]


def _backend_faults(runs: Sequence[PlannedRun]) -> Iterator[Finding]:
    for name in dict.fromkeys(run.train.backend for run in runs if run.train is not None):
        if not get_backend(name).capabilities.pauses:
            able = " or ".join(other for other, features in capabilities().items() if features.pauses)
            message = f"the backend {name} cannot pause a training, which {_KEY} needs at its points"
            yield _error("BK001", "train.backend", message, f"backend: {able}; or confirm without explore")


def _validation_faults(runs: Sequence[PlannedRun], datasets: Iterable[DatasetInfo]) -> Iterator[Finding]:
    validated = {
        info.path
        for info in datasets
        if any(split.name == "validation" and split.num_examples for split in info.splits)
    }
    for path in dict.fromkeys(run.dataset for run in runs if run.dataset not in validated):
        message = f"explore compares validation losses, and {path} has no validation split"
        yield _error("EX003", _KEY, message, "a split named validation in the file; or confirm without explore")


def _reference_faults(strategy: PlannedStrategy, runs: Sequence[PlannedRun]) -> Iterator[Finding]:
    matching = [run.name for run in runs if matches(run.levels, strategy.reference)]
    if not matching:
        message = "no condition has these levels"
        yield _error("EX003", f"{_KEY}.reference", message, "the levels of one condition that is not excluded")
    elif len(matching) > 1:
        differing = [
            factor
            for factor in dict.fromkeys(level.factor for run in runs for level in run.levels)
            if factor not in strategy.reference and len(_levels(runs, matching, factor)) > 1
        ]
        message = f"{plural(len(matching), 'condition')} have these levels: {', '.join(matching)}"
        hint = f"add a level of {' and '.join(differing)}" if differing else "one level of every factor"
        yield _error("EX003", f"{_KEY}.reference", message, hint)


def _levels(runs: Sequence[PlannedRun], names: Sequence[str], factor: str) -> set[str]:
    return {level.value for run in runs if run.name in names for level in run.levels if level.factor == factor}


def _comparison_faults(runs: Sequence[PlannedRun]) -> Iterator[Finding]:
    """Yield an error for each reason why the losses of some runs cannot be compared."""
    for what, hint, values in (
        (
            "base models, and so other tokens",
            "one experiment for each base model; confirm compares scores, and takes several",
            {run.name: run.model for run in runs},
        ),
        (
            "datasets",
            "one experiment for each dataset; confirm compares scores, and takes several",
            {run.name: run.dataset for run in runs},
        ),
        (
            "prompts, columns or splits, and so other validation items",
            "explore with one data section; confirm compares scores, and takes several",
            {run.name: repr(run.data) for run in runs},
        ),
    ):
        first = next(iter(values), None)
        other = next((run for run in values if first is not None and values[run] != values[first]), None)
        if other is not None:
            message = f"explore compares validation losses, and {first} and {other} have other {what}"
            yield _error("EX003", _KEY, message, hint)
            return


def _point_faults(explore: ExploreConfig, runs: Sequence[PlannedRun]) -> Iterator[Finding]:
    points = {run.name: point_steps(run, explore.at) for run in runs}
    counts = {len(steps) for steps in points.values()}
    if not runs or (len(counts) == 1 and 0 not in counts):
        return
    run = min(runs, key=lambda each: len(points[each.name]))
    assert run.train is not None
    assert run.batches is not None
    every, steps = run.train.validate_every_steps, run.batches.steps
    when = "at ends of epochs" if every is None else f"every {every} steps and at ends of epochs"
    usable = plural(len(points[run.name]), "usable point") if points[run.name] else "no usable point"
    wanted = [max(1, math.floor(fraction * steps)) for fraction in explore.at]
    gaps = [wanted[0], *(after - before for before, after in zip(wanted, [*wanted[1:], steps], strict=True))]
    fit = min([gap for gap in gaps if gap > 0], default=1)
    message = (
        f"{run.name} has {usable} of {len(explore.at)} before its last step {steps}: it is validated {when}, "
        f"and {', '.join(f'{fraction:g}' for fraction in explore.at)} of {steps} steps are {_steps(wanted)}"
    )
    yield _error("EX003", f"{_KEY}.at", message, f"train.validate_every_steps: {fit}")


def _steps(steps: Sequence[int]) -> str:
    return ", ".join(str(step) for step in steps)


def _count_faults(strategy: PlannedStrategy, runs: Sequence[PlannedRun]) -> Iterator[Finding]:
    explore = _explore(strategy)
    candidates = _candidates(strategy, runs)
    if runs and not candidates:
        message = "there is no condition beside the reference"
        yield _error("EX003", _KEY, message, "factors with several levels, or confirm alone")
        return
    left = continuing_counts(strategy, runs)
    if candidates and explore.confirm > left[-1] - 1:
        message = (
            f"{plural(explore.confirm, 'condition')} are to be confirmed, and {left[-1] - 1} beside the reference "
            "are left after the last point"
        )
        yield _error("EX003", f"{_KEY}.confirm", message, f"confirm: {left[-1] - 1}, a larger keep, or fewer points")


def continuing_counts(strategy: PlannedStrategy, runs: Sequence[PlannedRun]) -> list[int]:
    """Return how many runs of explore train up to the first point, and continue after each point, at most.

    There is no further point where only one run may be cut. With halving it is exact if no run diverges; the median
    rule continues all runs that have the same loss.

    Args:
        strategy: strategy with an explore.
        runs: runs of explore.
    """
    explore = _explore(strategy)
    left = len(_candidates(strategy, runs))
    references, counts = len(runs) - left, [len(runs)]
    for _ in range(min((len(point_steps(run, explore.at)) for run in runs), default=0)):
        if left < 2:
            break
        left = len(survivors(explore, {str(number): float(number) for number in range(left)}))
        counts.append(references + left)
    return counts


def _error(code: str, subject: str, message: str, hint: str) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, subject=subject, message=message, hint=hint)
