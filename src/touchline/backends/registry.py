"""Backends by name, found in their folders."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import touchline.backends as _package
from touchline.backends.external import Environment, ExternalTrainer, Validator
from touchline.backends.facts import TRAITS_UNKNOWN, MemoryCoefficients, TrainerTraits
from touchline.backends.logtext.events import DocumentReader, LoggedTrainer, LogReader
from touchline.backends.logtext.forms import FormReader
from touchline.backends.protocol import Backend, Capabilities, error, unsupported, unsupported_settings
from touchline.backends.simulation import TrainingRow
from touchline.core.catalog import ModelInfo
from touchline.core.errors import InputError
from touchline.core.finding import Finding
from touchline.core.near import RemovedKind, near_names, refuse_removed
from touchline.core.quantity import Missing
from touchline.data.packing.forecast import Batching
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.training import TrainConfig
from touchline.slurm.script import LaunchCommand

if TYPE_CHECKING:
    from touchline.backends.config_reading import ConfigFormat
    from touchline.backends.config_table import ExperimentOfStages, ImportTable


@functools.cache
def _folders_with(module: str) -> tuple[str, ...]:
    folders = sorted(entry.name for entry in pkgutil.iter_modules(_package.__path__) if entry.ispkg)
    names = (f"{_package.__name__}.{folder}.{module}".rstrip(".") for folder in folders)
    return tuple(folder for folder, name in zip(folders, names, strict=True) if importlib.util.find_spec(name))


@functools.cache
def _member(folder: str, module: str, name: str) -> Any:
    """Return what a module of one folder holds; without a module's name, the folder itself. None without it."""
    if folder not in _folders_with(module):
        return None
    return getattr(importlib.import_module(f"{_package.__name__}.{folder}.{module}".rstrip(".")), name, None)


@functools.cache
def _having(module: str, name: str) -> dict[str, Any]:
    found = {folder: _member(folder, module, name) for folder in _folders_with(module)}
    return {folder: member for folder, member in found.items() if member is not None}


def _members(module: str, name: str) -> tuple[Any, ...]:
    return tuple(member for members in _having(module, name).values() for member in members)


def _required(folder: str, module: str, name: str, *, message: str, option: str) -> Any:
    """Return what a module of one folder holds.

    Args:
        option: the beginning of the hint, before the nearest name.

    Raises:
        InputError: if the folder has no such member.
    """
    known = _having(module, name)
    if folder not in known:
        refuse_removed(RemovedKind.TRAINER, folder)
        nearest = next(iter([*near_names(folder, tuple(known), most=1), *known]))
        raise InputError(message, expected=f"one of {', '.join(known)}", hint=f"{option}{nearest}")
    return known[folder]


def backend_names() -> tuple[str, ...]:
    """Return the names of the backends that plan and train, from their folders."""
    return _folders_with("backend")


def log_readers() -> tuple[type[LogReader], ...]:
    """Return every backend's readers of log lines; make one instance of each for every file."""
    return _members("logs", "READERS")


def form_readers() -> tuple[type[FormReader], ...]:
    """Return every backend's tables of line forms; make one instance of each for every file, with one emitter."""
    return _members("logs", "FORMS")


def document_readers() -> tuple[DocumentReader, ...]:
    """Return every backend's readers of state files and configs."""
    return _members("logs", "DOCUMENTS")


@functools.cache
def logged_trainers() -> Mapping[str, LoggedTrainer]:
    """Return the trainers of which more than the name is known, by their names in readings."""
    trainers: tuple[LoggedTrainer, ...] = _members("logs", "TRAINERS")
    return {trainer.name: trainer for trainer in trainers}


def config_formats() -> tuple[ConfigFormat, ...]:
    """Return all config formats. A file belongs to the first format that claims it."""
    return _members("format", "FORMATS")


def import_table(name: str) -> ImportTable | None:
    """Return what importing a trainer's configs needs. None if they cannot be imported."""
    table: ImportTable | None = _member(name, "format", "IMPORTS") or _member(name, "imports", "IMPORTS")
    return table


def experiment_of_stages(name: str) -> ExperimentOfStages | None:
    """Return a backend's conversion of its stage configs to one experiment. None if it has none."""
    conversion: ExperimentOfStages | None = _member(name, "format", "experiment_of")
    return conversion


def launch_commands() -> tuple[LaunchCommand, ...]:
    """Return the programs that start trainers."""
    return _members("", "COMMANDS")


def all_traits() -> tuple[TrainerTraits, ...]:
    """Return the known behaviour of every trainer."""
    return tuple(_having("", "TRAITS").values())


def traits_of(name: str) -> TrainerTraits:
    """Return the behaviour of a trainer that rules depend on. Return the defaults if none is known."""
    traits: TrainerTraits = _member(name, "", "TRAITS") or TRAITS_UNKNOWN
    return traits


