"""Backends by name, found in their folders."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from touchline.backends.capabilities import Capabilities, unsupported, unsupported_settings
from touchline.backends.external import Environment, ExternalTrainer
from touchline.backends.logtext.forms import FormReader
from touchline.backends.logtext.reader import DocumentReader, LoggedTrainer, LogReader
from touchline.backends.memory import MemoryCoefficients
from touchline.backends.neutral import NEUTRAL_UNKNOWN, NeutralSettings
from touchline.backends.protocol import Backend
from touchline.backends.rendering import TrainingRow
from touchline.backends.traits import TRAITS_UNKNOWN, TrainerTraits
from touchline.backends.validator import Validator
from touchline.core.catalog import ModelInfo
from touchline.core.errors import InputError
from touchline.core.finding import Finding, Severity
from touchline.core.near import near_names
from touchline.core.quantity import Missing
from touchline.core.removed import RemovedKind, refuse_removed
from touchline.data.packing.forecast import Batching
from touchline.experiment.experiment import TrainConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.slurm.launches import LaunchCommand

if TYPE_CHECKING:
    from touchline.backends.formats import ConfigFormat
    from touchline.backends.imports import ExperimentOfStages, ImportTable
import touchline.backends as _package


@functools.cache
def _folders_with(module: str) -> tuple[str, ...]:
    folders = sorted(entry.name for entry in pkgutil.iter_modules(_package.__path__) if entry.ispkg)
    return tuple(
        name for name in folders if importlib.util.find_spec(f"{_package.__name__}.{name}.{module}") is not None
    )


def backend_names() -> tuple[str, ...]:
    """Return the names of the backends that plan and train, from their folders."""
    return _folders_with("backend")


def _members(module: str, name: str) -> tuple[Any, ...]:
    """Return the members of a tuple that a module of the folders may hold."""
    modules = [importlib.import_module(f"{_package.__name__}.{folder}.{module}") for folder in _folders_with(module)]
    return tuple(member for loaded in modules for member in getattr(loaded, name, ()))


@functools.cache
def log_readers() -> tuple[type[LogReader], ...]:
    """Return every backend's readers of log lines; make one instance of each for every file."""
    return _members("logs", "READERS")


@functools.cache
def form_readers() -> tuple[type[FormReader], ...]:
    """Return every backend's tables of line forms; make one instance of each for every file, with one emitter."""
    return _members("logs", "FORMS")


@functools.cache
def document_readers() -> tuple[DocumentReader, ...]:
    """Return every backend's readers of state files and configs."""
    return _members("logs", "DOCUMENTS")


@functools.cache
def logged_trainers() -> Mapping[str, LoggedTrainer]:
    """Return the trainers of which more than the name is known, by their names in readings."""
    trainers: tuple[LoggedTrainer, ...] = _members("logs", "TRAINERS")
    return {trainer.name: trainer for trainer in trainers}


@functools.cache
def config_formats() -> tuple[ConfigFormat, ...]:
    """Return all config formats. A file belongs to the first format that claims it."""
    return _members("format", "FORMATS")


def import_table(name: str) -> ImportTable | None:
    """Return what importing a trainer's configs needs. None if they cannot be imported."""
    table: ImportTable | None = _member(name, "imports", "IMPORTS")
    return table


def experiment_of_stages(name: str) -> ExperimentOfStages | None:
    """Return a backend's conversion of its stage configs to one experiment. None if it has none."""
    conversion: ExperimentOfStages | None = _member(name, "stages", "experiment_of")
    return conversion


@functools.cache
def launch_commands() -> tuple[LaunchCommand, ...]:
    """Return the programs that start trainers."""
    return _members("launch", "COMMANDS")


@functools.cache
def all_traits() -> tuple[TrainerTraits, ...]:
    """Return the known behaviour of every trainer."""
    return tuple(traits_of(name) for name in _folders_with("traits"))


@functools.cache
def _member(folder: str, module: str, name: str) -> Any:
    """Return what a module of one folder holds. None without the module."""
    if folder not in _folders_with(module):
        return None
    return getattr(importlib.import_module(f"{_package.__name__}.{folder}.{module}"), name)


def _required(folder: str, module: str, name: str, *, message: str, option: str) -> Any:
    """Return what a module of one folder holds.

    Args:
        folder: as the user names it.
        module: the module.
        name: its member.
        message: the error if the folder has no such module.
        option: the beginning of the hint, before the nearest name.

    Raises:
        InputError: if the folder has no such module.
    """
    known = _folders_with(module)
    if folder not in known:
        refuse_removed(RemovedKind.TRAINER, folder)
        near = near_names(folder, known, most=1)
        hint = f"{option}{near[0] if near else known[0]}"
        raise InputError(message, expected=f"one of {', '.join(known)}", hint=hint)
    return _member(folder, module, name)


def traits_of(name: str) -> TrainerTraits:
    """Return the behaviour of a trainer that rules depend on. Return the defaults if none is known."""
    traits: TrainerTraits = _member(name, "traits", "TRAITS") or TRAITS_UNKNOWN
    return traits


def validator_of(name: str) -> Validator | None:
    """Return a trainer's own check of its configs. None if it has none."""
    validator: Validator | None = _member(name, "validator", "VALIDATOR")
    return validator


def neutral_settings(name: str) -> NeutralSettings:
    """Return the neutral settings of a backend. Return an empty set for an unknown backend."""
    neutral: NeutralSettings = _member(name, "neutral", "NEUTRAL") or NEUTRAL_UNKNOWN
    return neutral


