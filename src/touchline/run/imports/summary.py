"""cruijff_kit's experiment_summary.yaml: its runs as trainings, with the settings that all of them share.

Source: its template and its script for runs, setup_finetune.py (0.3.4).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from touchline.backends.formats import ConfigFormat, ConfigReading
from touchline.backends.import_carrier import Carrier, left_over
from touchline.backends.import_training import carry_training
from touchline.backends.imports import Carried, ImportedTraining, ImportTable, NotCarried, Note, Places, Reason
from touchline.backends.registry import backend_names, config_formats, import_table
from touchline.core.errors import InputError
from touchline.core.finding import Location
from touchline.core.text import one_line
from touchline.experiment.document import Key
from touchline.experiment.foreign import ForeignDocument, parse_foreign
from touchline.experiment.partial import Stated
from touchline.experiment.tasks.ready_made import TASKS
from touchline.run.imports.names import FIELDS, TABLE, train_by_names
from touchline.run.imports.sources import source_fault

_NAMES: Mapping[str, str] = {"lora_alpha": "alpha", "dataset_path": "data"}
"""Names of parameters that its script for runs has no default for, with the setting of each."""
_OF_RUNS = frozenset({"model", "model_path", "alpha", "validation_fraction", "eval_cadence"})
"""Fields that its runs state themselves, or that follow from others."""
_TEXTS = {"prompt": "data.prompt", "system_prompt": "data.system"}
_AUTOMATIC = Reason.AUTOMATIC
_NO = Reason.NO_COUNTERPART
_GENERATED = Note(_NO, "data is not generated while planning", "generate the file, and name it in data.path")
_COMPUTED = Note(_AUTOMATIC, "time, memory and GPUs are estimated", "the plan shows them")
_NOTES: Mapping[str, Note] = {
    "experiment.*": Note(_NO, "no key holds it; it stays as a comment"),
    "tools.*": Note(_AUTOMATIC, "train.backend names the trainer; evaluation is by Inspect"),
    "variables.*": Note(_AUTOMATIC, "the runs hold these values"),
    "controls.dataset_type": Note(Reason.CHANGED, "the model's own chat template decides", "data.prompt, data.system"),
    "controls.validation_during_training": Note(_AUTOMATIC, "validation is at each epoch's end"),
    "models.base.*.size_gb": Note(_AUTOMATIC, "sizes are read from the model's files"),
    "models.*": Note(_AUTOMATIC, "models are named by the runs"),
    "data.training.*": Note(_AUTOMATIC, "read from the file itself"),
    "data.data_generation*": _GENERATED,
    "output.wandb_project": Note(_AUTOMATIC, "`touchline export` sends metrics to a tracker"),
    "runs.*.name": Note(_AUTOMATIC, "runs are named after their factors", "run_names sets a pattern"),
    "runs.*.compute*": _COMPUTED,
    "runs.*.slurm_overrides*": Note(_NO, "one machine for all runs", "compute.partition, compute.constraint"),
    "runs.*.training_condition": _GENERATED,
    "evaluation.compute*": _COMPUTED,
    "evaluation.max_connections": Note(_AUTOMATIC, "batches are as large as memory takes", "evaluate.batch_size"),
    "evaluation.system_prompt": Note(_AUTOMATIC, "training and evaluation share data.system"),
    "evaluation.scorers*": Note(Reason.CHANGED, "the task brings its scorers", "task: names one"),
    "evaluation.tasks.*.name": Note(_AUTOMATIC, "the task's own name is used"),
    "evaluation.tasks.*.description": Note(_NO, "no key holds it"),
    "evaluation.tasks.*.dataset": Note(_AUTOMATIC, "the test split of data.path is asked"),
    "evaluation.tasks.*.script": Note(
        Reason.CHANGED, "its arguments are cruijff_kit's own", "task: PATH@NAME, if its function has an argument `data`"
    ),
    "evaluation.matrix.*": Note(_AUTOMATIC, "every run is evaluated"),
}
_KNOWN = (
    *("experiment", "tools", "variables", "controls", "models", "data", "output", "runs", "evaluation", "skills_used"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Experiment of a summary."""

    trainings: tuple[ImportedTraining, ...]
    """Its fine-tuned runs."""
    data: dict[str, object]
    """Keys of experiment.yaml that all runs share."""
    left: tuple[NotCarried, ...]
    """What no run carries over."""
    notes: tuple[str, ...] = field(default=())
    """What the user should know."""


