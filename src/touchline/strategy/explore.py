"""Explore of a strategy: its points, its rules, what it needs of a plan, and its decisions from validation losses.

At each point the runs that continue so far are compared by their validation losses there, and some are cut. The
reference is not compared: it always continues. After the last point the survivors train to their ends, and those with
the lowest final validation losses are confirmed against the reference. A loss that is not finite, of a run that
diverged, is worse than every finite one and is cut unless no loss is finite.

Reference: Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, AISTATS 2016
(successive halving).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from touchline.backends.registry import capabilities, get_backend
from touchline.core.catalog import DatasetInfo
from touchline.core.finding import Finding, Severity
from touchline.core.units import plural
from touchline.experiment.plan import PlannedRun
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import ExploreConfig, PlannedStrategy, StatedContrast, matches
from touchline.strategy.decisions import Choice, Cut, RunLoss
from touchline.strategy.state import State, condition_of, of_phase, references

_KEY = "strategy.explore"


# ---- points and rules ------------------------------------------------------------------------------------------------


def point_steps(run: PlannedRun, at: Sequence[float]) -> tuple[int, ...]:
    """Return the optimizer steps of a run's points: for each fraction the first validation at or after it.

    A run is validated every `train.validate_every_steps` steps and at ends of epochs. A point at the last step is left
    out, because the run is complete there.
    """
    if run.batches is None or run.train is None:
        return ()
    every, total = run.train.validate_every_steps, run.batches.steps
    validated = {*range(run.batches.steps_per_epoch, total, run.batches.steps_per_epoch)}
    if every is not None:
        validated |= {*range(every, total, every)}
    found = (min((step for step in validated if step >= fraction * total), default=total) for fraction in at)
    return tuple(dict.fromkeys(step for step in found if step < total))


def halving(losses: Mapping[str, float], keep: float) -> tuple[str, ...]:
    """Return the runs that continue by successive halving, in the order given.

    The `keep` share with the lowest losses continues, rounded up, at least one. Of equal losses the earlier one
    continues.

    Args:
        losses: loss of each run, in nats; not finite if it diverged.
        keep: share that continues, above 0 and at most 1.
    """
    # Exact for products such as 0.28 x 25 = 7.000000000000001, which would round up to 8.
    most = max(1, math.ceil(round(keep * len(losses), 9)))
    finite = {run: loss for run, loss in losses.items() if math.isfinite(loss)}
    candidates = finite or dict.fromkeys(losses, math.inf)
    kept = set(sorted(candidates, key=candidates.__getitem__)[:most])
    return tuple(run for run in losses if run in kept)


def continuing_counts(strategy: PlannedStrategy, runs: Sequence[PlannedRun]) -> list[int]:
    """Return how many runs of explore train up to the first point, and continue after each point, at most.

    There is no further point where only one run may be cut. It is exact if no run diverges.
    """
    explore = _explore(strategy)
    left = len(_candidates(strategy, runs))
    fixed, counts = len(runs) - left, [len(runs)]
    for _ in range(min((len(point_steps(run, explore.at)) for run in runs), default=0)):
        if left < 2:
            break
        left = len(halving({str(number): float(number) for number in range(left)}, explore.keep))
        counts.append(fixed + left)
    return counts


# ---- decisions -------------------------------------------------------------------------------------------------------


def continuing_runs(state: State) -> list[PlannedRun]:
    """Return the runs of explore that have not been cut."""
    cut = state.cut
    return [run for run in of_phase(state.plan.runs, Phase.EXPLORE) if run.name not in cut]


def next_points(state: State) -> dict[str, int | None]:
    """Return the optimizer step of the next point of each run that continues.

    None is the end of its training: after the last point, and if only one run is left that may be cut.
    """
    runs, taken = continuing_runs(state), len(state.cuts)
    if len(_candidates(state.strategy, runs)) < 2:
        return {run.name: None for run in runs}
    steps = {run.name: point_steps(run, _explore(state.strategy).at) for run in runs}
    return {name: own[taken] if taken < len(own) else None for name, own in steps.items()}


def decide_cut(strategy: PlannedStrategy, runs: Sequence[PlannedRun], losses: Sequence[RunLoss]) -> Cut:
    """Return the cut at a point."""
    loss_of = {each.run: math.nan if each.loss is None else each.loss for each in losses}
    compared = {run.name: loss_of[run.name] for run in _candidates(strategy, runs)}
    gone = set(compared) - set(halving(compared, _explore(strategy).keep))
    return Cut(
        step=max((each.step or 0 for each in losses), default=0),
        losses=tuple(losses),
        kept=tuple(run.name for run in runs if run.name not in gone),
        cut=tuple(run.name for run in runs if run.name in gone),
    )


def decide_choice(strategy: PlannedStrategy, runs: Sequence[PlannedRun], losses: Sequence[RunLoss]) -> Choice:
    """Return the choice after explore: the conditions with the lowest final losses, of equal ones the earlier.

    Args:
        losses: final validation loss of each. One that diverged is not chosen.
    """
    loss_of = {each.run: each.loss for each in losses}
    known = [(loss, run) for run in _candidates(strategy, runs) if (loss := loss_of[run.name]) is not None]
    best = [run for _, run in sorted(known, key=lambda item: item[0])][: _explore(strategy).confirm]
    contrasts = (
        StatedContrast(name=run.name, level=condition_of(run), against=condition_of(reference))
        for run in best
        for reference in references(strategy, runs)
    )
    return Choice(
        losses=tuple(losses),
        chosen=tuple(run.name for run in best),
        contrasts=tuple(contrasts) if strategy.seeds else (),
    )


def _candidates(strategy: PlannedStrategy, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    return [run for run in runs if not matches(run.levels, strategy.reference)]


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
    found = [run for run in of_phase(runs, Phase.EXPLORE) if run.train is not None and run.batches is not None]
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
            message = f"the backend {name} cannot pause a run, as {_KEY} requires"
            yield _error("train.backend", message, f"backend: {able}, or confirm without explore", code="BK001")


def _validation_faults(runs: Sequence[PlannedRun], datasets: Iterable[DatasetInfo]) -> Iterator[Finding]:
    validated = {
        info.path for info in datasets for split in info.splits if split.name == "validation" and split.num_examples
    }
    for path in dict.fromkeys(run.dataset for run in runs if run.dataset not in validated):
        message = f"explore compares validation losses, but {path} has no validation split"
        yield _error(_KEY, message, "add a split named validation, or use confirm without explore")


def _reference_faults(strategy: PlannedStrategy, runs: Sequence[PlannedRun]) -> Iterator[Finding]:
    found = references(strategy, runs)
    if not found:
        message = "no condition has these levels"
        yield _error(f"{_KEY}.reference", message, "the levels of one condition that is not excluded")
    elif len(found) > 1:
        levels: dict[str, set[str]] = {}
        for run in found:
            for factor, value in condition_of(run).items():
                levels.setdefault(factor, set()).add(value)
        differing = [factor for factor, values in levels.items() if len(values) > 1]
        names = ", ".join(run.name for run in found)
        hint = f"add a level of {' and '.join(differing)}" if differing else "one level of every factor"
        yield _error(f"{_KEY}.reference", f"{plural(len(found), 'condition')} have these levels: {names}", hint)


def _comparison_faults(runs: Sequence[PlannedRun]) -> Iterator[Finding]:
    """Yield an error for the first reason why the losses of some runs cannot be compared."""
    takes = "confirm compares scores and allows several"
    for what, hint, values in (
        ("base models (different tokens)", "one experiment for each base model", [run.model for run in runs]),
        ("datasets", "one experiment for each dataset", [run.dataset for run in runs]),
        (
            "prompts, columns or splits (different validation items)",
            "explore with one data section",
            [repr(run.data) for run in runs],
        ),
    ):
        other = next((run for run, value in zip(runs, values, strict=True) if value != values[0]), None)
        if other is not None:
            message = f"explore compares validation losses, but {runs[0].name} and {other.name} have different {what}"
            yield _error(_KEY, message, f"{hint} ({takes})")
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
    gaps = [after - before for before, after in zip([0, *wanted], [*wanted, steps], strict=True)]
    message = (
        f"{run.name} has {usable} of {len(explore.at)} before its last step {steps}: it is validated {when}, "
        f"and {', '.join(f'{fraction:g}' for fraction in explore.at)} of {steps} steps are "
        f"{', '.join(map(str, wanted))}"
    )
    fit = min([gap for gap in gaps if gap > 0], default=1)
    yield _error(f"{_KEY}.at", message, f"train.validate_every_steps: {fit}")


def _count_faults(strategy: PlannedStrategy, runs: Sequence[PlannedRun]) -> Iterator[Finding]:
    if not _candidates(strategy, runs):
        if runs:
            hint = "factors with several levels, or confirm alone"
            yield _error(_KEY, "there is no condition other than the reference", hint)
        return
    wanted, left = _explore(strategy).confirm, continuing_counts(strategy, runs)[-1] - 1
    if wanted > left:
        beside = f"{left} other than the reference remain after the last point"
        message = f"{plural(wanted, 'condition')} are to be confirmed, but {beside}"
        yield _error(f"{_KEY}.confirm", message, f"confirm: {left}, a larger keep, or fewer points")


def _error(subject: str, message: str, hint: str, code: str = "EX003") -> Finding:
    return Finding(code=code, severity=Severity.ERROR, subject=subject, message=message, hint=hint)
