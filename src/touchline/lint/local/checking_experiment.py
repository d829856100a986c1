"""Check of an experiment: its file, its inputs on this machine, every run's arithmetic, and the design."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from touchline.backends.local.environments import find_environment
from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import environments, refused_settings
from touchline.core.catalog import DatasetInfo, ModelInfo
from touchline.core.errors import InputError, TouchlineError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Location, Severity
from touchline.core.levels import Level
from touchline.core.machine import TargetMachine
from touchline.core.near import near_names
from touchline.core.quantity import Missing
from touchline.data.datasets import load_rows
from touchline.data.shapes import shape_of_folder
from touchline.data.user_config import UserConfig
from touchline.estimate.gpus import Gpu
from touchline.lint.checked import CheckRequest, chosen, in_order
from touchline.lint.design import NO_DATASET, DatasetFacts, DesignView, dataset_facts, row_set_sha256
from touchline.lint.local.audit import config_findings
from touchline.lint.local.checking_answers import answer_findings, module_findings, stage_leaks
from touchline.lint.local.inputs import (
    MODEL_NOT_HERE,
    ResolvedInputs,
    as_findings,
    labels_of_spec,
    lengths_of,
    resolve_inputs,
)
from touchline.lint.local.parity import Parity
from touchline.lint.local.scoring import task_findings
from touchline.lint.rule import check_view
from touchline.lint.rule_pages import is_known
from touchline.lint.task_files import prompt_findings
from touchline.lint.views import DataFacts, ModelContext, Surroundings, TrainingView
from touchline.plan.build import data_key
from touchline.plan.dtypes import dtype_findings
from touchline.plan.local.context import free_space
from touchline.plan.memory_findings import memory_findings
from touchline.spec.bounds import SIZE_LIMIT_BYTES
from touchline.spec.document import Path as KeyPath
from touchline.spec.experiment import TrainConfig, with_fields
from touchline.spec.plan import PlannedRun, data_parallel_size
from touchline.spec.read import LoadedExperiment, read_experiment
from touchline.spec.runs import RunKind, RunSpec
from touchline.spec.stated import SettingSource, stated_of_run
from touchline.spec.tasks.ready_made import TASKS

_DIGITS = re.compile(r"\d+")
_NEAR_NAME = 0.8

ALL_CHECKED = 200
"""Maximum number of trainings of a sweep that are checked individually."""
NOTHING_SEEN = Missing(missing="it is not on this machine")


@dataclass(kw_only=True, slots=True)
class CheckedExperiment:
    """Results for an experiment."""

    findings: list[Finding] = field(default_factory=list)
    """Findings of the check."""
    views: list[TrainingView] = field(default_factory=list)
    """Trainings, one of each kind."""
    seen: ResolvedInputs | None = None
    """Its resolved inputs; None if the file itself is invalid."""


def check_experiment(yaml: Path, settings: UserConfig, gpu: str, date: str) -> CheckedExperiment:
    """Check an experiment's file and its inputs. Inputs that are not on this machine are reported as not checked.

    Args:
        yaml: experiment.yaml.
        settings: the folders of models and caches.
        gpu: the GPU to check for instead of `compute.gpu`; `auto`: as the experiment says.
        date: ISO date for templates that print one.
    """
    found = CheckedExperiment()
    try:
        loaded = read_experiment(read_text_bounded(yaml, SIZE_LIMIT_BYTES), str(yaml))
        if gpu != "auto":
            compute = replace(loaded.experiment.compute, gpu=gpu)
            loaded = replace(loaded, experiment=with_fields(loaded.experiment, compute=compute))
        seen = resolve_inputs(loaded, yaml.parent, settings, {}, only_checked=True)
    except InputError as fault:
        found.findings += as_findings(fault, "EX003", Location(path=str(yaml)))
        return found
    found.seen = seen
    found.findings += [
        _not_checked(finding, settings.models_dir) if finding.code == MODEL_NOT_HERE else finding
        for finding in seen.findings
    ]
    lengths: dict[tuple[str, str], ExampleLengths] = {}
    if not seen.errors:
        try:
            lengths = lengths_of(seen, settings, date)
        except TouchlineError as fault:
            found.findings += fault.findings
    found.views = list(training_views(seen, lengths, surroundings_of(seen)))
    allow = CheckRequest(allow=loaded.experiment.allow)
    found.findings += unknown_codes(seen)
    found.findings += chosen(launch_findings(seen, found.views, lengths, settings, date), allow)
    found.findings += _backend_findings(seen)
    found.findings += chosen(_environment_findings(seen), allow)
    return found


def _backend_findings(seen: ResolvedInputs) -> Iterator[Finding]:
    """Check what the backends do not support."""
    devices = _devices(seen)
    for spec in _distinct(seen.specs):
        model = seen.models.get(spec.model)
        if model is None:
            continue
        try:
            faults = refused_settings(model, spec.train, devices)
        except InputError as fault:
            faults = tuple(as_findings(fault, "BK001", None))
        for problem in faults:
            yield replace(problem, where=problem.where or seen.loaded.document.where(problem.subject.split(".")))


def _devices(seen: ResolvedInputs) -> int:
    machine = None if seen.target is None else seen.target.machine
    return data_parallel_size(seen.loaded.experiment.compute, machine)


def _environment_findings(seen: ResolvedInputs) -> Iterator[Finding]:
    """Check that trainers that live apart are on this machine. A plan does not need them."""
    apart = environments()
    trained = (spec for spec in seen.specs if spec.kind is RunKind.FINE_TUNED)
    for name in dict.fromkeys(spec.train.backend for spec in trained if spec.train.backend in apart):
        found = find_environment(apart[name])
        if isinstance(found, Missing):
            yield Finding(
                code="BK004",
                severity=Severity.ERROR,
                subject="train.backend",
                message=f"the environment of the backend {name}: {found.missing}",
                where=seen.loaded.document.where(["train", "backend"]),
                hint=apart[name].install_command,
            )


def checked_for_launch(
    seen: ResolvedInputs, lengths: dict[tuple[str, str], ExampleLengths], settings: UserConfig, date: str
) -> list[Finding]:
    """Collect findings against launching a readable experiment, without those it allows."""
    experiment = seen.loaded.experiment
    views = [
        # The plan estimates their memory itself; `planned_findings` reports it.
        replace(view, has_planned_memory=True)
        for view in training_views(seen, lengths, surroundings_of(seen))
    ]
    found = [*unknown_codes(seen), *launch_findings(seen, views, lengths, settings, date)]
    return in_order(chosen(found, CheckRequest(allow=experiment.allow)))


def planned_findings(runs: Sequence[PlannedRun], machine: TargetMachine, loaded: LoadedExperiment) -> list[Finding]:
    """Return the findings on planned runs that have not started, those that their experiment allows as information."""
    found = (*memory_findings(runs, machine.name), *dtype_findings(runs, machine))
    located = (replace(each, where=loaded.document.where(each.subject.split("."))) for each in found)
    return in_order(chosen(located, CheckRequest(allow=loaded.experiment.allow)))


def unknown_codes(seen: ResolvedInputs) -> Iterator[Finding]:
    """Yield codes under `allow` that no check has."""
    for code in seen.loaded.experiment.allow:
        if not is_known(code):
            where = seen.loaded.document.where(["allow"])
            message = f"unknown code {code!r}"
            hint = "touchline check --explain CODE"
            yield Finding(
                code="EX003", severity=Severity.ERROR, subject="allow", message=message, where=where, hint=hint
            )


def launch_findings(
    seen: ResolvedInputs,
    views: Sequence[TrainingView],
    lengths: dict[tuple[str, str], ExampleLengths],
    settings: UserConfig,
    date: str,
) -> Iterator[Finding]:
    """Run the checks that `plan` and `run` share: arithmetic, design, data, rendering, the task's scorer.

    Args:
        seen: the experiment and what is here of it.
        views: its trainings.
        lengths: token lengths of its training examples, if known.
        settings: where models and caches are.
        date: ISO date for templates that print one.
    """
    document = seen.loaded.document
    yield from training_findings(views)
    design = DesignView(
        experiment=seen.loaded.experiment,
        document=document,
        runs=seen.design,
        datasets=_dataset_facts(seen),
        chained=seen.specs if seen.specs is not seen.design else (),
    )
    yield from check_view(design, Location(path=document.path), "design")
    data = {data_key(spec.data): spec.data for spec in seen.specs if spec.data.path in seen.datasets}
    for each in data.values():
        yield from config_findings(each, seen.root, seen.loaded.experiment.task, settings.cache_dir)
    yield from answer_findings(seen, lengths)
    yield from module_findings(seen)
    yield from stage_leaks(seen)
    yield from _scorer_findings(seen)
    yield from _prompt_findings(seen)
    yield from _parity_findings(seen, settings, date)


def _dataset_facts(seen: ResolvedInputs) -> dict[str, DatasetFacts | Missing]:
    """Collect each dataset's facts; where files are compared, also a hash of their rows in any order."""
    experiment = seen.loaded.experiment
    compared = "data.path" in experiment.factors or any("data.path" in pair for pair in experiment.pairs)
    configs = {spec.data.path: spec.data for spec in seen.specs}
    found: dict[str, DatasetFacts | Missing] = {}
    for path, info in seen.datasets.items():
        sound = path in configs and not any(_is_error(finding) for finding in info.findings)
        rows = row_set_sha256(load_rows(configs[path], "train", seen.root)) if compared and sound else NO_DATASET
        found[path] = dataset_facts(info, rows)
    return found


