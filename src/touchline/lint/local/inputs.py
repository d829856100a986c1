"""Inputs of an experiment on this machine: models, datasets, runs, token lengths, and their problems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import get_backend
from touchline.core.callbacks import ProgressCallback
from touchline.core.catalog import DatasetInfo, ImageHashes, ModelInfo
from touchline.core.errors import InputError, TouchlineError
from touchline.core.finding import Finding, Location, Severity
from touchline.data.datasets import cluster_faults, load_dataset
from touchline.data.planned_models import load_planned_model
from touchline.data.resolving import image_hashes, label_set, shown_example, with_columns
from touchline.data.task_files import is_task_file, resolve_task
from touchline.data.user_config import UserConfig
from touchline.experiment.anchors import portable_dataset, portable_path
from touchline.experiment.data_config import DataConfig
from touchline.experiment.document import error
from touchline.experiment.evaluation import EvaluationTask, LabelSet, labels_of
from touchline.experiment.expand import expand
from touchline.experiment.experiment import task_file_stem, with_fields
from touchline.experiment.names import ModelLabel, label_of
from touchline.experiment.plan import PlannedRun, RecipeFile, ShownExample, data_parallel_size
from touchline.experiment.read import LoadedExperiment
from touchline.experiment.runs import RunKind, RunSpec
from touchline.experiment.stages import chain_faults, stage_experiment
from touchline.experiment.stated import places_of_run
from touchline.experiment.tasks.protocol import EXACT_MATCH, Task
from touchline.experiment.tasks.ready_made import TASKS, get_task
from touchline.experiment.validate import with_settings
from touchline.lint.local.run_files import findings_of_files, place_of_data, read_recipe
from touchline.plan.build import data_key
from touchline.plan.local.lengths import training_lengths
from touchline.plan.local.target import (
    Target,
    compiler_findings,
    device_findings,
    kernel_findings,
    request_type,
    resolve_target,
    slot_findings,
)
from touchline.plan.run_specs import with_learning_rates

MODEL_NOT_HERE = "CK100"


@dataclass(kw_only=True, slots=True)
class ResolvedInputs:
    """Resolved inputs of an experiment."""

    loaded: LoadedExperiment
    root: Path
    task: Task
    """Ready-made task. For a task in a file it is `exact_match`, whose prompt is the input alone."""
    specs: tuple[RunSpec, ...] = ()
    """Runs, one per stage; empty if the design itself has errors."""
    design: tuple[RunSpec, ...] = ()
    """Runs without stages, as the rules on designs see them; the same as `specs` without stages."""
    models: dict[str, ModelInfo] = field(default_factory=dict)
    """Models on this machine, by the name in the file."""
    datasets: dict[str, DatasetInfo] = field(default_factory=dict)
    """Readable datasets, by the path in the file."""
    tasks: dict[str, EvaluationTask] = field(default_factory=dict)
    """Valid tasks by name: those of `evaluate.tasks`, and the experiment's own if it is a file."""
    recipes: dict[str, RecipeFile] = field(default_factory=dict)
    """Recipes in files, by `train.recipe`."""
    target: Target | None = None
    labels: list[LabelSet] = field(default_factory=list)
    """Labels of each dataset that is scored as a classification."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """Return the findings that stop a plan."""
        return errors_of(self.findings)

    def sound_specs(self) -> list[RunSpec]:
        """Return the runs whose task, model and dataset are here and have no errors."""
        experiment = self.loaded.experiment
        if experiment.task not in TASKS and experiment.task not in self.tasks:
            return []
        faulty = {name for finding in self.errors for name in finding.runs}
        here = (spec for spec in self.specs if spec.model in self.models and spec.data.file in self.datasets)
        return [spec for spec in here if spec.name not in faulty]


def errors_of(findings: Iterable[Finding]) -> list[Finding]:
    """Return the errors among findings."""
    return [finding for finding in findings if finding.severity is Severity.ERROR]


def resolve_inputs(
    loaded: LoadedExperiment,
    root: Path,
    settings: UserConfig,
    accepted: Mapping[str, dict[str, object]],
    started: Mapping[str, PlannedRun],
) -> ResolvedInputs:
    """Look up all inputs. Errors of models, data and combinations are reported together.

    Args:
        accepted: settings that the user changed in a run's folder, by run.
        started: started runs of the old plan by name, whose learning rate stays where it is left open.
    """
    experiment = loaded.experiment
    seen = ResolvedInputs(loaded=loaded, root=root, task=EXACT_MATCH)
    _see_own_task(seen)
    names = list(dict.fromkeys([*experiment.models, *(name for pair in experiment.pairs for name in _models_of(pair))]))
    absent: dict[str, Sequence[Finding]] = {}
    for name in names:
        try:
            seen.models[name] = load_planned_model(name, settings.models_dir)
        except InputError as fault:
            absent[name] = as_findings(fault, MODEL_NOT_HERE, _place_of_model(name, loaded), subject=name)
    seen.findings += _twins(seen)
    try:
        _see_runs(seen, {name: _label(seen.models.get(name), name) for name in names}, accepted, started, settings)
    except InputError as fault:
        seen.findings += as_findings(fault, "EX003", Location(path=loaded.document.path))
    for name in names:
        found = absent[name] if name in absent else seen.models[name].findings
        seen.findings += of_runs(found, [spec for spec in seen.specs if spec.model == name])
    _see_datasets(seen, settings)
    _see_target(seen, settings)
    _see_tasks(seen)
    _see_recipes(seen)
    seen.findings += _cluster_findings(seen)
    return seen


def _see_datasets(seen: ResolvedInputs, settings: UserConfig) -> None:
    known: dict[str, dict[str, str]] = {}
    for key in dict.fromkeys(data_key(spec.data) for spec in seen.specs):
        users = [spec for spec in seen.specs if data_key(spec.data) == key]
        data = users[0].data
        try:
            info = load_dataset(data, seen.root, settings.cache_dir)
        except InputError as fault:
            found: Sequence[Finding] = as_findings(fault, "DA102", place_of_data(users[0], seen.loaded))
        else:
            files = known.setdefault(data.file, data.files)
            info = replace(info, findings=tuple(findings_of_files(info, files, users, seen.loaded)))
            found = info.findings
            seen.datasets.setdefault(data.file, portable_dataset(data, info, seen.root))
        seen.findings += of_runs(found, users)


def _see_runs(
    seen: ResolvedInputs,
    labels: dict[str, ModelLabel],
    accepted: Mapping[str, dict[str, object]],
    started: Mapping[str, PlannedRun],
    settings: UserConfig,
) -> None:
    """Expand the design. Stages that are not a chain are left out, with findings that say why.

    Raises:
        InputError: combinations of levels are impossible, or accepted settings no longer fit.
    """
    loaded, experiment = seen.loaded, seen.loaded.experiment
    seen.design = _design(loaded, labels)
    faults = chain_faults(experiment, loaded.document)
    seen.findings += faults
    is_chain = bool(experiment.stages) and not faults
    specs = expand(experiment, labels, loaded.document) if is_chain else seen.design
    for spec in specs:
        try:
            get_backend(spec.train.backend)
        except InputError as fault:
            place = places_of_run(spec, loaded.document)("train.backend").where
            raise InputError(fault.message, findings=as_findings(fault, "EX003", place, "train.backend")) from None
    specs = _with_columns(specs, loaded, seen.root, settings)
    specs = tuple(_with_accepted(spec, accepted.get(spec.name), loaded) for spec in specs)
    _see_labels(seen, specs)
    specs = tuple(_with_prompt(spec, seen) for spec in specs)
    seen.specs = with_learning_rates(specs, seen.models, started)
    seen.design = with_learning_rates(seen.design, seen.models, {}) if experiment.stages else seen.specs


def of_runs(findings: Iterable[Finding], specs: Iterable[RunSpec]) -> list[Finding]:
    """Return findings that are about some runs."""
    names = tuple(spec.name for spec in specs)
    return [replace(finding, runs=names) for finding in findings]


def _place_of_model(name: str, loaded: LoadedExperiment) -> Location:
    """Return the place of a model's name: in the list of models, or in the first pair that has it."""
    models, document = loaded.experiment.models, loaded.document
    if name in models:
        return document.where(["models", models.index(name)])
    pairs = (index for index, pair in enumerate(loaded.experiment.pairs) if name in _models_of(pair))
    return document.where(["pairs", next(pairs), "models"])


