"""Strategy of an experiment as the report shows it: course of each contrast, cut runs, and cost against fixed designs.

All numbers of cuts and looks are those of the ledger; nothing is tested again here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from touchline.core.levels import SEEDS
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import plural
from touchline.estimate.totals import scale_quantity, totals_of
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import PlannedStrategy, StatedContrast, matches
from touchline.report.formatting import Scale, join_names, level_words, settings_words
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Verdict
from touchline.strategy.decisions import ContrastLook, Cut, RunLoss, Stop, StrategyDecision
from touchline.strategy.record import StrategyRecord
from touchline.strategy.state import names_of_look

_NOT_CHOSEN = Missing(missing="explore has not chosen the conditions yet")
_NO_CONFIRM = Missing(missing="nothing is confirmed")


@dataclass(frozen=True, kw_only=True, slots=True)
class TakenLook:
    """Look at one contrast."""

    number: int
    """Number of the look, from 1."""
    found: ContrastLook
    """Its numbers."""

    def interval(self, scale: Scale) -> tuple[float, float] | None:
        """Return the repeated confidence interval within the possible range of the difference; None without one.

        No difference of shares is beyond 100 points, so the part within that range has the same coverage. The ledger
        has the whole interval.
        """
        low, high = self.found.low, self.found.high
        if low is None or high is None:
            return None
        return (max(low, -1.0), min(high, 1.0)) if scale.share else (low, high)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastCourse:
    """Contrast with all looks at it."""

    contrast: StatedContrast
    """Contrast."""
    looks: tuple[TakenLook, ...]
    """Looks in order; empty before the first."""

    @property
    def verdict(self) -> Verdict:
        """Return the verdict of the last look; undecided before the first."""
        return self.looks[-1].found.verdict if self.looks else Verdict.UNDECIDED


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyCost:
    """Device-hours of the strategy, and of designs that are fixed in advance."""

    spent: Measured
    """Measured: all attempts and evaluations so far."""
    predicted: Measured
    """Predicted for the same runs, of cut ones the share of the steps that they have done."""
    without_stopping: Measured
    """Predicted for the same phases without cuts and looks: all runs of explore to the end, and the contrasts'
    conditions with all seeds."""
    grid: Measured
    """Predicted for every planned condition with all seeds of confirm."""
    grid_runs: int
    """Number of fine-tuned runs of that grid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyReport:
    """Strategy with its decisions, for sentences, tables and figures."""

    planned: PlannedStrategy
    """Strategy of the plan."""
    decisions: tuple[StrategyDecision, ...]
    """Decisions with their numbers, in order."""
    cut: dict[str, int]
    """Cut runs with the step at which they were."""
    cuts: tuple[Cut, ...]
    """Points that have been decided."""
    final_losses: tuple[RunLoss, ...]
    """Final validation losses that explore chose by; empty before the choice."""
    chosen: tuple[str, ...] | None
    """Runs whose conditions explore hands to confirm; None before the choice."""
    references: tuple[str, ...]
    """Runs of explore with the condition that the others are compared with."""
    courses: tuple[ContrastCourse, ...]
    """Contrasts of confirm with their looks; empty before explore has chosen them."""
    stop: Stop | None
    """End of the strategy; None before it."""
    cost: StrategyCost
    """Cost."""

    @property
    def looks_taken(self) -> int:
        """Return the number of looks that have been taken."""
        return sum(decision.look is not None for decision in self.decisions)

    @property
    def stopping(self) -> str:
        """Return what the strategy has that a fixed design lacks: `cuts and looks`, `cuts` or `looks`."""
        names = (["cuts"] if self.planned.explore is not None else []) + (["looks"] if self.is_confirming else [])
        return " and ".join(names)

    @property
    def is_confirming(self) -> bool:
        """Return whether contrasts are tested, now or later."""
        return bool(self.planned.looks)


def strategy_report(gathered: ReportInputs, spent: Measured) -> StrategyReport | None:
    """Return the strategy for a report. None without one.

    Args:
        gathered: the inputs.
        spent: measured device-hours of all runs.
    """
    record = gathered.strategy
    if record is None:
        return None
    state, choices = record.state, [each.choice for each in record.decisions if each.choice is not None]
    return StrategyReport(
        planned=record.planned,
        decisions=record.decisions,
        cut=dict(state.cut),
        cuts=tuple(each.cut for each in record.decisions if each.cut is not None),
        final_losses=choices[-1].losses if choices else (),
        chosen=state.chosen,
        references=tuple(
            run.name
            for run in record.runs
            if run.phase is Phase.EXPLORE and record.planned.reference and matches(run.levels, record.planned.reference)
        ),
        courses=tuple(_courses(record)),
        stop=state.stop,
        cost=_cost(record, gathered.runs, spent),
    )