def _scorer_findings(seen: ResolvedInputs) -> Iterator[Finding]:
    """Yield the findings of scorers on made-up answers to the first test items of each dataset."""
    experiment, checked = seen.loaded.experiment, set[str]()
    if experiment.task not in TASKS and experiment.task not in seen.tasks:
        # The lookup already reported that there is no such task.
        return
    for spec in seen.specs:
        if spec.data.path in seen.datasets and spec.data.path not in checked:
            checked.add(spec.data.path)
            labels = labels_of_spec(seen, spec)
            where = seen.loaded.document.where(["task"])
            yield from task_findings(experiment.task, spec.data, seen.root, where, labels)


def _prompt_findings(seen: ResolvedInputs) -> Iterator[Finding]:
    """Find what the tasks ask otherwise than training, for each kind of data."""
    own, document = seen.loaded.experiment.task, seen.loaded.document
    distinct: list[Finding] = []
    for spec in seen.specs:
        if spec.kind is not RunKind.FINE_TUNED:
            continue
        for name, task in seen.tasks.items():
            if name != own and name not in spec.evaluate.tasks:
                continue
            labels = labels_of_spec(seen, spec)
            where = document.where(["task"] if name == own else ["evaluate", "tasks"])
            found = prompt_findings(task, spec.data, where, is_own=name == own, labels=labels)
            distinct += [each for each in found if each not in distinct]
    yield from distinct


