"""Configs of one tree against each other: one training twice, shared outputs, data of another run or of validation."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import TypeVar

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.core.text import first_of
from touchline.experiment.partial import StatedSource
from touchline.lint.config_chains import ancestors_of, experiment_of, experiments_in, stage_of, stages_in
from touchline.lint.config_set import (
    DataFile,
    FolderView,
    Sibling,
    families,
    run_name,
    runs_of,
    stays,
    together,
    work_of,
)
from touchline.lint.rule import Violation, rule

T = TypeVar("T")

_SHOWN = 4
_LAST_PARTS = 2


_PAIR = 4
"""Number of configs above which a folder may be a collection of examples."""


@rule("EX140", Severity.WARNING)
def duplicate_configs(view: FolderView) -> Iterator[Violation]:
    """Report configs that are the same training."""
    # EX100 compares runs of touchline's own experiments within their experiment.
    for group in _groups((run for run in runs_of(view) if not traits_of(run.stated.backend).is_ours), work_of):
        first, *others = group
        names = first_of(map(run_name, others), _SHOWN)
        yield Violation(
            message=f"{run_name(first)} is the same training as {names}: same model, data, settings and seed",
            at=first.stated.where,
            subject=run_name(first),
            hint=f"let {run_name(others[0])} differ in what was meant, or train one of them",
            severity=None if together(view, *group) or _beside(view, group) else Severity.INFO,
        )


@rule("EX141", Severity.INFO)
def configs_differ_in_folder_only(view: FolderView) -> Iterator[Violation]:
    """Report configs that differ only in the folder of their data."""
    unread = [run for run in runs_of(view) if run.stated.sources and not run.data]
    for group in _groups(unread, _by_last_parts):
        first, *others = group
        if len({work_of(each) for each in group}) == 1 or not together(view, *group):
            continue
        names = ", ".join(run_name(each) for each in others[:_SHOWN])
        yield Violation(
            message=f"{run_name(first)} and {names} differ only in the folder of their data, whose files have the same "
            "names and are not here",
            at=first.stated.sources[0].name,
            subject=run_name(first),
            hint="sha256sum the files; if they are equal, these are one training",
        )


@rule("EX142", Severity.WARNING)
def configs_differ_in_row_order(view: FolderView) -> Iterator[Violation]:
    """Report configs that differ only in an order of rows that the trainer shuffles."""

    def by_rows(each: Sibling) -> str:
        return work_of(each, data=lambda known: known.row_set_sha256)

    shuffled = [run for run in runs_of(view) if run.data and run.stated.shuffle is not None]
    shuffled = [each for each in shuffled if each.stated.shuffle is not None and each.stated.shuffle.value]
    shuffled = [each for each in shuffled if not any(_unread(known) for known in each.data.values())]
    for group in _groups(shuffled, by_rows):
        first, *others = group
        for other in others:
            if work_of(first) != work_of(other):
                yield Violation(
                    message=f"{run_name(other)} trains on the rows of {run_name(first)} in another order, but the "
                    "trainer shuffles them: the two are the same training",
                    at=other.stated.sources[0].name,
                    subject=run_name(other),
                    hint="train in stages, or switch shuffling off, where the order is the question",
                    severity=None if together(view, first, other) else Severity.INFO,
                )


@rule("EX143", Severity.ERROR)
def shared_output_folder(view: FolderView) -> Iterator[Violation]:
    """Report configs that write into the same output folder."""
    writing = [run for run in runs_of(view) if stays(run) and run.stated.resume is None]
    for group in _groups(writing, lambda each: f"{families(view)[each]} {stays(each)}"):
        first, *others = group
        yield from _sharing(
            first, others, Severity.ERROR if len({work_of(each) for each in group}) > 1 else Severity.WARNING
        )
    elsewhere = _groups(writing, lambda each: f"{PurePath(each.path).parent} {stays(each)}")
    for group in elsewhere:
        if not together(view, *group):
            yield from _sharing(group[0], group[1:], Severity.WARNING if _a_pair(view, group) else Severity.INFO)


def _a_pair(view: FolderView, group: list[Sibling]) -> bool:
    """Return True if they are most of a folder's trainings and train one model on one dataset."""
    first, *others = group
    beside = [run for run in runs_of(view) if PurePath(run.path).parent == PurePath(first.path).parent]
    return len(beside) <= _PAIR and all(_of(each) == _of(first) and work_of(each) != work_of(first) for each in others)


def _beside(view: FolderView, group: list[Sibling]) -> bool:
    """Return True if they are in one folder with hardly any other training."""
    parents = {PurePath(each.path).parent for each in group}
    return len(parents) == 1 and sum(PurePath(run.path).parent in parents for run in runs_of(view)) <= _PAIR


def _of(each: Sibling) -> tuple[str, object, object, tuple[str, ...]]:
    stated = each.stated
    model = None if stated.model is None else stated.model.value
    method = None if stated.method is None else stated.method.value
    return stated.backend, model, method, tuple(sorted(source.name.value for source in stated.sources))


def _sharing(first: Sibling, others: list[Sibling], severity: Severity) -> Iterator[Violation]:
    names = first_of(map(run_name, others), _SHOWN)
    output = others[0].stated.output_dir
    yield Violation(
        message=f"{run_name(first)} and {names} write into the same folder, {stays(first)}",
        at=output,
        subject=None if output is not None else run_name(first),
        hint=f"a folder of its own: {stays(first)}_{run_name(others[0])}",
        severity=severity,
    )


