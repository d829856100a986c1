"""A DesignView from the text of an experiment and of its data files, without a disk."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from ruamel.yaml import YAML
from tests.faults.case import base
from tests.faults.experiment_files import experiment_files

from touchline.core.catalog import DatasetInfo, SplitInfo
from touchline.core.finding import Finding, Location
from touchline.core.quantity import Missing
from touchline.experiment.expand import expand
from touchline.experiment.experiment import with_fields
from touchline.experiment.names import label_of
from touchline.experiment.read import read_experiment
from touchline.experiment.stages import chain_faults
from touchline.experiment.tasks.ready_made import split_sizes
from touchline.experiment.write import to_yaml
from touchline.lint.design import DatasetFacts, DesignView, dataset_facts, row_set_sha256
from touchline.lint.rule import check_view


def view_of(text: str, *, with_data: bool = True) -> DesignView:
    loaded = read_experiment(text, "experiment.yaml")
    experiment = loaded.experiment
    models = [*experiment.models]
    for pair in experiment.pairs:
        if "models" in pair:
            models += [pair["models"]] if isinstance(pair["models"], str) else list(pair["models"])  # type: ignore[call-overload]
    labels = {model: label_of(model) for model in models}
    runs = expand(with_fields(experiment, stages=()), labels, loaded.document)
    paths = {run.data.path for run in runs} | {str(s.data["path"]) for s in experiment.stages if "path" in s.data}
    chained = () if chain_faults(experiment, loaded.document) else expand(experiment, labels, loaded.document)
    nothing = Missing(missing="not here")
    return DesignView(
        experiment=experiment,
        document=loaded.document,
        runs=runs,
        datasets={path: facts_of(path.removeprefix("./")) if with_data else nothing for path in paths},
        chained=chained if experiment.stages else (),
    )


@cache
def facts_of(path: str) -> DatasetFacts | Missing:
    text = experiment_files().get(path)
    if text is None:
        return Missing(missing="not here")
    data = json.loads(text)
    made = isinstance(data, list)
    if made:
        train, validation, _ = split_sizes(len(data), 0.8)
        data = {
            "train": data[:train],
            "validation": data[train : train + validation],
            "test": data[train + validation :],
        }
    info = DatasetInfo(
        path=path,
        format="json",
        size_bytes=len(text),
        sha256="",
        splits=tuple(SplitInfo(name=name, num_examples=len(rows), sha256=repr(rows)) for name, rows in data.items()),
        split_origin="random" if made else "in the file",
    )
    return dataset_facts(info, row_set_sha256(data["train"]))


def findings_of(text: str, *, with_data: bool = True) -> list[Finding]:
    return list(check_view(view_of(text, with_data=with_data), Location(path="experiment.yaml"), "experiment.yaml"))


def merged(lines: str, kind: str = "experiment") -> str:
    """The base of a kind with lines merged into it: mappings key by key, all else replaced."""
    reader = YAML(typ="safe", pure=True)
    whole: Any = reader.load(base(kind))
    return to_yaml(_merge(whole, reader.load(lines) or {}))


def _merge(whole: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(whole)
    for key, value in change.items():
        inner = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = _merge(found[key], value) if inner else value
    return found
