"""Requested evaluations (`--request`), and pending ones of one run (`--run NAME`, as started by eval.slurm).

Neither torch nor Inspect is needed.

The job starts when the training has ended, successfully or not, and inspects its files: a training that failed in its
last line has trained well, and one that left nothing is detected within a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import InputError
from touchline.core.files import inside, read_text_bounded
from touchline.data.checkpoints import export_state, how_it_ended, read_checkpoints, read_training_marker
from touchline.data.evaluations import EVALUATION_FILE, finished_evaluation, read_evaluation_config
from touchline.data.scores import CheckpointInfo
from touchline.experiment.evaluation import EvaluationConfig, asked_epochs

_REQUEST_LIMIT_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestedJob:
    """Checkpoint of a run."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    run: str
    checkpoint: str
    """`epoch_0`, or `base` for a control."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRequest:
    """Content of request.json: checkpoints for one process, all on one base model."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    jobs: tuple[RequestedJob, ...]
    """Checkpoints, in order."""
    dtype: str = "auto"


def read_request(path: Path) -> EvaluationRequest:
    """Read request.json.

    Raises:
        InputError: it is missing or invalid.
    """
    try:
        return TypeAdapter(EvaluationRequest).validate_json(read_text_bounded(path, _REQUEST_LIMIT_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{str(path)!r}: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}",
            expected='{"jobs": [{"run": "...", "checkpoint": "epoch_0"}]}',
        ) from None


def needs_bitsandbytes(experiment: Path, run: str) -> bool:
    """Return True if a run is evaluated on a quantized base."""
    config = read_evaluation_config(inside(experiment, run) / EVALUATION_FILE)
    return config.evaluate.quantization != "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingEvaluations:
    """Pending evaluations of a run."""

    checkpoints: tuple[str, ...]
    """Names of existing checkpoints that are not evaluated."""
    missing: str | None
    """One-line reason for missing checkpoints; None if all requested ones exist."""


def find_pending_evaluations(experiment: Path, run: str) -> PendingEvaluations:
    """Compare the run's eval.yaml with its folder.

    Raises:
        InputError: there is no such run, or its eval.yaml is invalid.
    """
    folder = inside(experiment, run)
    config = read_evaluation_config(folder / EVALUATION_FILE)
    if config.control:
        name = config.control_checkpoint
        adapter = None if config.no_op is None else export_state(folder, name)[1]
        done = finished_evaluation(folder, config, name, adapter) is not None
        return PendingEvaluations(checkpoints=() if done else (name,), missing=None)
    found = read_checkpoints(folder)
    complete = {item.epoch: item for item in found if item.complete and item.epoch is not None}
    epochs = _epochs(folder, config, complete)
    there = [complete[epoch] for epoch in epochs if epoch in complete]
    todo = [item.name for item in there if finished_evaluation(folder, config, item.name, item.adapter_sha256) is None]
    absent = [f"epoch_{epoch}" for epoch in epochs if epoch not in complete]
    trained = _is_trained(folder, config)
    # Of a finished training, a checkpoint that is not there was not kept; only when none is left is that a fault.
    if trained and there:
        absent = []
    if not absent and (epochs or trained):
        return PendingEvaluations(checkpoints=tuple(todo), missing=None)
    return PendingEvaluations(checkpoints=tuple(todo), missing=_why(folder, config, absent, found))


def _epochs(folder: Path, config: EvaluationConfig, complete: dict[int, CheckpointInfo]) -> tuple[int, ...]:
    """Return the requested epochs; older files lack the training length, which is then inferred from checkpoints."""
    count = config.train_epochs
    if count is None:
        marker = read_training_marker(folder)
        count = 0 if marker is None else max(complete, default=-1) + 1
    return asked_epochs(config.evaluate.epochs, count)


def _is_trained(folder: Path, config: EvaluationConfig) -> bool:
    marker = read_training_marker(folder)
    return marker is not None and marker.run_digest == config.run_digest


def _why(folder: Path, config: EvaluationConfig, absent: Sequence[str], found: Sequence[CheckpointInfo]) -> str:
    """Describe in one line what is missing or corrupt and the end of the last training attempt."""
    marker = read_training_marker(folder)
    parts = []
    if marker is None:
        parts.append("no training.json")
    elif marker.run_digest != config.run_digest:
        parts.append("training.json has settings that the run no longer has")
    broken = {item.name: item.problems for item in found if not item.complete}
    parts += [
        f"{name} is incomplete ({', '.join(broken[name])})" if name in broken else f"no {name}" for name in absent
    ]
    return f"{config.run} is not trained: {', '.join(parts)}, {how_it_ended(folder)}"