def training_row(name: str) -> TrainingRow | Missing:
    """Return a backend's rendering of rows. Return Missing if there is none."""
    render: TrainingRow | None = _member(name, "rendering", "training_row")
    return render or Missing(missing=f"how {name} renders a row is not known here")


def memory_names() -> tuple[str, ...]:
    """Return the trainers with a memory formula."""
    return _folders_with("memory")


def memory_coefficients(name: str) -> MemoryCoefficients | Missing:
    """Return that trainer's memory coefficients. Return Missing if they were never read or measured."""
    coefficients: MemoryCoefficients | None = _member(name, "memory", "MEMORY")
    return coefficients or Missing(missing=f"no memory coefficients of {name!r}; known: {', '.join(memory_names())}")


def get_backend(name: str) -> Backend:
    """Return the backend with this name.

    Raises:
        InputError: if it does not exist.
    """
    message = f"there is no backend {name!r}"
    backend: Backend = _required(name, "backend", "BACKEND", message=message, option="train.backend=")
    return backend


def external_trainer(name: str) -> ExternalTrainer | None:
    """Return the trainer of a backend that runs as a program of its own environment. None if it has none."""
    trainer: ExternalTrainer | None = _member(name, "external", "TRAINER")
    return trainer


def recipe_text(run: PlannedRun, plan: Plan) -> str | None:
    """Return the recipe that trains a run. None if it trains nothing, or its trainer has no recipes."""
    text = None if run.train is None else _member(run.train.backend, "recipes", "recipe_text")
    return None if text is None else str(text(run, plan))


def recipe_faults(train: TrainConfig, tree: ast.Module | None, devices: int, *, validates: bool) -> tuple[str, ...]:
    """Return what forbids a training by the recipe that it names. Empty for trainers without recipes.

    Args:
        train: the training.
        tree: the syntax tree of the recipe's file; None for a name.
        devices: its data-parallel size.
        validates: whether there is a validation split.
    """
    faults = _member(train.backend, "own_recipe", "recipe_faults")
    return () if faults is None else tuple(faults(train, tree, devices, validates=validates))


def recipe_keys(backend: str, tree: ast.Module) -> tuple[str, ...]:
    """Return the keys of the trainer's config that a recipe reads. Empty for trainers without recipes."""
    keys = _member(backend, "own_recipe", "recipe_keys")
    return () if keys is None else tuple(keys(tree))


def environments() -> dict[str, Environment]:
    """Return the environments of trainers that live apart, by name."""
    trainers: list[ExternalTrainer] = [_member(name, "external", "TRAINER") for name in _folders_with("external")]
    return {trainer.environment.name: trainer.environment for trainer in trainers}


def environment_of(name: str) -> Environment:
    """Return the environment of a backend.

    Raises:
        InputError: if it has none of its own.
    """
    message = f"the backend {name!r} has no environment of its own"
    trainer: ExternalTrainer = _required(
        name, "external", "TRAINER", message=message, option="touchline backend install "
    )
    return trainer.environment


def capabilities() -> dict[str, Capabilities]:
    """Return what each backend can do, by name; first those that need no environment of their own."""
    names = sorted(backend_names(), key=lambda name: name in _folders_with("external"))
    return {name: get_backend(name).capabilities for name in names}


def refused_settings(model: ModelInfo, train: TrainConfig, devices: int = 1) -> tuple[Finding, ...]:
    """Return an error for every setting that the training's backend does not support, alone or for this model.

    Args:
        model: its base model.
        train: the training.
        devices: its data-parallel size.

    Raises:
        InputError: if the backend does not exist.
    """
    backend, able = get_backend(train.backend), capabilities()
    return (
        *unsupported_settings(train.backend, train, able),
        *_refused_recipe(train, able),
        *_refused_vision(model, train, able),
        *backend.faults(model, train, devices),
    )


def _refused_recipe(train: TrainConfig, able: Mapping[str, Capabilities]) -> Iterator[Finding]:
    """Yield an error for a recipe given to a backend without recipes."""
    if train.recipe is not None and not able[train.backend].recipes:
        named = [name for name, features in able.items() if features.recipes]
        yield unsupported(train.backend, "recipe", f"recipe: {train.recipe}", f"backend: {' or '.join(named)}")


def _refused_vision(model: ModelInfo, train: TrainConfig, able: Mapping[str, Capabilities]) -> Iterator[Finding]:
    """Yield an error for a vision-language model given to a backend of text, or packed."""
    if not model.vision:
        return
    if not able[train.backend].vision:
        named = [name for name, features in able.items() if features.vision]
        yield Finding(
            code="BK001",
            severity=Severity.ERROR,
            subject="train.backend",
            message=f"the backend {train.backend} trains no vision-language model, and {model.name} is one",
            hint=f"backend: {named[0]}" if named else None,
        )
    if train.packed is True:
        yield Finding(
            code="BK001",
            severity=Severity.ERROR,
            subject="train.packed",
            message=f"{model.name} is a vision-language model, whose sequences cannot be packed",
            hint="packed: false",
        )


def batching_names() -> tuple[str, ...]:
    """Return the trainers with known batching, from the names of their folders."""
    return _folders_with("batching")


def batching_of(name: str) -> Batching:
    """Return the simulation of that trainer's batching.

    Raises:
        InputError: if there is none.
    """
    message = f"the batching of {name!r} is not known"
    batching: Batching = _required(name, "batching", "BATCHING", message=message, option="--backend ")
    return batching
