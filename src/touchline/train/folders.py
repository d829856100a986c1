"""Folders of a run, written under a temporary name and renamed: checkpoints, training states, training.json; no torch.

`resume/step_00000050/` holds parameters, optimizer, random generators and state.json with the hashes of the others. The
data position is the step, because the order of the examples follows from the seed. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter
from safetensors import SafetensorError

from touchline.backends.run_config import RunConfig
from touchline.core.catalog import COPIED_FILES
from touchline.core.errors import PlanDriftError
from touchline.core.files import disk_errors, sha256_file, write_atomic
from touchline.data.checkpoints import (
    STATE_FILE,
    ResumeState,
    is_paused,
    read_export_marker,
    read_pause,
    read_state,
    read_training_marker,
    saved_states,
    state_text,
)
from touchline.data.metrics import ExportMarker, RetainedCheckpoint, SavedFile, ScoringSetup, TrainingMarker
from touchline.train.attempt import LOG

_TEMPORARY = ".saving-"
_REPLACED = ".replaced-"


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` if the block succeeds, and is deleted otherwise.

    An existing folder stays until the new one is complete.
    """
    with disk_errors("folder", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f"{_TEMPORARY}{target.name}-{secrets.token_hex(4)}"
        try:
            temporary.mkdir()
            yield temporary
            put_in_place(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(complete: Path, target: Path) -> None:
    """Write a complete folder to disk and rename it to `target`, replacing an existing one."""
    for path in sorted(complete.iterdir()):
        _sync(path)
    _sync(complete)
    if target.exists():
        replaced = target.parent / f"{_REPLACED}{target.name}-{secrets.token_hex(4)}"
        target.rename(replaced)
        complete.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        complete.rename(target)
    _sync(target.parent)


def remove_leftovers(folder: Path) -> None:
    """Delete partial folders of killed attempts; only the holder of the run's lock may do this."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name.startswith((_TEMPORARY, _REPLACED)) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a saved folder atomically: rename it first."""
    doomed = folder.parent / f"{_REPLACED}{folder.name}-{secrets.token_hex(4)}"
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> SavedFile:
    """Write a file of a new folder. Return its size and hash."""
    path.write_bytes(data)
    return SavedFile(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def describe(folder: Path) -> dict[str, SavedFile]:
    """Return size and hash of every file in a folder."""
    return {
        path.name: SavedFile(size=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def is_whole(folder: Path, files: dict[str, SavedFile], *, hashes: bool) -> bool:
    """Return True if all files exist with their sizes, and optionally with their hashes."""
    for name, saved in files.items():
        path = folder / Path(name).name
        if not path.is_file() or path.stat().st_size != saved.size:
            return False
        if hashes and sha256_file(path) != saved.sha256:
            return False
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def plain_disk_faults() -> Iterator[None]:
    """Convert a disk-full error of safetensors, which is written in Rust, to OSError."""
    try:
        yield
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" in str(error) or f"os error {errno.EDQUOT}" in str(error):
            raise OSError(errno.ENOSPC, "no space left on device") from error
        raise


MARKER_FILE = "touchline.json"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
STAGE_FILE = "stage_adapter.safetensors"
"""Adapter of one stage by itself, if earlier ones were merged into the base; `ADAPTER_FILE` then combines all of them.
"""
_NAME = re.compile(r"(epoch|step)_\d+")
_MARKER = TypeAdapter(ExportMarker)


def read_exports(folder: Path, run_digest: str) -> list[tuple[Path, ExportMarker]]:
    """Return this plan's checkpoints in a run folder, by step; folders without a readable marker are skipped."""
    found: list[tuple[Path, ExportMarker]] = []
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name) is None:
            continue
        marker = read_export_marker(path)
        if marker is not None and marker.run_digest == run_digest:
            found.append((path, marker))
    return sorted(found, key=lambda item: (item[1].step, item[0].name))


def marker_text(marker: ExportMarker) -> bytes:
    """Return the content of a checkpoint marker."""
    return _MARKER.dump_json(marker, indent=2) + b"\n"


FINAL_LOSS_STEPS = 10
"""Steps over which the final training loss is averaged, because one step's loss mostly reflects its examples."""


def find_resume(folder: Path, run_digest: str) -> tuple[Path, ResumeState] | None:
    """Return the newest complete state under `resume/` with its folder; None if there is none."""
    remove_leftovers(folder)
    for path in saved_states(folder):
        state = _read(path)
        if state is None:
            LOG.warning("the saved state %s is corrupt and ignored", path)
            continue
        if state.run_digest != run_digest:
            raise PlanDriftError(
                f"the saved state {str(path)!r} belongs to another plan of this run",
                expected=f"run_digest {run_digest[:12]}, found {state.run_digest[:12]}",
                hint=f"mv {str(folder)!r} {str(folder) + '.old'!r}    to train from the beginning",
            )
        return path, state
    return None


def save_resume(
    folder: Path, state: ResumeState, write: Callable[[Path], dict[str, SavedFile]]
) -> tuple[Path, dict[str, SavedFile]]:
    """Save a state under `resume/` and delete older ones. Return its folder and the files next to state.json."""
    target = folder / f"step_{state.step:08d}"
    with new_folder(target) as temporary:
        files = write(temporary)
        write_bytes(temporary / STATE_FILE, state_text(replace(state, files=files)))
    with disk_errors("folder", folder):
        for path in saved_states(folder):
            if path != target:
                remove_folder(path)
    return target, files


def adopt(saved: Path, folder: Path) -> dict[str, SavedFile]:
    """Make a complete folder of another library's the empty `folder`. Return the sizes and hashes of its files."""
    saved.rename(folder)
    return describe(folder)


def _read(path: Path) -> ResumeState | None:
    state = read_state(path)
    return state if state is not None and state.files and is_whole(path, state.files, hashes=True) else None


def write_checkpoint(
    config: RunConfig,
    folder: Path,
    write_weights: Callable[[Path], str],
    *,
    step: int,
    epoch: int | None,
    loss: float | None,
) -> tuple[Path, ExportMarker]:
    """Write `epoch_<epoch>/`, or `step_<step>/` within an epoch, replacing an existing folder."""
    target = folder / (f"step_{step}" if epoch is None else f"epoch_{epoch}")
    with new_folder(target) as temporary, plain_disk_faults():
        trained_sha256 = write_weights(temporary)
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
    """Write training.json from the checkpoints of a run folder and the last measurements."""
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
                name=path.name, step=each.step, adapter_sha256=each.adapter_sha256, validation_loss=each.validation_loss
            )
            for path, each in exports
        ),
        trainable_parameters=trainable_parameters,
        scoring=scoring,
    )
    write_atomic(folder / MARKER, training_text(marker))


MARKER = "training.json"


_TRAINING = TypeAdapter(TrainingMarker)


def reached_pause(config: RunConfig, folder: Path, saved: tuple[Path, ResumeState] | None) -> bool:
    """Return True, and say so, if a training is paused as pause.json asks."""
    if saved is None or not is_paused(saved[1], read_pause(folder)):
        return False
    LOG.info("run %s is paused after step %d, where runs are compared", config.run, saved[1].step)
    return True


def is_done(folder: Path, config: RunConfig) -> bool:
    """Return True if training.json is of this plan and its last checkpoint exists."""
    marker = read_training_marker(folder)
    if marker is None:
        return False
    if marker.run_digest != config.run_digest:
        raise PlanDriftError(
            f"{str(folder / MARKER)!r} belongs to another plan of this run",
            expected=f"run_digest {config.run_digest[:12]}, found {marker.run_digest[:12]}",
            hint="move the trained run to another folder",
        )
    if not marker.checkpoints:
        return True
    last = folder / Path(marker.checkpoints[-1]).name
    export = read_export_marker(last)
    if export is None:
        LOG.warning("%s is trained, but its checkpoint %s is missing: training again", config.run, last.name)
        return False
    return is_whole(last, export.files, hashes=False)


def training_text(marker: TrainingMarker) -> bytes:
    """Return the content of training.json."""
    return _TRAINING.dump_json(marker, indent=2) + b"\n"
