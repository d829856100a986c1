"""View of the rules on several configs of one tree, and rules on repetition, outputs, chains of trainings, and data."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final

from touchline.backends.registry import all_traits, traits_of
from touchline.core.finding import Severity
from touchline.core.text import first_of
from touchline.experiment.partial import Stated, StatedTraining
from touchline.lint.rule import Violation, rule


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """Facts of a data file."""

    rows: int
    sha256: str | None = None
    """Hash of its bytes; None for an empty file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFile:
    """Text file in the tree."""

    path: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointOnDisk:
    """Checkpoint in an output folder, as described by its adapter_config.json and trainer_state.json."""

    step: int
    """N of checkpoint-N."""
    base_model: str | None = None
    """`base_model_name_or_path`."""
    rank: int | None = None
    """`r`."""
    target_modules: tuple[str, ...] | None = None
    """`target_modules`."""
    epochs: float | None = None
    """`num_train_epochs` of the trainer's state."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sibling:
    """Training of the tree."""

    stated: StatedTraining
    raw: Mapping[str, object]
    data: Mapping[str, DataFile] = field(default_factory=dict)
    """Facts of its data files, by the name that the config gives them."""
    newest: CheckpointOnDisk | None = None
    """Newest checkpoint that is already in its output folder."""

    @property
    def path(self) -> str:
        """Return the path of the config."""
        return self.stated.where.path


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FolderView:
    """All trainings of a tree."""

    siblings: tuple[Sibling, ...]
    plans: tuple[TextFile, ...] = ()
    scripts: tuple[TextFile, ...] = ()


_NAMES: Final = re.compile(
    r"(.*\.)?(experiment_name|_run_name|name|run|run_digest|experiment|description|notes|tags|project_name|output_dir|"
    r"logging_dir|logging_\w+|log_\w+|report_to|plot_loss|disable_tqdm|(wandb|mlflow|comet|swanlab|trackio|hub)_\w+|"
    r"push_to_hub|overwrite_\w+|dataloader_num_workers|preprocessing_num_workers|dataset_num_proc|dataset_processes|"
    r"dataset_prepared_path|debug)|(metric_logger|profiler|wandb)(\..*)?"
)
"""Keys of all trainers for names, outputs, logging and workers."""
_SAVING: Final = re.compile(
    r"(.*\.)?(save_\w+|saves_per_epoch|eval(uation)?_(steps|strategy|bs|batch_size)|evals_per_epoch)"
)
_RUN_FILES: Final = frozenset({"finetune.yaml", "setup_finetune.yaml"})
"""Names of a config in a run's folder. The run is then named after the folder."""
_WORD: Final = re.compile(r"[\w.-]*\w")


def work_of(sibling: Sibling) -> str:
    """Hash everything in the file except names, outputs and logging; data files count by their content."""
    stated = sibling.stated
    contents = {name: file.sha256 for name, file in sibling.data.items() if file.sha256 is not None}
    best = stated.load_best is not None and stated.load_best.value
    aside = set() if best else {source.name.value for source in stated.sources if source.role == "validation"}
    settings = {
        key: _canonical(value, contents)
        for key, value in _flat(sibling.raw, "")
        if not (
            _NAMES.fullmatch(key)
            or (not best and _SAVING.fullmatch(key))
            or (isinstance(value, str) and value in aside)
        )
    }
    return hashlib.sha256(json.dumps([stated.backend, settings], sort_keys=True, default=str).encode()).hexdigest()


