"""Strategy as a report shows it: the course of each contrast, cut runs, cost, and next steps.

All numbers of cuts and looks are those of the ledger; nothing is tested again here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from touchline.core.levels import SEEDS, level_words
from touchline.core.quantity import Measured, Missing, finite
from touchline.core.text import capital, join_names
from touchline.core.units import Scale, hours_unit, plural
from touchline.estimate.totals import totals_of
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import PlannedStrategy, StatedContrast
from touchline.statistics.conclusions import NextStep, Verdict
from touchline.strategy.decisions import ContrastLook, Cut, RunLoss, Stop, StopReason, StrategyDecision
from touchline.strategy.state import State, of_phase, references, runs_of_look


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
        return None if low is None or high is None else scale.possible(low, high)

    def ends(self, scale: Scale) -> str:
        """Return the repeated confidence interval: `+0.4 to +5.8`. Empty without one."""
        interval = self.interval(scale)
        return "" if interval is None else scale.ends(*interval)


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

    @property
    def sides(self) -> tuple[str, str]:
        """Return both sides without the levels that they share: `rank 64` and `rank 4`."""
        level, against = self.contrast.level, self.contrast.against
        own = [
            side_words({factor: value for factor, value in side.items() if other.get(factor) != value})
            for side, other in ((level, against), (against, level))
        ]
        return own[0] or side_words(level), own[1] or side_words(against)

    @property
    def words(self) -> str:
        """Return `rank 64 against rank 4`."""
        return " against ".join(self.sides)


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
    spent: Measured
    """Device-hours of all attempts and evaluations so far."""
    without_stopping: Measured
    """Device-hours predicted for the same phases without cuts and looks: all runs of explore to the end, and the
    contrasts' conditions with all seeds."""

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

    @property
    def next_look(self) -> str:
        """Return `the next look needs 4 seeds per condition`."""
        taken, looks = self.looks_taken, self.planned.looks
        if taken >= len(looks):
            return "all looks have been taken"
        return f"the {'next' if taken else 'first'} look needs {looks[taken]} seeds per condition"

    @property
    def waiting(self) -> str:
        """Return the state of explore before it has chosen, or that it found nothing to confirm."""
        if self.chosen is not None:
            return "Explore chose no condition: only the reference had a finite final loss."
        points = 0 if self.planned.explore is None else len(self.planned.explore.at)
        cut = f", {plural(len(self.cut), 'run')} cut" if self.cut else ""
        return f"Explore has not chosen yet ({len(self.cuts)} of {plural(points, 'point')} decided{cut}): no tests yet."

    def cards(self, scale: Scale) -> Iterator[tuple[str, str]]:
        """Yield the verdict of the only contrast, or the number that are established, and the looks taken."""
        looks = self.looks_taken
        if looks and len(self.courses) == 1:
            (course,) = self.courses
            last = course.looks[-1]
            ends = last.ends(scale)
            label = f"{course.words}: {course.verdict.value}{f', {ends}' if ends else ''}"
            yield scale.difference(last.found.difference), label
        elif looks and self.courses:
            established = sum(course.verdict is Verdict.ESTABLISHED for course in self.courses)
            yield f"{established}/{len(self.courses)}", "contrasts established"
        if self.is_confirming:
            yield f"{looks}/{len(self.planned.looks)}", "looks taken"

    def next_actions(self, left: Sequence[str], device: str, *, is_local: bool) -> Iterator[NextStep]:
        """Yield the next decision with its command, or what the end of the strategy leaves open."""
        if self.stop is None:
            yield self._next_decision(left, "resume" if is_local else "submit")
            return
        if self.stop.reason is StopReason.BUDGET:
            yield self._larger_budget(self.stop, device, is_local=is_local)
        missed = [course.words for course in self.courses if course.verdict is Verdict.NOT_ESTABLISHED]
        if missed:
            yield NextStep(
                title="Test the open contrasts again",
                why=f"{join_names(missed)}: not established with all {plural(len(self.planned.seeds), 'seed')}. "
                "Plan a new experiment with more fresh seeds or test items, because seeds added here are "
                "not part of the design.",
            )
        if not self.is_confirming and self.chosen:
            yield NextStep(
                title="Confirm what explore chose",
                why=f"{join_names(list(self.chosen))}: chosen by validation loss with one seed. That does not "
                "show a higher score. Test it with `strategy.confirm` and fresh seeds.",
            )

    def _next_decision(self, left: Sequence[str], command: str) -> NextStep:
        if self.planned.explore is not None and self.chosen is None:
            points, done = len(self.planned.explore.at), len(self.cuts)
            title = f"Train to point {done + 1} of {points}" if done < points else "Finish explore"
            why = "Explore decides when all remaining runs have reached it"
        else:
            title = f"Take look {self.looks_taken + 1} of {len(self.planned.looks)}"
            why = capital(self.next_look)
        rest = f": {join_names(left)} {'is' if len(left) == 1 else 'are'} not complete" if left else ""
        return NextStep(title=title, why=f"{why}{rest}.", command=f"touchline {command} .")

    def _larger_budget(self, stop: Stop, device: str, *, is_local: bool) -> NextStep:
        measured, spent = finite(self.spent), stop.spent_device_hours
        if spent is None and not isinstance(measured, Missing):
            spent = measured.value
        used = "" if spent is None else f"{spent:.3g} "
        of = "" if stop.budget_device_hours is None else f"of {stop.budget_device_hours:.3g} "
        cost = (
            ", and the cost of the next runs is unknown"
            if stop.next_device_hours is None
            else f", and the next runs would take {stop.next_device_hours:.3g} more"
        )
        names = [course.words for course in self.courses if course.verdict is Verdict.UNDECIDED]
        left = f" Undecided: {join_names(names)}." if names else ""
        then = "" if is_local else " (plan it, then `touchline submit .`)"
        return NextStep(
            title="Decide on a larger budget",
            why=f"The budget stopped the strategy: {used}{of}{hours_unit(device)} spent{cost}.{left} A larger "
            f"`strategy.budget` in experiment.yaml continues with the planned looks and bounds{then}.",
            command="touchline run ." if is_local else "touchline plan .",
        )


