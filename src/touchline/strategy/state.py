"""State of a strategy: which planned runs have been started, cut or are still needed, from its decisions alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from touchline.core.levels import SEEDS
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import PlannedStrategy, StatedContrast, matches
from touchline.statistics.conclusions import Verdict
from touchline.strategy.decisions import Cut, DecisionKind, Stop, StrategyDecision


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """State after some decisions. Equal decisions give equal states."""

    plan: Plan
    """Plan with all its runs, those that may never be started too."""
    strategy: PlannedStrategy
    decisions: tuple[StrategyDecision, ...]
    """Decisions that have been taken, in order."""
    cuts: tuple[Cut, ...] = ()
    """Points of explore that have been decided."""
    chosen: tuple[str, ...] | None = None
    """Runs of explore whose conditions are confirmed; None before the choice."""
    contrasts: tuple[StatedContrast, ...] = ()
    """Contrasts of confirm; empty before explore has chosen them."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """Last verdict of every contrast that has been looked at."""
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
    """Return the runs that the look after `taken` looks needs; none after the last."""
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
    """Runs of the other side."""

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