def _canonical(value: object, contents: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return contents.get(value, posixpath.normpath(value) if "/" in value else value)
    if isinstance(value, list):
        return sorted(map(str, value))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _stays(sibling: Sibling) -> str:
    """Return its output folder in a canonical spelling. Empty if none is given. Relative to the run's folder."""
    output = sibling.stated.output_dir
    if output is None:
        return ""
    path = posixpath.normpath(output.value)
    in_run_folder = PurePath(sibling.path).name in _RUN_FILES and not posixpath.isabs(path)
    return f"{PurePath(sibling.path).parent}/{path}" if in_run_folder else path


def _run_name(sibling: Sibling) -> str:
    """Return the run folder's name, else the config's name."""
    path = PurePath(sibling.path)
    return path.parent.name if path.name in _RUN_FILES and path.parent.name else path.stem


@functools.lru_cache(maxsize=2)
def _runs_of(view: FolderView) -> tuple[Sibling, ...]:
    """Return each training once: of a run's folder with both files, the one that the trainer reads."""
    folders = {
        str(PurePath(sibling.path).parent)
        for sibling in view.siblings
        if PurePath(sibling.path).name == "finetune.yaml"
    }
    return tuple(
        sibling
        for sibling in view.siblings
        if PurePath(sibling.path).name != "setup_finetune.yaml" or str(PurePath(sibling.path).parent) not in folders
    )


@functools.lru_cache(maxsize=2)
def _families(view: FolderView) -> Mapping[Sibling, int]:
    """Group trainings that surely belong to one project, by number; a tree may also be a collection of examples.

    They do if they are stages of one folder, or runs in sibling folders, or if one script or plan names them.
    """
    runs = _runs_of(view)
    number = {each: index for index, each in enumerate(runs)}
    meetings: dict[tuple[str, ...], Sibling] = {}

    def root(each: Sibling) -> int:
        index = number[each]
        while number[runs[index]] != index:
            index = number[runs[index]]
        return index

    def meet(each: Sibling, *at: str) -> None:
        other = meetings.setdefault(at, each)
        first, second = sorted((root(each), root(other)))
        number[runs[second]] = first

    for each in runs:
        path = PurePath(each.path)
        if path.name in _RUN_FILES:
            meet(each, "runs", each.stated.backend, str(path.parent.parent))
        if traits_of(each.stated.backend).folder_is_chain:
            meet(each, "stages", str(path.parent))
    named: dict[str, list[Sibling]] = {}
    for each in runs:
        path = PurePath(each.path)
        named.setdefault(path.parent.name if path.name in _RUN_FILES else path.name, []).append(each)
    for text in (*view.scripts, *view.plans):
        for word in set(_WORD.findall(text.text)) & named.keys():
            if len(named[word]) == 1:  # `config.yaml` in several folders is not informative
                meet(named[word][0], "text", text.path)
    return {run: root(run) for run in runs}


def _together(view: FolderView, one: Sibling, *others: Sibling) -> bool:
    family = _families(view)
    return all(family[one] == family[other] for other in others)


def _flat(node: object, key: str) -> Iterator[tuple[str, object]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list) and any(isinstance(item, Mapping | list) for item in node):
        for index, value in enumerate(node):
            yield from _flat(value, f"{key}.{index}")
    else:
        yield key, node


_SHOWN = 4


@rule("EX140", Severity.WARNING)
def _duplicate_configs(view: FolderView) -> Iterator[Violation]:
    # EX100 compares runs of touchline's own experiments within their experiment.
    for group in _groups((run for run in _runs_of(view) if not traits_of(run.stated.backend).is_ours), work_of):
        first, *others = group
        names = first_of(map(_run_name, others), _SHOWN)
        message = f"{_run_name(first)} and {names} have the same model, data, settings and seed"
        hint = f"change what {_run_name(others[0])} was meant to change, or train one of them"
        severity = None if _together(view, *group) else Severity.INFO
        yield Violation(message, first.stated.where, hint, subject=_run_name(first), severity=severity)


@rule("EX143", Severity.ERROR)
def _shared_output_folder(view: FolderView) -> Iterator[Violation]:
    writing = [run for run in _runs_of(view) if _stays(run) and run.stated.resume is None]
    for group in _groups(writing, lambda each: f"{_families(view)[each]} {_stays(each)}"):
        first, *others = group
        names = first_of(map(_run_name, others), _SHOWN)
        message = f"{_run_name(first)} and {names} write into the same folder, {_stays(first)}"
        hint = f"use another folder, such as {_stays(first)}_{_run_name(others[0])}"
        severity = Severity.ERROR if len({work_of(each) for each in group}) > 1 else Severity.WARNING
        yield Violation(message, others[0].stated.output_dir, hint, severity=severity)


def _groups(items: Iterable[Sibling], by: Callable[[Sibling], str]) -> Iterator[list[Sibling]]:
    found: dict[str, list[Sibling]] = {}
    for item in items:
        found.setdefault(by(item), []).append(item)
    yield from (group for group in found.values() if len(group) > 1)


@rule("EX150", Severity.WARNING)
def _data_path_mismatch(view: FolderView) -> Iterator[Violation]:
    for run in _runs_of(view):
        own = {"experiment": _experiment_of(run), "stage": _stage_of(run)}
        for source in run.stated.sources:
            if source.kind not in ("file", "folder"):
                continue
            path = source.name.value
            said = {"experiment": _numbers(path, _EXPERIMENT), "stage": _numbers(path, _STAGE)}
            wrong = next((what for what in own if said[what] and own[what] not in {None, *said[what]}), None)
            if wrong is None:
                continue
            others = ", ".join(str(number) for number in sorted(said[wrong]))
            message = f"{_run_name(run)} is {wrong} {own[wrong]} by name, but its data is of {wrong} {others} ({path})"
            hint = f"use the data of {wrong} {own[wrong]}, unless the other is intended"
            yield Violation(message, source.name, hint, severity=None if own["stage"] is not None else Severity.INFO)
            break


@rule("EX151", Severity.ERROR)
def _empty_data_file(view: FolderView) -> Iterator[Violation]:
    for run in _runs_of(view):
        for source in run.stated.sources:
            known = run.data.get(source.name.value)
            if known is not None and known.rows == 0:
                does = "trains on it" if source.role == "train" else "validates on it"
                message = f"{source.name.value} has no rows, and {_run_name(run)} {does}"
                yield Violation(message, source.name, "make the file, or remove this config")


@rule("EX144", Severity.ERROR)
def _later_stage_without_parent(view: FolderView) -> Iterator[Violation]:
    for run in _runs_of(view):
        number = _stage_of(run)
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
        instead = f", not from {_run_name(before)}" if before is not None else ""
        output = "the output folder of the stage before it" if before is None else _stays(before) or _run_name(before)
        message = f"{_run_name(run)} is stage {number}, names no parent and starts from the base model{instead}"
        hint = f"{traits_of(run.stated.backend).parent_key}: {output}"
        severity = None if chained and before is not None else Severity.WARNING
        yield Violation(message, run.stated.where, hint, subject=_run_name(run), severity=severity)


@rule("EX145", Severity.ERROR)
def _parent_base_mismatch(view: FolderView) -> Iterator[Violation]:
    for each, parent in _with_parents(view):
        model, other = each.stated.model, parent.stated.model
        if model is not None and other is not None and not _same_model(parent, each):
            continues = f"continues {_run_name(parent)}, an adapter of {other.value}"
            message = f"{_run_name(each)} trains {model.value} but {continues}"
            yield Violation(message, model, model.line_with(other.value))


@rule("EX152", Severity.ERROR)
def _stale_checkpoints(view: FolderView) -> Iterator[Violation]:
    for run in _runs_of(view):
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
                f"{_stays(run)} has checkpoint-{newest.step} of a run with {wrong[0].key} {_plain(wrong[2])}, "
                f"which this run with {_plain(wrong[1])} would resume",
                stated.output_dir,
                f"use an empty folder, such as {_stays(run)}_new, or move the old checkpoints away",
                subject=_run_name(run),
            )


