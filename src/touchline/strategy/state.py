"""State of a strategy: which planned runs have been started, cut or are still needed, from its decisions alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from touchline.core.levels import SEEDS
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import StatedContrast, matches
from touchline.statistics.conclusions import Verdict
from touchline.strategy.decisions import DecisionKind, Stop, StrategyDecision


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyState:
    """State after some decisions. Equal decisions give equal states."""

    design: str | None
    """Digest of the design at the first decision; None before it."""
    taken: int = 0
    """Decisions that have been taken."""
    newest: tuple[str, ...] = ()
    """Runs of confirm that the coming look needs beside those of the last one."""
    cut: Mapping[str, int] = field(default_factory=dict)
    """Cut runs with the step at which they were."""
    cuts_taken: int = 0
    """Points of explore that have been decided."""
    chosen: tuple[str, ...] | None = None
    """Runs of explore whose conditions are confirmed; None before the choice."""
    contrasts: tuple[StatedContrast, ...] = ()
    """Contrasts of confirm; empty before explore has chosen them."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """Last verdict of every contrast that has been looked at."""
    looks_taken: int = 0
    """Looks that have been taken."""
    stop: Stop | None = None
    """End of the strategy; None before it, and after a larger budget has lifted a stop for the budget."""
    started: tuple[PlannedRun, ...] = ()
    """Runs that have been made active so far, in the plan's order: controls, explore runs with the cut ones, and runs
    of confirm up to the coming look. Reports and status list these."""
    working: tuple[PlannedRun, ...] = ()
    """Of these, the runs to train and evaluate now: neither cut nor of a contrast that is decided."""

    @property
    def undecided(self) -> tuple[StatedContrast, ...]:
        """Return the contrasts that get more seeds."""
        return _undecided(self.contrasts, self.verdicts)

    @property
    def is_exploring(self) -> bool:
        """Return whether explore has not chosen yet."""
        return self.chosen is None and self.stop is None and any(run.phase is Phase.EXPLORE for run in self.started)


def strategy_state(plan: Plan, decisions: Sequence[StrategyDecision]) -> StrategyState:
    """Return the state after some decisions; without a strategy all runs are started and at work."""
    strategy = plan.strategy
    if strategy is None:
        return StrategyState(design=None, started=plan.runs, working=plan.runs)
    cut: dict[str, int] = {}
    verdicts: dict[str, Verdict] = {}
    started = {run.name for run in plan.runs if run.phase in (None, Phase.EXPLORE)}
    contrasts, chosen, stop = strategy.contrasts, None, None
    cuts = looks = 0
    for decision in decisions:
        if decision.cut is not None:
            cut |= decision.cut.steps
            cuts += 1
        elif decision.choice is not None:
            chosen, contrasts = decision.choice.chosen, decision.choice.contrasts
        elif decision.look is not None:
            started |= _names_of_coming_look(plan, _undecided(contrasts, verdicts), looks)
            looks += 1
            verdicts |= {each.contrast: each.verdict for each in decision.look.contrasts}
        elif decision.kind in (DecisionKind.STOP, DecisionKind.CONTINUATION):
            stop = decision.stop
    state = StrategyState(
        design=decisions[0].design if decisions else None,
        taken=len(decisions),
        cut=cut,
        cuts_taken=cuts,
        chosen=chosen,
        contrasts=contrasts,
        verdicts=verdicts,
        looks_taken=looks,
        stop=stop,
        started=tuple(run for run in plan.runs if run.name in started),
    )
    return _with_coming(plan, state)


def continued(plan: Plan, state: StrategyState) -> StrategyState:
    """Return the state that follows when a stop for the budget is lifted."""
    return _with_coming(plan, replace(state, stop=None))


def started_plan(plan: Plan, decisions: Sequence[StrategyDecision]) -> Plan:
    """Return the plan with only the runs that have been made active so far; without a strategy the plan itself."""
    if plan.strategy is None:
        return plan
    runs = strategy_state(plan, decisions).started
    names = {run.name for run in runs}
    return replace(plan, runs=runs, cohorts=tuple(each for each in plan.cohorts if names.issuperset(each.runs)))


def _with_coming(plan: Plan, state: StrategyState) -> StrategyState:
    """Return the state with the runs of the coming look, which a stop does not start, and with those to work on."""
    coming = set() if state.stop is not None else _names_of_coming_look(plan, state.undecided, state.looks_taken)
    before = {run.name for run in state.started}
    explored = (None,) if state.stop is not None and state.chosen is None else (None, Phase.EXPLORE)
    needed = coming | {run.name for run in state.started if run.phase in explored and run.name not in state.cut}
    started = tuple(run for run in plan.runs if run.name in before | coming)
    return replace(
        state,
        newest=tuple(run.name for run in started if run.name not in before),
        started=started,
        working=tuple(run for run in started if run.name in needed),
    )


def _undecided(contrasts: Sequence[StatedContrast], verdicts: Mapping[str, Verdict]) -> tuple[StatedContrast, ...]:
    return tuple(each for each in contrasts if verdicts.get(each.name, Verdict.UNDECIDED) is Verdict.UNDECIDED)


def _names_of_coming_look(plan: Plan, contrasts: Sequence[StatedContrast], taken: int) -> set[str]:
    """Return the runs that the look after `taken` looks needs; none after the last."""
    assert plan.strategy is not None
    looks = plan.strategy.looks
    return set(names_of_look(plan, contrasts, looks[taken])) if taken < len(looks) else set()


def names_of_look(plan: Plan, contrasts: Sequence[StatedContrast], seeds: int) -> Iterator[str]:
    """Yield the runs of confirm that a look at some contrasts with that many seeds needs."""
    needed = {
        run.name
        for contrast in contrasts
        for cell in cells_of(plan, contrast, seeds)
        for run in (*cell.level, *cell.against)
    }
    yield from (run.name for run in plan.runs if run.name in needed)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastCell:
    """Runs of both sides of a contrast in one condition of the other factors."""

    condition: tuple[tuple[str, str], ...]
    """Level of each other factor; empty where no condition has both sides, and all are taken together."""
    level: tuple[PlannedRun, ...]
    """Runs at the level that is claimed to score higher."""
    against: tuple[PlannedRun, ...]
    """Runs of the other side."""


def cells_of(plan: Plan, contrast: StatedContrast, seeds: int) -> tuple[ContrastCell, ...]:
    """Return the conditions in which both sides of a contrast are planned, with the first seeds of confirm.

    Where the sides share no condition, because another factor changes with them, all runs are one cell.
    """
    assert plan.strategy is not None
    wanted = set(plan.strategy.seeds[:seeds])
    named = contrast.level.keys() | contrast.against.keys()
    runs = [run for run in plan.runs if run.phase is Phase.CONFIRM and run.seed in wanted]
    sides = [[run for run in runs if matches(run.levels, side)] for side in (contrast.level, contrast.against)]
    own: list[dict[tuple[tuple[str, str], ...], list[PlannedRun]]] = [{}, {}]
    for cells, side in zip(own, sides, strict=True):
        for run in side:
            condition = tuple(
                (each.factor, each.value) for each in run.levels if each.factor not in named and each.factor != SEEDS
            )
            cells.setdefault(condition, []).append(run)
    common = [condition for condition in own[0] if condition in own[1]]
    if not common:
        whole = ContrastCell(condition=(), level=tuple(sides[0]), against=tuple(sides[1]))
        return (whole,) if whole.level and whole.against else ()
    return tuple(
        ContrastCell(condition=condition, level=tuple(own[0][condition]), against=tuple(own[1][condition]))
        for condition in common
    )


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
