"""Command `optimize`: variants that train faster, each planned, with the best one as a diff."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from touchline.core.errors import InputError
from touchline.core.files import read_text_bounded, write_atomic
from touchline.core.quantity import Missing
from touchline.data.user_config import UserConfig
from touchline.experiment.document import SIZE_LIMIT_BYTES, parse
from touchline.experiment.plan import Plan
from touchline.experiment.read import LoadedExperiment, read_experiment
from touchline.experiment.recorded import unused_override_lines
from touchline.experiment.requests import OptimiseRequest
from touchline.experiment.write import with_values
from touchline.lint.local.planned_experiment import PlannedExperiment, with_changes
from touchline.plan.build import build_plan
from touchline.plan.jobs import place_jobs
from touchline.plan.optimize import (
    Optimization,
    PlanVariant,
    changes_text,
    choose_variant,
    compare,
    list_variants,
    proposals,
    saving_proposals,
    share_proposals,
    training_seconds,
    written_value,
)
from touchline.plan.placement.placing import place
from touchline.plan.placement.problem import Placement
from touchline.run.allocation import deadline_minutes, jobs_left
from touchline.run.folders import ExperimentFolder
from touchline.run.loaded_plan import LoadedPlan
from touchline.run.planning import decided_by, plan_in_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimised:
    """Optimization with the resulting file."""

    answer: Optimization
    folder: ExperimentFolder
    diff: str
    """Unified diff of experiment.yaml with every proposal; empty if there are none."""
    text: str
    """Changed file content."""


def optimise(folder: ExperimentFolder, settings: UserConfig, request: OptimiseRequest) -> Optimised:
    """Find settings that train faster with equivalent results.

    Raises:
        InputError: the experiment has errors, or its file cannot be changed in place.
    """
    text = read_text_bounded(folder.yaml, SIZE_LIMIT_BYTES)
    planner = _Planner(folder, settings, text)
    before = planner.plan({})
    started = {run.name for run in before.runs if has_begun(folder, run.name)}
    fixed = planner.fixed
    tried, refused = planner.variants(list_variants(planner.train, fixed))
    way, notes = choose_variant(before, tried, started)
    notes = [*refused, *notes]
    found = [] if way is None else proposals(before, way)
    saving, unknown = saving_proposals(before if way is None else way.plan, fixed)
    if started and saving:
        # A run is another one with another cadence.
        unknown += [f"{each.key} stays {each.before}: {len(started)} runs have started with it" for each in saving]
        saving = []
    found += saving
    shares = list(share_proposals(before, request.cluster, settings.slurm))
    found += [share for share in shares if share.key not in fixed]
    values = {each.key: _parsed(each.after) for each in found}
    after = planner.plan(values) if values else before
    deadline = deadline_minutes(before, request.deadline_minutes)
    placed = [
        _placed(LoadedPlan(plan=plan, folder=folder, changed=False), request, settings, deadline)
        for plan in (before, after)
    ]
    changed = with_values(text, str(folder.yaml), values)
    answer = Optimization(
        experiment=before.experiment,
        proposals=tuple(found),
        runs=tuple(compare(before, after, dict.fromkeys(started, "it has started and is not changed"))),
        training_before=training_seconds(before),
        training_after=training_seconds(after),
        placement_before=placed[0][0],
        placement_after=placed[1][0],
        notes=tuple(dict.fromkeys([*notes, *unknown, *placed[0][1], *planner.notes()])),
    )
    return Optimised(answer=answer, folder=folder, diff=yaml_diff(folder, text, changed), text=changed)


def apply(optimised: Optimised) -> None:
    """Write the changed experiment.yaml; nothing is planned yet.

    Raises:
        HostError: the file cannot be written.
    """
    write_atomic(optimised.folder.yaml, optimised.text)


class _Planner:
    """Planner of the experiment with changed settings, equivalent to `touchline plan`."""

    def __init__(self, folder: ExperimentFolder, settings: UserConfig, text: str) -> None:
        self._folder, self._settings, self._text = folder, settings, text
        self._old = folder.read_plan()
        self._loaded = self._read({})
        self._found = self._planned(self._loaded)
        self.train = self._loaded.experiment.train
        experiment = self._loaded.experiment
        self.fixed = {*experiment.factors, *(key for pair in experiment.pairs for key in pair)}

    def plan(self, changes: Mapping[str, object]) -> Plan:
        found = self._planned(self._read(changes)) if changes else self._found
        assert found.plan is not None
        return found.plan

    def variants(self, changes: Iterable[Mapping[str, object]]) -> tuple[list[PlanVariant], list[str]]:
        """Plan the experiment with each of some changes of its training. Return the plans, and notes on changes that
        cannot be planned. Data, models and past runs are read once."""
        planned: list[PlanVariant] = []
        notes: list[str] = []
        for each in changes:
            try:
                inputs = with_changes(self._found, self._read(each), self._folder.root, self._settings)
                planned.append(PlanVariant(changes=each, plan=build_plan(inputs)))
            except InputError as fault:
                notes.append(f"not proposed: {changes_text(each)} ({fault.message})")
        return planned, notes

    def _planned(self, loaded: LoadedExperiment) -> PlannedExperiment:
        old, folder = self._old, self._folder
        return plan_in_folder(loaded, folder, self._settings, old, decided_by(folder, old), refuses_memory=False)

    def notes(self) -> Iterator[str]:
        settings = ("train.micro_batch", "train.packed", "train.gradient_ch", "train.checkpoint", "compute")
        for key in sorted(self.fixed):
            if key.startswith(settings):
                yield f"{key} is not changed, because the experiment varies it"
        if self._old is not None:
            yield from unused_override_lines(self._old)

    def _read(self, changes: Mapping[str, object]) -> LoadedExperiment:
        own = [f"{key}={written_value(value)}" for key, value in changes.items()]
        return read_experiment(self._text, str(self._folder.yaml), own)


def has_begun(folder: ExperimentFolder, name: str) -> bool:
    """Return True if a run has started, has been evaluated or is queued."""
    if not (folder.root / name).is_dir():
        return False
    return folder.has_started(name) or folder.has_evaluations(name) or name in folder.queued()


def _parsed(value: str) -> object:
    return parse(f"value: {value}", value).data["value"]


def _placed(
    planned: LoadedPlan, request: OptimiseRequest, settings: UserConfig, deadline: float | None
) -> tuple[Placement | Missing, list[str]]:
    """Place the remaining jobs; evaluations of unknown duration are named in notes."""
    runs = planned.plan.runs
    trainings, evaluations = jobs_left(planned)
    notes: list[str] = []
    if request.evaluation_minutes is None:
        unknown = {run.name for run in runs if run.name in evaluations and isinstance(run.evaluate_seconds, Missing)}
        if unknown:
            why = next(run.evaluate_seconds.missing for run in runs if isinstance(run.evaluate_seconds, Missing))
            notes.append(
                f"{len(unknown)} evaluations are not part of the makespan and the verdict ({why}): give their "
                "time with --evaluation-minutes N"
            )
        evaluations -= unknown
    try:
        jobs = place_jobs(
            planned.plan,
            settings.slurm,
            trainings=trainings,
            evaluations=evaluations,
            evaluation_minutes=request.evaluation_minutes,
        )
    except InputError as fault:
        return Missing(missing=fault.message), notes
    if not jobs:
        return Missing(missing="no jobs left to schedule"), notes
    return place(jobs, request.cluster, deadline_minutes=deadline), notes


def yaml_diff(folder: ExperimentFolder, before: str, after: str) -> str:
    """Return the change of an experiment.yaml as a unified diff."""
    name = folder.yaml.name
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="")
    return "".join(f"{line}\n" for line in lines)
