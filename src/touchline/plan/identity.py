"""Identity of a planned training: the digest of one run, and of its condition, which all seeds share."""

from __future__ import annotations

import json
from dataclasses import fields, replace

from pydantic import TypeAdapter

from touchline.core.catalog import DatasetInfo, ModelInfo
from touchline.experiment.experiment import DataConfig, LoraConfig, TrainConfig, is_test
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.read import settings_digest
from touchline.experiment.runs import ControlKind, RunKind
from touchline.experiment.settings import SETTINGS, SINCE_0_1

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
