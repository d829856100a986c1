"""Checks of a plan on disk before work on it starts: edits by the user, changed inputs, models that have arrived."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from touchline.core.catalog import DatasetInfo, ImageHashes, ModelInfo, changed_images
from touchline.core.errors import FindingsError, HostError, InputError, PlanDriftError, error_count, quoted
from touchline.core.files import read_text_bounded
from touchline.core.finding import Severity
from touchline.data.planned_models import load_planned_model, other_shape
from touchline.data.public import how_to_get
from touchline.data.user_config import UserConfig
from touchline.experiment.document import SIZE_LIMIT_BYTES
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.read import ONE_FOR_ALL, LoadedExperiment, one_for_all, read_settings
from touchline.experiment.validate import with_settings
from touchline.lint.local.inputs import ResolvedInputs, errors_of, images_of_runs
from touchline.plan.build import data_key
from touchline.plan.settings import flat_settings
from touchline.run.folders import ExperimentFolder
from touchline.run.loaded_plan import LoadedPlan
from touchline.run.planning import accepted_settings, commit_plan, decided_runs, resolve
from touchline.run.recorded import file_changes, plan_command, read_file, read_recorded, refuse_other_machine


def downloads(plan: Plan) -> str:
    """Return the commands that download the models of a plan that were not all here; empty if all were."""
    absent = (model for model in plan.models.values() if model.absent)
    return "; ".join(how_to_get(model.name, Path(model.path).parent) for model in absent)


def refuse_absent(plan: Plan, folder: ExperimentFolder) -> None:
    """Refuse to start runs, or to write their files, before the models of their plan are here.

    These files hold the hashes of weights and tokenizer, by which a job refuses others.

    Raises:
        HostError: a part of a model was not here; with the command that downloads it.
    """
    absent = [model for model in plan.models.values() if model.absent]
    if not absent:
        return
    again = "then rerun this command"
    if any("tokenizer" in model.absent for model in absent):
        again = f"then `{plan_command(folder, plan.overrides)}` to count the tokens again, then rerun this command"
    parts = (f"{', '.join(model.absent)} of {model.name}" for model in absent)
    raise HostError(
        f"planned without its files: {', '.join(parts)}",
        expected="complete models, because run files contain the hashes of weights and tokenizers",
        hint=f"{downloads(plan)}, {again}",
    )


def refuse_other_shapes(folder: ExperimentFolder, plan: Plan, settings: UserConfig) -> None:
    """Refuse models that have another shape than was planned before they were here.

    Raises:
        PlanDriftError: one has.
    """
    others = [
        f"{planned.name}: {differs}"
        for planned, now in _now(plan, settings)
        # Planning reports a folder with errors, such as half of the weights.
        if not any(each.severity is Severity.ERROR for each in now.findings)
        and (differs := other_shape(planned, now)) is not None
    ]
    if others:
        raise PlanDriftError(
            f"a model has a different shape than planned: {', '.join(others)}",
            expected="the model that was planned",
            hint=f"restore the planned model, or plan this one: {plan_command(folder, plan.overrides)}",
        )


def with_arrivals(planned: LoadedPlan, settings: UserConfig) -> LoadedPlan:
    """Return a plan with the weights that were not here when it was made, as a recorded revision.

    Raises:
        HostError: a part of a model is still not here.
        PlanDriftError: weights have another shape than planned, or a tokenizer is here that did not count the tokens.
    """
    folder, old = planned.folder, planned.plan
    arrived = {now.name: now for _, now in _now(old, settings)}
    if not arrived:
        return planned
    refuse_other_shapes(folder, old, settings)
    counted = [name for name, now in arrived.items() if "tokenizer" in old.models[name].absent and not now.absent]
    if counted:
        raise PlanDriftError(
            f"the tokenizer of {' and '.join(counted)} is here now, but the plan's token counts are not from it",
            expected="a plan with the models' own tokenizers",
            hint=plan_command(folder, old.overrides),
        )
    new, notes = resolve(read_recorded(folder, old), folder, settings, old)
    refuse_absent(new, folder)
    return commit_plan(folder, old, new, accept=False, dry_run=False, notes=notes)


def _now(plan: Plan, settings: UserConfig) -> Iterator[tuple[ModelInfo, ModelInfo]]:
    """Yield each model that was not all here when it was planned, as planned and as it is now."""
    for model in plan.models.values():
        if model.absent:
            here = model.path if Path(model.path).is_dir() else model.name
            yield model, load_planned_model(here, settings.models_dir)


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

    planned_runs = {run.name: run for run in plan_.runs}
    decided = Decided(date=plan_.date, accepted=accepted_settings(plan_), started=planned_runs)
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
    changed += [f"the model {name!r}" for name in _changed_models(old, seen)]
    if changed:
        raise PlanDriftError(
            f"{' and '.join(changed)} changed since planning",
            expected="the planned content",
            hint=plan_command(planned.folder, old.overrides),
        )


def _hashes(datasets: Iterable[DatasetInfo]) -> dict[str, str]:
    return {file.path: file.sha256 for info in datasets for file in info.all_files}


def _changed_models(old: Plan, seen: ResolvedInputs) -> Iterator[str]:
    """Yield the models of which a part has another hash than planned. One that was not here then is no change."""
    for now in seen.models.values():
        planned = () if now.name not in old.models else zip(old.models[now.name].hashes, now.hashes, strict=True)
        if any(before is not None and after is not None and before != after for before, after in planned):
            yield now.name


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
    new, notes = resolve(loaded, folder, settings, old, accepting={name: accepted})
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
