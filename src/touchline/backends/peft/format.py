"""Our own files of a run: finetune.yaml, which the trainer reads, or run.yaml next to another trainer's finetune.yaml,
and setup_finetune.yaml, which the user may edit.

Both are read by the code that reads them when a run is launched; what that refuses is a finding here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from touchline.backends.config_reading import ConfigFormat, ConfigReading, subject_of
from touchline.backends.registry import backend_names
from touchline.backends.run_config import read_run_config
from touchline.core.errors import InputError
from touchline.core.finding import Finding, Location, Severity
from touchline.core.near import near_names
from touchline.experiment.data_config import DataConfig
from touchline.experiment.foreign import Dialect, ForeignDocument
from touchline.experiment.partial import Stated, StatedTraining
from touchline.experiment.read import read_settings
from touchline.experiment.stated import SettingSource, document_places, stated_settings
from touchline.experiment.training import TrainConfig
from touchline.experiment.validate import build

_OURS = frozenset({"schema_version", "run_digest", "batches", "data_sha256"})
"""Keys of finetune.yaml that no other trainer's config has."""
_ENOUGH = 2
_SECTIONS = frozenset({"model", "data", "train", "batches"})
"""Sections of which each finetune.yaml has at least one. Records that runs write (training.json, touchline.json) have
none.
"""
_GROUPS = ("train", "data", "evaluate")


class FinetuneFormat:
    """finetune.yaml of the backend `peft`, and run.yaml of any other."""

    name = "peft"
    title = "finetune.yaml of touchline's own trainer"
    dialect: Dialect = "omegaconf"  # of the loaders of other tools the one that reads numbers as YAML 1.2 does

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True if the file has the keys that touchline alone writes."""
        del file_name
        return len(_OURS & data.keys()) >= _ENOUGH and not _SECTIONS.isdisjoint(data)

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Read the described training, or every reason for which the trainer would refuse the file."""
        return _told(document, self._training)

    def _training(self, document: ForeignDocument, text: str) -> StatedTraining:
        _known_backend(document)
        config = read_run_config(text, document.path)
        training = stated_settings(
            backend=config.train.backend,
            subject=config.run,
            where=Location(path=document.path),
            model=config.model.path,
            data=config.data,
            train=config.train,
            seed=config.seed,
            place=lambda key: _place(document, key),
        )
        # The trainer takes exactly the planned steps.
        steps = Stated(config.batches.steps, "batches.steps", document.where("batches", "steps"))
        model = Stated(config.model.path, "model.path", document.where("model", "path"))
        return replace(training, max_steps=steps, model=model)


def _place(document: ForeignDocument, key: str) -> SettingSource:
    path = tuple(key.split("."))
    return SettingSource(document.where(*path), is_default=path not in document.places)


class SetupFormat:
    """setup_finetune.yaml: the part of an experiment that is one run's own."""

    name = "peft"
    title = "setup_finetune.yaml of touchline"
    dialect: Dialect = "omegaconf"

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True if the file has this name and touchline's groups of keys. Other programs use the name too."""
        groups = [isinstance(data.get(group), Mapping) for group in _GROUPS]
        return file_name == "setup_finetune.yaml" and any(groups)

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Read the requested training, or every reason to refuse the file."""
        return _told(document, self._training)

    def _training(self, document: ForeignDocument, text: str) -> StatedTraining:
        _known_backend(document)
        own, settings = read_settings(text, document.path)
        train, faults = build(TrainConfig, own.data.get("train", {}), own, ("train",))
        data, more = build(DataConfig, own.data["data"], own, ("data",)) if "data" in own.data else (None, [])
        if faults or more or train is None:
            raise InputError(f"{document.path} cannot be read", findings=[*faults, *more])
        seed = settings.get("seed")
        return stated_settings(
            backend=train.backend,
            subject=subject_of(document.path),
            where=Location(path=document.path),
            model=None,
            data=data,
            train=train,
            seed=seed if isinstance(seed, int) else None,
            place=document_places(own),
        )


def _known_backend(document: ForeignDocument) -> None:
    name = document.get("train", "backend")
    if isinstance(name, str) and name not in backend_names():
        near = near_names(name, backend_names(), most=1)
        fault = Finding(
            code="BK002",
            severity=Severity.ERROR,
            subject="train.backend",
            message=f"unknown backend {name!r}, expected one of {', '.join(backend_names())}",
            where=document.where("train", "backend"),
            hint=f"backend: {near[0]}" if near else None,
        )
        raise InputError(f"{document.path} cannot be read", findings=[fault])


def _told(document: ForeignDocument, read: Callable[[ForeignDocument, str], StatedTraining]) -> ConfigReading:
    try:
        return ConfigReading(trainings=(read(document, "\n".join(document.lines) + "\n"),))
    except InputError as fault:
        placed = tuple(_placed(finding, document) for finding in fault.findings)
        return ConfigReading(trainings=(), findings=placed)


def _placed(finding: Finding, document: ForeignDocument) -> Finding:
    if finding.where is not None:
        return finding
    return replace(finding, where=document.where(*finding.subject.split(".")))


FORMATS: tuple[ConfigFormat, ...] = (FinetuneFormat(), SetupFormat())
