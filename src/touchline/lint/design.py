"""View of the rules on an experiment's design: its file, its runs, and the facts of its datasets.

The rules themselves are in the modules `design_*` beside this one.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from touchline.backends.registry import traits_of
from touchline.backends.traits import TrainerTraits
from touchline.core.catalog import DatasetInfo
from touchline.core.finding import Location
from touchline.core.quantity import Missing
from touchline.experiment.document import Path, YamlDocument
from touchline.experiment.experiment import Experiment, TrainConfig
from touchline.experiment.runs import RunKind, RunSpec
from touchline.experiment.validate import adapter

NO_DATASET = Missing(missing="the dataset was not read")

MODEL = "models"
"""Keys of the base model in pairs and levels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFacts:
    """Facts of a dataset."""

    train: int
    """Number of training rows."""
    validation: int
    """Number of validation rows."""
    test: int
    """Number of test rows."""
    train_sha256: str
    """Hash of the training rows in their order."""
    row_set_sha256: str | Missing = NO_DATASET
    """Hash of the training rows in any order, as `row_set_sha256` computes it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DesignView:
    """View of an experiment."""

    experiment: Experiment
    document: YamlDocument
    runs: tuple[RunSpec, ...]
    """Runs; for a chain, the runs without its stages on the data of the last one."""
    datasets: Mapping[str, DatasetFacts | Missing]
    """Facts of each dataset, by its path as written."""
    chained: tuple[RunSpec, ...] = ()
    """Runs of the stages; empty if the stages are not a chain."""

    def where(self, *path: str | int) -> Location:
        """Return the location of a key."""
        return self.document.where(path)

    @property
    def trained(self) -> tuple[RunSpec, ...]:
        """Return the runs that train, without controls."""
        return tuple(run for run in self.runs if run.kind is RunKind.FINE_TUNED and run.control is None)

    def dataset(self, path: str) -> DatasetFacts | None:
        """Return the facts of a dataset. None if it was not read."""
        found = self.datasets.get(path, NO_DATASET)
        return None if isinstance(found, Missing) else found


@dataclass(frozen=True, kw_only=True, slots=True)
class SweptLevel:
    """Value of a swept key."""

    value: object
    """Value as in the file."""
    place: Path


def dataset_facts(info: DatasetInfo, row_set: str | Missing = NO_DATASET) -> DatasetFacts:
    """Collect the facts of a dataset that rules on designs need."""
    splits = {split.name: split for split in info.splits}
    sizes = {name: split.num_examples for name, split in splits.items()}
    return DatasetFacts(
        train=sizes.get("train", 0),
        validation=sizes.get("validation", 0),
        test=sizes.get("test", 0),
        train_sha256=splits["train"].sha256 if "train" in splits else "",
        row_set_sha256=row_set,
    )


def row_set_sha256(rows: Iterable[Mapping[str, object]]) -> str:
    """Hash rows so that their order does not matter; a doubled row counts twice."""
    each = sorted(hashlib.sha256(json.dumps(row, sort_keys=True, default=str).encode()).digest() for row in rows)
    return hashlib.sha256(b"".join(each)).hexdigest()


def swept(view: DesignView) -> dict[str, tuple[SweptLevel, ...]]:
    """Collect what `factors` and `pairs` vary, each level once, in order of appearance."""
    found: dict[str, list[SweptLevel]] = {}

    def add(key: str, value: object, place: Path) -> None:
        levels = found.setdefault(key, [])
        if all(_text(level.value) != _text(value) for level in levels):
            levels.append(SweptLevel(value=value, place=place))

    for key, values in view.experiment.factors.items():
        for index, value in enumerate(values):
            add(key, value, ("factors", key, index))
    for index, pair in enumerate(view.experiment.pairs):
        for key, value in pair.items():
            add(key, model_of(value) if key == MODEL else value, ("pairs", index, key))
    return {key: tuple(levels) for key, levels in found.items()}


def model_of(value: object) -> object:
    """Return the model of an entry of pairs, which may be a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def place_of(view: DesignView, key: str) -> Location:
    """Return the location of a swept key."""
    if key in view.experiment.factors:
        return view.where("factors", key)
    index = next((i for i, pair in enumerate(view.experiment.pairs) if key in pair), 0)
    return view.where("pairs", index, key)


def no_effect_on_weights(view: DesignView, key: str) -> str | None:
    """Describe what a swept key changes instead of the weights, if so in every run's backend."""
    if key.startswith("evaluate."):
        return "only the evaluation"
    effects = {traits_of(run.train.backend).neutral_effect(key) for run in view.trained}
    return next(iter(effects)) if len(effects) == 1 else None


def setting_of(run: RunSpec, key: str) -> object:
    """Return a run's value of a dotted key."""
    if key == MODEL:
        return run.model
    node: object = run
    for part in key.split("."):
        node = getattr(node, part)
    return node


def same_path(path: str) -> str:
    """Normalize a path."""
    return posixpath.normpath(path)


def work_digest(run: RunSpec, datasets: Mapping[str, DatasetFacts | Missing]) -> str:
    """Return a digest that is equal for runs that train the same weights.

    It omits names and settings that the backend does not use. Data that was read counts by its rows, other data by its
    path.
    """
    traits = traits_of(run.train.backend)
    facts = datasets.get(run.data.file, NO_DATASET)
    of_rows = run.data.as_file(same_path(run.data.file) if isinstance(facts, Missing) else facts.train_sha256)
    data = adapter(type(run.data)).dump_python(of_rows, mode="json")
    if not isinstance(facts, Missing):
        data |= {"split_seed": None, "train_fraction": None}
    identity = [run.kind, same_path(run.model), data, dict(_weights_settings(run.train, traits)), run.seed]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _weights_settings(train: TrainConfig, traits: TrainerTraits) -> Iterator[tuple[str, object]]:
    lora = train.lora
    modules = tuple(sorted(lora.target_modules))
    whole = replace(train, lora=replace(lora, alpha=lora.resolved_alpha, target_modules=modules))
    yield from _flat(adapter(TrainConfig).dump_python(whole, mode="json"), "train", traits)


def _flat(node: Mapping[str, object], prefix: str, traits: TrainerTraits) -> Iterator[tuple[str, object]]:
    for name, value in node.items():
        key = f"{prefix}.{name}"
        if traits.neutral_effect(key) is not None:
            continue
        if isinstance(value, dict):
            yield from _flat(value, key, traits)
        else:
            yield key, value


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
