"""State of a strategy from its decisions alone: which runs were started, cut or are needed; and lines about both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from touchline.core.levels import SEEDS
from touchline.core.text import first_of
from touchline.core.units import plural
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import PlannedStrategy, StatedContrast, matches
from touchline.statistics.conclusions import Verdict
from touchline.strategy.decisions import ContrastLook, Cut, DecisionKind, Stop, StopReason, StrategyDecision


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """State after some decisions. Equal decisions give equal states."""

    plan: Plan
    strategy: PlannedStrategy
    decisions: tuple[StrategyDecision, ...]
    cuts: tuple[Cut, ...] = ()
    chosen: tuple[str, ...] | None = None
    """Runs of explore whose conditions are confirmed; None before the choice."""
    contrasts: tuple[StatedContrast, ...] = ()
    """Contrasts of confirm; empty before explore has chosen them."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    looks_taken: int = 0
    stop: Stop | None = None
    """End of the strategy; None before it, and after a larger budget has lifted a stop for the budget."""
    started: tuple[PlannedRun, ...] = ()
    """Runs that have been made active so far, in the plan's order: controls, explore runs with the cut ones, and runs
    of confirm up to the coming look. Reports and status list these."""
    working: tuple[PlannedRun, ...] = ()
    """Of these, the runs to train and evaluate now: neither cut nor of a contrast that is decided."""
    newest: tuple[PlannedRun, ...] = ()
    """Runs of confirm that the coming look needs next to those of the last one."""

    @property
    def cut(self) -> dict[str, int]:
        """Return the cut runs with the step at which they were."""
        return {run: step for cut in self.cuts for run, step in cut.steps.items()}

    @property
    def undecided(self) -> tuple[StatedContrast, ...]:
        """Return the contrasts that get more seeds."""
        return _undecided(self.contrasts, self.verdicts)

    @property
    def is_exploring(self) -> bool:
        """Return whether explore has not chosen yet."""
        return self.strategy.explore is not None and self.chosen is None and self.stop is None


def state_of(plan: Plan, decisions: Sequence[StrategyDecision]) -> State:
    """Return the state of a plan with a strategy after some decisions."""
    strategy = plan.strategy
    assert strategy is not None
    verdicts: dict[str, Verdict] = {}
    started = {run.name for run in plan.runs if run.phase is not Phase.CONFIRM}
    contrasts, chosen, stop, looks = strategy.contrasts, None, None, 0
    for decision in decisions:
        if decision.choice is not None:
            chosen, contrasts = decision.choice.chosen, decision.choice.contrasts
        elif decision.look is not None:
            started |= _names_of_coming_look(plan, _undecided(contrasts, verdicts), looks)
            looks += 1
            verdicts |= {each.contrast: each.verdict for each in decision.look.contrasts}
        elif decision.kind in (DecisionKind.STOP, DecisionKind.CONTINUATION):
            stop = decision.stop
    state = State(
        plan=plan,
        strategy=strategy,
        decisions=tuple(decisions),
        cuts=tuple(decision.cut for decision in decisions if decision.cut is not None),
        chosen=chosen,
        contrasts=contrasts,
        verdicts=verdicts,
        looks_taken=looks,
        stop=stop,
        started=tuple(run for run in plan.runs if run.name in started),
    )
    return _with_coming(state)


def continued(state: State) -> State:
    """Return the state that follows when a stop for the budget is lifted."""
    return _with_coming(replace(state, stop=None))


def _with_coming(state: State) -> State:
    """Return the state with the runs of the coming look, which a stop does not start, and with those to work on."""
    plan, stopped = state.plan, state.stop is not None
    coming = set() if stopped else _names_of_coming_look(plan, state.undecided, state.looks_taken)
    before = {run.name for run in state.started}
    explored = (None,) if stopped and state.chosen is None else (None, Phase.EXPLORE)
    needed = coming | {run.name for run in state.started if run.phase in explored and run.name not in state.cut}
    started = tuple(run for run in plan.runs if run.name in before | coming)
    return replace(
        state,
        newest=tuple(run for run in started if run.name not in before),
        started=started,
        working=tuple(run for run in started if run.name in needed),
    )


