"""Engine of a strategy: takes every decision that is due, once, from the ledger and the results.

Decisions are computed from the design, the earlier decisions and the files of the runs. They do not depend on when they
are computed: a command that was killed before it recorded one computes the same again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from touchline.core.callbacks import MessageCallback
from touchline.core.errors import PlanDriftError, quoted
from touchline.core.quantity import Quantity
from touchline.core.units import plural
from touchline.estimate.totals import totals_of
from touchline.experiment.plan import PlannedRun
from touchline.experiment.runs import Phase
from touchline.results.look_evidence import look_at
from touchline.run.divergence import has_diverged
from touchline.run.jobs import is_training_complete, missing_evaluations
from touchline.run.ledger import STRATEGY, Ledger, read_ledger
from touchline.run.planning import LoadedPlan
from touchline.run.recorded import plan_command
from touchline.run.spent import spent_device_hours
from touchline.run.strategy_explore import explore_waits, next_explore_decision
from touchline.slurm.job_view import JobName
from touchline.strategy.costs import explore_hours
from touchline.strategy.decisions import Continuation, DecisionKind, Stop, StopReason, StrategyDecision
from touchline.strategy.fixed_design import design_digest
from touchline.strategy.state import StrategyState, continued, strategy_state
from touchline.strategy.text import budget_text, decision_line, first_names


def advance(planned: LoadedPlan, on_message: MessageCallback) -> StrategyState:
    """Take and record every decision that is due, and return the state after them.

    The caller holds the experiment lock.

    Args:
        planned: the whole plan.
        on_message: receives each decision as it is recorded.

    Raises:
        PlanDriftError: the design is not that of the first decision.
    """
    design = refuse_other_design(planned)
    ledger = Ledger(planned.folder.ledger, planned.plan.executor)
    while True:
        state = strategy_state(planned.plan, planned.folder.decisions())
        decision = _due(planned, state, design)
        if decision is None:
            return state
        ledger.record("strategy", STRATEGY, decision=decision)
        if decision.kind is not DecisionKind.BEGIN:
            on_message(decision_line(planned.plan, decision))


def refuse_other_design(planned: LoadedPlan) -> str:
    """Return the digest of the plan's design.

    Raises:
        PlanDriftError: it is not that of the first decision.
    """
    design = design_digest(planned.plan)
    assert design is not None
    decisions = planned.folder.decisions()
    if decisions and decisions[0].design != design:
        raise PlanDriftError(
            "plan.json is not the design that the strategy's first decision fixed: the looks are part of the design",
            expected="the plan as it was when the first run was started",
            hint=f"undo the change and plan again: {plan_command(planned.folder, planned.plan.overrides)}; "
            "or plan another experiment in a folder of its own",
        )
    return design


def needed_runs(planned: LoadedPlan, state: StrategyState) -> list[PlannedRun]:
    """Return the runs to train and evaluate now: those at work that have not diverged."""
    return [run for run in state.working if not has_diverged(planned.folder, run)]


def unfinished_runs(planned: LoadedPlan, state: StrategyState) -> list[PlannedRun]:
    """Return the runs that the coming decision waits for."""
    waited_for = [run for run in needed_runs(planned, state) if run.phase is not None]
    return [run for run in waited_for if not _is_finished(planned, run)]


def is_unfinished(planned: LoadedPlan) -> bool:
    """Return True if a run of a plan is not trained and evaluated, or its strategy may start more."""
    if planned.plan.strategy is None:
        return not all(_is_finished(planned, run) for run in planned.plan.runs)
    state = strategy_state(planned.plan, planned.folder.decisions())
    is_settled = state.stop is not None and state.stop.reason is StopReason.SETTLED
    return not is_settled or not all(_is_finished(planned, run) for run in needed_runs(planned, state))


def _is_finished(planned: LoadedPlan, run: PlannedRun) -> bool:
    return is_training_complete(planned.folder, run) and not missing_evaluations(planned, run, None)


def _due(planned: LoadedPlan, state: StrategyState, design: str) -> StrategyDecision | None:
    """Return the next decision; None if it waits for runs, or if all are taken."""
    strategy = planned.plan.strategy
    assert strategy is not None
    if state.design is None:
        return StrategyDecision(kind=DecisionKind.BEGIN, design=design)
    if state.stop is not None:
        return _continuation(planned, state, design)
    if (stop := _over_budget(planned, state)) is not None:
        return StrategyDecision(kind=DecisionKind.STOP, design=design, stop=stop)
    if state.is_exploring:
        return next_explore_decision(planned, state, design)
    if not state.undecided or state.looks_taken == len(strategy.looks):
        return StrategyDecision(kind=DecisionKind.STOP, design=design, stop=Stop(reason=StopReason.SETTLED))
    if unfinished_runs(planned, state):
        return None
    number, open_names = state.looks_taken, {each.name for each in state.undecided}
    look = look_at(
        planned,
        state.undecided,
        number,
        {name: verdict for name, verdict in state.verdicts.items() if name not in open_names},
        {run.name for run in state.working if has_diverged(planned.folder, run)},
    )
    return StrategyDecision(kind=DecisionKind.LOOK, number=number, design=design, look=look)


def _over_budget(planned: LoadedPlan, state: StrategyState) -> Stop | None:
    """Return the stop before explore, or before the runs of a look, that are predicted to exceed the budget.

    It is judged before any of them is started, and not again: what is begun is finished.
    """
    coming = state.newest
    if state.is_exploring:
        coming = tuple(run.name for run in state.started if run.phase is Phase.EXPLORE)
    budget = _budget(planned)
    if budget is None or not coming or _has_begun(planned, coming):
        return None
    spent, predicted = spent_device_hours(planned), _next_hours(planned, state)
    if predicted is None or spent + predicted <= budget:
        return None
    return Stop(
        reason=StopReason.BUDGET, budget_device_hours=budget, spent_device_hours=spent, next_device_hours=predicted
    )


def _continuation(planned: LoadedPlan, state: StrategyState, design: str) -> StrategyDecision | None:
    """Return the continuation of a strategy that a smaller budget stopped; None if the budget is not enough yet."""
    budget = _budget(planned)
    if state.stop is None or not state.stop.is_below(budget):
        return None
    spent, predicted = spent_device_hours(planned), _next_hours(planned, continued(planned.plan, state))
    if budget is not None and predicted is not None and spent + predicted > budget:
        return None
    found = Continuation(budget_device_hours=budget, spent_device_hours=spent, next_device_hours=predicted)
    return StrategyDecision(kind=DecisionKind.CONTINUATION, design=design, continuation=found)


def _budget(planned: LoadedPlan) -> float | None:
    assert planned.plan.strategy is not None
    return planned.plan.strategy.budget_device_hours


def _next_hours(planned: LoadedPlan, state: StrategyState) -> float | None:
    """Return the predicted device-hours of explore, or of the runs that the coming look adds; None if unknown."""
    if state.is_exploring:
        return explore_hours(planned.plan)
    return predicted_device_hours(planned, [run for run in state.working if run.name in state.newest])


def predicted_device_hours(planned: LoadedPlan, runs: Sequence[PlannedRun]) -> float | None:
    """Return the predicted device-hours of runs with their evaluations; None if they are unknown."""
    hours = totals_of(planned.plan, runs)["gpu_hours"]
    return hours.value if isinstance(hours, Quantity) else None


def _has_begun(planned: LoadedPlan, names: Sequence[str]) -> bool:
    """Return True if any of these runs was ever about to be started."""
    wanted = set(names)
    if any(planned.folder.has_started(name) for name in names):
        return True
    begun = (each for each in read_ledger(planned.folder.ledger) if each.event in ("intent", "adopted"))
    return any(JobName.parse(each.job).subject in wanted for each in begun)


def budget_line(planned: LoadedPlan, state: StrategyState) -> str | None:
    """Return how a strategy that its budget stopped is continued; None of another one."""
    if state.stop is None or state.stop.reason is not StopReason.BUDGET:
        return None
    predicted = _next_hours(planned, continued(planned.plan, state))
    needed = spent_device_hours(planned) + (predicted or 0.0)
    folder = quoted(str(planned.folder.root))
    is_local = planned.plan.executor == "local"
    then = f"`touchline run {folder}`" if is_local else f"`touchline plan {folder}` and `touchline submit {folder}`"
    return (
        f"stopped by {budget_text(_budget(planned))}; to continue, set strategy.budget in experiment.yaml to "
        f"{_rounded_up(needed)}h or more and type {then}: looks and bounds stay as planned"
    )


def _rounded_up(hours: float) -> str:
    """Return hours with three digits, at most three of them decimals, not less than they are."""
    unit = 10.0 ** max(math.floor(math.log10(hours)) - 2, -3) if hours > 0 else 1.0
    return f"{math.ceil(hours / unit) * unit:.10g}"


def waiting_line(planned: LoadedPlan, state: StrategyState) -> str | None:
    """Return what the coming decision waits for; None if nothing is to come."""
    if state.is_exploring:
        return explore_waits(planned, state)
    strategy = planned.plan.strategy
    if strategy is None or state.stop is not None or not state.undecided:
        return None
    runs = unfinished_runs(planned, state)
    if not runs:
        return None
    names = first_names(runs)
    number = f"look {state.looks_taken + 1} of {len(strategy.looks)}"
    return f"{number} waits for {plural(len(runs), 'run')}: {names}"
