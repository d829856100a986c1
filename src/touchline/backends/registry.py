"""Backends by name, found in their folders."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from touchline.backends.logtext.forms import FormReader
from touchline.backends.logtext.reader import DocumentReader, LoggedTrainer, LogReader
from touchline.backends.memory import MemoryCoefficients
from touchline.backends.protocol import Backend
from touchline.backends.traits import NOTHING_KNOWN, TrainerTraits
from touchline.backends.validator import Validator
from touchline.core.errors import InputError
from touchline.core.near import near_names
from touchline.core.quantity import Missing
from touchline.data.packing.forecast import Batching
from touchline.slurm.launches import LaunchCommand

if TYPE_CHECKING:
    from touchline.backends.formats import ConfigFormat
import touchline.backends as _package


@functools.cache
def _folders_with(module: str) -> tuple[str, ...]:
    folders = sorted(found.name for found in pkgutil.iter_modules(_package.__path__) if found.ispkg)
    return tuple(
        name for name in folders if importlib.util.find_spec(f"{_package.__name__}.{name}.{module}") is not None
    )


def backend_names() -> tuple[str, ...]:
    """Return the names of the backends that plan and train, from their folders."""
    return _folders_with("backend")


def _members(module: str, name: str) -> tuple[Any, ...]:
    """Return the members of a tuple that a module of the folders may hold."""
    modules = [importlib.import_module(f"{_package.__name__}.{folder}.{module}") for folder in _folders_with(module)]
    return tuple(member for each in modules for member in getattr(each, name, ()))


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
    found: tuple[LoggedTrainer, ...] = _members("logs", "TRAINERS")
    return {trainer.name: trainer for trainer in found}


@functools.cache
def config_formats() -> tuple[ConfigFormat, ...]:
    """Return all config formats. A file belongs to the first format that claims it."""
    return _members("format", "FORMATS")


@functools.cache
def launch_commands() -> tuple[LaunchCommand, ...]:
    """Return the programs that start trainers."""
    return _members("launch", "COMMANDS")


@functools.cache
def validator_of(name: str) -> Validator | None:
    """Return a trainer's own check of its configs. None if it has none."""
    if name not in _folders_with("validator"):
        return None
    found: Validator = importlib.import_module(f"{_package.__name__}.{name}.validator").VALIDATOR
    return found


@functools.cache
def traits_of(name: str) -> TrainerTraits:
    """Return the behaviour of a trainer that rules depend on. Return the defaults if none is known."""
    if name not in _folders_with("traits"):
        return NOTHING_KNOWN
    found: TrainerTraits = importlib.import_module(f"{_package.__name__}.{name}.traits").TRAITS
    return found


@functools.cache
def all_traits() -> tuple[TrainerTraits, ...]:
    """Return the known behaviour of every trainer."""
    return tuple(traits_of(name) for name in _folders_with("traits"))


def get_backend(name: str) -> Backend:
    """Return the backend with this name.

    Raises:
        InputError: if it does not exist.
    """
    if name not in backend_names():
        near = near_names(name, backend_names(), most=1)
        raise InputError(
            f"there is no backend {name!r}",
            expected=f"one of {', '.join(backend_names())}",
            hint=f"train.backend={near[0] if near else backend_names()[0]}",
        )
    found: Backend = importlib.import_module(f"{_package.__name__}.{name}.backend").BACKEND
    return found


def memory_names() -> tuple[str, ...]:
    """Return the trainers with a memory formula."""
    return _folders_with("memory")


@functools.cache
def memory_coefficients(name: str) -> MemoryCoefficients | Missing:
    """Return that trainer's memory coefficients. Return Missing if they were never read or measured."""
    if name not in _folders_with("memory"):
        return Missing(missing=f"no memory coefficients of {name!r}; known: {', '.join(_folders_with('memory'))}")
    found: MemoryCoefficients = importlib.import_module(f"{_package.__name__}.{name}.memory").MEMORY
    return found


def batching_names() -> tuple[str, ...]:
    """Return the trainers with known batching, from the names of their folders."""
    return _folders_with("batching")


def batching_of(name: str) -> Batching:
    """Return the simulation of that trainer's batching.

    Raises:
        InputError: if there is none.
    """
    if name not in batching_names():
        near = near_names(name, batching_names(), most=1)
        raise InputError(
            f"the batching of {name!r} is not known",
            expected=f"one of {', '.join(batching_names())}",
            hint=f"--backend {near[0] if near else batching_names()[0]}",
        )
    found: Batching = importlib.import_module(f"{_package.__name__}.{name}.batching").BATCHING
    return found
