"""cruijff_kit's experiment_summary.yaml: its runs, with the settings that all of them share.

A run is what the kit's script setup_finetune.py (0.3.4) makes of its parameters and the settings of all runs, so each
is read as the settings file of that script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.backends.config_reading import ConfigReading
from touchline.backends.config_table import ImportedTraining, ImportTable, NotCarried, Reason
from touchline.backends.registry import backend_names, config_formats, import_table
from touchline.core.errors import InputError
from touchline.core.text import one_line
from touchline.experiment.document import Key
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import Stated, StatedSource
from touchline.experiment.tasks.ready_made import TASKS
from touchline.tools.imports.carrier import Carrier, LocalPlaces, left_over
from touchline.tools.imports.sources import source_fault
from touchline.tools.imports.training import carry_training

_KNOWN = frozenset(
    {*("experiment", "tools", "variables", "controls", "models", "data", "output", "runs", "evaluation", "skills_used")}
)
_TABLE = ImportTable(
    automatic=(
        *("tools.*", "variables.*", "models.*", "data.training.*", "output.wandb_project", "runs.*.name"),
        *("runs.*.compute*", "evaluation.compute*", "evaluation.max_connections", "evaluation.matrix.*"),
        *("controls.validation_during_training", "evaluation.tasks.*.name", "evaluation.tasks.*.dataset"),
    ),
    changed={"evaluation.scorers*": "the task brings its scorers", "evaluation.tasks.*.script": "task: names one"},
    knows=lambda key: key.partition(".")[0] in _KNOWN,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Experiment of a summary."""

    trainings: tuple[ImportedTraining, ...]
    data: dict[str, object]
    """Keys of experiment.yaml that all runs share."""
    left: tuple[NotCarried, ...]
    """What no run carries over."""


def read_summary(document: ForeignDocument, places: LocalPlaces) -> Summary:
    """Return the experiment of a summary.

    Raises:
        InputError: it has no run that is trained.
    """
    carrier = Carrier(document)
    runs = document.get("runs")
    trainings: list[ImportedTraining] = []
    controls = 0
    for index, run in enumerate(runs if isinstance(runs, list) else []):
        kind = run.get("type") if isinstance(run, dict) else None
        if kind == "fine-tuned":
            carrier.seen.add(f"runs.{index}.type")
            trainings.append(_training(document, index, places))
        elif kind == "control":
            controls += 1
            carrier.seen |= {f"runs.{index}.type", f"runs.{index}.model", f"runs.{index}.parameters"}
        elif isinstance(run, dict):
            stated = Stated(kind, f"runs.{index}", document.where("runs", index))
            carrier.leave(stated, "a run without training is not evaluated", Reason.NOT_TAKEN)
    if not trainings:
        message = "has no run of `type: fine-tuned`, so no run trains"
        finding = [source_fault(Path(document.path), message, document.where("runs"))]
        raise InputError("the source cannot be imported", expected="runs with a type", findings=finding)
    data = _shared(carrier)
    if controls:
        data["controls"] = ["base"]
    data |= _evaluation(carrier, trainings)
    seen = carrier.seen.union(*(each.seen for each in trainings))
    left = (*carrier.left, *left_over(document, ConfigReading(trainings=()), _TABLE, seen))
    return Summary(trainings=tuple(trainings), data=data, left=left)


def _training(document: ForeignDocument, index: int, places: LocalPlaces) -> ImportedTraining:
    """Return a fine-tuned run: its parameters, else the settings of all runs, else the script's defaults."""
    script = next(each for each in config_formats() if each.name.endswith("_setup"))
    table = import_table(script.name)
    assert table is not None, "its files are imported"
    origins: dict[str, tuple[Key, ...]] = {}
    for group in (("controls",), ("runs", index, "parameters")):
        values = document.get(*group)
        for name, value in values.items() if isinstance(values, dict) else ():
            if value is not None and (table.knows(name) or name == "lora_alpha"):
                origins[name] = (*group, name)
    settings = replace(
        document,
        data={name: document.get(*path) for name, path in origins.items()},
        places={(name,): document.where(*path) for name, path in origins.items()},
        doubled=(),
    )
    (stated,) = script.read(settings).trainings
    backend = document.get("tools", "preparation")
    backend = backend if isinstance(backend, str) and backend in backend_names() else None
    alpha = settings.data.get("lora_alpha")
    if isinstance(alpha, int | float):
        stated = replace(stated, alpha=Stated(float(alpha), "lora_alpha", settings.where("lora_alpha")))
    name, data = document.get("runs", index, "name"), _dataset(document, index)
    training = carry_training(
        name if isinstance(name, str) else f"run {index + 1}",
        settings,
        ConfigReading(
            trainings=(
                replace(
                    stated,
                    backend=backend or "",
                    model=_model(document, index),
                    model_path=None,
                    validation_fraction=None,
                    sources=() if data is None else (StatedSource(name=data, kind="file"),),
                ),
            )
        ),
        table,
        places,
    )
    written = {name: ".".join(map(str, path)) for name, path in origins.items()}
    return replace(
        training,
        settings={
            key: replace(each, source=" x ".join(written.get(part, part) for part in each.source.split(" x ")))
            for key, each in training.settings.items()
        },
        left=tuple(replace(each, key=written.get(each.key, each.key)) for each in training.left),
        seen=frozenset(written.get(key, key) for key in training.seen)
        | {f"controls.{name}" for name in origins if name in training.seen},
        backend=backend,
    )


