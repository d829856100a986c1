"""Command `design`: plans of an experiment with other numbers of seeds and items, and the change of its file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import InputError, PlanDriftError, PolicyError, quoted
from touchline.core.files import read_text_bounded, write_atomic
from touchline.core.quantity import Missing
from touchline.core.units import parse_device_hours, plural
from touchline.data.user_config import UserConfig
from touchline.experiment.bounds import SIZE_LIMIT_BYTES
from touchline.experiment.edit import with_values
from touchline.experiment.plan import Plan
from touchline.experiment.read import read_experiment
from touchline.experiment.recorded import unused_override_lines
from touchline.plan.design.answer import DesignAnswer, DesignOption
from touchline.plan.design.answering import DesignQuestion, Sizing, answer_design, refused, unanswerable, with_change
from touchline.plan.design.confirming import family_of, looks_for, with_likely_runs
from touchline.plan.design.costs import PLANNED_SEEDS, DesignCosts, design_costs, seed_numbers
from touchline.plan.local.past_scores import past_scores
from touchline.plan.power import evaluated_items
from touchline.run.folders import ExperimentFolder
from touchline.run.optimising import yaml_diff
from touchline.run.planning import resolve
from touchline.statistics.spread import ItemScores
from touchline.statistics.spread_inputs import spread_inputs

_MOST_SPREAD = 50.0
"""Largest standard deviation of shares, in points."""
USUAL_DIFFERENCE = 2.0
"""Difference in points that is asked for where nothing states another."""
_FEWEST_ITEMS = 4
"""Fewest items that are planned for the slope of an evaluation's time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignRequest:
    """Question of a user about sample sizes."""

    detect_points: float | None = None
    """Difference to establish, in points; None for that of `strategy.confirm`, or 2."""
    budget: str | None = None
    """Device-hours: `40gpuh`, `40h`, `90min`."""
    items: tuple[int, ...] = ()
    """Numbers of items that are looked at; all if empty."""
    seed_spread_points: float | None = None
    """Spread between seeds, in points, instead of a measured one."""
    flips_percent: float | None = None
    """Items that flip between seeds, in percent, instead of measured ones."""

    def question(self, promised: float | None = None) -> DesignQuestion:
        """Return the question of the planner.

        Args:
            promised: difference that the experiment's strategy promises, in points; None without one.

        Raises:
            InputError: a value is out of range; all are listed.
        """
        spread, flips = self.seed_spread_points, self.flips_percent
        default = USUAL_DIFFERENCE if promised is None else promised
        detect = default if self.detect_points is None else self.detect_points
        checks = (
            (f"--detect {detect:g}", 0 < detect <= 100),
            (f"--items {', '.join(map(str, self.items))}", all(each > 0 for each in self.items)),
            (f"--seed-spread {spread or 0:g}", spread is None or 0 <= spread <= _MOST_SPREAD),
            (f"--flips {flips or 0:g}", flips is None or 0 <= flips <= 100),
        )
        wrong = [text for text, is_valid in checks if not is_valid]
        if wrong:
            raise InputError(
                f"out of range: {', '.join(wrong)}",
                expected="points above 0 to 100, items of 1 or more, a spread of 0 to 50 points, flips of 0 to 100%",
            )
        return DesignQuestion(
            detect=detect / 100,
            budget_hours=None if self.budget is None else parse_budget(self.budget),
            budget_text=self.budget or "",
            items=tuple(sorted(set(self.items))),
        )


def parse_budget(text: str) -> float:
    """Return the device-hours of `--budget`.

    Raises:
        InputError: it is not a number of device-hours above 0.
    """
    try:
        return parse_device_hours(text)
    except InputError as error:
        raise InputError(f"--budget: {error.message}", expected=error.expected) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Designed:
    """Answer with the file that it changes."""

    answer: DesignAnswer
    """Answer."""
    folder: ExperimentFolder
    """Experiment."""
    text: str
    """Content of experiment.yaml with the chosen numbers."""
    values: Mapping[str, object]
    """What changes, by dotted key."""


