"""Rules for an experiment: every run's arithmetic, the design, data, rendering and the task, on this machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from touchline.backends.local.environments import find_environment
from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import environments
from touchline.core.catalog import DatasetInfo, ModelInfo
from touchline.core.errors import TouchlineError
from touchline.core.finding import Finding, Location, Severity
from touchline.core.levels import Level
from touchline.core.quantity import Missing
from touchline.core.shape import ENDS
from touchline.data.datasets import load_examples, load_rows, split_names
from touchline.data.planned_models import shape_of_model
from touchline.data.user_config import UserConfig
from touchline.data.weights import read_shards
from touchline.estimate.gpus import Gpu
from touchline.experiment.data_config import DataConfig, is_test
from touchline.experiment.document import Path as KeyPath
from touchline.experiment.document import error
from touchline.experiment.plan import data_parallel_size
from touchline.experiment.runs import RunKind, RunSpec
from touchline.experiment.stated import SettingSource, stated_of_run
from touchline.experiment.tasks.ready_made import TASKS
from touchline.experiment.training import LORA_TARGET_MODULES, TrainConfig
from touchline.lint.design import NO_DATASET, DatasetFacts, DesignView, dataset_facts, row_set_sha256
from touchline.lint.local.audit import config_findings
from touchline.lint.local.inputs import ResolvedInputs, errors_of, labels_of_spec, of_runs
from touchline.lint.local.parity import Parity
from touchline.lint.local.scoring import task_findings
from touchline.lint.rule import check_view, is_known, retired_line
from touchline.lint.scoring import prompt_findings
from touchline.lint.training import DataFacts, ModelContext, Surroundings, TrainingView
from touchline.plan.build import data_key
from touchline.plan.local.context import free_space

_NO_CHAIN = frozenset({"EX127", "EX128"})
"""Rules on stages that cannot be trained, whatever is allowed."""
ALL_CHECKED = 200
"""Maximum number of trainings of a sweep that are checked individually."""
NOTHING_SEEN = Missing(missing="it is not on this machine")


def devices_of(seen: ResolvedInputs) -> int:
    """Return the data-parallel size of each training."""
    machine = None if seen.target is None else seen.target.machine
    return data_parallel_size(seen.loaded.experiment.compute, machine)


def _environment_findings(seen: ResolvedInputs) -> Iterator[Finding]:
    apart = environments()
    trained = (spec for spec in seen.specs if spec.kind is RunKind.FINE_TUNED)
    for name in dict.fromkeys(spec.train.backend for spec in trained if spec.train.backend in apart):
        found = find_environment(apart[name])
        if isinstance(found, Missing):
            yield Finding(
                code="BK004",
                severity=Severity.WARNING,
                subject="train.backend",
                message=f"the environment of the backend {name}: {found.missing}",
                where=seen.loaded.document.where(["train", "backend"]),
                hint=apart[name].install_command,
            )


def _codes_without_rule(seen: ResolvedInputs) -> Iterator[Finding]:
    allow = seen.loaded.experiment.allow
    where = seen.loaded.document.where(["allow"])
    for code in (code for code in allow if not is_known(code)):
        yield error("EX003", "allow", f"unknown code {code!r}", where, "touchline check --explain CODE")
    if line := retired_line(allow):
        yield Finding(code="EX003", severity=Severity.INFO, subject="allow", message=f"allow: {line}", where=where)


def launch_findings(
    seen: ResolvedInputs,
    views: Sequence[TrainingView],
    lengths: dict[tuple[str, str], ExampleLengths],
    settings: UserConfig,
    date: str,
) -> Iterator[Finding]:
    """Apply the rules: arithmetic, design, data, rendering, the task's scorer, environments of trainers."""
    yield from _codes_without_rule(seen)
    if not seen.specs:
        return
    document = seen.loaded.document
    yield from _training_findings(views, seen.specs)
    design = DesignView(
        experiment=seen.loaded.experiment,
        document=document,
        runs=seen.design,
        datasets=_dataset_facts(seen),
        chained=seen.specs if seen.specs is not seen.design else (),
    )
    for finding in check_view(design, Location(path=document.path), "design"):
        yield replace(finding, allowable=finding.code not in _NO_CHAIN)
    data: dict[str, list[RunSpec]] = {}
    for spec in seen.specs:
        if spec.data.file in seen.datasets:
            data.setdefault(data_key(spec.data), []).append(spec)
    for users in data.values():
        found = config_findings(users[0].data, seen.root, seen.loaded.experiment.task, settings.cache_dir)
        yield from of_runs(found, users)
    yield from _answer_findings(seen, {key: found for key, found in lengths.items() if found.ends is None})
    yield from _module_findings(seen)
    yield from _stage_leaks(seen)
    yield from _scorer_findings(seen)
    yield from _prompt_findings(seen)
    yield from _parity_findings(seen, lengths, settings, date)
    yield from _environment_findings(seen)


