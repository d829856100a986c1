"""Work on an experiment with its strategy: decisions from the run folders, and the runs that they ask for, in turns.

Each decision that is due is taken once, from the ledger and the results.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from touchline.core.callbacks import MessageCallback
from touchline.core.errors import InputError, PlanDriftError, quoted
from touchline.data.checkpoints import write_pause
from touchline.data.metrics_file import METRICS, read_metrics
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import PlannedRun
from touchline.results.collect import collect_results
from touchline.results.scored import last_of_each, scored_run
from touchline.run import launching
from touchline.run.budget import spent_device_hours
from touchline.run.jobs import has_diverged, is_training_complete, is_training_done, missing_evaluations
from touchline.run.ledger import STRATEGY, Ledger, read_ledger
from touchline.run.loaded_plan import LoadedPlan, selected
from touchline.run.progress import JobProgressCallback
from touchline.run.recorded import plan_command
from touchline.slurm.job_view import JobName
from touchline.statistics.conclusions import ScoredRun
from touchline.strategy.decisions import RunLoss
from touchline.strategy.strategy import Strategy

Prepare = Callable[[LoadedPlan], LoadedPlan]
"""Writes the folders of the runs that are active by now."""


class _RunFolders:
    """What the run folders of a plan show to its strategy."""

    def __init__(self, planned: LoadedPlan) -> None:
        self._planned, self._folder = planned, planned.folder

    def has_diverged(self, run: PlannedRun) -> bool:
        return has_diverged(self._folder, run)

    def is_finished(self, run: PlannedRun) -> bool:
        return is_training_complete(self._folder, run) and not missing_evaluations(self._planned, run, None)

    def has_begun(self, runs: Sequence[PlannedRun]) -> bool:
        wanted = {run.name for run in runs}
        if any(self._folder.has_started(name) for name in wanted):
            return True
        begun = (each for each in read_ledger(self._folder.ledger) if each.event in ("intent", "adopted"))
        return any(JobName.parse(each.job).subject in wanted for each in begun)

    def loss_at(self, run: PlannedRun, step: int | None) -> RunLoss | None:
        """Return the validation loss of a run at a step, None for the last one; None if it has not come so far.

        It depends on metrics.jsonl alone, so that a decision is the same whenever it is taken.
        """
        assert run.batches is not None
        at = run.batches.steps if step is None else step
        if self.has_diverged(run):
            return RunLoss(run=run.name, step=at, loss=None)
        metrics = read_metrics(self._folder.run(run.name) / METRICS)
        losses = [row.loss for row in metrics.validations if row.step == at]
        if not is_training_complete(self._folder, run):
            # It has scored the step and is paused there, or has passed the step without a request to pause.
            passed = is_training_done(self._folder, run) or any(row.step > at for row in metrics.steps)
            if step is None or not losses or not passed:
                return None
        finite = [loss for loss in losses if math.isfinite(loss)]
        return RunLoss(run=run.name, step=at, loss=finite[-1] if finite else None)

    def scores(self, runs: Sequence[PlannedRun]) -> Mapping[str, ScoredRun]:
        """Return the primary scores at the last checkpoints, by run.

        Raises:
            InputError: a run has no score.
        """
        results = collect_results(replace(self._planned.plan, runs=tuple(runs)), self._folder.root)
        found = {
            result.name: scored_run(result, record)
            for result in results
            if (record := next(iter(last_of_each(result.evaluations).values()), None)) is not None
        }
        for run in runs:
            if run.name not in found:
                raise InputError(
                    f"{run.name} has no score although it did not diverge",
                    expected="a score for every run of a look",
                    hint=f"touchline evaluate {quoted(str(self._folder.root))} --run {quoted(run.name)}",
                )
        return found

    def spent_hours(self) -> float:
        return spent_device_hours(self._planned)


def refuse_other_design(planned: LoadedPlan) -> None:
    """Refuse a plan whose design is not that of the first decision.

    Raises:
        PlanDriftError: it is another.
    """
    if planned.folder.strategy(planned.plan).has_other_design:
        raise PlanDriftError(
            "plan.json differs from the design at the strategy's first decision",
            expected="the plan at the start of the first run",
            hint=f"undo the change and plan again: {plan_command(planned.folder, planned.plan.overrides)}, or "
            "plan another experiment in a new folder",
        )


def advance(planned: LoadedPlan, on_message: MessageCallback) -> Strategy:
    """Take and record every decision that is due, and return the strategy after them.

    The caller holds the experiment lock.

    Args:
        on_message: receives each decision as it is recorded.

    Raises:
        PlanDriftError: the design is not that of the first decision.
    """
    refuse_other_design(planned)
    ledger, runs = Ledger(planned.folder.ledger, planned.plan.executor), _RunFolders(planned)
    while True:
        strategy = planned.folder.strategy(planned.plan)
        decision = strategy.next_decision(runs)
        if decision is None:
            return strategy
        ledger.record("strategy", STRATEGY, decision=decision)
        if (line := strategy.decision_line(decision)) is not None:
            on_message(line)


def is_unfinished(planned: LoadedPlan) -> bool:
    """Return True if a run of a plan is not trained and evaluated, or its strategy may start more."""
    return planned.folder.strategy(planned.plan).is_unfinished(_RunFolders(planned))


def active_runs(planned: LoadedPlan, only: str | None) -> list[PlannedRun]:
    """Return the selected ones of the runs that the strategy has started.

    Raises:
        InputError: there is no such run.
        PolicyError: the strategy has not started it.
    """
    return selected(planned.folder.started_plan(), only, planned.plan)


def work(
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

    A run that diverged is no failure of a strategy whose looks count it.
    """
    while True:
        planned, strategy = _decided(planned, on_message, prepare)
        done = launching.work(
            planned,
            _chosen(planned, strategy, only),
            settings,
            on_progress,
            on_message,
            lock=lock,
            retry=retry,
            within_budget=within_budget,
        )
        planned = replace(done.planned, notes=()) if strategy.settles else done.planned
        stopped = _failed(planned, done.stopped) if strategy.settles else done.stopped
        done = launching.ExecutionResult(planned=planned, stopped=stopped)
        after = advance(planned, on_message)
        if stopped or only is not None or len(after.decisions) == len(strategy.decisions):
            runs = _RunFolders(planned)
            if (line := after.budget_line(runs, str(planned.folder.root)) or after.waiting_line(runs)) is not None:
                on_message(line)
            return done


