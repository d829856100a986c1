"""Identity of plans: plan.json, digests of trainings and conditions, differences between two plans, and revisions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from enum import StrEnum

from pydantic import TypeAdapter, ValidationError

from touchline.core.catalog import DatasetInfo, ModelInfo, changed_images
from touchline.core.errors import InputError
from touchline.core.json_text import parse_json
from touchline.core.near import drop_removed
from touchline.experiment.anchors import relative_datasets
from touchline.experiment.data_config import TRAINING_KEYS, DataConfig, is_test
from touchline.experiment.plan import PLAN_SCHEMA_VERSION, Plan, PlannedRun, Revision
from touchline.experiment.read import settings_digest
from touchline.experiment.runs import ControlKind, RunKind
from touchline.experiment.settings import SETTINGS, SINCE_0_1
from touchline.experiment.training import LoraConfig, TrainConfig

_DATA = TypeAdapter(DataConfig)
_TRAIN = TypeAdapter(TrainConfig)
_LORA = TypeAdapter(LoraConfig)


def training_digest(run: PlannedRun, model: ModelInfo, dataset: DatasetInfo, parent: PlannedRun | None) -> str:
    """Return the digest of the training: equal digests mean equal training. Evaluations have digests of their own.

    The digest of a stage includes that of its parent.
    """
    identity = _settings(run, model, dataset)
    identity["seed"] = run.seed if run.kind is RunKind.FINE_TUNED else None
    identity["batches"] = None if run.batches is None else run.batches.digest
    if run.batches is not None and run.batches.data_parallel_size > 1:
        identity["data_parallel_size"] = run.batches.data_parallel_size
    if run.link is not None:
        digest = None if parent is None else parent.digest
        identity["parent"] = [digest, run.link.continue_, run.link.parent_checkpoint]
    return settings_digest(identity)


def condition_digest(plan: Plan, run: PlannedRun) -> str:
    """Return the digest of the settings of a training without its seed: runs of one condition have equal ones.

    The order of the batches follows from the seed and is left out, and so is the number of processes. Model and data
    are known by their content, so that the condition is the same in every experiment. A stage's includes that of the
    stages before it.
    """
    identity = _settings(run, plan.models[run.model], plan.datasets[run.dataset])
    if run.link is not None:
        parent = plan.run(run.link.parent)
        digest = None if parent is None else condition_digest(plan, parent)
        identity["parent"] = [digest, run.link.continue_, run.link.parent_checkpoint]
    return settings_digest(identity)


def _settings(run: PlannedRun, model: ModelInfo, dataset: DatasetInfo) -> dict[str, object]:
    """Return everything but the seed and what follows from it, or from the run's parent."""
    identity: dict[str, object] = {
        "kind": run.kind,
        "model": [model.name, *model.hashes],
        "data": [
            dataset.sha256,
            # The files may lie elsewhere: they count by their hash.
            _without_newer_defaults(json.loads(_DATA.dump_json(run.data.as_file(""))), DataConfig, "data"),
        ],
        "train": None if run.train is None else _train_identity(run.train),
    }
    if run.recipe is not None and run.train is not None:
        # The file may lie elsewhere.
        identity["train"] = _train_identity(replace(run.train, recipe=run.recipe.sha256))
    # A test file of its own is no part of a training.
    tested = () if run.data.path is not None else tuple(name for name in run.images_sha256 if is_test(name))
    if images := {name: sha256 for name, sha256 in run.images_sha256.items() if name not in tested}:
        identity["images"] = images
    if run.no_op is not None:
        identity["no_op"] = _without_newer_defaults(json.loads(_LORA.dump_json(run.no_op)), LoraConfig, "train.lora")
    if run.control is ControlKind.SHUFFLED:
        identity["labels"] = "cyclic derangement 1"
    return identity


def _train_identity(train: TrainConfig) -> dict[str, object]:
    """Return the settings of a training that its digest covers."""
    settings = _without_newer_defaults(json.loads(_TRAIN.dump_json(train)), TrainConfig, "train")
    if train.trains_all:
        del settings["lora"]
        return settings
    return settings | {
        "lora": _without_newer_defaults(json.loads(_LORA.dump_json(train.lora)), LoraConfig, "train.lora")
    }


_NEWER_KEYS = frozenset(setting.key for setting in SETTINGS if setting.since > SINCE_0_1)
"""Keys added after version 0.1.0. A default does not enter the digest, so that runs planned before keep theirs."""


def _without_newer_defaults(settings: dict[str, object], config: type, group: str) -> dict[str, object]:
    defaults = {each.name: each.default for each in fields(config)}
    newer = {key for key in settings if f"{group}.{key}" in _NEWER_KEYS}
    return {key: value for key, value in settings.items() if key not in newer or value != defaults[key]}


_ADAPTER = TypeAdapter(Plan)


def plan_to_json(plan: Plan) -> str:
    """Return the text of plan.json. Equal plans give equal text."""
    return _ADAPTER.dump_json(plan, indent=2).decode() + "\n"