def _dataset(document: ForeignDocument, index: int) -> Stated[str] | None:
    """Return the file of a run's rows: its own, or that of all runs."""
    for path in (
        ("runs", index, "dataset_path"),
        ("runs", index, "parameters", "dataset_path"),
        ("data", "training", "path"),
    ):
        found = document.stated(*path)
        if found is not None and isinstance(found.value, str) and found.value.strip():
            return Stated(found.value, found.key, found.where)
    return None


def _model(document: ForeignDocument, index: int) -> Stated[str] | None:
    """Return a run's model: the folder that the summary gives for its name, else the name."""
    named = document.stated("runs", index, "model")
    if named is None or not isinstance(named.value, str):
        return None
    models = document.get("models", "base")
    known = {
        model.get("name"): model["path"]
        for model in (models if isinstance(models, list) else [])
        if isinstance(model, dict) and isinstance(model.get("path"), str) and isinstance(model.get("name"), str)
    }
    return Stated(known.get(named.value, named.value), named.key, named.where)


def _shared(carrier: Carrier) -> dict[str, object]:
    data: dict[str, object] = {}
    for key in ("name", "question"):
        stated = carrier.document.stated("experiment", key)
        if stated is not None and isinstance(stated.value, str):
            data[key] = " ".join(one_line(stated.value).split())
            carrier.same(stated)
    project = carrier.document.stated("experiment", "project")
    if project is not None and isinstance(project.value, str) and project.value in TASKS:
        data["task"] = project.value
        carrier.same(project)
    return data


def _evaluation(carrier: Carrier, trainings: Sequence[ImportedTraining]) -> dict[str, object]:
    found: dict[str, object] = {}
    draws = carrier.document.get("evaluation", "do_sample") is True
    for name, key in (("max_tokens", "max_new_tokens"), ("temperature", "temperature"), ("seed", "seed")):
        stated = carrier.document.stated("evaluation", name)
        if name != "max_tokens" and not draws:
            carrier.leave(stated, "decoding is greedy without do_sample", Reason.AUTOMATIC)
        elif carrier.carry(f"evaluate.{key}", stated):
            found[key] = carrier.settings[f"evaluate.{key}"].value
    carrier.seen.add("evaluation.do_sample")
    epochs = _epochs(carrier.document, trainings)
    found |= {} if epochs is None else {"epochs": epochs}
    return {"evaluate": found} if found else {}


def _epochs(document: ForeignDocument, trainings: Sequence[ImportedTraining]) -> object:
    """Return the epochs that all trained runs are evaluated at. None for touchline's default."""
    matrix = document.get("evaluation", "matrix")
    names = {each.name for each in trainings}
    wanted = [
        entry["epochs"]
        for entry in (matrix if isinstance(matrix, list) else [])
        if isinstance(entry, dict) and str(entry.get("run")) in names and isinstance(entry.get("epochs"), list)
    ]
    if not wanted or not wanted[0] or any(epochs != wanted[0] for epochs in wanted):
        return None
    lengths = {int(str(each.settings["train.epochs"].value)) for each in trainings if "train.epochs" in each.settings}
    if lengths == {len(wanted[0])} and wanted[0] == list(range(len(wanted[0]))):
        return "all"
    return wanted[0] if all(isinstance(epoch, int) and epoch >= 0 for epoch in wanted[0]) else None
