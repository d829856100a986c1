"""An Inspect task from a file of the user's: loaded, held against its hash, and set up for one of our evaluations.

Everything of it stays as it is, items, solver and scorers, but for what all runs must have alike: the model, how many
answers an item gets, and how they are decoded where the task itself does not say.
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
from touchline.evaluate.loading import load_file
from touchline.evaluate.selftest_answer import TaskFailedError, line_of, said
from touchline.spec.evaluation import EvaluationConfig, EvaluationTask
from touchline.spec.experiment import EvaluateConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnTask:
    """A task, ready to be evaluated."""

    task: Task
    """As Inspect gets it."""
    items: int
    """Items that are evaluated."""
    repeats: int
    """Answers to each."""
    config: GenerateConfig
    """How answers are decoded."""
    folder: Path
    """The file's folder, in which it expects to run."""


def own_task(
    task: EvaluationTask,
    config: EvaluationConfig,
    settings: GenerateConfig,
    model: Model | None = None,
    *,
    data: Callable[[], Path],
) -> OwnTask:
    """Set up a task for a run.

    Args:
        task: where it is; it has a file.
        config: the run's evaluation.
        settings: how answers are decoded where the task does not say.
        model: what is evaluated; none: what Inspect's command names.
        data: writes the test items and gives the file's path; called for a task with an argument `data` alone.

    Raises:
        PlanDriftError: the file is another one than was planned.
        InputError: it cannot be imported, or the task cannot be built from it.
    """
    assert task.file is not None
    path = Path(task.file)
    if not path.is_file():
        raise InputError(f"the task {task.name!r}: {str(path)!r} does not exist", hint="touchline plan")
    found = sha256_file(path)
    if found != task.sha256:
        raise PlanDriftError(
            f"the task {task.name!r}: {str(path)!r} is not the file that was planned",
            expected=f"hash {(task.sha256 or '')[:12]}, found {found[:12]}",
            hint="touchline plan",
        )
    for name, sha256 in task.modules.items():
        module = Path(name)
        if not module.is_file() or sha256_file(module) != sha256:
            raise PlanDriftError(
                f"the task {task.name!r} imports {name!r}, which is not the file that was planned",
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
        raise InputError(f"the task {built.name!r} makes its items while it runs", expected="a dataset of items")
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
    """Build the task that a function of the file returns, anew each time: a task is changed when it is set up."""
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
    """(registered name, function) of everything in a module that is under `@task`."""
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
    """Arguments that a task must be given."""
    return [
        each.name
        for each in inspect.signature(function).parameters.values()
        if each.default is inspect.Parameter.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]


def _listed(solvers: Solver | Sequence[Solver] | None) -> list[Solver]:
    if solvers is None:
        return []
    return list(solvers) if isinstance(solvers, Sequence) else [solvers]
