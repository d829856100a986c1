"""training.json: the record of a completed training, written last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from touchline.backends.run_config import RunConfig
from touchline.core.files import write_atomic
from touchline.data.metrics import RetainedCheckpoint, ScoringSetup, TrainingMarker
from touchline.train.folders import read_exports
from touchline.train.resume import EpochEnd
from touchline.train.run import MARKER, training_text

FINAL_LOSS_STEPS = 10
"""Steps over which the final training loss is averaged, because one step's loss mostly reflects its examples."""


def write_completion(
    folder: Path,
    config: RunConfig,
    *,
    steps: int,
    recent_losses: Sequence[float],
    validation_loss: float | None,
    epoch_ends: Sequence[EpochEnd],
    elapsed_seconds: float,
    validation_seconds: float,
    trainable_parameters: int,
    scoring: ScoringSetup | None,
) -> None:
    """Write training.json from the checkpoints of a run folder and the last measurements.

    Args:
        folder: run folder.
        config: the run.
        steps: optimizer steps done.
        recent_losses: training losses of the last steps, in nats.
        validation_loss: last validation loss in nats; None without a validation split.
        epoch_ends: completed epochs.
        elapsed_seconds: wall-clock time of all steps.
        validation_seconds: wall-clock time of all validations.
        trainable_parameters: trained parameters.
        scoring: setup of the validation.
    """
    exports = read_exports(folder, config.run_digest)
    scored = [(end.loss, end.epoch) for end in epoch_ends if end.loss is not None]
    marker = TrainingMarker(
        experiment=config.experiment,
        run=config.run,
        run_digest=config.run_digest,
        steps=steps,
        final_train_loss=sum(recent_losses) / len(recent_losses),
        final_validation_loss=validation_loss,
        best_epoch=min(scored)[1] if scored else None,
        elapsed_seconds=elapsed_seconds,
        validation_seconds=validation_seconds,
        checkpoints=tuple(path.name for path, _ in exports),
        adapter_sha256=exports[-1][1].adapter_sha256,
        kept=tuple(
            RetainedCheckpoint(
                name=path.name,
                step=each.step,
                adapter_sha256=each.adapter_sha256,
                validation_loss=each.validation_loss,
            )
            for path, each in exports
        ),
        trainable_parameters=trainable_parameters,
        scoring=scoring,
    )
    write_atomic(folder / MARKER, training_text(marker))
