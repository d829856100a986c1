"""Evaluation job: one checkpoint of one run, compared with the plan, and its progress lines."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from touchline.core.errors import InputError, PlanDriftError
from touchline.core.files import inside, sha256_file
from touchline.data.evaluations import EVALUATION_FILE, read_evaluation_config
from touchline.data.resolving import require_test_images
from touchline.evaluate.checkpoint import Checkpoint, resolve_checkpoint
from touchline.experiment.evaluation import BASE_CHECKPOINT, NO_OP_CHECKPOINT, EvaluationConfig


class EvaluationProgress:
    """Counter of a job's answers; called from the engine's thread."""

    def __init__(self, name: str, total: int) -> None:
        self._name = name
        self._total = total
        self._done = 0

    def __call__(self, count: int) -> None:
        """Add completed answers."""
        self._done = min(self._total, self._done + count)
        say(f"{self._name}: {self._done}/{self._total}")


def say(text: str) -> None:
    """Write one line to stderr immediately."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


WEIGHTS_NAME = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationJob:
    """Resolved job."""

    folder: Path
    """Run folder."""
    config: EvaluationConfig
    """Content of eval.yaml."""
    name: str
    """Checkpoint name."""
    checkpoint: Checkpoint
    """Checkpoint to load."""
    adapter_sha256: str | None
    """Hash of the adapter weights."""


def resolve_job(folder: Path, name: str) -> EvaluationJob:
    """Resolve a job and compare it with the plan.

    Raises:
        InputError: the checkpoint is missing.
        PlanDriftError: it was trained on another base, or with other settings.
    """
    config = read_evaluation_config(folder / EVALUATION_FILE)
    require_test_images(config.on(None), folder)
    digest: str | None = None
    if name == BASE_CHECKPOINT:
        checkpoint = resolve_checkpoint(config.model.path)
    else:
        if name == NO_OP_CHECKPOINT:
            # Its libraries load for a no-op control alone.
            from touchline.evaluate.noop import write_no_op

            write_no_op(folder, config)
        path = inside(folder, name)
        if not path.is_dir():
            raise InputError(f"checkpoint {str(path)!r} does not exist", expected="a trained run", hint="touchline run")
        checkpoint = resolve_checkpoint(str(path))
        digest = _adapter_hash(path, checkpoint)
        _refuse_other_training(path, checkpoint, config)
    base = checkpoint.marker.base_weights_sha256 if checkpoint.marker is not None else checkpoint.model.weights_sha256
    if base != config.model.weights_sha256:
        raise PlanDriftError(
            f"{config.run} {name}: the base {checkpoint.model.path!r} differs from the planned one",
            expected=f"weights with the hash {config.model.weights_sha256[:12]}, found {str(base)[:12]}",
            hint="touchline plan",
        )
    return EvaluationJob(folder=folder, config=config, name=name, checkpoint=checkpoint, adapter_sha256=digest)


def _refuse_other_training(path: Path, checkpoint: Checkpoint, config: EvaluationConfig) -> None:
    if checkpoint.marker is not None and checkpoint.marker.run_digest != config.run_digest:
        raise PlanDriftError(
            f"checkpoint {str(path)!r} was trained with settings that the run no longer has",
            expected=f"digest {config.run_digest[:12]}, found {checkpoint.marker.run_digest[:12]}",
            hint="touchline run    (trains it again)",
        )


def _adapter_hash(path: Path, checkpoint: Checkpoint) -> str | None:
    """Return the recorded hash of an adapter; other folders are hashed."""
    if checkpoint.marker is not None:
        return checkpoint.marker.adapter_sha256
    weights = path / WEIGHTS_NAME
    return sha256_file(weights) if weights.is_file() else None
