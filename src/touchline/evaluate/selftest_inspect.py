"""Self-test of an Inspect task's scorers in a real evaluation on made-up answers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from inspect_ai import Task, task_with
from inspect_ai import eval as inspect_eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import ChatMessageAssistant, ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import value_to_float
from inspect_ai.solver import Generate, Solver, TaskState, solver

from touchline.evaluate.own_task import required_arguments, task_functions
from touchline.evaluate.task_file import ScorerAnswer, TaskFailedError, failure, said, unreachable
from touchline.lint.scoring import PROBED_ITEMS, MadeUp, Probe, made_up_outputs

MODEL = "mockllm/model"
_TASKS = 4
_SIDE_BY_SIDE = 8
_LONGEST = 60
"""Time limit of one sample in seconds."""


@dataclass(slots=True)
class _Now:
    """Sample in progress."""

    output: str
    solving: bool = True


_NOW: ContextVar[_Now | None] = ContextVar("made_up", default=None)


@dataclass(slots=True)
class _Asked:
    """Whether a scorer called a model."""

    by_scorer: bool = False


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
    try:
        if required := required_arguments(function):
            reason = f"it needs arguments: {', '.join(required)}"
            return [ScorerAnswer(task=short, scorer=short, items=0, missing=reason)]
        task = function()
        samples = list(task.dataset)
    except Exception as error:
        if unreachable(error) or type(error).__name__ == "PrerequisiteError":
            return [ScorerAnswer(task=short, scorer=short, items=0, missing=said(error))]
        raise failure(error, path, "build") from error
    if not isinstance(task, Task):
        raise TaskFailedError("build", f"{short} returns {type(task).__name__}, expected a Task")
    shown = [(_asked(sample), _target(sample)) for sample in samples[:PROBED_ITEMS]]
    if not task.scorer:
        return [ScorerAnswer(task=short, scorer=short, items=len(samples), missing="it has no scorer", samples=shown)]
    if not samples:
        return [ScorerAnswer(task=short, scorer=short, items=0)]
    answers = _evaluated(short, task, samples[:PROBED_ITEMS])
    for answer in answers:
        answer.items, answer.samples = len(samples), shown
    return answers


def _evaluated(name: str, task: Task, samples: Sequence[Sample]) -> list[ScorerAnswer]:
    """Run the task with made-up answers. Return the results of its scorers."""
    made = made_up_outputs([_target(sample) for sample in samples])
    # A task of choices is scored by what its own solver has marked, so that one runs; others get the answer as it is.
    own = any(sample.choices for sample in samples)
    asked = _Asked()
    probed = [
        samples[each.item].model_copy(update={"id": f"probe-{index}", "sandbox": None}, deep=True)
        for index, each in enumerate(made)
    ]
    outputs = {f"probe-{index}": each.output for index, each in enumerate(made)}
    changes: dict[str, Any] = {"dataset": MemoryDataset(probed), "sandbox": None, "epochs": 1, "fail_on_error": False}
    changes["setup"] = [*_listed(task.setup), _remember(outputs)] if own else [_remember(outputs)]
    changes["solver"] = [*_listed(task.solver), _done()] if own else [_give(), _done()]
    model = get_model(MODEL, memoize=False, custom_outputs=_answering(asked))
    with tempfile.TemporaryDirectory(prefix="touchline-selftest-") as folder:
        (log,) = inspect_eval(
            task_with(task, **changes),
            model=model,
            model_roles={"grader": model},
            display="none",
            log_dir=folder,
            log_format="json",
            log_level="critical",
            log_realtime=False,
            log_model_api=False,
            ctl_server=False,
            score_display=False,
            fail_on_error=False,
            time_limit=_LONGEST,
            max_samples=_SIDE_BY_SIDE,
        )
    if asked.by_scorer:
        return [ScorerAnswer(task=name, scorer=name, items=0, missing="its scorer asks a model for the verdict")]
    return _read(name, log, made, [_target(sample) for sample in samples])


def _read(name: str, log: EvalLog, made: Sequence[MadeUp], targets: Sequence[str]) -> list[ScorerAnswer]:
    found: dict[str, ScorerAnswer] = {}
    failed: list[Probe] = []
    for sample in log.samples or []:
        each = made[int(str(sample.id).removeprefix("probe-"))]
        target = targets[each.item]
        if sample.error is not None:
            message = sample.error.message.strip().splitlines()[0][:200]
            if _needs_elsewhere(sample.error.traceback + message):
                return [ScorerAnswer(task=name, scorer=name, items=0, missing=message)]
            failed.append(Probe(kind=each.kind, item=each.item, output=each.output, target=target, error=message))
            continue
        for scorer, value in _scores(sample):
            answer = found.setdefault(scorer, ScorerAnswer(task=name, scorer=scorer, items=0))
            if value is None:
                answer.missing = "its scores are no numbers"
            answer.probes.append(Probe(kind=each.kind, item=each.item, output=each.output, target=target, score=value))
    if not found:
        reason = (
            None if failed else (log.error.message.strip().splitlines() or ["no message"])[0] if log.error else None
        )
        found[name] = ScorerAnswer(task=name, scorer=name, items=0, missing=reason)
    for answer in found.values():
        answer.probes += failed
    return list(found.values())


def _scores(sample: EvalSample) -> Iterator[tuple[str, float | None]]:
    """Yield each score of a sample as a number; of a mapping each entry."""
    number = value_to_float()
    for scorer, score in (sample.scores or {}).items():
        if isinstance(score.value, dict):
            for key, value in score.value.items():
                yield f"{scorer}.{key}", None if value is None else number(value)
        elif isinstance(score.value, list):
            yield scorer, None
        else:
            yield scorer, number(score.value)


def _needs_elsewhere(text: str) -> bool:
    """Return True if a scorer failed because it needs a resource of the real evaluation."""
    lowered = text.lower()
    return any(
        word in lowered
        for word in ("sandbox", "api_key", "api key", "prerequisiteerror", "connectionerror", "resolution")
    )


def _asked(sample: Sample) -> str:
    """Return the text of the user's last turn."""
    if isinstance(sample.input, str):
        return sample.input
    return next((message.text for message in reversed(sample.input) if message.role == "user"), "")


