"""Custom Inspect task from a user's file: verified by hash and configured for our evaluation.

Items, solver and scorers stay unchanged; only what all runs share is set: the model, answers per item, and decoding
unless the task sets it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from inspect_ai import Task, task_with
from inspect_ai.dataset import Dataset
from inspect_ai.model import GenerateConfig, Model
from inspect_ai.solver import Solver
from inspect_ai.util import registry_info

from touchline.core.errors import InputError, PlanDriftError, RunsFailedError
from touchline.core.files import sha256_file
from touchline.data.task_files import DATA_ARGUMENT
from touchline.evaluate.asked import note_item
from touchline.evaluate.task_file import TaskFailedError, line_of, load_file, said
from touchline.experiment.evaluation import EvaluationConfig, EvaluationTask
from touchline.experiment.experiment import EvaluateConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnTask:
    """Task ready for evaluation."""

    task: Task
    """Task passed to Inspect."""
    items: int
    """Number of evaluated items."""
    repeats: int
    """Answers per item."""
    config: GenerateConfig
    """Decoding settings."""
    folder: Path
    """Folder of the file, its working directory."""


def own_task(
    task: EvaluationTask,
    config: EvaluationConfig,
    settings: GenerateConfig,
    model: Model | None = None,
    *,
    data: Callable[[], Path],
) -> OwnTask:
    """Configure a task for a run.

    Args:
        settings: decoding settings where the task sets none.
        model: evaluated model; None for that of Inspect's command.
        data: writer of the test items that returns the path; called only for tasks with an argument `data`.

    Raises:
        PlanDriftError: the file differs from the plan.
        InputError: it cannot be imported, or the task cannot be built.
    """
    assert task.file is not None
    path = Path(task.file)
    if not path.is_file():
        raise InputError(f"the task {task.name!r}: {str(path)!r} does not exist", hint="touchline plan")
    found = sha256_file(path)
    if found != task.sha256:
        raise PlanDriftError(
            f"the task {task.name!r}: {str(path)!r} differs from the planned file",
            expected=f"hash {(task.sha256 or '')[:12]}, found {found[:12]}",
            hint="touchline plan",
        )
    for name, sha256 in task.modules.items():
        module = Path(name)
        if not module.is_file() or sha256_file(module) != sha256:
            raise PlanDriftError(
                f"the task {task.name!r} imports {name!r}, which differs from the planned file",
                expected=f"hash {sha256[:12]}",
                hint="touchline plan",
            )
    with contextlib.chdir(path.parent):
        return _set_up(_built(task, path, found, data), config.evaluate, settings, model, path.parent)


def _set_up(
    built: Task, evaluate: EvaluateConfig, settings: GenerateConfig, model: Model | None, folder: Path
) -> OwnTask:
    own = built.config
    merged = settings.merge(own)
    merged.extra_body = {**(own.extra_body or {}), **(settings.extra_body or {})}
    merged.max_connections = settings.max_connections
    if not isinstance(built.dataset, Dataset):
        raise InputError(f"the task {built.name!r} creates its items at run time", expected="a dataset of items")
    if not built.scorer:
        raise InputError(f"the task {built.name!r} has no scorer", expected="Task(..., scorer=match())")
    items = len(built.dataset)
    if evaluate.samples != "all":
        items = min(items, evaluate.samples)
    if not items:
        raise RunsFailedError(f"the task {built.name!r} has no items")
    repeats = evaluate.repeats if evaluate.repeats > 1 else built.epochs or 1
    changes: dict[str, Any] = {"setup": [note_item(), *_listed(built.setup)], "config": merged, "epochs": repeats}
    if model is not None:
        changes["model"] = model
    task = task_with(built, dataset=built.dataset[:items], **changes)
    return OwnTask(task=task, items=items, repeats=repeats, config=merged, folder=folder)


@functools.lru_cache(maxsize=32)  # one import for all checkpoints that are evaluated on it
def _module(path: Path, sha256: str) -> ModuleType:
    del sha256
    try:
        return load_file(path)
    except TaskFailedError as fault:
        place = "" if fault.line is None else f", line {fault.line}"
        raise InputError(f"{str(path)!r}{place}: {fault.message}", expected="an Inspect task") from fault


def _built(task: EvaluationTask, path: Path, sha256: str, data: Callable[[], Path]) -> Task:
    """Build the task from its function, each time again because configuration changes it."""
    functions = dict(task_functions(_module(path, sha256)))
    named = {name.rpartition("/")[2]: function for name, function in functions.items()}
    name = task.function if task.function is not None else next(iter(named), "")
    if name not in named or (task.function is None and len(named) > 1):
        has = f"tasks {', '.join(named)}" if named else "no function with @task"
        raise InputError(f"the task {task.name!r}: {path.name} has {has}", expected=f"one task, or {path.name}@name")
    if required := [each for each in required_arguments(named[name]) if each != DATA_ARGUMENT]:
        raise InputError(f"the task {task.name!r} needs arguments: {', '.join(required)}", expected="defaults for all")
    given = {DATA_ARGUMENT: str(data())} if DATA_ARGUMENT in inspect.signature(named[name]).parameters else {}
    try:
        built = named[name](**given)
    except (Exception, SystemExit) as error:
        line = line_of(error, path)
        place = "" if line is None else f", line {line}"
        raise InputError(f"{str(path)!r}{place}: {said(error)}", expected="a task that can be built") from error
    if not isinstance(built, Task):
        raise InputError(f"the task {task.name!r} returns {type(built).__name__}", expected="a Task")
    return built


def task_functions(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield (registered name, function) of every `@task` in a module."""
    seen: set[int] = set()
    for value in list(vars(module).values()):
        if not callable(value) or id(value) in seen:
            continue
        try:
            info = registry_info(value)
        except (ValueError, AttributeError, TypeError):
            continue
        if info.type == "task":
            seen.add(id(value))
            yield info.name, value


def required_arguments(function: Any) -> list[str]:
    """Return the required arguments of a task."""
    return [
        each.name
        for each in inspect.signature(function).parameters.values()
        if each.default is inspect.Parameter.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]


def _listed(solvers: Solver | Sequence[Solver] | None) -> list[Solver]:
    if solvers is None:
        return []
    return list(solvers) if isinstance(solvers, Sequence) else [solvers]
