"""Inspect tasks of a user's file: verified by hash and configured for our evaluation, and their scorers tried.

Items, solver and scorers stay unchanged; only what all runs share is set: the model, answers per item, and decoding
unless the task sets it. A solver before the task's own records item and repeat, which Inspect does not pass to a model:
they seed reproducible sampling. Without it (Inspect's own command) calls with the same prompt are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import inspect
import itertools
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from inspect_ai import Task, task_with
from inspect_ai.dataset import Dataset, Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, GenerateConfig, Model, ModelName, ModelOutput
from inspect_ai.scorer import Score, Target, value_to_float
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import registry_info

from touchline.core.errors import InputError, PlanDriftError, RunsFailedError
from touchline.core.files import sha256_file, write_atomic
from touchline.data.task_files import DATA_ARGUMENT
from touchline.evaluate.task_file import TARGETS, ScorerAnswer, TaskFailedError, line_of, load_file, said, unreachable
from touchline.experiment.evaluation import EvaluationConfig, EvaluationTask
from touchline.experiment.experiment import EvaluateConfig
from touchline.lint.scoring import PROBED_ITEMS, MadeUp, Probe, made_up_outputs

_STREAM_BYTES = 16


@dataclass(slots=True)
class CurrentSample:
    """Sample in progress."""

    item: str
    repeat: int
    calls: Iterator[int] = field(default_factory=itertools.count)


_NOW: ContextVar[CurrentSample | None] = ContextVar("touchline_asked", default=None)
_SAME: dict[tuple[int, tuple[int, ...]], Iterator[int]] = defaultdict(itertools.count)


@solver
def note_item() -> Solver:
    """Record item and repeat for the provider."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        del generate
        _NOW.set(CurrentSample(item=str(state.sample_id), repeat=state.epoch))
        return state

    return solve


