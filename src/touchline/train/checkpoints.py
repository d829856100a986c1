"""Checkpoint folders of a run (`epoch_0/`, `step_50/`): weights, tokenizer, marker; their retention; training.json.

Torch is imported only for checkpoints that are merged.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from touchline.backends.run_config import RunConfig
from touchline.core.catalog import COPIED_FILES
from touchline.core.files import write_atomic
from touchline.data.checkpoints import ResumeState
from touchline.data.metrics import ExportMarker, RetainedCheckpoint, ScoringSetup, TrainingMarker
from touchline.train.folders import (
    MARKER_FILE,
    describe,
    marker_text,
    new_folder,
    plain_disk_faults,
    read_exports,
    remove_folder,
)
from touchline.train.run import MARKER, training_text


def write_checkpoint(
    config: RunConfig,
    folder: Path,
    write_weights: Callable[[Path], str],
    *,
    step: int,
    epoch: int | None,
    loss: float | None,
) -> tuple[Path, ExportMarker]:
    """Write `epoch_<epoch>/`, or `step_<step>/` within an epoch, replacing an existing folder.

    Args:
        write_weights: writes the adapter or the whole model into a folder and returns the hash of its weights.
        step: optimizer steps done.
        epoch: epoch that it ends; None within an epoch.

    Raises:
        HostError: the disk is full or not writable; no partial folder is left.
    """
    target = folder / (f"step_{step}" if epoch is None else f"epoch_{epoch}")
    with new_folder(target) as temporary, plain_disk_faults():
        trained_sha256 = write_weights(temporary)
        if config.train.saves == "merged":
            from touchline.train.export import merge

            merge(config, temporary)
        for name in COPIED_FILES:
            source = Path(config.model.path) / name
            if source.is_file() and not (temporary / name).exists():
                shutil.copyfile(source, temporary / name)
        marker = ExportMarker(
            experiment=config.experiment,
            run=config.run,
            run_digest=config.run_digest,
            kind=config.train.saves,
            step=step,
            epoch=epoch,
            validation_loss=loss,
            base_path=config.model.path,
            base_weights_sha256=config.model.weights_sha256,
            adapter_sha256=trained_sha256,
            files=describe(temporary),
        )
        (temporary / MARKER_FILE).write_bytes(marker_text(marker))
    return target, marker


def drop_old_exports(config: RunConfig, folder: Path) -> list[str]:
    """Delete checkpoints that `checkpoint.keep` does not keep. Return their names."""
    keep = config.train.checkpoint.keep
    exports = read_exports(folder, config.run_digest)
    if keep == "all" or not exports:
        return []
    if keep == "best":
        scored = [item for item in exports if item[1].validation_loss is not None]
        best = min(scored, key=lambda item: item[1].validation_loss or 0.0, default=exports[-1])
        kept = {best[0], exports[-1][0]}
    else:
        kept = {path for path, _ in exports[-keep:]}
    dropped = [path for path, _ in exports if path not in kept]
    for path in dropped:
        remove_folder(path)
    return [path.name for path in dropped]


def write_completion(
    folder: Path, config: RunConfig, state: ResumeState, trainable_parameters: int, scoring: ScoringSetup
) -> None:
    """Write training.json from the checkpoints of a run folder and the last measurements.

    Args:
        state: state after the last step.
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
