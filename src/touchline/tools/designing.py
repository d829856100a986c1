"""Command `design`: plans of an experiment with other numbers of seeds and items, and the change of its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import InputError, PlanDriftError, PolicyError, quoted
from touchline.core.files import read_text_bounded, write_atomic
from touchline.core.levels import SEEDS
from touchline.core.quantity import Missing, Quantity
from touchline.core.units import parse_device_hours
from touchline.data.user_config import UserConfig
from touchline.experiment.document import SIZE_LIMIT_BYTES
from touchline.experiment.plan import Plan
from touchline.experiment.read import read_experiment
from touchline.experiment.recorded import unused_override_lines
from touchline.experiment.write import with_values
from touchline.plan.design import (
    PLANNED_SEEDS,
    DesignAnswer,
    DesignCosts,
    answer_design,
    design_costs,
    refuse_unanswerable,
    seed_numbers,
)
from touchline.plan.local.context import past_scores
from touchline.plan.power import evaluated_items
from touchline.run.folders import ExperimentFolder
from touchline.run.planning import resolve
from touchline.statistics.spread import ItemScores, spread_inputs
from touchline.tools.optimising import has_begun, yaml_diff

_SAME_BASIS = 1.25
"""Ratio of the times of equal runs from which a note says that they are from different evidence."""
_FEWEST_ITEMS = 4
"""Fewest items that are planned for the slope of an evaluation's time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Designed:
    """Design with the file that it changes."""

    answer: DesignAnswer
    folder: ExperimentFolder
    text: str
    """Content of experiment.yaml with the chosen numbers."""