def _parity_findings(seen: ResolvedInputs, settings: UserConfig, date: str) -> Iterator[Finding]:
    """Yield differences between training's and evaluation's rendering, of every model with every dataset."""
    parity = Parity(settings.models_dir, date)
    checked: set[tuple[str, str, str, int]] = set()
    for spec in seen.specs:
        key = (spec.model, data_key(spec.data), spec.train.backend, spec.train.max_seq_len)
        if spec.kind is not RunKind.FINE_TUNED or key in checked or spec.data.path not in seen.datasets:
            continue
        checked.add(key)
        yield from parity.findings(stated_of_run(spec, seen.loaded.document), seen.root, spec.data)


def _is_error(finding: Finding) -> bool:
    return finding.severity is Severity.ERROR


def training_views(
    seen: ResolvedInputs, lengths: dict[tuple[str, str], ExampleLengths], around: Surroundings
) -> Iterator[TrainingView]:
    """Yield one view per training that differs in more than its seed. In a large sweep, cover every pair of levels."""
    places: dict[KeyPath, SettingSource] = {}
    models = {name: _model_facts(model) for name, model in seen.models.items()}
    devices = _devices(seen)
    for spec in covering(_distinct(seen.specs)):
        dataset = seen.datasets.get(spec.data.path)
        yield TrainingView(
            stated=stated_of_run(spec, seen.loaded.document, places, devices),
            model=models.get(spec.model, NOTHING_SEEN),
            data=NOTHING_SEEN
            if dataset is None
            else _data_facts(dataset, lengths.get((spec.model, data_key(spec.data)))),
            around=around,
        )