def design(
    folder: ExperimentFolder,
    settings: UserConfig,
    request: DesignRequest,
    own: Sequence[ItemScores],
    *,
    on_progress: ProgressCallback | None = None,
) -> Designed:
    """Find numbers of seeds and items for an experiment; write nothing.

    Args:
        folder: the experiment.
        settings: where models, caches and the history are.
        request: the question.
        own: scores of the experiment's finished runs.
        on_progress: receives the number of plans made and their total.

    Raises:
        InputError: the experiment or the request is wrong.
    """
    planner = _Planner(folder, settings)
    confirm = planner.confirm
    question = request.question(None if confirm is None else confirm.detect)
    now = planner.now()
    digests = {run.digest for run in now.runs}
    past = past_scores(settings.history_dir, now.task, now.models, except_digests=digests if own else ())
    inputs = spread_inputs(own, past, points=request.seed_spread_points, flips_percent=request.flips_percent)
    items_now, most = evaluated_items(now), planner.most_items(now)
    if (finding := unanswerable(now, most, question.items)) is not None:
        answer = refused(now, question, inputs, finding)
        return Designed(answer=answer, folder=folder, text=planner.text, values={})
    most_items = max(question.items) if question.items else most
    if most is not None and question.items and max(question.items) > most:
        raise InputError(
            f"--items {max(question.items)}: the test split has {plural(most, 'item')}", expected=f"at most {most}"
        )
    assert most_items is not None
    costs = planner.costs(now, most_items, items_now or most_items, on_progress)
    family, conditions = family_of(now)
    sizing = Sizing(
        question=question,
        inputs=inputs,
        conditions=conditions,
        family=family,
        most_items=most_items,
        costs=costs,
    )
    answer = answer_design(now, items_now, sizing, planner.plan, planner.notes)
    chosen = answer.chosen
    if chosen is None:
        return Designed(answer=answer, folder=folder, text=planner.text, values={})
    looks = () if confirm is None else looks_for(chosen.seeds, family)
    values = planner.changes(chosen, items_now, looks, answer.detect_points)
    text = with_values(planner.text, str(folder.yaml), values) if values else planner.text
    return Designed(
        answer=with_change(answer, yaml_diff(folder, planner.text, text), applied=False, looks=looks),
        folder=folder,
        text=text,
        values=values,
    )


def apply(found: Designed, settings: UserConfig) -> Designed:
    """Write the chosen numbers into experiment.yaml; nothing is planned yet.

    Raises:
        PlanDriftError: runs have started that the change would leave out or evaluate differently, or the strategy has
            taken a decision.
        PolicyError: the strategy has no confirm.
        InputError: there are no numbers to write.
        HostError: the file cannot be written.
    """
    answer, folder = found.answer, found.folder
    if answer.chosen is None:
        reasons = [finding.message for finding in answer.findings]
        reasons += [each.missing for each in (answer.within_budget, answer.cheapest) if isinstance(each, Missing)]
        raise InputError(f"nothing to apply: {reasons[0]}", expected="numbers that show the difference")
    if not found.values:
        return found
    _refuse_change(found, settings)
    write_atomic(folder.yaml, found.text)
    return replace(found, answer=with_change(answer, answer.diff, applied=True))


def _refuse_change(found: Designed, settings: UserConfig) -> None:
    """Refuse a change of runs that have started."""
    folder, planner = found.folder, _Planner(found.folder, settings)
    if planner.has_strategy and planner.confirm is None:
        raise PolicyError(
            f"{folder.yaml} has a strategy without confirm: explore trains one seed per condition",
            expected="strategy.confirm, or no strategy",
            hint="docs/guides/strategy.md",
        )
    if decisions := folder.decisions():
        raise PlanDriftError(
            f"{folder.root.name}: the strategy has taken {plural(len(decisions), 'decision')}; its claims, seeds, "
            "looks and items are fixed since the first one",
            expected="a strategy before its first decision",
            hint="copy experiment.yaml into a folder of its own, and apply the design there",
        )
    old = folder.read_plan()
    started = [] if old is None else [run for run in old.runs if has_started(folder, run.name)]
    if not started:
        return
    new = planner.plan_of_text(found.text)
    changed, evaluated, items = [], [], set()
    for run in started:
        now = new.run(run.name)
        if now is None:
            changed.append(f"{run.name} would leave the plan")
        elif now.digest != run.digest:
            changed.append(f"{run.name} would be trained differently")
        elif now.evaluate.samples != run.evaluate.samples and folder.has_evaluations(run.name):
            evaluated.append(f"{run.name} has been evaluated on {run.evaluate.samples} items")
            items.add(evaluated_items(replace(new, runs=(run,))))
    if changed or evaluated:
        name = quoted(str(folder.root))
        hint = f"a new experiment, or write them by hand and: touchline plan {name} --accept"
        if not changed and len(items) == 1:
            hint = f"add --items {items.pop()} to the command: the number that they have been evaluated on"
        raise PlanDriftError(
            f"the design changes runs that have started: {'; '.join((*changed, *evaluated))}",
            expected="numbers that only add runs",
            hint=hint,
        )


def has_started(folder: ExperimentFolder, name: str) -> bool:
    """Return True if a run has started, has been evaluated or is queued."""
    if not (folder.root / name).is_dir():
        return False
    return folder.has_started(name) or folder.has_evaluations(name) or name in folder.queued()


