"""Decisions and the state of a strategy as lines of text, and as the value that commands print as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from touchline.core.text import first_of
from touchline.core.units import plural
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import Phase
from touchline.statistics.conclusions import Verdict
from touchline.strategy.decisions import (
    Choice,
    Continuation,
    ContrastLook,
    Cut,
    DecisionKind,
    Stop,
    StopReason,
    StrategyDecision,
)
from touchline.strategy.state import StrategyState, strategy_state

_POINTS = 100.0
_SHOWN = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyStatus:
    """Progress of a strategy."""

    phase: Phase | None
    """Phase at work; None once it has ended."""
    looks: tuple[int, ...]
    """Seeds per condition at each planned look."""
    looks_taken: int
    """Looks that have been taken."""
    verdicts: dict[str, Verdict]
    """Last verdict of each contrast; undecided before its first look."""
    cut: tuple[str, ...]
    """Runs that explore cut."""
    not_started: int
    """Planned runs that no decision has made active."""
    stop: Stop | None
    """End; None before it."""
    budget_device_hours: float | None
    """Budget of the plan, which may be another than that of the stop; None without one."""
    decisions: tuple[StrategyDecision, ...]
    """Decisions so far, with their numbers."""


def strategy_status(plan: Plan, decisions: Sequence[StrategyDecision]) -> StrategyStatus | None:
    """Return how far the strategy of a whole plan is; None without one."""
    if plan.strategy is None:
        return None
    state = strategy_state(plan, decisions)
    return StrategyStatus(
        phase=phase_of(plan, state),
        looks=plan.strategy.looks,
        looks_taken=state.looks_taken,
        verdicts={each.name: state.verdicts.get(each.name, Verdict.UNDECIDED) for each in state.contrasts},
        cut=tuple(state.cut),
        not_started=len(plan.runs) - len(state.started),
        stop=state.stop,
        budget_device_hours=plan.strategy.budget_device_hours,
        decisions=tuple(decisions),
    )


def phase_of(plan: Plan, state: StrategyState) -> Phase | None:
    """Return the phase at work; None once the strategy has ended."""
    if state.stop is not None:
        return None
    return Phase.EXPLORE if state.is_exploring else Phase.CONFIRM


def status_line(status: StrategyStatus) -> str:
    """Return the state of a strategy on one line."""
    return "; ".join(("strategy: " + _at(status), *_verdicts(status), *_beside(status)))


def _at(status: StrategyStatus) -> str:
    if status.stop is not None:
        return stop_text(status.stop) + _now(status.stop, status.budget_device_hours)
    if status.phase is Phase.EXPLORE:
        cuts = sum(each.kind is DecisionKind.CUT for each in status.decisions)
        return f"explore, {plural(cuts, 'cut')} taken"
    number = status.looks_taken
    if number == len(status.looks):
        return "confirm, all looks taken"
    return f"confirm, before look {number + 1} of {len(status.looks)} with {status.looks[number]} seeds"


def _now(stop: Stop, budget: float | None) -> str:
    """Return the budget of the plan if it is larger than that of the stop."""
    if not stop.is_below(budget):
        return ""
    return f"; now {budget_text(budget)}, with which `touchline run` or `touchline submit` continues if it is enough"


def _verdicts(status: StrategyStatus) -> Iterator[str]:
    newest = {each.contrast: each for each in _contrasts(status.decisions)}
    for name, verdict in status.verdicts.items():
        seen = newest.get(name)
        yield f"{name}: {verdict.value}" + ("" if seen is None else f" ({_numbers(seen)})")


def _beside(status: StrategyStatus) -> Iterator[str]:
    if status.cut:
        yield f"{plural(len(status.cut), 'run')} cut"
    if status.not_started:
        yield f"{plural(status.not_started, 'planned run')} not started"


def _contrasts(decisions: Sequence[StrategyDecision]) -> Iterator[ContrastLook]:
    for decision in decisions:
        if decision.look is not None:
            yield from decision.look.contrasts


def decision_line(plan: Plan, decision: StrategyDecision) -> str:
    """Return a decision on one line."""
    if decision.look is not None and plan.strategy is not None:
        found = "; ".join(
            f"{each.contrast} {each.verdict.value} ({_numbers(each)})" for each in decision.look.contrasts
        )
        number = f"look {decision.number + 1} of {len(plan.strategy.looks)}"
        return f"{number} with {decision.look.seeds} seeds: {found}"
    if decision.cut is not None:
        return _cut_text(decision.cut)
    if decision.choice is not None:
        return _choice_text(decision.choice)
    if decision.continuation is not None:
        return f"the strategy continues: {continuation_text(decision.continuation)}"
    return "the strategy begins" if decision.stop is None else f"the strategy ends: {stop_text(decision.stop)}"


def _numbers(look: ContrastLook) -> str:
    """Return the difference with its t, its bound, and the seeds in which a run diverged."""
    t = "no t" if look.t is None else f"t {look.t:.2f}"
    futility = "" if look.futility is None else f", given up at {look.futility:.2f}"
    diverged = [run for pair in look.pairs for run in pair.diverged]
    counted = f"; diverged, counted as 0: {', '.join(diverged)}" if diverged else ""
    return f"{look.difference * _POINTS:+.3g} points, {t}, bound {look.bound:.2f}{futility}{counted}"


def _cut_text(cut: Cut) -> str:
    return f"cut at step {cut.step}: {_some(cut.cut) or 'no run'}; {plural(len(cut.kept), 'run')} continue"


def _choice_text(choice: Choice) -> str:
    contrasts = ", ".join(each.name for each in choice.contrasts)
    return f"explore chose {_some(choice.chosen)}" + (f"; to be confirmed: {contrasts}" if contrasts else "")


def first_names(runs: Sequence[PlannedRun]) -> str:
    """Return the names of the first runs, `a, b, ...`."""
    return first_of([run.name for run in runs], _SHOWN)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def stop_text(stop: Stop) -> str:
    """Return the end of a strategy in words."""
    if stop.reason is StopReason.SETTLED:
        return "everything is decided"
    spent = 0.0 if stop.spent_device_hours is None else stop.spent_device_hours
    coming = 0.0 if stop.next_device_hours is None else stop.next_device_hours
    limit = "the budget" if stop.budget_device_hours is None else budget_text(stop.budget_device_hours)
    return f"{limit}: {spent:.3g} device-hours are spent, and the next runs are predicted to take {coming:.3g}"


def continuation_text(continuation: Continuation) -> str:
    """Return the continuation after a stop for the budget in words."""
    coming = continuation.next_device_hours
    takes = (
        "what the next runs take is not known"
        if coming is None
        else f"the next runs are predicted to take {coming:.3g}"
    )
    spent = f"{continuation.spent_device_hours:.3g} device-hours are spent"
    return f"now {budget_text(continuation.budget_device_hours)}; {spent}, and {takes}"


def budget_text(hours: float | None) -> str:
    """Return `the budget of 5 device-hours`, or `no budget`."""
    return "no budget" if hours is None else f"the budget of {hours:.3g} device-hours"
