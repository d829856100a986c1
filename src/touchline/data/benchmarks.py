"""Scores of lm-evaluation-harness for a run: its result files, and their marker."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import InputError, TouchlineError
from touchline.core.files import read_text_bounded, sha256_file
from touchline.data.evaluations import finished_evaluation
from touchline.experiment.evaluation import BASE_CHECKPOINT, EvaluationConfig, asked_epochs
from touchline.experiment.experiment import GeneralConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneralMarker:
    """general/<checkpoint>.touchline.json, written last: the checkpoint whose scores are in that folder."""

    schema_version: int = 1
    """Version of this format."""
    run: str
    """The run."""
    checkpoint: str
    """`epoch_0`, or `base` for a control."""
    adapter_sha256: str | None
    """Hash of the adapter's weights. None for a control."""
    base_sha256: str
    """`ModelInfo.weights_sha256` of the base model."""
    settings_sha256: str
    """Hash of tasks, items, examples, template, and the user's task files."""
    results: str
    """Name of the harness's result file in that folder."""
    seconds: float
    """Wall-clock time of the harness, including loading."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessScore:
    """Metric of a task, as the harness wrote it."""

    task: str
    """Harness task."""
    metric: str
    """Metric, `acc`, with its filter unless that is `none`: `exact_match (strict-match)`."""
    key: str
    """Name of the metric in per-item scores."""
    filter: str
    """Filter applied to the answers."""
    value: float
    """Score."""
    standard_error: float | None
    """Standard error from the harness. None if it gives none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessTask:
    """Settings of one task. Two results are compared only if all of them are equal."""

    version: str
    """Version of the task."""
    num_fewshot: str
    """Worked examples before each item."""
    items: int | None
    """Number of items. None if the file does not record it."""
    docs: str | None
    """Hash of the items with their prompts and targets. None if it was not recorded."""
    chat_template: str | None
    """Hash of the chat template. None if items were not formatted as chats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessResults:
    """Result file of the harness."""

    version: str
    """Version of the harness."""
    date: float
    """Time of writing, in seconds since 1970."""
    tasks: dict[str, HarnessTask]
    """Settings of each task."""
    scores: tuple[HarnessScore, ...]
    """Scores; for a group of tasks, the group only."""
    higher_is_better: dict[tuple[str, str], bool] = field(default_factory=dict)
    """Direction of each (task, metric), if the file records it."""


GENERAL_FOLDER = "general"
MARKER_SUFFIX = ".touchline.json"
MOST_TASK_FILES = 10_000
"""Limit on files in a user's task folder."""
_MARKER_LIMIT_BYTES = 1 << 16
_CONFIG: TypeAdapter[GeneralConfig] = TypeAdapter(GeneralConfig)
_MARKER: TypeAdapter[GeneralMarker] = TypeAdapter(GeneralMarker)


def wants_general(config: EvaluationConfig, checkpoint: str) -> bool:
    """Return True if the harness scores this checkpoint: the base of a control, or the last evaluated epoch."""
    if config.evaluate.general is None or config.no_op is not None:
        return False
    if config.control:
        return checkpoint == BASE_CHECKPOINT
    last = max(asked_epochs(config.evaluate.epochs, config.train_epochs or 0), default=None)
    return checkpoint == f"epoch_{last}"


def general_settings_sha256(config: EvaluationConfig, experiment: Path) -> str:
    """Return the hash of all settings that affect the scores, including the user's task files.

    Args:
        config: the run's evaluation, with `evaluate.general`.
        experiment: the experiment's folder.

    Raises:
        InputError: the folder of task files is not there, or is not a directory of tasks.
    """
    general = config.evaluate.general
    assert general is not None
    settings = {
        "general": json.loads(_CONFIG.dump_json(general)),
        "tokenizer_sha256": config.model.tokenizer_sha256,
        "batch_size": config.evaluate.batch_size,
        "files": {} if general.include_path is None else dict(_task_files(experiment / general.include_path)),
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def finished_general(folder: Path, config: EvaluationConfig, checkpoint: str, adapter_sha256: str | None) -> bool:
    """Return True if all harness scores of a checkpoint exist for these weights and settings.

    Args:
        folder: the run's folder.
        config: its evaluation.
        checkpoint: the checkpoint.
        adapter_sha256: hash of its adapter; none for a control.
    """
    if not wants_general(config, checkpoint):
        return True
    place = folder / GENERAL_FOLDER
    marker = read_general_marker(place / f"{checkpoint}{MARKER_SUFFIX}")
    if marker is None or not (place / checkpoint / Path(marker.results).name).is_file():
        return False
    try:
        settings = general_settings_sha256(config, folder.parent)
    except TouchlineError:
        # Its own job says what is wrong.
        return False
    found = (marker.settings_sha256, marker.base_sha256, marker.adapter_sha256)
    return found == (settings, config.model.weights_sha256, adapter_sha256)


def is_evaluated(folder: Path, config: EvaluationConfig, checkpoint: str, adapter_sha256: str | None) -> bool:
    """Return True if a checkpoint's evaluation is complete, both Inspect's tasks and the harness's."""
    done = finished_evaluation(folder, config, checkpoint, adapter_sha256) is not None
    return done and finished_general(folder, config, checkpoint, adapter_sha256)


def read_general_marker(path: Path) -> GeneralMarker | None:
    """Read the marker of a harness folder. None if it is missing or corrupt."""
    try:
        return _MARKER.validate_json(read_text_bounded(path, _MARKER_LIMIT_BYTES))
    except (TouchlineError, ValidationError):
        return None


def general_marker_text(marker: GeneralMarker) -> bytes:
    """Return the content of a marker."""
    return _MARKER.dump_json(marker, indent=1) + b"\n"


def _task_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Return name and hash of every file in a task folder, which may contain code."""
    if not folder.is_dir():
        raise InputError(
            f"evaluate.general.include_path: {str(folder)!r} is not a directory",
            expected="a folder with task files (YAML)",
        )
    count = 0
    for here, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if name != "__pycache__")
        for path in sorted(Path(here, name) for name in names):
            count += 1
            if count > MOST_TASK_FILES:
                raise InputError(
                    f"evaluate.general.include_path: {str(folder)!r} holds more than {MOST_TASK_FILES:,} files",
                    expected="a folder with task files alone",
                )
            if path.is_file():
                yield path.relative_to(folder).as_posix(), sha256_file(path)