def _see_target(seen: ResolvedInputs, settings: UserConfig) -> None:
    compute, document = seen.loaded.experiment.compute, seen.loaded.document
    try:
        seen.target = resolve_target(compute, settings.slurm)
    except InputError as fault:
        key = "gpu" if compute.gpu.lower() != "auto" else "executor"
        seen.findings += as_findings(fault, "EX003", document.where(["compute", key]))
    trainings = [spec.train for spec in seen.specs if spec.kind is RunKind.FINE_TUNED]
    trainers = [train.backend for train in trainings]
    machine = None if seen.target is None else seen.target.machine
    if seen.target is not None:
        seen.target, found = request_type(seen.target, compute, settings.slurm, document.where(["compute", "gpu"]))
        seen.findings += found
    seen.findings += device_findings(compute, trainers, machine, document.where(["compute", "gpus_per_run"]))
    seen.findings += slot_findings(compute, machine, document.where(["compute", "slots"]))
    seen.findings += kernel_findings(trainings, compute, machine, document.where(["train"]))
    seen.findings += compiler_findings(trainings, compute, machine, document.where(["train"]))


def _with_columns(
    specs: tuple[RunSpec, ...], loaded: LoadedExperiment, root: Path, settings: UserConfig
) -> tuple[RunSpec, ...]:
    """Return the runs with derived names for unnamed dataset columns."""
    known: dict[DataConfig, DataConfig] = {}
    for spec in specs:
        if spec.data not in known:
            known[spec.data] = with_columns(spec.data, loaded.given, root, settings.cache_dir)
    return tuple(replace(spec, data=known[spec.data]) for spec in specs)


