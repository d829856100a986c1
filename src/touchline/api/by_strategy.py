"""Work on an experiment with a strategy: decisions and the runs that they make active, in turns."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace

from touchline.core.callbacks import MessageCallback
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import PlannedRun
from touchline.results.strategy import advance, budget_line, needed_runs, waiting_line
from touchline.run import launching
from touchline.run.divergence import has_diverged
from touchline.run.planning import LoadedPlan
from touchline.run.selection import JobProgressCallback, selected
from touchline.run.strategy_explore import request_pauses
from touchline.slurm.job_view import JobName
from touchline.strategy.state import StrategyState

Prepare = Callable[[LoadedPlan], LoadedPlan]
"""Writes the folders of the runs that are active by now."""


def active_runs(planned: LoadedPlan, only: str | None) -> list[PlannedRun]:
    """Return the selected ones of the runs that the strategy has started; all selected ones without a strategy.

    Raises:
        InputError: there is no such run.
        PolicyError: the strategy has not started it.
    """
    return selected(planned.folder.started_plan(), only, planned.plan)


def work_by_strategy(
    planned: LoadedPlan,
    settings: UserConfig,
    only: str | None,
    on_progress: JobProgressCallback | None,
    on_message: MessageCallback,
    *,
    prepare: Prepare,
    lock: int,
    retry: bool = False,
    within_budget: bool = False,
) -> launching.ExecutionResult:
    """Take the decisions that are due and do the work that they ask for, until nothing is left or something failed.

    A run that diverged is not a failure here; it scores 0 in the look.
    """
    while True:
        state = advance(planned, on_message)
        planned = prepare(planned)
        request_pauses(planned, state)
        done = launching.work(
            planned,
            _chosen(planned, state, only),
            settings,
            on_progress,
            on_message,
            lock=lock,
            retry=retry,
            within_budget=within_budget,
        )
        planned = replace(done.planned, notes=())
        done = launching.ExecutionResult(planned=planned, stopped=_failed(planned, done.stopped))
        after = advance(planned, on_message)
        if done.stopped or only is not None or after.taken == state.taken:
            if (line := budget_line(planned, after) or waiting_line(planned, after)) is not None:
                on_message(line)
            return done


def submit_by_strategy(
    planned: LoadedPlan, only: str | None, on_message: MessageCallback, *, prepare: Prepare
) -> tuple[LoadedPlan, list[PlannedRun]]:
    """Take the decisions that are due, and return the runs to submit now. Say what the next call does."""
    state = advance(planned, on_message)
    planned = prepare(planned)
    request_pauses(planned, state)
    again = f"touchline submit {shlex.quote(str(planned.folder.root))}"
    if (line := budget_line(planned, state)) is not None:
        on_message(line)
    elif (line := waiting_line(planned, state)) is not None:
        on_message(f"{line}; when they are evaluated, `{again}` takes it and submits what it asks for")
    return planned, _chosen(planned, state, only)


def _chosen(planned: LoadedPlan, state: StrategyState, only: str | None) -> list[PlannedRun]:
    needed = needed_runs(planned, state)
    if only is None:
        return needed
    (run,) = active_runs(planned, only)
    return [each for each in needed if each.name == run.name]


def _failed(planned: LoadedPlan, stopped: Mapping[str, str]) -> dict[str, str]:
    """Return the stopped jobs without those of runs that diverged."""
    found: dict[str, str] = {}
    for job, reason in stopped.items():
        run = planned.plan.run(JobName.parse(job).subject)
        if run is None or not has_diverged(planned.folder, run):
            found[job] = reason
    return found