class _Planner:
    """Planner of the experiment with other numbers of seeds and items; confirm has one look, at its last seed."""

    def __init__(self, folder: ExperimentFolder, settings: UserConfig) -> None:
        self._folder, self._settings = folder, settings
        self.text = read_text_bounded(folder.yaml, SIZE_LIMIT_BYTES)
        self._old = folder.read_plan()
        experiment = read_experiment(self.text, str(folder.yaml)).experiment
        strategy = experiment.strategy
        self.has_strategy = strategy is not None
        self.confirm = None if strategy is None else strategy.confirm
        self._explored = experiment.seeds[:1] if strategy is not None and strategy.explore is not None else ()
        self.seeds = experiment.seeds if self.confirm is None else self.confirm.seeds
        self._without = ("strategy=null",) if self.has_strategy and self.confirm is None else ()
        self.notes: tuple[str, ...] = ()
        if self.confirm is not None:
            self.notes = (
                "power, differences and hours are those without looks; a strategy's looks need a few more seeds at "
                "most, and fewer on average: touchline plan, section Costs of the strategy",
            )
        elif self.has_strategy:
            self.notes = ("the strategy has no confirm: the numbers are those of the experiment without strategy",)
        if self._old is not None:
            self.notes += tuple(unused_override_lines(self._old))
        self._made: dict[tuple[int, int | None], Plan] = {}

    def now(self) -> Plan:
        """Return the plan of the experiment as it is."""
        return self._read(self.text)

    def plan(self, seeds: int, items: int) -> Plan:
        """Return the plan with so many seeds and items."""
        key = (seeds, items)
        if key not in self._made:
            numbers = list(self._numbers(seeds))
            given = [f"seeds={numbers}"]
            if self.confirm is not None:
                given = [f"strategy.confirm.seeds={numbers}", f"strategy.confirm.looks=[{seeds}]"]
            self._made[key] = self._read(self.text, (*given, f"evaluate.samples={items}"))
        return self._made[key]

    def plan_of_text(self, text: str) -> Plan:
        """Return the plan of a changed file."""
        return self._read(text)

    def most_items(self, now: Plan) -> int | None:
        """Return the items that every run could be asked; None if the number is unknown."""
        runs = tuple(replace(run, evaluate=replace(run.evaluate, samples="all")) for run in now.runs)
        return evaluated_items(replace(now, runs=runs))

    def costs(
        self, now: Plan, most_items: int, items_now: int, on_progress: ProgressCallback | None
    ) -> DesignCosts | Missing:
        """Return the costs by seeds and items, from plans."""
        if isinstance(now.gpu_hours, Missing):
            return now.gpu_hours
        counts = sorted({min(_FEWEST_ITEMS, most_items), *(max(1, most_items // part) for part in (16, 4, 1))})
        total, done = len(PLANNED_SEEDS) + len(counts), 0

        def planned(seeds: int, items: int) -> Plan:
            nonlocal done
            plan = self.plan(seeds, items)
            done += 1
            if on_progress is not None:
                on_progress(done, total)
            return plan

        by_seeds = {seeds: planned(seeds, items_now) for seeds in PLANNED_SEEDS}
        by_items = {items: planned(PLANNED_SEEDS[0], items) for items in counts}
        return design_costs(by_seeds, by_items, items_now)

    def changes(
        self, chosen: DesignOption, items_now: int | None, looks: tuple[int, ...], detect_points: float
    ) -> dict[str, object]:
        """Return the values of experiment.yaml that change, by dotted key."""
        found: dict[str, object] = {}
        confirm = self.confirm
        numbers = self._numbers(looks[-1] if looks else chosen.seeds)
        if numbers != tuple(self.seeds):
            found["seeds" if confirm is None else "strategy.confirm.seeds"] = list(numbers)
        if confirm is not None and confirm.looks not in ("auto", looks):
            found["strategy.confirm.looks"] = list(looks)
        if confirm is not None and not math.isclose(confirm.detect, detect_points):
            found["strategy.confirm.detect"] = float(f"{detect_points:.6g}")
        if chosen.items != items_now:
            found["evaluate.samples"] = chosen.items
        return found

    def _numbers(self, count: int) -> tuple[int, ...]:
        """Return so many seeds; new ones of confirm continue after its last and are not those of explore."""
        first = 1 if self.confirm is None else max(self.seeds) + 1
        return seed_numbers(self.seeds, count, first=first, avoid=self._explored)

    def _read(self, text: str, own: Sequence[str] = ()) -> Plan:
        loaded = read_experiment(text, str(self._folder.yaml), (*self._without, *own))
        old = self._old
        accepted = {} if old is None else {run.name: run.accepted for run in old.runs if run.accepted}
        return with_likely_runs(resolve(loaded, self._folder, self._settings, old, accepted, spread=())[0])
