"""Rule: a task file is Python, contains a task, and can be built. It is first read as text, without execution."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from touchline.core.finding import Finding, Location, Severity
from touchline.experiment.evaluation import EvaluationTask
from touchline.experiment.experiment import DataConfig
from touchline.experiment.tasks.ready_made import get_task
from touchline.lint.rule import Violation, rule

TaskFault = Literal["import", "no task", "build"]
"""Step at which a task failed: importing the file, finding the task or function, building it."""
_DECORATOR = re.compile(r"^@(?:\w+\.)*task\b", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFileView:
    """Task file with the result of building it."""

    path: str
    text: str
    failed: tuple[TaskFault, str] | None = None
    """Step at which building failed, and its message; None: built, or not tried."""
    line: int | None = None


_FAILURES: dict[TaskFault, str] = {
    "import": "cannot be imported: ",
    "build": "does not build its task: ",
}


@rule("EV210", Severity.ERROR)
def _task_file_fails(view: TaskFileView) -> Iterator[Violation]:
    name = PurePath(view.path).name
    try:
        tree = ast.parse(view.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line, column = (error.lineno, error.offset) if isinstance(error, SyntaxError) else (None, None)
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        where = Location(path=view.path, line=line, column=column)
        yield Violation(f"{name} is not Python: {said}", where)
        return
    if view.failed is not None:
        kind, said = view.failed
        message = f"{name} {_FAILURES[kind]}{said}" if kind in _FAILURES else said
        yield Violation(message, Location(path=view.path, line=view.line))
        return
    if uses_inspect(tree) and not has_task(tree):
        yield Violation(f"{name} has no function with @task", Location(path=view.path))


def uses_inspect(tree: ast.AST) -> bool:
    """Return True if a module imports Inspect."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return any(name.partition(".")[0] == "inspect_ai" for name in names)


def has_task(tree: ast.AST) -> bool:
    """Return True if a module has a function with the decorator `task`, or calls it on one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(map(_is_task, node.decorator_list)):
            return True
        if isinstance(node, ast.Call) and _is_task(node.func):
            return True
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return True
    return False


def is_task_file(text: str) -> bool:
    """Return True if a Python file seems to define an Inspect task. Only the text is read, since a tree has many other
    files.
    """
    if "inspect_ai" not in text or not _DECORATOR.search(text):
        return False
    try:
        return uses_inspect(ast.parse(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "import" in text


def _is_task(node: ast.expr) -> bool:
    target = node.func if isinstance(node, ast.Call) else node
    name = target.attr if isinstance(target, ast.Attribute) else target.id if isinstance(target, ast.Name) else ""
    return name == "task"


CODE = "EV305"


def prompt_findings(
    task: EvaluationTask, data: DataConfig, where: Location | None, *, is_own: bool, labels: Sequence[str] = ()
) -> Iterator[Finding]:
    """Yield differences between a task's prompts and those of training. Unknown prompts are reported as such."""

    def finding(severity: Severity, message: str, hint: str | None = None) -> Finding:
        subject = "task" if is_own else "evaluate.tasks"
        return Finding(code=CODE, severity=severity, subject=subject, message=message, where=where, hint=hint)

    if not task.is_file:
        own = get_task(task.name, labels).prompt
        if data.messages is None and data.prompt is not None and own != data.prompt:
            yield finding(
                Severity.INFO,
                f"the task {task.name} asks {own!r}, training asks {data.prompt!r}",
                f"data.prompt: {own!r}",
            )
        return
    same = f"system_message({data.system!r})" if data.system and not task.takes_data else None
    if changed := [call for call in dict.fromkeys(task.own_prompt) if call != same]:
        system = f" and has the system turn {data.system!r}" if data.system else ""
        trained = "chats" if data.messages is not None else repr(data.prompt or "{input}")
        yield finding(
            Severity.WARNING,
            f"the task {task.name} changes the prompt by {', '.join(changed)}, training asks {trained}{system}",
            "give training the same turns with data: {system: ..., prompt: ...}",
        )
    elif different := _other_prompts(task, data):
        prompt = different[0].replace("{}", "{input}", 1) if different[0].count("{}") == 1 else None
        yield finding(
            Severity.WARNING,
            f"the task {task.name} asks {different[0]!r}, training asks {data.prompt or '{input}'!r}",
            "use the input of each item as it is: it has training's prompt"
            if task.takes_data
            else f"data.prompt: {prompt!r}"
            if prompt
            else None,
        )
    elif not task.takes_data and not (task.prompts and data.messages is None and same is None):
        yield finding(
            Severity.INFO,
            f"the prompts of {task.name} are known only when it runs, so the evaluation compares them with training",
            "add an argument `data` to the task for the prompts of training",
        )


def _other_prompts(task: EvaluationTask, data: DataConfig) -> list[str]:
    """Return the prompts written in a task file whose text around the filled parts differs from training's."""
    if task.takes_data:
        # Its items hold training's prompt, to which it adds.
        return list(task.prompts)
    if data.messages is not None:
        return []
    trained = _affixes(_COLUMN.sub("{}", data.prompt or "{input}"))
    return [prompt for prompt in task.prompts if _affixes(prompt) != trained]


_COLUMN = re.compile(r"\{[^{}]*\}")


def _affixes(template: str) -> tuple[str, str]:
    return template.partition("{}")[0], template.rpartition("{}")[2]