def read_summary(document: ForeignDocument, places: Places) -> Summary:
    """Return the experiment of a summary.

    Raises:
        InputError: it has no run that is trained.
    """
    backend = document.get("tools", "preparation")
    backend = backend if isinstance(backend, str) and backend in backend_names() else ""
    carrier = Carrier(document)
    runs = document.get("runs")
    trainings: list[ImportedTraining] = []
    controls = 0
    for index, run in enumerate(runs if isinstance(runs, list) else []):
        kind = run.get("type") if isinstance(run, dict) else None
        if kind == "fine-tuned":
            trainings.append(_training(document, index, backend, places))
        elif kind == "control":
            controls += 1
            carrier.seen |= {f"runs.{index}.type", f"runs.{index}.model", f"runs.{index}.parameters"}
        elif isinstance(run, dict):
            stated = Stated(kind, f"runs.{index}", document.where("runs", index))
            carrier.leave(stated, Note(_NO, "a run without training", "only runs of the experiment are evaluated"))
    if not trainings:
        message = "has no run of `type: fine-tuned`, so there is nothing to train"
        finding = [source_fault(_path(document), message, document.where("runs"))]
        raise InputError("the source cannot be imported", expected="runs with a type", findings=finding)
    data = _shared(carrier)
    if controls:
        data["controls"] = ["base"]
    data |= _evaluation(carrier, trainings)
    seen = frozenset(carrier.seen).union(*(each.seen for each in trainings))
    seen |= {f"controls.{name}" for name in _shadowed(document)}
    rest = left_over(document, ConfigReading(trainings=()), _table(document, 0), seen)
    return Summary(trainings=tuple(trainings), data=data, left=(*carrier.left, *rest))


def _path(document: ForeignDocument) -> Path:
    return Path(document.path)


def _table(document: ForeignDocument, index: int) -> ImportTable:
    """Return the table of a run: its own prompt goes before that of all runs."""
    keys: dict[str, str] = {}
    for name, key in _TEXTS.items():
        own = ("runs", index, "parameters", name)
        path: tuple[Key, ...] = own if document.get(*own) is not None else ("controls", name)
        if isinstance(document.get(*path), str) and document.get(*path):
            keys[".".join(map(str, path))] = key
    same: dict[str, tuple[object, ...]] = {
        "controls.system_prompt": ("",),
        "controls.dataset_type": ("chat_completion",),
        "controls.validation_during_training": (True,),
        "data.training.format": ("json",),
        "evaluation.system_prompt": (document.get("controls", "system_prompt"),),
        f"runs.{index}.type": ("fine-tuned",),
    }
    knows = frozenset(_KNOWN)
    table = import_table(_script().name) or TABLE
    return replace(
        table, columns=None, keys=keys, same=same, notes=_NOTES, knows=lambda key: key.partition(".")[0] in knows
    )


def _training(document: ForeignDocument, index: int, backend: str, places: Places) -> ImportedTraining:
    """Return a fine-tuned run: its parameters, else the settings of all runs, else the script's defaults."""
    paths: dict[str, tuple[Key, ...]] = {}
    if document.get("data", "training", "path") is not None:
        paths["data"] = ("data", "training", "path")
    for group in (("controls",), ("runs", index, "parameters")):
        for name, setting in _names().items():
            if document.get(*group, name) is not None:
                paths[setting] = (*group, name)
    if document.get("runs", index, "dataset_path") is not None:
        paths["data"] = ("runs", index, "dataset_path")
    where = Location(path=document.path)
    fixed: dict[str, Any] = {
        field: replace(each, where=where) for field, each in _defaults().items() if field not in paths
    }
    model = document.stated("runs", index, "model")
    if model is not None and isinstance(model.value, str):
        fixed["model"] = Stated(_model_path(document, model.value), model.key, model.where)
    stated = train_by_names(document, paths, backend=backend, **fixed)
    own_name = document.get("runs", index, "name")
    training = carry_training(
        own_name if isinstance(own_name, str) else f"run {index + 1}",
        document,
        ConfigReading(trainings=(stated,)),
        _table(document, index),
        places,
    )
    return replace(training, backend=backend or None)