def plan_from_json(text: str, path: str) -> Plan:
    """Return the plan in a text. Raises InputError: the text is no plan, or one of another schema version."""
    hint = "move it and run `touchline plan` again"
    try:
        # Once, and not a second time for its version: a thousand runs take a tenth of a second.
        try:
            plan = _ADAPTER.validate_json(text)
        except ValidationError:
            plan = _ADAPTER.validate_json(_without_removed(text))
    except ValidationError as fault:
        version = _version(text)
        if version is None:
            raise InputError(f"{path} is not a plan: not a JSON object", hint=hint) from None
        if version != PLAN_SCHEMA_VERSION:
            raise _other_version(path, version, hint) from None
        first = fault.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} is not a plan: {place}: {first['msg']}", hint=hint) from None
    if plan.schema_version != PLAN_SCHEMA_VERSION:
        raise _other_version(path, plan.schema_version, hint)
    return relative_datasets(plan)


def _without_removed(text: str) -> str:
    """Return the text of a plan of version 0.1.0, which wrote defaults too, without keys that were removed."""
    try:
        data = parse_json(text)
        for settings in (data, *data["runs"]):
            drop_removed(settings)
    except (ValueError, TypeError, KeyError, AttributeError):
        return text
    return json.dumps(data)


def _version(text: str) -> object:
    """Return the schema version in the text, or `absent`. None if the text is not a JSON object."""
    try:
        return parse_json(text).get("schema_version", "absent")
    except (ValueError, AttributeError):
        return None


def _other_version(path: str, version: object, hint: str) -> InputError:
    return InputError(f"{path} has schema version {version}", expected=f"version {PLAN_SCHEMA_VERSION}", hint=hint)


class RunMark(StrEnum):
    """Progress of a run when its experiment is planned again. What a changed run had made is moved aside."""

    DONE = "done"
    TRAINED = "trained, not evaluated"
    STARTED = "started"
    NEW = "new"
    CHANGED = "changed"
    TO_DO = "not started"


def changed_runs(old: Plan, new: Plan) -> tuple[str, ...]:
    """Return the runs of the old plan whose work differs in the new plan or is removed."""
    digests = {run.name: run.digest for run in new.runs}
    return tuple(run.name for run in old.runs if digests.get(run.name) != run.digest)


def describe_change(old: Plan, new: Plan, run: str) -> str:
    """Return what differs about a run, as text."""
    before, after = old.run(run), new.run(run)
    if before is None or after is None:
        return "no longer in the plan" if after is None else "new"
    reasons = [
        f"{name} changed"
        for name, same in (
            ("the base model", old.models[before.model] == new.models[after.model]),
            *_datasets(old.datasets[before.dataset], new.datasets[after.dataset]),
            ("data", before.data == after.data),
            ("train", before.train == after.train),
            ("the seed", before.seed == after.seed),
            ("the batches", before.batches == after.batches),
            ("the continue mode", _how(before) == _how(after)),
            (f"its parent {_parent(after) or _parent(before)}", _trained_on(old, before) == _trained_on(new, after)),
        )
        if not same
    ]
    images = changed_images(old.datasets[before.dataset].image_sha256, new.datasets[after.dataset].image_sha256)
    if images is not None:
        reasons.insert(0, f"{images} changed")
    return ", ".join(reasons) or "its digest changed"


def replanned(old: Plan, new: Plan) -> str:
    """Return why an experiment was planned again: `re-planned: now here: weights of tiny`, or what it changed."""
    arrived = []
    for name, model in new.models.items():
        before = old.models[name].absent if name in old.models else {}
        if parts := [part for part in before if part not in model.absent]:
            arrived.append(f"{', '.join(parts)} of {name}")
    if arrived or old.experiment_sha256 != new.experiment_sha256:
        return f"re-planned: now here: {'; '.join(arrived)}" if arrived else "re-planned"
    changes = dict.fromkeys(describe_change(old, new, name) for name in changed_runs(old, new))
    return f"re-planned from the same experiment.yaml: {'; '.join(changes) or 'predictions changed'}"


def _datasets(old: DatasetInfo, new: DatasetInfo) -> Iterator[tuple[str, bool]]:
    """Yield what a training reads, and whether it is the same."""
    if not old.files or not new.files:
        yield "the dataset", old.sha256 == new.sha256
        return
    before, after = ({file.key: file.sha256 for file in info.files} for info in (old, new))
    for key in TRAINING_KEYS:
        yield f"the file of {key}", before.get(key) == after.get(key)


def _parent(run: PlannedRun) -> str | None:
    return None if run.link is None else run.link.parent


def _how(run: PlannedRun) -> tuple[str, str] | None:
    return None if run.link is None else (run.link.continue_, run.link.parent_checkpoint)


def _trained_on(plan: Plan, run: PlannedRun) -> str | None:
    parent = None if run.link is None else plan.run(run.link.parent)
    return None if parent is None else parent.digest


def revise(old: Plan | None, new: Plan, *, date: str, reason: str) -> Plan:
    """Return the new plan with the old plan's history and one more entry, or the old plan if nothing changed.

    Past runs that no estimate uses change nothing, and are named in the old plan too.
    """
    if old is None:
        first = Revision(number=1, date=date, reason=reason, runs=tuple(run.name for run in new.runs))
        return replace(new, revisions=(first,))
    same = replace(new, revisions=old.revisions, touchline_version=old.touchline_version)
    if replace(old, past_runs=new.past_runs) == same:
        return same
    before = {run.name: run.digest for run in old.runs}
    after = {run.name: run.digest for run in new.runs}
    runs = tuple(name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name))
    entry = Revision(
        number=old.revisions[-1].number + 1,
        date=date,
        reason=reason,
        runs=runs,
        new=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
    )
    return replace(new, revisions=(*old.revisions, entry))
