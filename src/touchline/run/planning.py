"""Planning, step by step: inputs on disk, the file's settings, changes since the last plan, and the user's edits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.callbacks import ProgressCallback
from touchline.core.catalog import DatasetInfo, ImageHashes, ModelInfo, changed_images
from touchline.core.clock import today
from touchline.core.errors import FindingsError, InputError, PlanDriftError, error_count, quoted
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Severity
from touchline.core.quantity import Quantity
from touchline.core.table import Section
from touchline.data.evaluations import is_current, read_evaluations
from touchline.data.user_config import UserConfig
from touchline.experiment.document import SIZE_LIMIT_BYTES
from touchline.experiment.evaluation import decoding_text
from touchline.experiment.overlay import with_settings
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.read import ONE_FOR_ALL, LoadedExperiment, one_for_all, read_settings
from touchline.lint.local.inputs import ResolvedInputs, errors_of, images_of_runs
from touchline.plan.build import data_key
from touchline.plan.conditions import short_size
from touchline.plan.drift import RunMark, changed_runs, describe_change, replanned, revise
from touchline.plan.local.context import free_space
from touchline.plan.screen import WIDTH, screen_lines
from touchline.plan.sections import runs_plan_markdown
from touchline.plan.settings_table import flat_settings
from touchline.run.folders import ExperimentFolder
from touchline.run.marks import run_marks
from touchline.run.plan_inputs import decided_by, decided_runs, refuse_other_slots
from touchline.run.recorded import file_changes, plan_command, read_file, read_recorded, refuse_other_machine
from touchline.run.scripts.folder import evaluation_config
from touchline.statistics.spread_types import SpreadInput

if TYPE_CHECKING:
    from touchline.lint.local.planned_experiment import Decided, PlannedExperiment


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedPlan:
    """A plan and where it lies."""

    plan: Plan
    folder: ExperimentFolder
    changed: bool
    """Whether files were written."""
    notes: tuple[str, ...] = ()
    """Notes for the user: files that were left as edited, folders that the plan no longer has."""
    edited: tuple[str, ...] = ()
    """Notes on those of runs, which are executed as they are."""
    findings: tuple[Finding, ...] | None = None
    """Findings that are not errors; None of a plan that was only read."""
    marks: Mapping[str, RunMark] = field(default_factory=dict)
    """How far each run is; empty for a first plan."""
    changes: tuple[str, ...] = ()
    """Settings that differ from the plan before, with their sources, and what plans as before."""

    @property
    def warnings(self) -> list[str]:
        """Return warnings and ignored errors, one line each."""
        return [
            f"{'' if each.where is None else f'{each.where}: '}{each.code} {each.message}"
            for each in self.findings or ()
            if each.severity is Severity.WARNING or each.allowed
        ]

    def screen(self, width: int = WIDTH) -> str:
        """Return the first screen, as `touchline plan` prints it."""
        return "\n".join(screen_lines(self.plan, marks=self.marks, findings=self.findings, width=width))

    def __repr__(self) -> str:
        return self.screen()

    def _repr_html_(self) -> str:
        from touchline.core.html import notebook_html

        screen = Section(title="", blocks=(("", self.screen()),), lines=self.notes)
        return notebook_html(f"Plan of {self.plan.experiment}", [screen], str(self.folder.plan_json))


def _left_behind(folder: ExperimentFolder, plan_: Plan) -> Iterator[str]:
    """Yield a note on folders of runs that the plan no longer has."""
    names = folder.leftovers([run.name for run in plan_.runs])
    if names:
        yield (
            f"no longer in the plan, folder{'s' if len(names) > 1 else ''} kept and not reported: "
            f"{', '.join(names)} (delete by hand, or restore the levels)"
        )


def resolve(
    loaded: LoadedExperiment,
    folder: ExperimentFolder,
    settings: UserConfig,
    old: Plan | None,
    accepted: dict[str, dict[str, object]],
    on_progress: ProgressCallback | None = None,
    *,
    pinned: Collection[str] = (),
    spread: tuple[SpreadInput, ...] | None = None,
    refuses_memory: bool = True,
) -> tuple[Plan, tuple[str | Finding, ...]]:
    """Return the plan of an experiment in its folder, with notes and findings; see `plan_in_folder`."""
    decided = decided_by(folder, old, accepted, pinned=pinned, spread=spread)
    found = plan_in_folder(loaded, folder, settings, old, decided, on_progress, refuses_memory=refuses_memory)
    assert found.plan is not None
    return found.plan, (*found.findings, *found.plan.kept_evaluations, *_short_of_space(found.plan, folder))


def plan_in_folder(
    loaded: LoadedExperiment,
    folder: ExperimentFolder,
    settings: UserConfig,
    old: Plan | None,
    decided: Decided,
    on_progress: ProgressCallback | None = None,
    *,
    refuses_memory: bool = True,
) -> PlannedExperiment:
    """Plan an experiment; report all errors of models, data and combinations together.

    Runs that have started, wait in a queue or are pinned keep what was `decided` for them. Without `refuses_memory`,
    runs that are predicted not to fit are planned too.

    Raises:
        InputError: with every error.
        FindingsError: a run is predicted to run out of memory.
    """
    # The rules load when something is planned, and not with every command.
    from touchline.lint.local.planned_experiment import plan_experiment

    if old is not None and decided.slots is not None:
        refuse_other_slots(old, loaded.experiment)
    found = plan_experiment(loaded, folder.root, settings, decided, on_progress, judges_memory=refuses_memory)
    found.refuse()
    assert found.plan is not None
    kept_evaluations = tuple(_kept_evaluations(found.plan, folder))
    found.plan = replace(found.plan, kept_evaluations=kept_evaluations, file_settings=loaded.document.data)
    return found


def _kept_evaluations(plan_: Plan, folder: ExperimentFolder) -> Iterator[str]:
    """Announce which evaluations will be made again by other settings or not at all, and that the earlier ones stay."""
    earlier: dict[tuple[str, str, str | None], int] = {}
    for run_ in plan_.runs:
        if not folder.has_evaluations(run_.name):
            continue
        config = evaluation_config(plan_, run_)
        asked = {config.label_of(task) for task in (None, *config.tasks)}
        for record in read_evaluations(folder.run(run_.name)):
            if not is_current(record, config, record.adapter_sha256):
                now = decoding_text(run_.evaluate) if record.label in asked else None
                key = (record.label, record.decoding, now)
                earlier[key] = earlier.get(key, 0) + 1
    for (task, before, now), number in earlier.items():
        count = "1 evaluation" if number == 1 else f"{number} evaluations"
        if now is None:
            stay = "stays" if number == 1 else "stay"
            yield f"{count} on {task}, no longer in the plan, {stay} with logs and scores"
            continue
        yield (
            f"{count} on {task} with other settings ({before}) stay{'s' if number == 1 else ''} with logs and "
            f"scores. Comparisons use only the new settings ({now})"
        )


def _refuse_memory(plan_: Plan, loaded: LoadedExperiment, started: Collection[str]) -> None:
    """Refuse planned jobs that are predicted to run out of memory; those that have `started` are left out.

    Raises:
        FindingsError: with every error.
    """
    from touchline.lint.local.planned_experiment import planned_findings

    found = planned_findings([run for run in plan_.runs if run.name not in started], plan_.machine, loaded)
    if errors := errors_of(found):
        raise FindingsError(
            error_count(loaded.document.path, errors),
            findings=errors,
            hint=f"touchline check --explain {errors[0].code} (`touchline plan` takes --allow {errors[0].code})",
        )


def refuse_findings(planned: LoadedPlan, settings: UserConfig, *, approved: bool = False) -> None:
    """Check a planned experiment once more: data and models may have changed since, and rules may know more.

    An `approved` plan whose file was edited since is not checked: the approval is of the plan.

    Raises:
        InputError: with every error.
        FindingsError: a run that has not started is predicted to run out of memory.
        PlanDriftError: the file, a dataset or a model is no longer what was planned.
    """
    folder, plan_ = planned.folder, planned.plan
    refuse_other_machine(folder, plan_, settings)
    is_edited = approved and file_changes(folder, plan_) is not None
    loaded = read_file(folder, plan_.overrides) if is_edited else read_recorded(folder, plan_)
    _refuse_memory(plan_, loaded, decided_runs(plan_, folder, folder.queued()))
    if is_edited:
        return
    from touchline.lint.local.planned_experiment import Decided, check_inputs

    accepted = {run.name: run.accepted for run in plan_.runs if run.accepted}
    planned_runs = {run.name: run for run in plan_.runs}
    decided = Decided(date=plan_.date, accepted=accepted, started=planned_runs)
    found = check_inputs(loaded, folder.root, settings, decided)
    if all(error.allowable for error in errors_of(found.findings)):
        _refuse_changes(planned, found.seen, images_of_runs(found.seen, found.seen.specs, settings))
    found.refuse()


def _refuse_changes(planned: LoadedPlan, seen: ResolvedInputs, images: Mapping[str, ImageHashes]) -> None:
    """Refuse changes to started runs. The training would detect other data or models only after its
    time in the queue.
    """
    old = planned.plan
    before, now_here = _hashes(old.datasets.values()), _hashes(seen.datasets.values())
    changed = [f"the dataset {path!r}" for path, sha256 in now_here.items() if before.get(path, sha256) != sha256]
    changed += dict.fromkeys(
        f"the {found}"
        for spec in seen.specs
        if (hashes := images.get(data_key(spec.data))) is not None
        and (info := old.datasets.get(seen.datasets[spec.data.file].path)) is not None
        and (found := changed_images(info.image_sha256, hashes.files)) is not None
    )
    changed += [
        f"the task {task.name!r}"
        for task in old.tasks
        if task.name in seen.tasks and seen.tasks[task.name].code_sha256 != task.code_sha256
    ]
    changed += dict.fromkeys(
        f"the recipe {run.recipe.path!r}"
        for run in old.runs
        if run.recipe is not None
        and run.train is not None
        and (recipe := seen.recipes.get(run.train.recipe or "")) is not None
        and recipe.sha256 != run.recipe.sha256
    )
    changed += [f"the model {name!r}" for name, info, now in _models(old, seen) if _is_changed(info, now)]
    if changed:
        raise PlanDriftError(
            f"{' and '.join(changed)} changed since planning",
            expected="the planned content",
            hint=plan_command(planned.folder, old.overrides),
        )


def _hashes(datasets: Iterable[DatasetInfo]) -> dict[str, str]:
    """Return the hash of every file of datasets, by its path."""
    return {file.path: file.sha256 for info in datasets for file in info.all_files}


def _models(old: Plan, seen: ResolvedInputs) -> Iterator[tuple[str, ModelInfo, ModelInfo]]:
    """Yield the name of each model with how it was planned and how it is now."""
    for now in seen.models.values():
        if (info := old.models.get(now.name)) is not None:
            yield now.name, info, now


def _is_changed(planned: ModelInfo, now: ModelInfo) -> bool:
    """Return whether a part of a model has another hash than planned. One that was not here then is no change."""
    pairs = zip(planned.hashes, now.hashes, strict=True)
    return any(before is not None and after is not None and before != after for before, after in pairs)


def _short_of_space(plan_: Plan, folder: ExperimentFolder) -> Iterator[str]:
    """Yield a note where the disk has less room than the runs may need; it is not part of the plan."""
    free, needed = free_space(folder.root), plan_.disk
    if isinstance(free, Quantity) and isinstance(needed, Quantity) and (needed.high or needed.value) > free.value:
        most = replace(needed, value=needed.high or needed.value)
        yield (
            f"the runs need up to {short_size(most)}, but {str(folder.root)!r} has {short_size(free)} free: "
            "set train.checkpoint.keep"
        )


def commit_plan(
    folder: ExperimentFolder,
    old: Plan | None,
    new: Plan,
    *,
    accept: bool,
    dry_run: bool,
    reason: str = "",
    notes: Sequence[str | Finding],
    over: Collection[str] = (),
) -> LoadedPlan:
    """Refuse drift, or record it; then write. A dry run says why the plan would be refused, and writes nothing.

    Of runs that are `over`, nothing that is in a queue matters any more.
    """
    drifted = _drifted(folder, old, new, over)
    findings = tuple(each for each in notes if isinstance(each, Finding))
    try:
        refuse_drift(folder, old, new, accept=accept, over=over)
    except PlanDriftError as error:
        if not dry_run:
            raise
        notes = (*notes, f"without --dry-run this plan is an error: {error.message} ({error.hint})")
    if old is not None and all(folder.has_started(run.name) for run in new.runs if run.train is not None):
        # No estimate was made again, so that runs found since then say nothing of it.
        new = replace(new, past_runs=old.past_runs)
    new = replace(new, override_dates=_override_dates(old, new))
    plan_ = revise(old, new, date=today(), reason=reason or ("planned" if old is None else replanned(old, new)))
    changed = False
    if not dry_run:
        for name in drifted:
            folder.supersede(name)
        changed = folder.write_plan(plan_, runs_plan_markdown(plan_, findings))
    said = (*(each for each in notes if isinstance(each, str)), *_left_behind(folder, plan_))
    gone = folder.gone([run.name for run in plan_.runs])
    said += tuple(f"the folder of {name} is gone, with its results: the run starts again" for name in gone)
    marks = run_marks(folder, old, plan_, [] if old is None else changed_runs(old, plan_))
    return LoadedPlan(plan=plan_, folder=folder, changed=changed, notes=said, findings=findings, marks=marks)


def _override_dates(old: Plan | None, new: Plan) -> dict[str, str]:
    """Return the date of each override: that of the plan before if it had it, else today."""
    before = {} if old is None else dict.fromkeys(old.overrides, "") | old.override_dates
    dates = {override: before.get(override, today()) for override in new.overrides}
    return {override: date for override, date in dates.items() if date}


def _drifted(folder: ExperimentFolder, old: Plan | None, new: Plan, over: Collection[str]) -> list[str]:
    """Return the queued or started runs that a new plan changes."""
    queued = folder.queued() - set(over)
    changed = () if old is None else changed_runs(old, new)
    return [name for name in changed if new.run(name) and (name in queued or folder.has_started(name))]


def refuse_drift(
    folder: ExperimentFolder, old: Plan | None, new: Plan, *, accept: bool, over: Collection[str] = ()
) -> None:
    """Refuse a plan that changes queued runs, started runs unless `accept`, or a design whose strategy has begun.

    Raises:
        PlanDriftError: it does; with what changes and what to type.
    """
    folder.refuse_other_design(old, new)
    drifted = _drifted(folder, old, new, over)
    if waiting := sorted(set(drifted).intersection(folder.queued() - set(over))):
        raise PlanDriftError(
            f"the plan changes runs that are queued or running: {', '.join(waiting)}",
            expected="none of them in a queue",
            hint=f"touchline cancel {quoted(str(folder.root))} --run {waiting[0]}, then touchline status "
            f"{quoted(str(folder.root))}",
        )
    if drifted and old is not None and not accept:
        what = "; ".join(f"{name}: {describe_change(old, new, name)}" for name in drifted)
        raise PlanDriftError(
            f"the plan changes runs that have already started: {what}",
            expected="unchanged inputs of the plan",
            hint="undo the change, or keep it and move their results aside: "
            + plan_command(folder, new.overrides, "--accept"),
        )


def accept_edits(planned: LoadedPlan, settings: UserConfig, name: str) -> LoadedPlan:
    """Plan one run again with the settings in its folder; only that run changes."""
    folder, old = planned.folder, planned.plan
    path = folder.run(name) / "setup_finetune.yaml"
    document, edited = read_settings(read_text_bounded(path, SIZE_LIMIT_BYTES), str(path))
    run_ = old.run(name)
    if run_ is None or run_.train is None:
        raise InputError(f"{name} is a control without training", hint=plan_command(folder, (), "--accept"))
    now = flat_settings(run_)
    edits = {key: value for key, value in edited.items() if now.get(key) != value}
    if shared := [one_for_all(key, document.where(key.split("."))) for key in edits if key in ONE_FOR_ALL]:
        raise InputError(error_count(str(path), shared), findings=shared)
    accepted = {**run_.accepted, **edits}
    loaded = read_recorded(folder, old)
    _, faults = with_settings(
        loaded.experiment, {key: value for key, value in accepted.items() if key != "seed"}, document
    )
    if faults:
        places = [replace(fault, where=document.where(fault.subject.split("."))) for fault in faults]
        raise InputError(error_count(str(path), places), findings=places)
    others = {run.name: run.accepted for run in old.runs if run.accepted}
    new, notes = resolve(loaded, folder, settings, old, {**others, name: accepted})
    levels = [level.factor for level in run_.levels]
    for key in edits:
        if key in levels or (key == "train.lora.rank" and f"rank{now[key]}" in name.split("_")):
            raise InputError(
                f"{name} is named and reported as {key}: {now[key]}, the edit is {edits[key]}",
                expected="an edit of a setting that its name does not state",
                hint=f"add {edits[key]} to {key} in experiment.yaml: it is a run of its own",
            )
    changes = ", ".join(f"{key}={value}" for key, value in accepted.items())
    return commit_plan(
        folder, old, new, accept=True, dry_run=False, reason=f"accepted for {name}: {changes}", notes=notes
    )


def refuse_edits(planned: LoadedPlan, run_: PlannedRun) -> None:
    """Refuse to launch an edited plan, because its numbers would be wrong."""
    path = planned.folder.run(run_.name) / "setup_finetune.yaml"
    if run_.train is None or not path.exists() or planned.folder.is_as_written(run_.name, path.name):
        # A file as written is at most that of an earlier plan, and is written again.
        return
    _, edited = read_settings(read_text_bounded(path, SIZE_LIMIT_BYTES), str(path))
    now = flat_settings(run_)
    changed = sorted(key for key in {*edited, *now} if edited.get(key) != now.get(key))
    if changed:
        raise PlanDriftError(
            f"{str(path)!r} differs from the plan in {', '.join(changed)}",
            expected="the planned settings, or an accepted change",
            hint=f"touchline prepare {quoted(str(planned.folder.root))} --run {run_.name} --accept",
        )


def read_planned(source: Path) -> LoadedPlan:
    """Read the plan on disk.

    Args:
        source: experiment.yaml or its folder.

    Raises:
        InputError: there is none.
    """
    folder = ExperimentFolder(source)
    return LoadedPlan(plan=folder.planned(), folder=folder, changed=False)


def read_started(source: Path) -> LoadedPlan:
    """Read the plan on disk with only the runs that its strategy has made active: those to list and to report.

    Raises:
        InputError: there is none.
    """
    folder = ExperimentFolder(source)
    return LoadedPlan(plan=folder.started_plan(), folder=folder, changed=False)
