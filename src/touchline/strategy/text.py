"""Decisions and the state of a strategy as lines of text, and as the value that commands print as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from touchline.core.text import first_of
from touchline.core.units import plural
from touchline.experiment.plan import PlannedRun
from touchline.experiment.runs import Phase
from touchline.statistics.conclusions import Verdict
from touchline.strategy.decisions import ContrastLook, DecisionKind, Stop, StopReason, StrategyDecision
from touchline.strategy.state import State

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
    """Budget of the plan; it may differ from the one at the stop. None without one."""
    decisions: tuple[StrategyDecision, ...]
    """Decisions so far, with their numbers."""

    @property
    def line(self) -> str:
        """Return the state of the strategy on one line."""
        return "; ".join(("strategy: " + _at(self), *_verdicts(self), *_beside(self)))


def status_of(state: State) -> StrategyStatus:
    """Return how far a strategy is."""
    phase = Phase.EXPLORE if state.is_exploring else Phase.CONFIRM
    return StrategyStatus(
        phase=None if state.stop is not None else phase,
        looks=state.strategy.looks,
        looks_taken=state.looks_taken,
        verdicts={each.name: state.verdicts.get(each.name, Verdict.UNDECIDED) for each in state.contrasts},
        cut=tuple(state.cut),
        not_started=len(state.plan.runs) - len(state.started),
        stop=state.stop,
        budget_device_hours=state.strategy.budget_device_hours,
        decisions=state.decisions,
    )


def _at(status: StrategyStatus) -> str:
    stop, number = status.stop, status.looks_taken
    if stop is not None:
        budget = budget_text(status.budget_device_hours)
        more = f", now {budget} (continue with `touchline run` or `touchline submit` if that is enough)"
        return _stop_text(stop) + (more if stop.is_below(status.budget_device_hours) else "")
    if status.phase is Phase.EXPLORE:
        cuts = sum(each.kind is DecisionKind.CUT for each in status.decisions)
        return f"explore, {plural(cuts, 'cut')} taken"
    if number == len(status.looks):
        return "confirm, all looks taken"
    return f"confirm, before look {number + 1} of {len(status.looks)} with {status.looks[number]} seeds"


def _verdicts(status: StrategyStatus) -> Iterator[str]:
    looks = [each.look for each in status.decisions if each.look is not None]
    newest = {each.contrast: each for look in looks for each in look.contrasts}
    for name, verdict in status.verdicts.items():
        seen = newest.get(name)
        yield f"{name}: {verdict.value}" + ("" if seen is None else f" ({_numbers(seen)})")


def _beside(status: StrategyStatus) -> Iterator[str]:
    if status.cut:
        yield f"{plural(len(status.cut), 'run')} cut"
    if status.not_started:
        yield f"{plural(status.not_started, 'planned run')} not started"


def decision_line(decision: StrategyDecision, looks: int) -> str:
    """Return a decision on one line, of a strategy with so many looks."""
    if (look := decision.look) is not None:
        found = "; ".join(f"{each.contrast} {each.verdict.value} ({_numbers(each)})" for each in look.contrasts)
        return f"look {decision.number + 1} of {looks} with {look.seeds} seeds: {found}"
    if (cut := decision.cut) is not None:
        return f"cut at step {cut.step}: {_some(cut.cut) or 'no run'}, {plural(len(cut.kept), 'run')} continue"
    if (choice := decision.choice) is not None:
        contrasts = ", ".join(each.name for each in choice.contrasts)
        return f"explore chose {_some(choice.chosen)}" + (f", to be confirmed: {contrasts}" if contrasts else "")
    if (more := decision.continuation) is not None:
        coming = f"the next runs are predicted to take {more.next_device_hours or 0.0:.3g}"
        coming = "the cost of the next runs is unknown" if more.next_device_hours is None else coming
        spent = f"{more.spent_device_hours:.3g} device-hours are spent"
        return f"the strategy continues: now {budget_text(more.budget_device_hours)}, {spent}, {coming}"
    return "the strategy starts" if decision.stop is None else f"the strategy ends: {_stop_text(decision.stop)}"


def _numbers(look: ContrastLook) -> str:
    """Return the difference with its t, its bound, and the seeds in which a run diverged."""
    t = "no t" if look.t is None else f"t {look.t:.2f}"
    futility = "" if look.futility is None else f", given up at {look.futility:.2f}"
    diverged = [run for pair in look.pairs for run in pair.diverged]
    counted = f", diverged and counted as 0: {', '.join(diverged)}" if diverged else ""
    return f"{look.difference * _POINTS:+.3g} points, {t}, bound {look.bound:.2f}{futility}{counted}"


def first_names(runs: Sequence[PlannedRun], what: str = "") -> str:
    """Return the number and the names of the first runs, `2 runs: a, b` or `2 runs to be trained: a, b`."""
    return f"{plural(len(runs), 'run')}{what}: {first_of([run.name for run in runs], _SHOWN)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _stop_text(stop: Stop) -> str:
    """Return the end of a strategy in words."""
    if stop.reason is StopReason.SETTLED:
        return "all decided"
    spent, coming = stop.spent_device_hours or 0.0, stop.next_device_hours or 0.0
    limit = "the budget" if stop.budget_device_hours is None else budget_text(stop.budget_device_hours)
    return f"{limit}: {spent:.3g} device-hours spent, and the next runs are predicted to take {coming:.3g}"


def budget_text(hours: float | None) -> str:
    """Return `the budget of 5 device-hours`, or `no budget`."""
    return "no budget" if hours is None else f"the budget of {hours:.3g} device-hours"
