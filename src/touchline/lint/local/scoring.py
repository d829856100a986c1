"""Test of the scorer of an experiment or a task file, before jobs are queued."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from touchline.core.errors import TouchlineError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Severity, Where
from touchline.data.datasets import load_dataset, load_examples
from touchline.data.task_files import is_task_file
from touchline.lint.local.scorer_selftest import Rows, find_task_file, self_test, split_target
from touchline.lint.rule import check_view
from touchline.lint.scoring import PROBED_ITEMS, probes_of
from touchline.lint.task_files import TaskFileView
from touchline.spec.experiment import DataConfig
from touchline.spec.tasks.ready_made import get_task

_TEXT_LIMIT_BYTES = 4 << 20
_SPLITS = ("test", "validation", "train")


def task_findings(
    task: str, data: DataConfig, base: Path, where: Where | None = None, labels: Sequence[str] = ()
) -> Iterator[Finding]:
    """Find problems with the scoring of an experiment's task. A task file is read here and never run.

    Args:
        task: `capitalization`, or `FILE.py` or `FILE.py@task`.
        data: the run's data.
        base: folder that relative paths are relative to.
        where: the place of findings that name none.
        labels: the labels of the dataset, for a classification.

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
    place = where or Where(path=data.path)
    views = probes_of(get_task(task, labels), targets, items=splits.get("test", 0))
    yield from _each_once(finding for view in views for finding in check_view(view, place, task))


def _not_run(target: str, where: Where | None) -> Finding:
    """Say that the scorers of a task file were not tried, and how to try them."""
    return Finding(
        code="EV217",
        severity=Severity.INFO,
        subject="task",
        message=f"{Path(target).name} was read and not run, so its scorers were not tried; naming it runs its code",
        where=where,
        hint=f"touchline check {shlex.quote(target)}",
    )


def file_findings(target: str, data: DataConfig | None = None, base: Path | None = None) -> Iterator[Finding]:
    """Check a task file and its scorers; the file is run in its own process.

    Args:
        target: `FILE.py`, `FILE.py@task` or `FILE.py:function`.
        data: the run's data, with which the task's items are compared.
        base: folder that the data's path is relative to.

    Raises:
        InputError: there is no such file.
    """
    rows = None if data is None else _rows(data, base or Path())
    targets = [] if rows is None else [target for _, target in rows.get("test", ())]
    tested = self_test(target, targets=targets, rows=rows, data=None if data is None else data.path)
    place = Where(path=tested.file.path)
    name = Path(tested.file.path).name
    yield from check_view(tested.file, place, name)
    found = (finding for view in tested.scorers for finding in check_view(view, place, view.task))
    yield from _each_once(found)


def text_findings(path: Path) -> Iterator[Finding]:
    """Check a task file's text without running it.

    Raises:
        InputError: it is no text, or too large.
    """
    path = find_task_file(path)
    view = TaskFileView(path=str(path), text=read_text_bounded(path, _TEXT_LIMIT_BYTES))
    yield from check_view(view, Where(path=str(path)), path.name)


def _each_once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Keep findings about a task's items once, although each scorer reports them."""
    return iter({(finding.code, finding.message): finding for finding in findings}.values())


def _rows(data: DataConfig, base: Path) -> Rows | None:
    """Return questions and right answers by split. None if the data cannot be read."""
    try:
        return {
            split: [(example.prompt[-1].content, example.answer) for example in load_examples(data, split, base)]
            for split in _SPLITS
        }
    except TouchlineError:
        return None
