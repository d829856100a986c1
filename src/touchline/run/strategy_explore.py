"""Explore in the run folders: requests to pause, and decisions from the validation losses found there."""

from __future__ import annotations

import math
from collections.abc import Sequence

from touchline.core.units import plural
from touchline.data.metrics_file import METRICS, read_metrics
from touchline.data.training_state import write_pause
from touchline.experiment.plan import PlannedRun
from touchline.run.divergence import has_diverged
from touchline.run.jobs import is_training_complete, is_training_done
from touchline.run.planning import LoadedPlan
from touchline.strategy.decisions import DecisionKind, RunLoss, StrategyDecision
from touchline.strategy.explore import continuing_runs, decide_choice, decide_cut, next_point
from touchline.strategy.state import StrategyState, point_steps
from touchline.strategy.text import first_names


def request_pauses(planned: LoadedPlan, state: StrategyState) -> None:
    """Ask each run of explore that continues to pause at its next point, or after the last one to train to its end.

    Called before jobs are started. A run that was cut keeps its pause, so that its own script does not train it on.
    """
    strategy = planned.plan.strategy
    if strategy is None or strategy.explore is None or not state.is_exploring:
        return
    for run in continuing_runs(state):
        folder = planned.folder.run(run.name)
        if folder.is_dir():
            write_pause(folder, next_point(run, strategy, state))


def next_explore_decision(planned: LoadedPlan, state: StrategyState, design: str) -> StrategyDecision | None:
    """Return the cut at the next point, or after the last one the choice; None while runs have yet to reach it.

    It is computed from the losses in metrics.jsonl alone, so that it is the same whenever it is taken.

    Args:
        planned: the whole plan.
        state: state after the decisions so far.
        design: digest of the design.
    """
    strategy = planned.plan.strategy
    if strategy is None or strategy.explore is None or not state.is_exploring or _waited_for(planned, state):
        return None
    runs = continuing_runs(state)
    points = [next_point(run, strategy, state) for run in runs]
    losses = [_loss(planned, run, step) for run, step in zip(runs, points, strict=True)]
    if None in points:
        choice = decide_choice(strategy, runs, losses)
        return StrategyDecision(kind=DecisionKind.CHOICE, design=design, choice=choice)
    cut = decide_cut(strategy, runs, losses)
    return StrategyDecision(kind=DecisionKind.CUT, number=state.cuts_taken, design=design, cut=cut)


def explore_waits(planned: LoadedPlan, state: StrategyState) -> str | None:
    """Return what the next decision of explore waits for, in words; None if it waits for nothing."""
    strategy = planned.plan.strategy
    if strategy is None or strategy.explore is None or not state.is_exploring:
        return None
    runs = _waited_for(planned, state)
    if not runs:
        return None
    steps = {next_point(run, strategy, state) for run in runs}
    known = sorted(step for step in steps if step is not None)
    names = first_names(runs)
    if not known:
        return f"the choice waits for {plural(len(runs), 'run')} to be trained: {names}"
    count = len(point_steps(runs[0], strategy.explore.at))
    where = f"point {state.cuts_taken + 1} of {count}, step {' or '.join(map(str, known))},"
    return f"{where} waits for {plural(len(runs), 'run')}: {names}"


def _waited_for(planned: LoadedPlan, state: StrategyState) -> list[PlannedRun]:
    """Return the runs of explore that have neither reached the next point nor diverged."""
    return [run for run in continuing_runs(state) if not _has_arrived(planned, state, run)]


def _has_arrived(planned: LoadedPlan, state: StrategyState, run: PlannedRun) -> bool:
    assert planned.plan.strategy is not None
    step = next_point(run, planned.plan.strategy, state)
    if is_training_complete(planned.folder, run) or has_diverged(planned.folder, run):
        return True
    if step is None:
        return False
    # It has scored the step and is paused there, or has passed the step without a request to pause.
    metrics = read_metrics(planned.folder.run(run.name) / METRICS)
    if all(row.step != step for row in metrics.validations):
        return False
    return is_training_done(planned.folder, run) or any(row.step > step for row in metrics.steps)


def _loss(planned: LoadedPlan, run: PlannedRun, step: int | None) -> RunLoss:
    """Return a run's validation loss at a step, or at its last one; none of a run that diverged."""
    assert run.batches is not None
    at = run.batches.steps if step is None else step
    if has_diverged(planned.folder, run):
        return RunLoss(run=run.name, step=at, loss=None)
    rows: Sequence[float] = [
        row.loss
        for row in read_metrics(planned.folder.run(run.name) / METRICS).validations
        if row.step == at and math.isfinite(row.loss)
    ]
    return RunLoss(run=run.name, step=at, loss=rows[-1] if rows else None)