def examples_of(seen: ResolvedInputs, specs: Iterable[RunSpec], date: str) -> tuple[ShownExample, ...]:
    """Return one rendered training row per dataset, columns and prompt, by the first model that trains on it."""
    found: dict[str, ShownExample] = {}
    for spec in specs:
        model = seen.models[spec.model]
        if "tokenizer" in model.absent:
            continue
        if spec.kind is RunKind.FINE_TUNED and spec.control is None and data_key(spec.data) not in found:
            found[data_key(spec.data)] = shown_example(model, spec.data, seen.root, date, spec.evaluate.cluster)
    return tuple(found.values())


def _see_tasks(seen: ResolvedInputs) -> None:
    document, own = seen.loaded.document, seen.tasks.get(seen.loaded.experiment.task)
    named = [spec for spec in seen.specs if isinstance(spec.data.test, dict)]
    if named and own is not None and not own.takes_data:
        message = f"{own.name} has its own items, so the test sets {', '.join(named[0].data.test_sets)} are not used"
        hint = "give its function an argument `data`, the path of a set's items, or name no sets with `test: FILE`"
        seen.findings += of_runs([error("EX015", "task", message, document.where(["task"]), hint)], named)
    for name in dict.fromkeys(name for spec in seen.specs for name in spec.evaluate.tasks):
        where = document.where(["evaluate", "tasks"])
        try:
            if task_file_stem(name) == task_file_stem(seen.loaded.experiment.task):
                raise InputError(f"the task {name!r} is the experiment's own already", expected="only further tasks")
            seen.tasks[name] = _portable(resolve_task(name, seen.root), seen.root)
        except InputError as fault:
            seen.findings += as_findings(fault, "EX015", where, "evaluate.tasks")