def _with_parents(view: FolderView) -> Iterator[tuple[Sibling, Sibling]]:
    for run in _runs_of(view):
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
_NAME_KEYS: Final = ("experiment_name", "_run_name", "name", "description")
_PARTS: Final = 3


def _own_texts(sibling: Sibling) -> tuple[str, ...]:
    """Return a training's names, the most specific first: its file, its folder, its output, its own name."""
    path = PurePath(sibling.path)
    names = [str(sibling.raw[key]) for key in _NAME_KEYS if isinstance(sibling.raw.get(key), str)]
    return (path.stem, path.parent.name, "/".join(_stays(sibling).split("/")[-_PARTS:]), *names)


def _stage_of(sibling: Sibling) -> int | None:
    """Return the stage number in its names. None if there is none, or a name has two."""
    pattern = (_STAGE, _SHORT_STAGE) if _is_continuation(sibling) else (_STAGE,)
    return next((number for text in _own_texts(sibling) if (number := _only(text, *pattern)) is not None), None)


def _experiment_of(sibling: Sibling) -> int | None:
    return next((number for text in _own_texts(sibling) if (number := _only(text, _EXPERIMENT)) is not None), None)


def _is_continuation(sibling: Sibling) -> bool:
    return any(_CONTINUATION.search(text) for text in _own_texts(sibling))


def _stands_alone(sibling: Sibling) -> bool:
    """Return True if its names, or those of its data, indicate separate models per stage."""
    data = [source.name.value for source in sibling.stated.sources]
    return any(_ALONE.search(text) for text in (*_own_texts(sibling), *data))


def _stage_before(view: FolderView, sibling: Sibling) -> Sibling | None:
    number = _stage_of(sibling)
    for other in _runs_of(view):
        near = _together(view, sibling, other) or PurePath(other.path).parent == PurePath(sibling.path).parent
        same = other.stated.backend == sibling.stated.backend and _without_stage(other) == _without_stage(sibling)
        if number is not None and other is not sibling and near and same and _stage_of(other) == number - 1:
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
    for run in _runs_of(view):
        found.setdefault(_stays(run), run)
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
    return _SHORT_STAGE.sub("#", _STAGE.sub("#", name)), _experiment_of(sibling)