@rule("EX155", Severity.WARNING)
def sweep_without_effect(view: FolderView) -> Iterator[Violation]:
    """Report configs that differ only in a setting that the trainer ignores."""
    for key, effect in {key: what for run in runs_of(view) for key, what in run.overridden.items()}.items():
        for group in _groups(runs_of(view), lambda each, key=key: work_of(each, frozenset({key}))):  # type: ignore[misc]
            values = {str(_raw(each, key)) for each in group}
            touched = [each for each in group if key in each.overridden]
            if len(values) < 2 or not touched:
                continue
            yield Violation(
                message=f"{', '.join(run_name(each) for each in group[:_SHOWN])} differ only in {key}, which has no "
                f"effect here: {effect}",
                at=touched[0].stated.where,
                subject=key,
                hint=f"these are one training; take {key} out of the comparison",
                severity=None if together(view, *group) else Severity.INFO,
            )


def _unread(known: DataFile) -> bool:
    return isinstance(known.sha256, Missing) or isinstance(known.row_set_sha256, Missing)


def _by_last_parts(each: Sibling) -> str:
    """Return the training with the last parts of its data's paths."""
    paths = {source.name.value for source in each.stated.sources if source.kind == "file"}
    shortened = {path: DataFile(rows=0, sha256="/".join(PurePath(path).parts[-_LAST_PARTS:])) for path in paths}
    stand_in = Sibling(stated=each.stated, raw=each.raw, data=shortened)
    return work_of(stand_in)


def _raw(each: Sibling, key: str) -> object:
    node: object = {} if isinstance(each.raw, Missing) else each.raw
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _partition(items: Iterable[Sibling], by: Callable[[Sibling], T]) -> dict[T, list[Sibling]]:
    found: dict[T, list[Sibling]] = {}
    for item in items:
        found.setdefault(by(item), []).append(item)
    return found


def _groups(items: Iterable[Sibling], by: Callable[[Sibling], object]) -> Iterator[list[Sibling]]:
    """Yield groups of two or more trainings with the same key."""
    yield from (group for group in _partition(items, by).values() if len(group) > 1)


@rule("EX150", Severity.WARNING)
def data_of_another_run(view: FolderView) -> Iterator[Violation]:
    """Report data whose path names another experiment or stage than the config."""
    for run in runs_of(view):
        own = {"experiment": experiment_of(run), "stage": stage_of(run)}
        for source in run.stated.sources:
            if source.kind not in ("file", "folder"):
                continue
            path = source.name.value
            said = {"experiment": experiments_in(path), "stage": stages_in(path)}
            wrong = next((what for what in own if said[what] and own[what] not in {None, *said[what]}), None)
            if wrong is None:
                continue
            others = ", ".join(str(number) for number in sorted(said[wrong]))
            yield Violation(
                message=f"{run_name(run)} is {wrong} {own[wrong]} by its names, and its data is of {wrong} {others}: "
                f"{path}",
                at=source.name,
                hint=f"the data of {wrong} {own[wrong]}, unless the other is meant",
                severity=None if own["stage"] is not None else Severity.INFO,
            )
            break


@rule("EX151", Severity.ERROR)
def empty_data_file(view: FolderView) -> Iterator[Violation]:
    """Report data files without rows."""
    for run in runs_of(view):
        for source in run.stated.sources:
            known = run.data.get(source.name.value)
            if known is not None and known.rows == 0:
                yield Violation(
                    message=f"{source.name.value} has no rows, and {run_name(run)} "
                    + ("trains on it" if source.role == "train" else "validates on it"),
                    at=source.name,
                    hint="make the file, or take this config out",
                )


@rule("EX156", Severity.WARNING)
def validation_is_training_data(view: FolderView) -> Iterator[Violation]:
    """Report validation data that is the training data."""
    for run in runs_of(view):
        trained = {_file_of(source, run): source for source in run.stated.sources if source.role == "train"}
        for source in run.stated.sources:
            same = _file_of(source, run)
            if source.role == "validation" and same in trained and source.kind == "file":
                yield Violation(
                    message=f"{run_name(run)} validates on the rows that it trains on, {source.name.value}",
                    at=source.name,
                    hint="a file, or a split, of its own",
                )


@rule("EX157", Severity.WARNING)
def validation_trained_by_parent(view: FolderView) -> Iterator[Violation]:
    """Report validation data that an earlier stage was trained on."""
    for run in runs_of(view):
        held = {_file_of(s, run): s for s in run.stated.sources if s.role == "validation" and s.kind == "file"}
        for parent in ancestors_of(view, run):
            for source in parent.stated.sources:
                found = held.get(_file_of(source, parent)) if source.role == "train" else None
                if found is not None:
                    yield Violation(
                        message=f"{run_name(run)} validates on {found.name.value}, on which its "
                        f"parent {run_name(parent)} was trained",
                        at=found.name,
                        hint="use the same held-out rows in every stage",
                    )


def _file_of(source: StatedSource, each: Sibling) -> tuple[str, ...]:
    """Return a source's identity: its content if known, else its path; and the split."""
    known = each.data.get(source.name.value)
    content = known.sha256 if known is not None and isinstance(known.sha256, str) else None
    split = "" if source.split is None else source.split.value
    subset = "" if source.field is None else source.field.value
    return (content or posixpath.normpath(source.name.value), split, subset)