def _see_recipes(seen: ResolvedInputs) -> None:
    machine = None if seen.target is None else seen.target.machine
    devices = data_parallel_size(seen.loaded.experiment.compute, machine)
    kinds: dict[tuple[object, ...], list[RunSpec]] = {}
    for spec in seen.specs:
        if spec.kind is RunKind.FINE_TUNED and spec.train.recipe is not None:
            key = (spec.train.recipe, spec.train.backend, spec.train.validate_every_steps, spec.data.file)
            kinds.setdefault(key, []).append(spec)
    for specs in kinds.values():
        first = specs[0]
        where = places_of_run(first, seen.loaded.document)("train.recipe").where
        try:
            recipe, found = read_recipe(first.train, seen.root, seen.datasets.get(first.data.file), devices)
        except InputError as fault:
            recipe, found = None, as_findings(fault, "BK001", where, subject="train.recipe")
        if recipe is not None and first.train.recipe is not None:
            seen.recipes[first.train.recipe] = recipe
        seen.findings += of_runs([replace(finding, where=where) for finding in found], specs)


def _see_own_task(seen: ResolvedInputs) -> None:
    """Resolve the experiment's own task, and the metric that is named; a file is read, and not run."""
    experiment, document = seen.loaded.experiment, seen.loaded.document
    name = experiment.task
    try:
        if is_task_file(name):
            seen.tasks[name] = _portable(resolve_task(name, seen.root), seen.root)
        else:
            seen.task = get_task(name)
    except InputError as fault:
        seen.findings += as_findings(fault, "EX015", document.where(["task"]), "task")
        return
    if not is_task_file(name):
        try:
            seen.task.metric(experiment.evaluate.metric)
        except InputError as fault:
            seen.findings += as_findings(fault, "EX015", document.where(["evaluate", "metric"]))


def _see_labels(seen: ResolvedInputs, specs: Sequence[RunSpec]) -> None:
    own, checked = seen.loaded.experiment.task, set[tuple[object, ...]]()
    for spec in specs:
        names = (own, *spec.evaluate.tasks)
        if not any(name in TASKS and TASKS[name].with_labels is not None for name in names):
            continue
        data = spec.data
        key = (replace(data, prompt=None), spec.evaluate.labels)
        if key in checked:
            continue
        checked.add(key)
        try:
            found, findings = label_set(data, seen.root, spec.evaluate.labels)
        except TouchlineError:
            # The dataset lookup reports problems of the data.
            continue
        if found is not None:
            found = replace(found, dataset=portable_path(data.file, found.dataset, seen.root))
            seen.labels += [] if found in seen.labels else [found]
        seen.findings += [finding for finding in findings if finding not in seen.findings]


def labels_of_spec(seen: ResolvedInputs, spec: RunSpec) -> tuple[str, ...]:
    """Return the labels that a run is scored on; none if its dataset has no labels."""
    found = str((seen.root / Path(spec.data.file).expanduser()).resolve())
    return labels_of(seen.labels, portable_path(spec.data.file, found, seen.root), spec.data, spec.evaluate)


def _portable(task: EvaluationTask, root: Path) -> EvaluationTask:
    if task.file is None:
        return task
    here = root.resolve()
    modules = {portable_path(path, path, here): sha256 for path, sha256 in task.modules.items()}
    return replace(task, file=portable_path(task.file, task.file, here), modules=modules)


def _cluster_findings(seen: ResolvedInputs) -> list[Finding]:
    """Return findings for columns of `evaluate.cluster` that the datasets lack. An evaluation would fail after the
    training.
    """
    found: list[Finding] = []
    for spec in seen.specs:
        if spec.evaluate.cluster is not None and spec.data.file in seen.datasets:
            faults = cluster_faults(spec.data, seen.root, spec.evaluate.cluster)
            found += [problem for problem in faults if problem not in found]
    return found


def _design(loaded: LoadedExperiment, labels: dict[str, ModelLabel]) -> tuple[RunSpec, ...]:
    """Return the runs without stages, on the data of the last stage, as they are evaluated."""
    experiment = loaded.experiment
    if experiment.stages:
        # An impossible stage was already reported when the file was read.
        last = stage_experiment(experiment, experiment.stages[-1], loaded.document)
        experiment = with_fields(experiment, stages=(), data=last.data)
    return expand(experiment, labels, loaded.document)