def _model_path(document: ForeignDocument, name: str) -> str:
    """Return the folder that the summary gives for a model's name."""
    models = document.get("models", "base")
    for model in models if isinstance(models, list) else []:
        if isinstance(model, dict) and model.get("name") == name and isinstance(model.get("path"), str):
            return str(model["path"])
    return name


def _shadowed(document: ForeignDocument) -> set[str]:
    """Return settings of all runs that every trained run has a value of its own for."""
    runs = document.get("runs")
    trained = [
        run.get("parameters")
        for run in (runs if isinstance(runs, list) else [])
        if isinstance(run, dict) and run.get("type") == "fine-tuned"
    ]
    known = (*_names(), *_TEXTS)
    return {name for name in known if all(isinstance(own, dict) and own.get(name) is not None for own in trained)}


def _script() -> ConfigFormat:
    """Return the format of its script's own settings file, whose defaults hold where a summary has no value."""
    return next(each for each in config_formats() if each.name.endswith("_setup"))


@functools.cache
def _defaults() -> Mapping[str, Stated[Any]]:
    """Return the script's defaults by field."""
    script = _script()
    (stated,) = script.read(parse_foreign("{}", "", script.dialect)).trainings
    found = {each.name: getattr(stated, each.name) for each in fields(stated) if each.name not in _OF_RUNS}
    return {name: each for name, each in found.items() if isinstance(each, Stated)}


@functools.cache
def _names() -> Mapping[str, str]:
    """Return the fields by the names of their parameters."""
    return {**{each.key: field for field, each in _defaults().items() if field in FIELDS}, **_NAMES}


def _shared(carrier: Carrier) -> dict[str, object]:
    """Return name, question and task."""
    document = carrier.document
    data: dict[str, object] = {}
    for key, to in (("name", "name"), ("question", "question")):
        stated = document.stated("experiment", key)
        if stated is not None and isinstance(stated.value, str):
            data[to] = " ".join(one_line(stated.value).split())
            carrier.same(stated)
    project = document.stated("experiment", "project")
    if project is not None and isinstance(project.value, str) and project.value in TASKS:
        data["task"] = project.value
        carrier.same(project)
    return data


def _evaluation(carrier: Carrier, trainings: list[ImportedTraining]) -> dict[str, object]:
    """Return the settings of the evaluation."""
    document = carrier.document
    found: dict[str, object] = {}
    draws = document.get("evaluation", "do_sample") is True
    for name, key in (("max_tokens", "max_new_tokens"), ("temperature", "temperature"), ("seed", "seed")):
        stated = document.stated("evaluation", name)
        if stated is None:
            continue
        if name != "max_tokens" and not draws:
            carrier.leave(stated, Note(Reason.OFF, "decoding is greedy without do_sample"))
        elif carrier.carry(f"evaluate.{key}", stated):
            found[key] = carrier.settings[f"evaluate.{key}"].value
    carrier.seen.add("evaluation.do_sample")
    epochs = _epochs(carrier, trainings)
    if epochs is not None:
        found["epochs"] = epochs
    return {"evaluate": found} if found else {}


def _epochs(carrier: Carrier, trainings: list[ImportedTraining]) -> object:
    """Return the epochs that all trained runs are evaluated at."""
    document = carrier.document
    matrix = document.get("evaluation", "matrix")
    names = {each.name for each in trainings}
    wanted: list[list[object]] = []
    for index, entry in enumerate(matrix if isinstance(matrix, list) else []):
        epochs = entry.get("epochs") if isinstance(entry, dict) else None
        if isinstance(entry, dict) and str(entry.get("run")) in names and isinstance(epochs, list):
            wanted.append(epochs)
            carrier.seen.add(f"evaluation.matrix.{index}.epochs")
    if not wanted or any(epochs != wanted[0] for epochs in wanted) or not wanted[0]:
        for index in range(len(wanted)):
            carrier.seen.discard(f"evaluation.matrix.{index}.epochs")
        return None
    lengths = {_value(each, "train.epochs") for each in trainings}
    if len(lengths) == 1:
        (length,) = lengths
        if wanted[0] == [int(str(length)) - 1]:
            return "last"
        if wanted[0] == list(range(int(str(length)))):
            return "all"
    return wanted[0] if all(isinstance(epoch, int) and epoch >= 0 for epoch in wanted[0]) else None


def _value(training: ImportedTraining, key: str) -> object:
    found: Carried | None = training.settings.get(key)
    return 1 if found is None else found.value
