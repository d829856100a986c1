"""Task files of `task` and `evaluate.tasks`: read, hashed and parsed before a training, never executed."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from touchline.core.errors import InputError
from touchline.core.files import read_bytes, read_text_bounded, sha256_file
from touchline.core.near import near_names
from touchline.experiment.evaluation import EvaluationTask
from touchline.experiment.tasks.ready_made import TASKS, get_task

DATA_ARGUMENT = "data"
"""Argument of a task function that receives the path of the experiment's test items."""
_LIMIT_BYTES = 1 << 20
_EXPECTED = "an Inspect task in Python"
_MODULES_LIMIT = 200
_QUOTED = 120
_READERS = frozenset({"json_dataset", "csv_dataset", "file_dataset"})
"""Inspect functions that read a file."""
_PROMPTING = frozenset(
    {"system_message", "user_message", "assistant_message", "prompt_template", "chain_of_thought", "multiple_choice"}
)
"""Inspect solvers that change the prompt."""
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_task_file(name: str) -> bool:
    """Return True if a task is given by a path instead of a built-in name."""
    return name not in TASKS and (".py" in name or "/" in name)


def resolve_task(name: str, root: Path) -> EvaluationTask:
    """Resolve a task by its name.

    Raises:
        InputError: there is no such task or file, it is not Python, has no such task, or one that cannot be built.
    """
    if not is_task_file(name):
        return EvaluationTask(name=get_task(name).name)
    head, found, last = name.rpartition(".py@")
    written, function = (f"{head}.py", last) if found else (name, "")
    path = (root / Path(written).expanduser()).resolve()
    if path.suffix != ".py":
        raise InputError(f"the task {name!r} is not a Python file", expected="tasks/mine.py, or tasks/mine.py@name")
    if not path.is_file():
        near = near_names(path.name, [each.name for each in path.parent.glob("*.py")], most=1)
        hint = None if not near else f"task: {Path(written).with_name(near[0])}{'@' if function else ''}{function}"
        raise InputError(f"the task {name!r}: {str(path)!r} does not exist", expected="a Python file", hint=hint)
    text = read_text_bounded(path, _LIMIT_BYTES)
    tree = parsed_file(path, text, _EXPECTED)
    _refuse_without_task(path, tree, written, function)
    found_tasks = dict(_tasks(tree))
    builder = found_tasks.get(function) if function else next(iter(found_tasks.values()), None)
    _refuse_arguments(path, builder)
    modules = local_modules(path, tree)
    _refuse_missing_data(path, tree)
    return EvaluationTask(
        name=name,
        file=str(path),
        function=function or None,
        sha256=hashlib.sha256(read_bytes(path)).hexdigest(),
        lines=len(text.splitlines()),
        modules={str(module): sha256_file(module) for module in modules},
        takes_data=builder is not None
        and any(getattr(each, "arg", "") == DATA_ARGUMENT for each in ast.walk(builder.args)),
        scorers=() if builder is None else tuple(_scorers(tree, builder)),
        own_prompt=tuple(_own_prompt(tree)),
        prompts=tuple(dict.fromkeys(_written_inputs(tree))),
    )


def local_modules(path: Path, tree: ast.Module) -> list[Path]:
    """Return the Python files next to a task file that it imports, directly or indirectly, without executing them."""
    found: dict[Path, None] = {}
    queue = [tree]
    while queue and len(found) < _MODULES_LIMIT:
        for name in _imported(queue.pop()):
            parts = name.split(".")
            place = path.parent.joinpath(*parts)
            for file in (place.with_suffix(".py"), place / "__init__.py"):
                if file.is_file() and file.resolve() not in {*found, path}:
                    found[file.resolve()] = None
                    queue.append(parsed_file(file, read_text_bounded(file, _LIMIT_BYTES), _EXPECTED))
    return sorted(found)


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            own = node.module or ""
            names = [*([own] if own else []), *(f"{own}.{alias.name}" if own else alias.name for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1) if parts[0])


