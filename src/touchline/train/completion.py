"""training.json: the record of a completed training, written last."""

from __future__ import annotations

from pathlib import Path

from touchline.backends.run_config import RunConfig
from touchline.core.files import write_atomic
from touchline.data.metrics import RetainedCheckpoint, ScoringSetup, TrainingMarker
from touchline.data.training_state import ResumeState
from touchline.train.folders import read_exports
from touchline.train.run import MARKER, training_text


def write_completion(
    folder: Path, config: RunConfig, state: ResumeState, trainable_parameters: int, scoring: ScoringSetup
) -> None:
    """Write training.json from the checkpoints of a run folder and the last measurements.

    Args:
        folder: run folder.
        config: the run.
        state: state after the last step.
        trainable_parameters: trained parameters.
        scoring: setup of the validation.
    """
    exports = read_exports(folder, config.run_digest)
    scored = [(end.loss, end.epoch) for end in state.epoch_ends if end.loss is not None]
    marker = TrainingMarker(
        experiment=config.experiment,
        run=config.run,
        run_digest=config.run_digest,
        steps=state.step,
        final_train_loss=sum(state.recent_losses) / len(state.recent_losses),
        final_validation_loss=state.validation_loss,
        best_epoch=min(scored)[1] if scored else None,
        elapsed_seconds=state.elapsed_seconds,
        validation_seconds=state.validation_seconds,
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