def _dataset_facts(seen: ResolvedInputs) -> dict[str, DatasetFacts | Missing]:
    experiment = seen.loaded.experiment
    key = experiment.data.file_key
    compared = key in experiment.factors or any(key in pair for pair in experiment.pairs)
    configs = {spec.data.file: spec.data for spec in seen.specs}
    found: dict[str, DatasetFacts | Missing] = {}
    for path, info in seen.datasets.items():
        sound = path in configs and not errors_of(info.findings)
        rows = row_set_sha256(load_rows(configs[path], "train", seen.root)) if compared and sound else NO_DATASET
        found[path] = dataset_facts(info, rows)
    return found


def _scorer_findings(seen: ResolvedInputs) -> Iterator[Finding]:
    experiment, checked = seen.loaded.experiment, set[str]()
    if experiment.task not in TASKS and experiment.task not in seen.tasks:
        # The lookup already reported that there is no such task.
        return
    for spec in seen.specs:
        if spec.data.file in seen.datasets and spec.data.file not in checked:
            checked.add(spec.data.file)
            labels = labels_of_spec(seen, spec)
            where = seen.loaded.document.where(["task"])
            yield from task_findings(experiment.task, spec.data, seen.root, where, labels)


def _prompt_findings(seen: ResolvedInputs) -> Iterator[Finding]:
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


def _parity_findings(
    seen: ResolvedInputs, lengths: dict[tuple[str, str], ExampleLengths], settings: UserConfig, date: str
) -> Iterator[Finding]:
    parity = Parity(settings.models_dir, date)
    groups: dict[tuple[str, str, str, int], list[RunSpec]] = {}
    for spec in seen.specs:
        if spec.kind is RunKind.FINE_TUNED and spec.data.file in seen.datasets:
            key = (spec.model, data_key(spec.data), spec.train.backend, spec.train.max_seq_len)
            groups.setdefault(key, []).append(spec)
    for users in groups.values():
        first = users[0]
        known = lengths.get((first.model, data_key(first.data)))
        longest = None if known is None else int(known.total.argmax())
        found = parity.findings(stated_of_run(first, seen.loaded.document), seen.root, first.data, longest)
        yield from of_runs(found, users)


def training_views(
    seen: ResolvedInputs, lengths: dict[tuple[str, str], ExampleLengths], around: Surroundings
) -> Iterator[TrainingView]:
    """Yield one view per training that differs in more than its seed. In a large sweep, cover every pair of levels."""
    places: dict[KeyPath, SettingSource] = {}
    models = {name: _model_facts(model) for name, model in seen.models.items()}
    devices = devices_of(seen)
    for spec in _covering([alike[0] for alike in kinds_of(seen.specs)]):
        dataset = seen.datasets.get(spec.data.file)
        yield TrainingView(
            stated=stated_of_run(spec, seen.loaded.document, places, devices),
            model=models.get(spec.model, NOTHING_SEEN),
            data=NOTHING_SEEN
            if dataset is None
            else _data_facts(dataset, lengths.get((spec.model, data_key(spec.data)))),
            around=around,
            # The plan estimates it; `planned_findings` reports it.
            has_planned_memory=True,
        )


def kinds_of(specs: Iterable[RunSpec]) -> list[list[RunSpec]]:
    """Return the runs that train, those together that differ in their seed only."""
    found: dict[tuple[str, str, TrainConfig], list[RunSpec]] = {}
    for spec in specs:
        if spec.kind is RunKind.FINE_TUNED:
            found.setdefault((spec.model, data_key(spec.data), spec.train), []).append(spec)
    return list(found.values())


def _covering(specs: Sequence[RunSpec]) -> list[RunSpec]:
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


def _training_findings(views: Iterable[TrainingView], specs: Iterable[RunSpec]) -> Iterator[Finding]:
    """Apply the rules for trainings; a finding is about all runs that differ in their seed only."""
    alike = {kind[0].name: kind for kind in kinds_of(specs)}
    for view in views:
        yield from of_runs(check_view(view, view.stated.where, view.stated.subject), alike[view.stated.subject])


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


def _model_facts(model: ModelInfo) -> ModelContext:
    return ModelContext(
        name=model.name,
        num_parameters=model.num_parameters or None,
        source=model.path,
        context_length=model.context_length if model.context_length > 1 else None,
        shape=shape_of_model(model),
        path=model.path,
    )


def _data_facts(dataset: DatasetInfo, lengths: ExampleLengths | None) -> DataFacts:
    sizes = {split.name: split.num_examples for split in dataset.splits}
    return DataFacts(
        train_examples=sizes.get("train"),
        validation_examples=sizes.get("validation"),
        lengths=None if lengths is None or lengths.ends is not None else lengths.total.astype("int64"),
        source=dataset.path,
    )


