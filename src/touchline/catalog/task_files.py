"""Tasks of `evaluate.tasks` as they lie on disk: read, hashed and parsed, never run.

A task in a file is code. The plan shows it with its hash, and only the evaluation process runs it; so what can be told
without running it is told here, before a training has taken its hours: a syntax error, a name that is not there.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from touchline.domain.evaluation import EvaluationTask
from touchline.errors import InputFault
from touchline.files import read_bytes, read_text_bounded
from touchline.tasks import TASKS, get_task

_LIMIT_BYTES = 1 << 20


def is_task_file(name: str) -> bool:
    """Whether a task is given by a path rather than by a ready-made one's name."""
    return name not in TASKS and (".py" in name or "/" in name)


def resolve_task(name: str, root: Path) -> EvaluationTask:
    """The task that an entry of `evaluate.tasks` means.

    Args:
        name: a ready-made task's name, `FILE.py` or `FILE.py@task`.
        root: folder that the file is relative to.

    Raises:
        InputFault: there is no such task or file, it is no Python, or it has no such task.
    """
    if not is_task_file(name):
        return EvaluationTask(name=get_task(name).name)
    head, found, last = name.rpartition(".py@")
    written, function = (f"{head}.py", last) if found else (name, "")
    path = (root / Path(written).expanduser()).resolve()
    if path.suffix != ".py":
        raise InputFault(f"the task {name!r} is no Python file", expected="tasks/mine.py, or tasks/mine.py@name")
    text = read_text_bounded(path, _LIMIT_BYTES)
    _refuse_without_task(path, text, function)
    return EvaluationTask(
        name=name,
        file=str(path),
        function=function or None,
        sha256=hashlib.sha256(read_bytes(path)).hexdigest(),
        lines=len(text.splitlines()),
    )


def _refuse_without_task(path: Path, text: str, function: str) -> None:
    """Refuse what can be seen to be wrong; where names come from elsewhere, running it will tell."""
    try:
        tree = ast.parse(text, filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise InputFault(
            f"{str(path)!r}{line}: {str(error).splitlines()[0]}", expected="an Inspect task in Python"
        ) from None
    found = list(_tasks(tree))
    if any(_brings_names(node) for node in tree.body):
        return
    if not found:
        raise InputFault(f"{str(path)!r} has no Inspect task", expected="a function with @task that returns a Task")
    if function and function not in found:
        near = difflib.get_close_matches(function, found, n=1) or found[:1]
        raise InputFault(
            f"{str(path)!r} has no task {function!r}",
            expected=f"one of {', '.join(found)}",
            hint=f"{path.name}@{near[0]}",
        )
    if not function and len(found) > 1:
        raise InputFault(
            f"{str(path)!r} has {len(found)} tasks: {', '.join(found)}",
            expected="one of them named",
            hint=f"{path.name}@{found[0]}",
        )


def _tasks(tree: ast.Module) -> Iterator[str]:
    """Names of the functions under `@task` or `@task(name="...")`."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for each in node.decorator_list:
            called = each.func if isinstance(each, ast.Call) else each
            if (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)) == "task":
                yield _given_name(each) or node.name


def _given_name(decorator: ast.expr) -> str | None:
    for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str):
            return keyword.value.value
    return None


def _brings_names(node: ast.stmt) -> bool:
    """Whether a statement may bring a task from another module; Inspect's own modules hold none."""
    if not isinstance(node, ast.ImportFrom):
        return False
    inspect_ai = (node.module or "").partition(".")[0] == "inspect_ai"
    standard = node.level == 0 and (node.module or "").partition(".")[0] in sys.stdlib_module_names
    return not inspect_ai and not standard
