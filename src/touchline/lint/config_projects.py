"""Rules on the configs of one project: repeated trainings, shared outputs, chains of trainings, and data."""

from __future__ import annotations

import functools
import math
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Final

from touchline.backends.registry import all_traits, traits_of
from touchline.core.finding import Severity
from touchline.core.text import first_of
from touchline.experiment.partial import Stated
from touchline.lint.config_set import (
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

_SHOWN = 4


@rule("EX140", Severity.WARNING)
def _duplicate_configs(view: FolderView) -> Iterator[Violation]:
    # EX100 compares runs of touchline's own experiments within their experiment.
    for group in _groups((run for run in runs_of(view) if not traits_of(run.stated.backend).is_ours), work_of):
        first, *others = group
        names = first_of(map(run_name, others), _SHOWN)
        message = f"{run_name(first)} and {names} have the same model, data, settings and seed"
        hint = f"change what {run_name(others[0])} was meant to change, or train one of them"
        severity = None if together(view, *group) else Severity.INFO
        yield Violation(message, first.stated.where, hint, subject=run_name(first), severity=severity)


@rule("EX143", Severity.ERROR)
def _shared_output_folder(view: FolderView) -> Iterator[Violation]:
    writing = [run for run in runs_of(view) if stays(run) and run.stated.resume is None]
    for group in _groups(writing, lambda each: f"{families(view)[each]} {stays(each)}"):
        first, *others = group
        names = first_of(map(run_name, others), _SHOWN)
        message = f"{run_name(first)} and {names} write into the same folder, {stays(first)}"
        hint = f"use another folder, such as {stays(first)}_{run_name(others[0])}"
        severity = Severity.ERROR if len({work_of(each) for each in group}) > 1 else Severity.WARNING
        yield Violation(message, others[0].stated.output_dir, hint, severity=severity)


def _groups(items: Iterable[Sibling], by: Callable[[Sibling], str]) -> Iterator[list[Sibling]]:
    found: dict[str, list[Sibling]] = {}
    for item in items:
        found.setdefault(by(item), []).append(item)
    yield from (group for group in found.values() if len(group) > 1)


@rule("EX150", Severity.WARNING)
def _data_path_mismatch(view: FolderView) -> Iterator[Violation]:
    for run in runs_of(view):
        own = {"experiment": experiment_of(run), "stage": stage_of(run)}
        for source in run.stated.sources:
            if source.kind not in ("file", "folder"):
                continue
            path = source.name.value
            said = {"experiment": _numbers(path, _EXPERIMENT), "stage": _numbers(path, _STAGE)}
            wrong = next((what for what in own if said[what] and own[what] not in {None, *said[what]}), None)
            if wrong is None:
                continue
            others = ", ".join(str(number) for number in sorted(said[wrong]))
            message = f"{run_name(run)} is {wrong} {own[wrong]} by name, but its data is of {wrong} {others} ({path})"
            hint = f"use the data of {wrong} {own[wrong]}, unless the other is intended"
            yield Violation(message, source.name, hint, severity=None if own["stage"] is not None else Severity.INFO)
            break


@rule("EX151", Severity.ERROR)
def _empty_data_file(view: FolderView) -> Iterator[Violation]:
    for run in runs_of(view):
        for source in run.stated.sources:
            known = run.data.get(source.name.value)
            if known is not None and known.rows == 0:
                does = "trains on it" if source.role == "train" else "validates on it"
                message = f"{source.name.value} has no rows, and {run_name(run)} {does}"
                yield Violation(message, source.name, "make the file, or remove this config")


@rule("EX144", Severity.ERROR)
def _later_stage_without_parent(view: FolderView) -> Iterator[Violation]:
    for run in runs_of(view):
        number = stage_of(run)
        if number is None or number < 2 or run.stated.parent is not None or _starts_from_a_path(run):
            continue
        before, chained = _stage_before(view, run), _is_continuation(run)
        if (
            _parent_of(view, run) is not None
            or (_stands_alone(run) and not chained)
            or traits_of(run.stated.backend).is_ours
        ):
            continue
        if not chained and (before is None or not _same_model(before, run)):
            continue
        instead = f", not from {run_name(before)}" if before is not None else ""
        output = "the output folder of the stage before it" if before is None else stays(before) or run_name(before)
        message = f"{run_name(run)} is stage {number}, names no parent and starts from the base model{instead}"
        hint = f"{traits_of(run.stated.backend).parent_key}: {output}"
        severity = None if chained and before is not None else Severity.WARNING
        yield Violation(message, run.stated.where, hint, subject=run_name(run), severity=severity)


@rule("EX145", Severity.ERROR)
def _parent_base_mismatch(view: FolderView) -> Iterator[Violation]:
    for each, parent in _with_parents(view):
        model, other = each.stated.model, parent.stated.model
        if model is not None and other is not None and not _same_model(parent, each):
            yield Violation(
                f"{run_name(each)} trains {model.value} but continues {run_name(parent)}, an adapter of {other.value}",
                model,
                model.line_with(other.value),
            )


@rule("EX152", Severity.ERROR)
def _stale_checkpoints(view: FolderView) -> Iterator[Violation]:
    for run in runs_of(view):
        resumes = traits_of(run.stated.backend).resumes_by_itself or run.stated.resume is not None
        newest = run.newest
        if newest is None or not resumes:
            continue
        stated = run.stated
        modules = None if stated.target_modules is None else tuple(sorted(stated.target_modules.value))
        kept_modules = None if newest.target_modules is None else tuple(sorted(newest.target_modules))
        base = None if newest.base_model is None else _last(newest.base_model)
        epochs = None if newest.epochs is None else math.ceil(newest.epochs)
        pairs: tuple[tuple[Stated[object] | None, object, object], ...] = (
            (stated.model, None if stated.model is None else _last(stated.model.value), base),
            (stated.rank, None if stated.rank is None else stated.rank.value, newest.rank),
            (stated.target_modules, modules, kept_modules),
            (stated.epochs, None if stated.epochs is None else math.ceil(stated.epochs.value), epochs),
        )
        wrong = next((pair for pair in pairs if None not in pair and pair[1] != pair[2]), None)
        if wrong is not None and wrong[0] is not None:
            yield Violation(
                f"{stays(run)} has checkpoint-{newest.step} of a run with {wrong[0].key} {_plain(wrong[2])}, "
                f"which this run with {_plain(wrong[1])} would resume",
                stated.output_dir,
                f"use an empty folder, such as {stays(run)}_new, or move the old checkpoints away",
                subject=run_name(run),
            )


def _with_parents(view: FolderView) -> Iterator[tuple[Sibling, Sibling]]:
    for run in runs_of(view):
        parent = _parent_of(view, run) if run.stated.parent is not None else None
        if parent is not None:
            yield run, parent


def _starts_from_a_path(each: Sibling) -> bool:
    """Return True if the model is a folder that an earlier training may have written."""
    model = each.stated.model
    return model is not None and (model.value.startswith(("/", ".", "~", "$")) or model.value.count("/") > 1)


def _same_model(one: Sibling, other: Sibling) -> bool:
    first, second = one.stated.model, other.stated.model
    return first is not None and second is not None and _last(first.value) == _last(second.value)


def _last(name: str) -> str:
    return posixpath.basename(posixpath.normpath(name)).casefold()


def _plain(value: object) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(sorted(str(item) for item in value))
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


_NOT_AFTER: Final = "".join(rf"(?<!{word}[ _-])" for traits in all_traits() for word in traits.stage_words)
_STAGE: Final = re.compile(rf"(?<![a-z]){_NOT_AFTER}(?:stage|phase)[ _-]?(\d{{1,2}})(?!\d)", re.I)
_SHORT_STAGE: Final = re.compile(r"(?<![A-Za-z0-9])S(\d)(?![A-Za-z0-9])", re.I)
_EXPERIMENT: Final = re.compile(r"(?<![a-z])(?:exp|experiment)[ _-]?(\d{1,3})(?!\d)", re.I)
_CONTINUATION: Final = re.compile(r"curricul|continu|progressive|(?<![a-z])chain(?!-of|_of| of)", re.I)
_ALONE: Final = re.compile(r"sequential|separate|independent|per[ _-]?stage|routed", re.I)
_NAME_KEYS: Final = ("experiment_name", "run_name", "name", "description")
_PARTS: Final = 3


def _own_texts(sibling: Sibling) -> tuple[str, ...]:
    """Return a training's names, the most specific first: its file, its folder, its output, its own name."""
    path = PurePath(sibling.path)
    names = [str(sibling.raw[key]) for key in _NAME_KEYS if isinstance(sibling.raw.get(key), str)]
    return (path.stem, path.parent.name, "/".join(stays(sibling).split("/")[-_PARTS:]), *names)


def stage_of(sibling: Sibling) -> int | None:
    """Return the stage number in its names. None if there is none, or a name has two."""
    pattern = (_STAGE, _SHORT_STAGE) if _is_continuation(sibling) else (_STAGE,)
    return next((number for text in _own_texts(sibling) if (number := _only(text, *pattern)) is not None), None)


def experiment_of(sibling: Sibling) -> int | None:
    """Return the experiment number in its names."""
    return next((number for text in _own_texts(sibling) if (number := _only(text, _EXPERIMENT)) is not None), None)


def _is_continuation(sibling: Sibling) -> bool:
    return any(_CONTINUATION.search(text) for text in _own_texts(sibling))


def _stands_alone(sibling: Sibling) -> bool:
    """Return True if its names, or those of its data, indicate separate models per stage."""
    data = [source.name.value for source in sibling.stated.sources]
    return any(_ALONE.search(text) for text in (*_own_texts(sibling), *data))


def _stage_before(view: FolderView, sibling: Sibling) -> Sibling | None:
    number = stage_of(sibling)
    for other in runs_of(view):
        near = together(view, sibling, other) or PurePath(other.path).parent == PurePath(sibling.path).parent
        same = other.stated.backend == sibling.stated.backend and _without_stage(other) == _without_stage(sibling)
        if number is not None and other is not sibling and near and same and stage_of(other) == number - 1:
            return other
    return None


def _parent_of(view: FolderView, sibling: Sibling) -> Sibling | None:
    """Find the training whose output a training continues, by its adapter or its model."""
    outputs = _by_output(view)
    for named in (sibling.stated.parent, sibling.stated.model):
        path = "" if named is None else posixpath.normpath(named.value)
        while path not in ("", "/"):
            found = outputs.get(path)
            if found is not None and found is not sibling:
                return found
            path = posixpath.dirname(path)
    return None


@functools.lru_cache(maxsize=2)
def _by_output(view: FolderView) -> Mapping[str, Sibling]:
    found: dict[str, Sibling] = {}
    for run in runs_of(view):
        found.setdefault(stays(run), run)
    return found


def _only(text: str, *patterns: re.Pattern[str]) -> int | None:
    numbers = _numbers(text, *patterns)
    return numbers.pop() if len(numbers) == 1 else None


def _numbers(text: str, *patterns: re.Pattern[str]) -> set[int]:
    return {int(number) for pattern in patterns for number in pattern.findall(text)}


def _without_stage(sibling: Sibling) -> tuple[str, int | None]:
    """Return the config's name without its stage, and its experiment's number."""
    path = PurePath(sibling.path)
    name = f"{path.parent.name}/{path.stem}" if _STAGE.search(path.parent.name) else path.stem
    return _SHORT_STAGE.sub("#", _STAGE.sub("#", name)), experiment_of(sibling)
