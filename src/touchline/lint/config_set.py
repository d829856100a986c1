"""View of the rules on several configs: every training of a checked tree, with the files beside it.

The rules themselves are in the other modules `config_*`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final

from touchline.backends.registry import traits_of
from touchline.experiment.partial import StatedTraining


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
    r"(.*\.)?(experiment_name|run_name|name|run|run_digest|experiment|description|notes|tags|project_name|output_dir|"
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


def stays(sibling: Sibling) -> str:
    """Return its output folder in a canonical spelling. Empty if none is given. Relative to the run's folder."""
    output = sibling.stated.output_dir
    if output is None:
        return ""
    path = posixpath.normpath(output.value)
    in_run_folder = PurePath(sibling.path).name in _RUN_FILES and not posixpath.isabs(path)
    return f"{PurePath(sibling.path).parent}/{path}" if in_run_folder else path


def run_name(sibling: Sibling) -> str:
    """Return the run folder's name, else the config's name."""
    path = PurePath(sibling.path)
    return path.parent.name if path.name in _RUN_FILES and path.parent.name else path.stem


@functools.lru_cache(maxsize=2)
def runs_of(view: FolderView) -> tuple[Sibling, ...]:
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
def families(view: FolderView) -> Mapping[Sibling, int]:
    """Group trainings that surely belong to one project, by number; a tree may also be a collection of examples.

    They do if they are stages of one folder, or runs in sibling folders, or if one script or plan names them.
    """
    runs = runs_of(view)
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


def together(view: FolderView, one: Sibling, *others: Sibling) -> bool:
    """Return True if trainings certainly belong to one project."""
    family = families(view)
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