def _undecided(contrasts: Sequence[StatedContrast], verdicts: Mapping[str, Verdict]) -> tuple[StatedContrast, ...]:
    return tuple(each for each in contrasts if verdicts.get(each.name, Verdict.UNDECIDED) is Verdict.UNDECIDED)


def _names_of_coming_look(plan: Plan, contrasts: Sequence[StatedContrast], taken: int) -> set[str]:
    looks = () if plan.strategy is None else plan.strategy.looks
    return {run.name for run in runs_of_look(plan, contrasts, looks[taken])} if taken < len(looks) else set()


def runs_of_look(plan: Plan, contrasts: Sequence[StatedContrast], seeds: int) -> list[PlannedRun]:
    """Return the runs of confirm that a look at some contrasts with that many seeds needs."""
    cells = [cell for contrast in contrasts for cell in cells_of(plan, contrast, seeds)]
    needed = {run.name for cell in cells for run in cell.runs}
    return [run for run in plan.runs if run.name in needed]


@dataclass(frozen=True, slots=True)
class ContrastCell:
    """Runs of both sides of a contrast in one condition of the other factors."""

    level: tuple[PlannedRun, ...]
    """Runs at the level that is claimed to score higher."""
    against: tuple[PlannedRun, ...]

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """Return the runs of both sides."""
        return (*self.level, *self.against)


def cells_of(plan: Plan, contrast: StatedContrast, seeds: int) -> tuple[ContrastCell, ...]:
    """Return the conditions in which both sides of a contrast are planned, with the first seeds of confirm.

    Where the sides share no condition, because another factor changes with them, all runs are one cell.
    """
    assert plan.strategy is not None
    wanted = set(plan.strategy.seeds[:seeds])
    named = {*contrast.level, *contrast.against, SEEDS}
    runs = [run for run in plan.runs if run.phase is Phase.CONFIRM and run.seed in wanted]
    sides = [[run for run in runs if matches(run.levels, side)] for side in (contrast.level, contrast.against)]
    own: list[dict[tuple[tuple[str, str], ...], list[PlannedRun]]] = [{}, {}]
    for cells, side in zip(own, sides, strict=True):
        for run in side:
            condition = tuple((each.factor, each.value) for each in run.levels if each.factor not in named)
            cells.setdefault(condition, []).append(run)
    pairs = [(level, own[1][condition]) for condition, level in own[0].items() if condition in own[1]]
    if not pairs and sides[0] and sides[1]:
        pairs = [(sides[0], sides[1])]
    return tuple(ContrastCell(tuple(level), tuple(against)) for level, against in pairs)


def condition_of(run: PlannedRun) -> dict[str, str]:
    """Return the levels of a run without its seed."""
    return {level.factor: level.value for level in run.levels if level.factor != SEEDS}


def of_phase(runs: Sequence[PlannedRun], phase: Phase | None) -> list[PlannedRun]:
    """Return the runs of a phase; controls have none."""
    return [run for run in runs if run.phase is phase]


def references(strategy: PlannedStrategy, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs of explore with the condition that the others are compared with."""
    return [run for run in of_phase(runs, Phase.EXPLORE) if matches(run.levels, strategy.reference)]


def diverged_in(decisions: Sequence[StrategyDecision]) -> Iterator[str]:
    """Yield the runs that a look counts as diverged."""
    for decision in decisions:
        for contrast in () if decision.look is None else decision.look.contrasts:
            yield from (name for pair in contrast.pairs for name in pair.diverged)


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
    if stop.reason is StopReason.SETTLED:
        return "all decided"
    spent, coming = stop.spent_device_hours or 0.0, stop.next_device_hours or 0.0
    limit = "the budget" if stop.budget_device_hours is None else budget_text(stop.budget_device_hours)
    return f"{limit}: {spent:.3g} device-hours spent, and the next runs are predicted to take {coming:.3g}"


def budget_text(hours: float | None) -> str:
    """Return `the budget of 5 device-hours`, or `no budget`."""
    return "no budget" if hours is None else f"the budget of {hours:.3g} device-hours"