def images_of_runs(seen: ResolvedInputs, specs: Iterable[RunSpec], settings: UserConfig) -> dict[str, ImageHashes]:
    """Return the hashes of the images of each dataset with its columns, by `data_key`; cached on disk."""
    found: dict[str, ImageHashes] = {}
    for spec in specs:
        if seen.datasets[spec.data.file].images and data_key(spec.data) not in found:
            found[data_key(spec.data)] = image_hashes(spec.data, seen.root, settings.cache_dir)
    return found


def see_lengths(
    seen: ResolvedInputs, settings: UserConfig, date: str, on_progress: ProgressCallback | None = None
) -> dict[tuple[str, str], ExampleLengths]:
    """Return token lengths of the training split for every used model and dataset without errors, cached on disk.

    Test sets that have files of their own count too: what is asked there may be longer than what is trained.

    Args:
        seen: the experiment; errors of the rows are added to its findings.
    """
    found: dict[tuple[str, str], ExampleLengths] = {}
    groups: dict[tuple[str, str], list[RunSpec]] = {}
    for spec in seen.sound_specs():
        groups.setdefault((spec.model, data_key(spec.data)), []).append(spec)
    for key, users in groups.items():
        model, data = seen.models[key[0]], users[0].data
        try:
            found[key] = training_lengths(model, data, seen.root, date, settings, on_progress)
        except InputError as fault:
            place = place_of_data(users[0], seen.loaded)
            seen.findings += of_runs(as_findings(fault, "DA102", place), users)
    return found


def as_findings(fault: InputError, code: str, where: Location | None, subject: str = "") -> list[Finding]:
    """Return an error's findings, or the error as one, located in experiment.yaml if it has no location."""
    if fault.findings:
        return [replace(finding, where=finding.where or where) for finding in fault.findings]
    message = fault.message if fault.expected is None else f"{fault.message}, expected {fault.expected}"
    return [Finding(code=code, severity=Severity.ERROR, subject=subject, message=message, where=where, hint=fault.hint)]


def _twins(seen: ResolvedInputs) -> list[Finding]:
    found: list[Finding] = []
    models, document = seen.models, seen.loaded.document
    for name, model in models.items():
        twin = next((n for n, other in models.items() if other.name == model.name and other.path != model.path), None)
        if twin is not None and name > twin:
            message = f"models {twin!r} and {name!r} are two folders of the same name"
            hint = "rename one of them, or link to it under another name"
            found.append(error("EX009", "models", message, document.where(["models"]), hint))
    return found


def _models_of(pair: Mapping[str, object]) -> list[str]:
    models = pair.get("models", [])
    return [models] if isinstance(models, str) else [str(name) for name in models] if isinstance(models, list) else []


def _label(model: ModelInfo | None, name: str) -> ModelLabel:
    if model is None:
        return label_of(name)
    return ModelLabel(name=model.name, size=model.size_label, family=model.family)


def _with_accepted(spec: RunSpec, accepted: dict[str, object] | None, loaded: LoadedExperiment) -> RunSpec:
    if not accepted:
        return spec
    base = with_fields(loaded.experiment, train=spec.train, data=spec.data, evaluate=spec.evaluate)
    own, faults = with_settings(base, {k: v for k, v in accepted.items() if k != "seed"}, loaded.document)
    if own is None:
        raise InputError(f"the settings accepted for {spec.name} no longer fit", findings=faults)
    seed = int(str(accepted.get("seed", spec.seed)))
    return replace(spec, train=own.train, data=own.data, evaluate=own.evaluate, seed=seed)


def _with_prompt(spec: RunSpec, seen: ResolvedInputs) -> RunSpec:
    if spec.data.prompt is not None or spec.data.messages is not None:
        return spec
    task = seen.task
    if task.with_labels is not None:
        found = labels_of_spec(seen, spec)
        task = task.with_labels(found) if found else task
    return replace(spec, data=replace(spec.data, prompt=task.prompt))