def runs_to_submit(
    planned: LoadedPlan, only: str | None, on_message: MessageCallback, *, prepare: Prepare
) -> tuple[LoadedPlan, list[PlannedRun]]:
    """Take the decisions that are due, and return the runs to submit now. Say what the next call does."""
    planned, strategy = _decided(planned, on_message, prepare)
    runs, root = _RunFolders(planned), str(planned.folder.root)
    again = f"touchline submit {shlex.quote(root)}"
    if (line := strategy.budget_line(runs, root)) is not None:
        on_message(line)
    elif (line := strategy.waiting_line(runs)) is not None:
        on_message(f"{line}. When they are evaluated, continue with `{again}`")
    return planned, _chosen(planned, strategy, only)


def _decided(planned: LoadedPlan, on_message: MessageCallback, prepare: Prepare) -> tuple[LoadedPlan, Strategy]:
    """Take the decisions that are due, and write the folders and the pauses of the runs that they ask for.

    A run that was cut keeps its pause, so that its own script does not train it on.
    """
    strategy = advance(planned, on_message)
    if strategy.settles:
        planned = prepare(planned)
    for name, step in strategy.pauses.items():
        folder = planned.folder.run(name)
        if folder.is_dir():
            write_pause(folder, step)
    return planned, strategy


def _chosen(planned: LoadedPlan, strategy: Strategy, only: str | None) -> list[PlannedRun]:
    chosen = {run.name for run in active_runs(planned, only)}
    return [run for run in strategy.to_do(_RunFolders(planned)) if run.name in chosen]


def _failed(planned: LoadedPlan, stopped: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for job, reason in stopped.items():
        run = planned.plan.run(JobName.parse(job).subject)
        if run is None or not has_diverged(planned.folder, run):
            found[job] = reason
    return found