# ---- checks against this machine -------------------------------------------------------------------------------------


_SOME = 0.01
_MOST = 0.5


def _module_findings(seen: ResolvedInputs) -> Iterator[Finding]:
    """Yield `target_modules` that are not layers of the model. peft skips them, and stops if none is one.

    A default with layers that the model lacks is an error, since the user did not choose to train the rest alone.
    """
    reported: set[tuple[str, tuple[str, ...]]] = set()
    for spec in seen.specs:
        model, wanted = seen.models.get(spec.model), tuple(spec.train.lora.target_modules)
        if model is None or (spec.model, wanted) in reported or spec.kind is not RunKind.FINE_TUNED:
            continue
        if spec.train.trains_all:
            continue
        reported.add((spec.model, wanted))
        unread: list[Finding] = []
        shards = read_shards(Path(model.path), unread)
        names = {name.removesuffix(".weight") for shard in shards for name in shard.tensors}
        shape = shape_of_model(model)
        own = () if isinstance(shape, Missing) else tuple(dict.fromkeys(linear.name for linear in shape.linears))
        if own and (unread or not names):
            names = {*own, *ENDS}
        lacking = [each for each in wanted if not any(name == each or name.endswith(f".{each}") for name in names)]
        if lacking and names:
            layers = own or sorted({name.rpartition(".")[2] for name in names})
            alone = len(lacking) == len(wanted) or wanted == LORA_TARGET_MODULES
            # Other models of the experiment keep theirs.
            kept = wanted if alone and len(seen.models) > 1 else ()
            yield Finding(
                code="EX180",
                severity=Severity.ERROR if alone else Severity.WARNING,
                subject="train.lora.target_modules",
                message=f"{model.name} has no layer {' or '.join(map(repr, lacking))}",
                where=seen.loaded.document.where(["train", "lora", "target_modules"]),
                hint=f"train.lora.target_modules: [{', '.join(dict.fromkeys((*kept, *layers[:12])))}]",
            )


def _answer_findings(seen: ResolvedInputs, lengths: Mapping[tuple[str, str], ExampleLengths]) -> Iterator[Finding]:
    """Yield answers that evaluation truncates at `max_new_tokens`: of the test files, else of the training split."""
    reported: set[tuple[str, str, int]] = set()
    for spec in seen.specs:
        key, limit = (spec.model, data_key(spec.data)), spec.evaluate.max_new_tokens
        found = lengths.get(key)
        if found is None or (*key, limit) in reported or not len(found.answer):
            continue
        reported.add((*key, limit))
        what, answers = ("training" if found.of_tests is None else "test"), found.asked.answer
        # The stop token that the lengths count need not be written.
        cut = float(np.mean(answers.astype(np.int64) - 1 > limit))
        if cut > _SOME:
            yield Finding(
                code="EX181",
                severity=Severity.ERROR if cut > _MOST else Severity.WARNING,
                subject="evaluate.max_new_tokens",
                message=f"{cut:.0%} of the {what} answers are longer than max_new_tokens {limit:,}, up to"
                f" {int(answers.max()) - 1:,}",
                where=seen.loaded.document.where(["evaluate", "max_new_tokens"]),
                hint=f"max_new_tokens: {int(answers.max())}",
            )


def _stage_leaks(seen: ResolvedInputs) -> Iterator[Finding]:
    """Yield questions of a stage's test split that another stage trains on."""
    if not seen.loaded.experiment.stages:
        return
    data = {data_key(spec.data): spec.data for spec in seen.specs if spec.data.file in seen.datasets}
    trains = {key: _questions(each, ("train",), seen.root) for key, each in data.items()}
    tests = {key: _questions(each, list(filter(is_test, split_names(each))), seen.root) for key, each in data.items()}
    for (first, trained), (second, tested) in itertools.permutations(data.items(), 2):
        if trained.file == tested.file:
            continue
        known, asked = trains[first], tests[second]
        both = [question for question in asked if question in known]
        if both:
            yield Finding(
                code="EX182",
                severity=Severity.ERROR,
                subject="stages",
                message=f"{len(both):,} of the {len(asked):,} test questions of"
                f" {', '.join(tested.test_sets.values()) or tested.file} are training rows of another stage"
                f" ({trained.file}), for example {both[0][-60:]!r}",
                where=seen.loaded.document.where(["stages"]),
                hint="remove these rows from one of the two files",
            )


def _questions(data: DataConfig, splits: Sequence[str], root: Path) -> dict[str, None]:
    try:
        return {each.prompt[-1].content: None for split in splits for each in load_examples(data, split, root)}
    except TouchlineError:
        return {}