def _distinct(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """Return the runs that train, one of those that differ in their seed only."""
    found: dict[tuple[str, str, TrainConfig], RunSpec] = {}
    for spec in specs:
        if spec.kind is RunKind.FINE_TUNED:
            found.setdefault((spec.model, data_key(spec.data), spec.train), spec)
    return list(found.values())


def covering(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Return all of a few runs. Of many, return some that cover every pair of levels of two factors.

    A rule reads two or three settings of a training, so a sweep of thousands has few kinds of findings.
    """
    if len(specs) <= ALL_CHECKED:
        return list(specs)
    kept: list[RunSpec] = []
    covered: set[tuple[Level, Level]] = set()
    for spec in specs:
        pairs = set(itertools.combinations_with_replacement(spec.levels, 2))
        if not pairs <= covered:
            covered |= pairs
            kept.append(spec)
    return kept


def training_findings(views: Iterable[TrainingView]) -> Iterator[Finding]:
    """Apply the rules for trainings; `chosen` removes what several runs share."""
    for view in views:
        yield from check_view(view, view.stated.where, view.stated.subject)


def surroundings_of(seen: ResolvedInputs) -> Surroundings:
    """Return the machine that an experiment is for; unknown if nothing names it."""
    if seen.target is None:
        return Surroundings()
    machine, found = seen.target.machine, seen.target.gpu
    free = free_space(seen.root)
    return Surroundings(
        gpu=found if isinstance(found, Gpu) else None,
        gpu_count=max(seen.loaded.experiment.compute.gpus, 1) if machine.kind == "gpu" else None,
        cpus=None,
        free_disk_bytes=None if isinstance(free, Missing) else int(free.value * 1e6),
        source=machine.source,
    )


def _not_checked(finding: Finding, models_dir: Path) -> Finding:
    """Report a model that is not here as one for another machine, unless a model with a similar name is here."""
    name = finding.subject
    try:
        here = [path.name for path in models_dir.iterdir() if path.is_dir()]
    except OSError:
        here = []
    near = near_names(name, here, most=1, cutoff=_NEAR_NAME)
    same = bool(near) and _DIGITS.findall(near[0]) == _DIGITS.findall(name)
    message = f"not checked ({finding.message})"
    if same:
        return replace(finding, severity=Severity.WARNING, message=message, hint=f"did you mean {near[0]}?")
    return replace(finding, severity=Severity.INFO, message=message)


def _model_facts(model: ModelInfo) -> ModelContext:
    return ModelContext(
        name=model.name,
        num_parameters=model.num_parameters or None,
        source=model.path,
        context_length=model.context_length if model.context_length > 1 else None,
        shape=shape_of_folder(Path(model.path)),
        path=model.path,
    )


def _data_facts(dataset: DatasetInfo, lengths: ExampleLengths | None) -> DataFacts:
    sizes = {split.name: split.num_examples for split in dataset.splits}
    return DataFacts(
        train_examples=sizes.get("train"),
        validation_examples=sizes.get("validation"),
        lengths=None if lengths is None else lengths.total.astype("int64"),
        source=dataset.path,
    )