def validator_of(name: str) -> Validator | None:
    """Return a trainer's own check of its configs. None if it has none."""
    validator: Validator | None = _member(name, "checks", "VALIDATOR")
    return validator


def training_row(name: str) -> TrainingRow | Missing:
    """Return a backend's rendering of rows. Return Missing if there is none."""
    render: TrainingRow | None = _member(name, "data", "training_row")
    return render or Missing(missing=f"rendering of {name} is not supported here")


def memory_names() -> tuple[str, ...]:
    """Return the trainers with a memory formula."""
    return tuple(_having("", "MEMORY"))


def memory_coefficients(name: str) -> MemoryCoefficients | Missing:
    """Return that trainer's memory coefficients. Return Missing if they were never read or measured."""
    coefficients: MemoryCoefficients | None = _member(name, "", "MEMORY")
    return coefficients or Missing(
        missing=f"no memory coefficients for {name!r}, expected one of {', '.join(memory_names())}"
    )


def get_backend(name: str) -> Backend:
    """Return the backend with this name.

    Raises:
        InputError: if it does not exist.
    """
    message = f"unknown backend {name!r}"
    backend: Backend = _required(name, "backend", "BACKEND", message=message, option="train.backend=")
    return backend


def external_trainer(name: str) -> ExternalTrainer | None:
    """Return the trainer of a backend that runs as a program of its own environment. None if it has none."""
    trainer: ExternalTrainer | None = _member(name, "backend", "TRAINER")
    return trainer


def environments() -> dict[str, Environment]:
    """Return the environments of trainers that live apart, by name."""
    return {name: trainer.environment for name, trainer in _having("backend", "TRAINER").items()}


def environment_of(name: str) -> Environment:
    """Return the environment of a backend.

    Raises:
        InputError: if it has none of its own.
    """
    message = f"the backend {name!r} has no separate environment"
    trainer: ExternalTrainer = _required(
        name, "backend", "TRAINER", message=message, option="touchline backend install "
    )
    return trainer.environment


def batching_names() -> tuple[str, ...]:
    """Return the trainers with known batching."""
    return tuple(_having("data", "BATCHING"))


def batching_of(name: str) -> Batching:
    """Return the simulation of that trainer's batching.

    Raises:
        InputError: if there is none.
    """
    message = f"the batching of {name!r} is not supported"
    batching: Batching = _required(name, "data", "BATCHING", message=message, option="--backend ")
    return batching


def recipe_text(run: PlannedRun, plan: Plan) -> str | None:
    """Return the recipe that trains a run. None if it trains nothing, or its trainer has no recipes."""
    text = None if run.train is None else _member(run.train.backend, "recipes", "recipe_text")
    return None if text is None else str(text(run, plan))


def recipe_faults(train: TrainConfig, tree: ast.Module | None, devices: int, *, validates: bool) -> tuple[str, ...]:
    """Return what forbids a training by the recipe that it names. Empty for trainers without recipes.

    Args:
        tree: the syntax tree of the recipe's file; None for a name.
    """
    faults = _member(train.backend, "recipes", "recipe_faults")
    return () if faults is None else tuple(faults(train, tree, devices, validates=validates))


def recipe_keys(backend: str, tree: ast.Module) -> tuple[str, ...]:
    """Return the keys of the trainer's config that a recipe reads. Empty for trainers without recipes."""
    keys = _member(backend, "recipes", "recipe_keys")
    return () if keys is None else tuple(keys(tree))


def capabilities() -> dict[str, Capabilities]:
    """Return what each backend can do, by name; first those that need no environment of their own."""
    names = sorted(backend_names(), key=lambda name: external_trainer(name) is not None)
    return {name: get_backend(name).capabilities for name in names}


def refused_settings(model: ModelInfo, train: TrainConfig, devices: int = 1) -> tuple[Finding, ...]:
    """Return an error for every setting that the training's backend does not support, alone or for this model.

    Raises:
        InputError: if the backend does not exist.
    """
    backend, able = get_backend(train.backend), capabilities()
    return (
        *unsupported_settings(train.backend, train, able),
        *_refused_features(model, train, able),
        *backend.faults(model, train, devices),
    )


def _refused_features(model: ModelInfo, train: TrainConfig, able: Mapping[str, Capabilities]) -> Iterator[Finding]:
    own = able[train.backend]
    if train.recipe is not None and not own.recipes:
        named = [name for name, features in able.items() if features.recipes]
        yield unsupported(train.backend, "recipe", f"recipe: {train.recipe}", f"backend: {' or '.join(named)}")
    if model.vision and not own.vision:
        named = [name for name, features in able.items() if features.vision]
        message = f"the backend {train.backend} does not train vision-language models such as {model.name}"
        yield error("train.backend", message, f"backend: {named[0]}" if named else None)
    if model.vision and train.packed is True:
        message = f"{model.name} is a vision-language model, whose sequences cannot be packed"
        yield error("train.packed", message, "packed: false")
