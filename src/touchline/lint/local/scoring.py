"""Test of the scorers of an experiment or a task file before jobs are queued; a task file runs in its own process."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import InputError, TouchlineError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Location, Severity
from touchline.core.json_text import parse_json
from touchline.data.datasets import load_dataset, load_examples
from touchline.data.task_files import is_task_file
from touchline.experiment.data_config import DataConfig
from touchline.experiment.tasks.ready_made import get_task
from touchline.lint.rule import check_view
from touchline.lint.scoring import PROBED_ITEMS, Probe, ScoringView, TaskFault, TaskFileView, probes_of

_TEXT_LIMIT_BYTES = 4 << 20


def task_findings(
    task: str, data: DataConfig, base: Path, where: Location | None = None, labels: Sequence[str] = ()
) -> Iterator[Finding]:
    """Find problems with the scoring of an experiment's task. A task file is read here and never run.

    Args:
        where: the place of findings that name none.

    Raises:
        InputError: there is no such task or file.
    """
    if is_task_file(task):
        path, rest = split_target(task)
        yield from text_findings(base / path)
        yield _not_run(f"{base / path}{rest}", where)
        return
    try:
        splits = {split.name: split.num_examples for split in load_dataset(data, base).splits}
        targets = [example.answer for example in load_examples(data, "test", base)[:PROBED_ITEMS]]
    except TouchlineError:
        # The data lookup already reported problems of the data.
        return
    if "test" not in splits:
        return
    place = where or Location(path=data.file)
    views = probes_of(get_task(task, labels), targets, items=splits.get("test", 0))
    yield from _each_once(finding for view in views for finding in check_view(view, place, task))


def _not_run(target: str, where: Location | None) -> Finding:
    """Say that the scorers of a task file were not tried, and how to try them."""
    message = f"{Path(target).name} was not run, so its scorers were not tested"
    hint = f"touchline check {shlex.quote(target)}"
    return Finding(code="EV217", severity=Severity.INFO, subject="task", message=message, where=where, hint=hint)


def file_findings(target: str) -> Iterator[Finding]:
    """Check a task file and its scorers; the file is run in its own process.

    Args:
        target: `FILE.py`, `FILE.py@task` or `FILE.py:function`.

    Raises:
        InputError: there is no such file.
    """
    file, scorers = self_test(target)
    place = Location(path=file.path)
    yield from check_view(file, place, Path(file.path).name)
    yield from _each_once(finding for view in scorers for finding in check_view(view, place, view.task))


def text_findings(path: Path) -> Iterator[Finding]:
    """Check a task file's text without running it.

    Raises:
        InputError: it is no text, or too large.
    """
    path = _find_task_file(path)
    view = TaskFileView(path=str(path), text=read_text_bounded(path, _TEXT_LIMIT_BYTES))
    yield from check_view(view, Location(path=str(path)), path.name)


def _each_once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Keep findings about a task's items once, although each scorer reports them."""
    return iter({(finding.code, finding.message): finding for finding in findings}.values())


TIMEOUT = 120.0
"""Timeout of a task file in seconds. A file of 24 items takes about five, mostly for imports."""
TASK_NAME = "task.py"
_PROGRAM = "touchline.evaluate.selftest"
_PROBES = TypeAdapter(tuple[Probe, ...])
_FAILED: TypeAdapter[tuple[TaskFault, str] | None] = TypeAdapter(tuple[TaskFault, str] | None)


def _find_task_file(path: Path) -> Path:
    if path.is_dir():
        there = next((path / name for name in (TASK_NAME, "inspect.py") if (path / name).is_file()), None)
        hint = None if there is None else f"touchline check {shlex.quote(str(there))}"
        raise InputError(f"{str(path)!r} is a folder, not a task file", expected="a file, FILE.py", hint=hint)
    if not path.is_file():
        raise InputError(f"the task {str(path)!r} does not exist", expected="a file, FILE.py")
    return path


def split_target(target: str) -> tuple[Path, str]:
    """Split `FILE.py@task` or `FILE.py:function` into the path, and the rest with its sign."""
    for sign in ("@", ":"):
        head, found, name = target.rpartition(f".py{sign}")
        if found:
            return Path(f"{head}.py"), f"{sign}{name}"
    return Path(target), ""


def self_test(target: str, timeout: float = TIMEOUT) -> tuple[TaskFileView, tuple[ScoringView, ...]]:
    """Try the scorers of a task file on made-up answers.

    Raises:
        InputError: there is no such file.
    """
    path, rest = split_target(target)
    path = _find_task_file(path)
    file = TaskFileView(path=str(path), text=read_text_bounded(path, _TEXT_LIMIT_BYTES))
    answer = _started(f"{path.resolve()}{rest}", timeout)
    if isinstance(answer, str):
        return file, (_untried(path, answer),)
    try:
        failed = _FAILED.validate_python(answer.get("failed"))
        scorers = tuple(_view(each, str(answer["kind"]), path) for each in answer["scorers"])
    except (ValidationError, KeyError, TypeError) as fault:
        return file, (_untried(path, f"its answer was not understood: {fault}"),)
    line = answer.get("line")
    return replace(file, failed=failed, line=line if isinstance(line, int) else None), scorers


def _started(target: str, timeout: float) -> dict[str, Any] | str:
    """Parse the program's answer, or the reason why there is none."""
    # -P keeps modules in the working directory from being imported. Task folders may have an inspect.py.
    command = [sys.executable, "-P", "-m", _PROGRAM, target]
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    # A scorer that asks a model for its verdict is not tried.
    environment = {key: value for key, value in (os.environ | quiet).items() if key != "INSPECT_EVAL_MODEL"}
    try:
        done = subprocess.run(  # noqa: S603 (our own words, and a path)
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout,
            check=False, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"it took longer than {timeout:.0f} s"
    except OSError as error:
        return f"it could not be started: {error}"
    try:
        answer = parse_json(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        answer = None
    if isinstance(answer, dict):
        return answer
    last = done.stderr.strip().splitlines()[-1:] or ["no word"]
    return f"it ended with code {done.returncode}: {last[0][:200]}"


def _view(each: dict[str, Any], kind: str, path: Path) -> ScoringView:
    return ScoringView(
        task=str(each["task"]),
        scorer=str(each["scorer"]),
        kind="function" if kind == "function" else "inspect",
        items=int(each["items"]),
        probes=_PROBES.validate_python(each["probes"]),
        missing=each.get("missing"),
        where=Location(path=str(path)),
    )


def _untried(path: Path, reason: str) -> ScoringView:
    return ScoringView(
        task=path.stem, scorer=path.stem, kind="inspect", items=0, missing=reason, where=Location(path=str(path))
    )
