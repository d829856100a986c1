"""Scores of lm-evaluation-harness beside a run: what was run, and what its files say."""

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
from touchline.spec.evaluation import BASE_CHECKPOINT, EvaluationConfig, asked_epochs
from touchline.spec.experiment import GeneralConfig

HARNESS = "lm-evaluation-harness"
"""What the tool is called."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneralMarker:
    """general/<checkpoint>.touchline.json, written last: whose scores lie in the folder of that name."""

    schema_version: int = 1
    """Version of this file's form."""
    run: str
    """The run."""
    checkpoint: str
    """`epoch_0`, or `base` for a control."""
    adapter_sha256: str | None
    """Hash of the adapter's weights; none for a control."""
    base_sha256: str
    """`ModelInfo.weights_sha256` of the base."""
    settings_sha256: str
    """Hash of tasks, items, examples, template, and of the task files of the user's own."""
    results: str
    """Name of the harness's results file in that folder."""
    seconds: float
    """Wall time of the harness, loading included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessScore:
    """One metric of one task, as the harness wrote it."""

    task: str
    """The harness's task."""
    metric: str
    """Its metric, `acc`, with the filter behind it where that is not `none`: `exact_match (strict-match)`."""
    key: str
    """The metric as single items are scored under it."""
    filter: str
    """The filter of the answers."""
    value: float
    """The score."""
    standard_error: float | None
    """The harness's; none where it gives none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessTask:
    """How one task was asked: two results are compared only where all of it is the same."""

    version: str
    """Version of the task."""
    num_fewshot: str
    """Worked examples before each item."""
    items: int | None
    """Items that were asked; none where the file does not tell."""
    docs: str | None
    """Hash of the items with their prompts and targets; none where it was not written."""
    chat_template: str | None
    """Hash of the chat template; none where items were not put as chats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessResults:
    """A results file of the harness."""

    version: str
    """Version of the harness."""
    date: float
    """When it was written, in seconds since 1970."""
    tasks: dict[str, HarnessTask]
    """How each task was asked."""
    scores: tuple[HarnessScore, ...]
    """What came out; of a group of tasks, the group alone."""
    higher_is_better: dict[tuple[str, str], bool] = field(default_factory=dict)
    """Which way a (task, metric) counts; nothing where the file does not tell."""


GENERAL_FOLDER = "general"
MARKER_SUFFIX = ".touchline.json"
MOST_TASK_FILES = 10_000
"""Files of a user's own folder of tasks; more are no folder of tasks."""
_MARKER_LIMIT_BYTES = 1 << 16
_CONFIG: TypeAdapter[GeneralConfig] = TypeAdapter(GeneralConfig)
_MARKER: TypeAdapter[GeneralMarker] = TypeAdapter(GeneralMarker)


def wants_general(config: EvaluationConfig, checkpoint: str) -> bool:
    """Whether the harness is to score a checkpoint: the base of a control, the last epoch that is evaluated at all."""
    if config.evaluate.general is None or config.no_op is not None:
        return False
    if config.control:
        return checkpoint == BASE_CHECKPOINT
    last = max(asked_epochs(config.evaluate.epochs, config.train_epochs or 0), default=None)
    return checkpoint == f"epoch_{last}"


def general_settings_sha256(config: EvaluationConfig, experiment: Path) -> str:
    """Hash of all that decides on the scores beside the weights, the user's own task files included.

    Args:
        config: the run's evaluation, with `evaluate.general`.
        experiment: the experiment's folder.

    Raises:
        InputError: the folder of task files is not there, or is no folder of tasks.
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
    """Whether all that the harness is to score of a checkpoint is there, of these weights and with these settings.

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
    """Whether nothing is left to do for a checkpoint: neither Inspect's tasks nor the harness's."""
    done = finished_evaluation(folder, config, checkpoint, adapter_sha256) is not None
    return done and finished_general(folder, config, checkpoint, adapter_sha256)


def read_general_marker(path: Path) -> GeneralMarker | None:
    """Whose scores a folder of the harness holds; None where the marker is missing or broken."""
    try:
        return _MARKER.validate_json(read_text_bounded(path, _MARKER_LIMIT_BYTES))
    except (TouchlineError, ValidationError):
        return None


def general_marker_text(marker: GeneralMarker) -> bytes:
    """The content of a marker."""
    return _MARKER.dump_json(marker, indent=1) + b"\n"


def _task_files(folder: Path) -> Iterator[tuple[str, str]]:
    """(name, hash) of every file of a folder of tasks: they are code as much as they are text."""
    if not folder.is_dir():
        raise InputError(
            f"evaluate.general.include_path: {str(folder)!r} is no folder", expected="a folder with task files (YAML)"
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