def _courses(record: StrategyRecord) -> Iterator[ContrastCourse]:
    taken = [decision.look for decision in record.decisions if decision.look is not None]
    for contrast in record.state.contrasts:
        looks = (
            TakenLook(number=number, found=found)
            for number, look in enumerate(taken, 1)
            for found in look.contrasts
            if found.contrast == contrast.name
        )
        yield ContrastCourse(contrast=contrast, looks=tuple(looks))


# ---- cost ------------------------------------------------------------------------------------------------------------


def _cost(record: StrategyRecord, runs: Sequence[RunResult], spent: Measured) -> StrategyCost:
    whole = record.plan
    strategy, state = record.planned, record.state
    confirmed = {run.name for run in record.runs if run.phase is Phase.CONFIRM}
    explored = {run.name for run in record.runs if run.phase is Phase.EXPLORE}
    without: Measured = _NOT_CHOSEN
    if not strategy.looks or state.contrasts:
        tested = set(names_of_look(whole, state.contrasts, len(strategy.seeds))) if strategy.looks else set()
        without = _hours(whole, explored | tested)
    return StrategyCost(
        spent=spent,
        predicted=_predicted(whole, record, runs),
        without_stopping=without,
        grid=_hours(whole, confirmed) if strategy.looks else _NO_CONFIRM,
        grid_runs=len(confirmed),
    )


def _hours(plan: Plan, names: Collection[str], runs: Sequence[PlannedRun] | None = None) -> Measured:
    """Return the predicted device-hours of some runs and of all controls."""
    chosen = [run for run in runs or plan.runs if run.name in names or run.phase is None]
    return totals_of(plan, chosen, side_by_side=runs is None)["gpu_hours"]


def _predicted(plan: Plan, record: StrategyRecord, results: Sequence[RunResult]) -> Measured:
    """Return the predicted device-hours of the runs that were begun, of cut ones for the steps that they have done."""
    begun = {run.name for run in results if run.attempts or run.steps_done or run.evaluations}
    runs = [
        _shortened(run, record.state.cut) if run.name in record.state.cut else run
        for run in plan.runs
        if run.name in begun
    ]
    return _hours(plan, begun, runs) if runs else Missing(missing="nothing was started")


def _shortened(run: PlannedRun, cut: Mapping[str, int]) -> PlannedRun:
    """Return a cut run with the predicted time of its steps and without an evaluation."""
    steps = 0 if run.batches is None else run.batches.steps
    share = cut[run.name] / steps if steps else 1.0
    nothing = Quantity(value=0.0, unit="s", low=0.0, high=0.0)
    return replace(run, train_seconds=scale_quantity(run.train_seconds, share, "s"), evaluate_seconds=nothing)


# ---- words -----------------------------------------------------------------------------------------------------------


def side_words(levels: Mapping[str, str]) -> str:
    """Return a condition by its levels: `rank 64`, `rank 64, learning rate 0.001`."""
    return ", ".join(level_words(factor, value) for factor, value in levels.items() if factor != SEEDS)


def sides_words(contrast: StatedContrast) -> tuple[str, str]:
    """Return both sides of a contrast, without the levels that they share: `rank 64` and `rank 4`."""
    shared = contrast.level.items() & contrast.against.items()
    level, against = (
        side_words({factor: value for factor, value in side.items() if (factor, value) not in shared})
        for side in (contrast.level, contrast.against)
    )
    return level or side_words(contrast.level), against or side_words(contrast.against)


def contrast_words(contrast: StatedContrast) -> str:
    """Return `rank 64 against rank 4`."""
    level, against = sides_words(contrast)
    return f"{level} against {against}"


def condition_words(run: PlannedRun | RunResult) -> str:
    """Return the condition of a run: `rank 64`; its name if nothing varies."""
    words = settings_words(run.levels)
    return run.name if words == "-" else words


def design_words(record: StrategyRecord) -> str:
    """Return the design of a strategy in one line, as it was fixed in advance."""
    strategy = record.planned
    explored = [run for run in record.runs if run.phase is Phase.EXPLORE]
    confirmed = [run for run in record.runs if run.phase is Phase.CONFIRM]
    parts: list[str] = []
    if strategy.explore is not None:
        points = join_names([f"{100 * at:g}%" for at in strategy.explore.at])
        halving = strategy.explore.policy == "halving"
        rule = f"the best {100 * strategy.explore.keep:g}%" if halving else "those not above the median"
        parts.append(
            f"explore: {plural(len(explored), 'run')}, one seed; at {points} of the steps {rule} by validation loss "
            "continue"
        )
    if strategy.looks:
        conditions = len(confirmed) // max(len(strategy.seeds), 1)
        what = (
            plural(len(strategy.contrasts), "contrast")
            if strategy.explore is None
            else f"the best {strategy.explore.confirm} against {side_words(strategy.reference)}"
        )
        looks = join_names([str(seeds) for seeds in strategy.looks])
        parts.append(
            f"confirm: {what}, looks at {looks} seeds, {plural(conditions, 'condition')} planned with "
            f"{len(strategy.seeds)} seeds each"
        )
    return "; ".join(parts)