def stream_of(*parts: object) -> int:
    """Return the random stream of some facts: seed, item, repeat, call."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_STREAM_BYTES], "little")


def next_stream(seed: int | None, prompt: tuple[int, ...]) -> int:
    """Return the random stream of the next answer.

    Args:
        seed: configured seed; 0 if None.
    """
    now = _NOW.get()
    if now is not None:
        return stream_of("item", seed or 0, now.item, now.repeat, next(now.calls))
    return stream_of("prompt", seed or 0, prompt, next(_SAME[seed or 0, prompt]))


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnTask:
    """Task ready for evaluation."""

    task: Task
    items: int
    repeats: int
    config: GenerateConfig
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


MODEL = "mockllm/model"
_TASKS = 4
_LONGEST = 60


def try_tasks(module: ModuleType, name: str | None, path: Path) -> list[ScorerAnswer]:
    """Test every scorer of the tasks in a file, or of the named one.

    Raises:
        TaskFailedError: there is no such task, or it cannot be built.
    """
    functions = list(task_functions(module))
    if name is not None:
        functions = [(each, function) for each, function in functions if name in (each, each.rpartition("/")[2])]
    if not functions:
        wanted = "no function with @task" if name is None else f"no task {name!r}"
        raise TaskFailedError("no task", f"{path.name} has {wanted}")
    return [answer for each, function in functions[:_TASKS] for answer in _try_task(each, function, path)]


def _try_task(name: str, function: Any, path: Path) -> list[ScorerAnswer]:
    short = name.rpartition("/")[2]
    required = required_arguments(function)
    try:
        if {*required} - {DATA_ARGUMENT}:
            reason = f"it needs arguments: {', '.join(required)}"
            return [ScorerAnswer(task=short, scorer=short, items=0, missing=reason)]
        with tempfile.TemporaryDirectory(prefix="touchline-items-") as folder:
            task = function(**{name: _made_up_items(Path(folder)) for name in required})
            samples = list(task.dataset)
    except Exception as error:
        if required or unreachable(error) or type(error).__name__ == "PrerequisiteError":
            what = "not built with made-up items: " if required else ""
            return [ScorerAnswer(task=short, scorer=short, items=0, missing=what + said(error))]
        raise TaskFailedError("build", said(error), line_of(error, path)) from error
    if not isinstance(task, Task):
        raise TaskFailedError("build", f"{short} returns {type(task).__name__}, expected a Task")
    if not task.scorer:
        return [ScorerAnswer(task=short, scorer=short, items=len(samples), missing="it has no scorer")]
    if not samples:
        return [ScorerAnswer(task=short, scorer=short, items=0)]
    answers = _evaluated(short, task, samples[:PROBED_ITEMS])
    for answer in answers:
        answer.items = len(samples)
        if required and answer.probes and all(probe.error for probe in answer.probes):
            # The scorer may read columns that only the experiment's own items have.
            answer.missing, answer.probes = f"it raises on made-up items: {answer.probes[0].error}", []
    return answers


def _made_up_items(folder: Path) -> str:
    """Write made-up items, in the form of a run's items.jsonl. Return the path."""
    turns = [{"role": "user", "content": "Answer."}]
    rows = [{"id": key, "input": turns, "target": target, "metadata": {}} for key, target in enumerate(TARGETS)]
    path = folder / "items.jsonl"
    write_atomic(path, "".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def _evaluated(name: str, task: Task, samples: Sequence[Sample]) -> list[ScorerAnswer]:
    """Score made-up answers by each scorer of the task."""
    if any(sample.choices for sample in samples):
        missing = "a multiple-choice task is scored by its own solver's marks"
        return [ScorerAnswer(task=name, scorer=name, items=0, missing=missing)]
    made = made_up_outputs([_target(sample) for sample in samples])
    scorers = task.scorer or []
    return [
        answer
        for scorer in scorers
        for answer in asyncio.run(_scored(name, _called(scorer, name), scorer, made, samples))
    ]


async def _scored(
    task: str, scorer: str, score: Any, made: Sequence[MadeUp], samples: Sequence[Sample]
) -> list[ScorerAnswer]:
    found: dict[str, ScorerAnswer] = {}
    failed: list[Probe] = []
    for each in made:
        sample = samples[each.item]
        target = Target(sample.target)
        try:
            result = await asyncio.wait_for(score(_state(sample, each, target), target), _LONGEST)
        except Exception as error:  # noqa: BLE001 (a scorer is foreign code; any exception is recorded)
            message = said(error)
            if _needs_elsewhere(message):
                return [ScorerAnswer(task=task, scorer=scorer, items=0, missing=message)]
            failed.append(_probe(each, sample, error=message))
            continue
        for key, value in _values(result):
            answer = found.setdefault(key, ScorerAnswer(task=task, scorer=f"{scorer}{key}", items=0))
            if value is None:
                answer.missing = "its scores are not numbers"
            answer.probes.append(_probe(each, sample, value))
    for answer in found.values() or [found.setdefault("", ScorerAnswer(task=task, scorer=scorer, items=0))]:
        answer.probes += failed
    return list(found.values())


def _probe(each: MadeUp, sample: Sample, value: float | None = None, error: str | None = None) -> Probe:
    return Probe(kind=each.kind, item=each.item, output=each.output, target=_target(sample), score=value, error=error)


def _state(sample: Sample, made: MadeUp, target: Target) -> TaskState:
    """Return the state of a sample that was answered with the made-up text."""
    asked = [ChatMessageUser(content=sample.input)] if isinstance(sample.input, str) else list(sample.input)
    return TaskState(
        model=ModelName(MODEL),
        sample_id=made.item,
        epoch=1,
        input=sample.input,
        messages=[*asked, ChatMessageAssistant(content=made.output)],
        target=target,
        output=ModelOutput.from_content(MODEL, made.output),
        completed=True,
        metadata=sample.metadata or {},
    )


def _called(scorer: Any, task: str) -> str:
    """Return the registered name of a scorer, without its package."""
    try:
        return registry_info(scorer).name.rpartition("/")[2]
    except ValueError:
        return task


def _values(score: Score | None) -> Iterator[tuple[str, float | None]]:
    """Yield each value of a score as a number, with `.key` for those of a mapping."""
    number = value_to_float()
    if score is None or isinstance(score.value, list):
        yield "", None
    elif isinstance(score.value, dict):
        for key, value in score.value.items():
            yield f".{key}", None if value is None else number(value)
    else:
        yield "", number(score.value)


def _needs_elsewhere(text: str) -> bool:
    """Return True if a scorer failed because it needs a resource of the real evaluation."""
    lowered = text.lower()
    return any(
        word in lowered
        for word in ("sandbox", "api_key", "api key", "prerequisiteerror", "connectionerror", "resolution", "no model")
    )


def _target(sample: Sample) -> str:
    return sample.target if isinstance(sample.target, str) else (sample.target or [""])[0]