def design(
    folder: ExperimentFolder,
    settings: UserConfig,
    own: Sequence[ItemScores],
    *,
    detect_points: float,
    budget: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> Designed:
    """Find numbers of seeds and items for an experiment; write nothing.

    Args:
        own: scores of the experiment's finished runs.
        detect_points: difference to establish, in points.
        budget: device-hours: `40gpuh`, `40h`, `90min`.
        on_progress: receives the number of plans made and their total.

    Raises:
        InputError: the experiment or an argument is wrong.
        PolicyError: the experiment has a strategy, which states its own seeds.
    """
    if not 0 < detect_points <= 100:
        raise InputError(f"--detect {detect_points:g}", expected="points above 0, up to 100")
    hours = None if budget is None else _parse_budget(budget)
    planner = _Planner(folder, settings)
    now = planner.plan_of_text(planner.text)
    digests = {run.digest for run in now.runs}
    past = past_scores(settings.history_dir, now.task, now.models, except_digests=digests if own else ())
    most_items = refuse_unanswerable(now, planner.most_items(now))
    items_now = evaluated_items(now) or most_items
    answer = answer_design(
        now,
        detect_points / 100,
        hours,
        spread_inputs(own, past),
        items_now=items_now,
        most_items=most_items,
        costs=planner.costs(now, most_items, on_progress),
        plan_with=planner.plan,
    )
    answer = replace(answer, notes=(*planner.notes, *planner.bases(now), *answer.notes))
    if isinstance(answer.chosen, Missing):
        return Designed(answer=answer, folder=folder, text=planner.text)
    values = planner.changes(answer.chosen.seeds, answer.chosen.items, items_now)
    text = with_values(planner.text, str(folder.yaml), values) if values else planner.text
    return Designed(answer=replace(answer, diff=yaml_diff(folder, planner.text, text)), folder=folder, text=text)


def _parse_budget(text: str) -> float:
    try:
        return parse_device_hours(text)
    except InputError as error:
        raise InputError(f"--budget: {error.message}", expected=error.expected) from error


def apply(found: Designed, settings: UserConfig) -> Designed:
    """Write the chosen numbers into experiment.yaml; nothing is planned yet.

    Raises:
        PlanDriftError: runs have started that the change would leave out or evaluate differently.
        InputError: there are no numbers to write.
        HostError: the file cannot be written.
    """
    answer, folder = found.answer, found.folder
    if isinstance(answer.chosen, Missing):
        raise InputError(f"no design to apply: {answer.chosen.missing}", expected="numbers that detect the difference")
    if not answer.diff:
        return found
    _refuse_change(found, settings)
    write_atomic(folder.yaml, found.text)
    return replace(found, answer=replace(answer, applied=True))


def _refuse_change(found: Designed, settings: UserConfig) -> None:
    """Refuse a change of runs that have started."""
    folder = found.folder
    old = folder.read_plan()
    started = [] if old is None else [run for run in old.runs if has_begun(folder, run.name)]
    if not started:
        return
    new = _Planner(folder, settings).plan_of_text(found.text)
    changed = []
    for run in started:
        now = new.run(run.name)
        if now is None:
            changed.append(f"{run.name} would leave the plan")
        elif now.digest != run.digest:
            changed.append(f"{run.name} would be trained differently")
        elif now.evaluate.samples != run.evaluate.samples and folder.has_evaluations(run.name):
            changed.append(f"{run.name} has been evaluated on {run.evaluate.samples} items")
    if changed:
        raise PlanDriftError(
            f"the design changes runs that have started: {', '.join(changed)}",
            expected="numbers that only add runs",
            hint=(
                "start a new experiment, or edit experiment.yaml, then: touchline plan "
                f"{quoted(str(folder.root))} --accept"
            ),
        )


class _Planner:
    """Planner of the experiment with other numbers of seeds and items."""

    def __init__(self, folder: ExperimentFolder, settings: UserConfig) -> None:
        self._folder, self._settings = folder, settings
        self.text = read_text_bounded(folder.yaml, SIZE_LIMIT_BYTES)
        self._old = folder.read_plan()
        experiment = read_experiment(self.text, str(folder.yaml)).experiment
        if experiment.strategy is not None:
            raise PolicyError(
                f"{folder.yaml} has a strategy, which sets its own seeds",
                expected="an experiment without strategy",
                hint=f"touchline plan {quoted(str(folder.root))} (section: Costs of the strategy)",
            )
        self._seeds = experiment.seeds
        self.notes = () if self._old is None else tuple(unused_override_lines(self._old))
        self._made: dict[tuple[int, int], Plan] = {}

    def plan(self, seeds: int, items: int) -> Plan:
        """Return the plan with so many seeds and items."""
        key = (seeds, items)
        if key not in self._made:
            numbers = list(seed_numbers(self._seeds, seeds))
            self._made[key] = self.plan_of_text(self.text, (f"seeds={numbers}", f"evaluate.samples={items}"))
        return self._made[key]

    def plan_of_text(self, text: str, own: Sequence[str] = ()) -> Plan:
        """Return the plan of a file, changed by overrides."""
        loaded = read_experiment(text, str(self._folder.yaml), own)
        return resolve(loaded, self._folder, self._settings, self._old, spread=())[0]

    def bases(self, now: Plan) -> tuple[str, ...]:
        """Return a note if started runs keep hours of plan.json that today's evidence would not give."""
        known: dict[object, list[float]] = {}
        for run in next(reversed(self._made.values()), now).fine_tuned:
            if isinstance(run.train_seconds, Quantity):
                levels = tuple(level for level in run.levels if level.factor != SEEDS)
                known.setdefault((run.model, levels), []).append(run.train_seconds.value)
        if all(max(each) <= _SAME_BASIS * min(each) for each in known.values()):
            return ()
        return ("Started runs count the hours of plan.json. All other runs count today's evidence.",)

    def most_items(self, now: Plan) -> int | None:
        """Return the items that every run could be asked; None if the number is unknown."""
        runs = tuple(replace(run, evaluate=replace(run.evaluate, samples="all")) for run in now.runs)
        return evaluated_items(replace(now, runs=runs))

    def costs(self, now: Plan, most_items: int, on_progress: ProgressCallback | None) -> DesignCosts | Missing:
        """Return the costs by seeds and items, from plans."""
        if isinstance(now.gpu_hours, Missing):
            return now.gpu_hours
        by_seeds = {}
        for done, seeds in enumerate(PLANNED_SEEDS, 1):
            by_seeds[seeds] = self.plan(seeds, most_items)
            if on_progress is not None:
                on_progress(done, len(PLANNED_SEEDS))
        fewest = min(_FEWEST_ITEMS, most_items)
        return design_costs(by_seeds, most_items, self.plan(PLANNED_SEEDS[0], fewest), fewest)

    def changes(self, seeds: int, items: int, items_now: int) -> Mapping[str, object]:
        """Return the values of experiment.yaml that change, by dotted key."""
        numbers = seed_numbers(self._seeds, seeds)
        found: dict[str, object] = {} if numbers == tuple(self._seeds) else {"seeds": list(numbers)}
        return found if items == items_now else {**found, "evaluate.samples": items}
