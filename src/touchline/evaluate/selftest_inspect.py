"""Self-test of an Inspect task's scorers on made-up answers: each scorer is called directly, without a model."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ModelName, ModelOutput
from inspect_ai.scorer import Score, Target, value_to_float
from inspect_ai.solver import TaskState
from inspect_ai.util import registry_info

from touchline.core.files import write_atomic
from touchline.data.task_files import DATA_ARGUMENT
from touchline.evaluate.own_task import required_arguments, task_functions
from touchline.evaluate.task_file import TARGETS, ScorerAnswer, TaskFailedError, line_of, said, unreachable
from touchline.lint.scoring import PROBED_ITEMS, MadeUp, Probe, made_up_outputs

MODEL = "mockllm/model"
_TASKS = 4
_LONGEST = 60
"""Time limit of one scorer in seconds."""


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