def strategy_report(state: State, spent: Measured) -> StrategyReport:
    """Return the strategy for a report."""
    choices = [each.choice for each in state.decisions if each.choice is not None]
    return StrategyReport(
        planned=state.strategy,
        decisions=state.decisions,
        cut=state.cut,
        cuts=state.cuts,
        final_losses=choices[-1].losses if choices else (),
        chosen=state.chosen,
        references=tuple(run.name for run in references(state.strategy, state.plan.runs)),
        courses=tuple(_courses(state)),
        stop=state.stop,
        spent=spent,
        without_stopping=_without_stopping(state),
    )


def _courses(state: State) -> Iterator[ContrastCourse]:
    taken = [decision.look for decision in state.decisions if decision.look is not None]
    for contrast in state.contrasts:
        looks = (
            TakenLook(number=number, found=found)
            for number, look in enumerate(taken, 1)
            for found in look.contrasts
            if found.contrast == contrast.name
        )
        yield ContrastCourse(contrast=contrast, looks=tuple(looks))


def _without_stopping(state: State) -> Measured:
    plan, looks = state.plan, state.strategy.looks
    if looks and not state.contrasts:
        return Missing(missing="explore has not chosen the conditions yet")
    tested = runs_of_look(plan, state.contrasts, looks[-1]) if looks else []
    untested = [run for run in plan.runs if run.phase is not Phase.CONFIRM]
    return totals_of(plan, [*untested, *tested])["gpu_hours"]


# ---- words -----------------------------------------------------------------------------------------------------------


def side_words(levels: Mapping[str, str]) -> str:
    """Return a condition by its levels: `rank 64`, `rank 64, learning rate 0.001`."""
    return ", ".join(level_words(factor, value) for factor, value in levels.items() if factor != SEEDS)


def design_words(state: State) -> str:
    """Return the design of a strategy in one line, as it was fixed in advance."""
    strategy, parts = state.strategy, []
    if (explore := strategy.explore) is not None:
        points = join_names([f"{100 * at:g}%" for at in explore.at])
        runs = plural(len(of_phase(state.plan.runs, Phase.EXPLORE)), "run")
        parts.append(
            f"explore: {runs}, one seed, and at {points} of the steps the best {100 * explore.keep:g}% by "
            "validation loss continue"
        )
    if strategy.looks:
        conditions = len(of_phase(state.plan.runs, Phase.CONFIRM)) // max(len(strategy.seeds), 1)
        what = (
            plural(len(strategy.contrasts), "contrast")
            if explore is None
            else f"the best {explore.confirm} against {side_words(strategy.reference)}"
        )
        looks = join_names([str(seeds) for seeds in strategy.looks])
        parts.append(
            f"confirm: {what}, looks at {looks} seeds, {plural(conditions, 'condition')} planned with "
            f"{len(strategy.seeds)} seeds each"
        )
    return "; ".join(parts)