def parsed_file(path: Path, text: str, expected: str) -> ast.Module:
    """Return the syntax tree of a Python file.

    Raises:
        InputError: it is not Python; `expected` says what it should be.
    """
    try:
        return ast.parse(text, filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        message = error.msg if isinstance(error, SyntaxError) else str(error).splitlines()[0]
        raise InputError(f"{str(path)!r}{line}: {message}", expected=expected) from None


def _refuse_without_task(path: Path, tree: ast.Module, written: str, function: str) -> None:
    found = [name for name, _ in _tasks(tree)]
    brought = {name for node in tree.body for name in _brought_names(node)}
    if function in brought or "*" in brought or (brought and not found and not function):
        return
    if not found:
        raise InputError(f"{str(path)!r} has no Inspect task", expected="a function with @task that returns a Task")
    if function not in found if function else len(found) > 1:
        near = near_names(function, found, most=1) or found[:1]
        what = f"no task {function!r}" if function else f"{len(found)} tasks"
        hint = f"task: {written}@{near[0]}"
        raise InputError(f"{str(path)!r} has {what}", expected=f"one of {', '.join(found)}", hint=hint)


def _refuse_arguments(path: Path, function: _Function | None) -> None:
    if function is None:
        return
    arguments = function.args
    positional = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
    required = positional[: len(positional) - len(arguments.defaults)]
    required += [
        each.arg for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is None
    ]
    if wanted := [name for name in required if name != DATA_ARGUMENT]:
        raise InputError(
            f"{str(path)!r}, line {function.lineno}: the task {function.name} needs arguments: {', '.join(wanted)}",
            expected=f"a default for each (only `{DATA_ARGUMENT}` is passed, the path of the test items)",
            hint=f"def {function.name}({', '.join(f'{name}=...' for name in wanted)})",
        )


def _refuse_missing_data(path: Path, tree: ast.Module) -> None:
    """Refuse a task that reads a missing file by a literal name."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or _called(node) not in _READERS or not node.args:
            continue
        name = node.args[0]
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str) or "://" in name.value:
            continue
        # A task runs in its own folder.
        place = path.parent / Path(name.value).expanduser()
        if not place.exists():
            near = near_names(place.name, [each.name for each in path.parent.iterdir()], most=1)
            raise InputError(
                f"{str(path)!r}, line {node.lineno}: data file {name.value!r} does not exist (looked for "
                f"{str(place)!r})",
                expected="a file, relative to the task's own folder",
                hint=None if not near else f"{_called(node)}({near[0]!r})",
            )


def _scorers(tree: ast.Module, function: _Function) -> Iterator[str]:
    """Return the scorers of a task, each with its metrics if they are declared here. Empty if only execution shows
    them."""
    metrics = dict(_declared_scorers(tree))
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and _called(node) == "Task":
            given = next((keyword_.value for keyword_ in node.keywords if keyword_.arg == "scorer"), None)
            listed = given.elts if isinstance(given, ast.List | ast.Tuple) else [] if given is None else [given]
            names = [_called(each) for each in listed if isinstance(each, ast.Call)]
            if len(names) == len(listed) and all(names):
                yield from (metrics.get(name, name) for name in names)
            return


def _declared_scorers(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node, decorator in _decorated(tree, "scorer"):
        given = next((part.value for part in getattr(decorator, "keywords", ()) if part.arg == "metrics"), None)
        name = _given_name(decorator) or node.name
        yield node.name, "; ".join(_with_metrics(name, given)) or name


def _with_metrics(name: str, given: ast.expr | None) -> Iterator[str]:
    if isinstance(given, ast.Dict):
        for key, value in zip(given.keys, given.values, strict=True):
            own = f"{name}.{key.value}" if isinstance(key, ast.Constant) and isinstance(key.value, str) else name
            yield from _with_metrics(own, value)
        return
    names = [_called(part) for part in ast.walk(given) if isinstance(part, ast.Call)] if given is not None else []
    yield f"{name}: {', '.join(filter(None, names))}" if any(names) else name


def _own_prompt(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) in _PROMPTING:
            text = ast.unparse(node)
            yield text if len(text) <= _QUOTED else f"{text[: _QUOTED - 3]}..."


def _written_inputs(tree: ast.Module) -> Iterator[str]:
    """Return the inputs of samples that are built in the file, with `{}` for each filled part."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    named = {ast.unparse(node.targets[0]): node.value for node in names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) == "Sample":
            given = [keyword.value for keyword in node.keywords if keyword.arg == "input"] or node.args[:1]
            text = _filled(named.get(ast.unparse(given[0]), given[0])) if given else ""
            if "{}" in text and text.replace("{}", "").strip():
                yield text


def _filled(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_filled, parts))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _filled(left) + _filled(right)
        case ast.BinOp(left=text, op=ast.Mod()) | ast.Call(func=ast.Attribute(attr="format", value=text)):
            return re.sub(r"%(\(\w+\))?[-+#0-9.]*[a-z]|\{[^{}]*\}", "{}", _filled(text))
        case ast.List(elts=[ast.Call(keywords=[ast.keyword(arg="content", value=only)])]):
            return _filled(only)
    return "{}"


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _tasks(tree: ast.Module) -> Iterator[tuple[str, _Function]]:
    yield from ((_given_name(decorator) or node.name, node) for node, decorator in _decorated(tree, "task"))


def _decorated(tree: ast.Module, wanted: str) -> Iterator[tuple[_Function, ast.expr]]:
    for node in [each for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]:
        for decorator in node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)) == wanted:
                yield node, decorator


def _given_name(decorator: ast.expr) -> str | None:
    for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str):
            return keyword.value.value
    return None


def _brought_names(node: ast.stmt) -> list[str]:
    """Return the names that a statement imports from another module that may hold a task, except Inspect's."""
    if not isinstance(node, ast.ImportFrom):
        return []
    package = (node.module or "").partition(".")[0]
    if package == "inspect_ai" or (node.level == 0 and package in sys.stdlib_module_names):
        return []
    return [alias.asname or alias.name for alias in node.names]