def _target(sample: Sample) -> str:
    return sample.target if isinstance(sample.target, str) else (sample.target or [""])[0]


def _listed(solvers: Any) -> list[Solver]:
    if solvers is None:
        return []
    return list(solvers) if isinstance(solvers, list | tuple) else [solvers]


@solver
def _remember(outputs: dict[str, str]) -> Solver:
    """Record the answer of the sample."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        del generate
        _NOW.set(_Now(outputs[str(state.sample_id)]))
        return state

    return solve


@solver
def _give() -> Solver:
    """Answer with the made-up text."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        del generate
        now = _NOW.get()
        text = "" if now is None else now.output
        state.output = _output(text)
        state.messages.append(ChatMessageAssistant(content=text))
        return state

    return solve


@solver
def _done() -> Solver:
    """Mark the end of solving; later model calls come from a scorer."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        del generate
        now = _NOW.get()
        if now is not None:
            now.solving = False
        return state

    return solve


def _output(text: str) -> ModelOutput:
    """Return an answer with its usage set, because Inspect would otherwise download an encoding to count tokens."""
    output = ModelOutput.from_content(MODEL, text)
    output.usage = ModelUsage()
    return output


def _answering(asked: _Asked) -> Any:
    def answer(messages: Any, tools: Any, tool_choice: Any, config: Any) -> ModelOutput:
        del messages, tools, tool_choice, config
        now = _NOW.get()
        if now is None or not now.solving:
            asked.by_scorer = True
            return _output("")
        return _output(now.output)

    return answer
