"""Parent of a stage: its checkpoint is verified before anything else is loaded; torch is not needed.

Required are a training.json of exactly the planned digest, and its checkpoint with every file as saved; an exit code
does not count. A missing file ends the stage at once; a changed file is a broken lineage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from touchline.backends.run_config import ParentConfig, RunConfig
from touchline.core.errors import InputError, LineageError, ParentNotReadyError
from touchline.core.files import read_record, sha256_file
from touchline.core.quantity import Measured
from touchline.data.checkpoints import how_it_ended, read_training_marker
from touchline.data.metrics import ExportMarker, LineageRow, TrainingMarker
from touchline.train.folders import ADAPTER_CONFIG_FILE, ADAPTER_FILE, STAGE_FILE, read_exports
from touchline.train.inputs import path_of_config, read_config

LINEAGE_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LossProof:
    """Loss of the parent's validation items with the stage's model before its first step."""

    recorded: float
    """Recorded validation loss of the parent at that checkpoint, in nats."""
    found: float
    """Loss with the stage's model, in nats."""
    relative_difference: float
    """Difference relative to the recorded loss."""
    tolerance: float
    """Tolerance for rounding."""
    tolerance_reason: str
    """Reason of the tolerance: same arithmetic, merged in bfloat16, another device or dtype than the parent's."""
    examples: int
    """Number of validation items."""
    target_tokens: int
    """Their number of label tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """Content of lineage.json."""

    schema_version: int = LINEAGE_SCHEMA_VERSION
    """Format version."""
    run: str
    """Run of the stage."""
    run_digest: str
    """Digest of the planned run."""
    parent: str
    """Run of the parent."""
    parent_digest: str
    """Digest of the planned and trained parent."""
    how: Literal["adapter", "merge"]
    """`adapter`: trained further; `merge`: merged into the base below a new adapter."""
    checkpoint: str
    """Checkpoint of the parent, `epoch_0`."""
    checkpoint_rule: Literal["last", "best"]
    """Rule that selected it."""
    adapter_sha256: str
    """Hash of the adapter file as read."""
    marker_sha256: str
    """Hash in the checkpoint marker."""
    record_sha256: str | None
    """Hash in the parent's training.json; None if that does not list the checkpoint."""
    file_tensors_sha256: str
    """Hash over names, dtypes, shapes and elements of the inherited tensors in the file."""
    model_tensors_sha256: str
    """The same hash of the tensors in the model; with `merge`, of the merged tensors."""
    loss: LossProof | None
    """Loss before the first step; None if the parent has no validation loss."""
    loss_missing: str | None
    """Reason why there is none."""
    parent_parameters: int
    """Number of parameters trained by the parent."""
    trainable_parameters: int
    """Number of parameters trained by the stage; equal with `adapter`."""
    merged_rank: int
    """Largest rank merged into the base below the stage's adapter; 0 if none."""
    merge_rounding: Measured
    """Rounding error in the base's dtype, relative to the merged change."""
    problems: tuple[str, ...] = ()
    """Problems found; empty if the lineage is proved."""
    time_unix: float
    """Time of the proof, in seconds since 1970."""
    seconds: float
    """Wall-clock time of loading, merging and proving."""

    @property
    def proved(self) -> bool:
        """Return True if there are no problems."""
        return not self.problems

    def row(self, attempt: int) -> LineageRow:
        """Return the row of metrics.jsonl."""
        return LineageRow(
            event="lineage",
            attempt=attempt,
            time_unix=self.time_unix,
            seconds=self.seconds,
            parent=self.parent,
            checkpoint=self.checkpoint,
            how=self.how,
            adapter_sha256=self.adapter_sha256,
            loss=None if self.loss is None else self.loss.found,
            recorded_loss=None if self.loss is None else self.loss.recorded,
        )


LINEAGE_FILE = "lineage.json"
_LINEAGE = TypeAdapter(Lineage)
_OWN_FILES = (ADAPTER_FILE, ADAPTER_CONFIG_FILE, STAGE_FILE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParentCheckpoint:
    """Complete checkpoint of a parent trained as planned."""

    config: ParentConfig
    trainer: RunConfig
    """Parent's own finetune.yaml."""
    folder: Path
    path: Path
    marker: ExportMarker
    training: TrainingMarker


@dataclass(frozen=True, kw_only=True, slots=True)
class Ancestry:
    """Origin of a stage."""

    run: str
    run_digest: str
    folder: Path
    checkpoint: ParentCheckpoint
    proved: Lineage | None
    """Proof of an earlier attempt, if the stage resumes from its own saved state."""


def resolve_parent(config: RunConfig, folder: Path, *, resumes: bool) -> Ancestry | None:
    """Return the parent checkpoint that a stage needs; None if it needs none.

    A resumed stage has its adapter in its saved state, and needs its parent only to merge the same weights into the
    base again.

    Raises:
        ParentNotReadyError: the parent's checkpoint is missing or incomplete.
        LineageError: a file was changed, or a saved state has no proof.
    """
    if config.parent is None:
        return None
    proved = _read_lineage(config, folder) if resumes else None
    if proved is not None and proved.merged_rank == 0:
        return None
    return Ancestry(
        run=config.run,
        run_digest=config.run_digest,
        folder=folder,
        checkpoint=find_parent(config, folder),
        proved=proved,
    )


def _read_lineage(config: RunConfig, folder: Path) -> Lineage:
    assert config.parent is not None
    path = folder / LINEAGE_FILE
    try:
        lineage = _LINEAGE.validate_json(read_record(path))
    except (OSError, ValidationError):
        lineage = None
    planned = (config.run_digest, config.parent.run_digest)
    if lineage is None or not lineage.proved or (lineage.run_digest, lineage.parent_digest) != planned:
        raise LineageError(
            f"run {config.run} has a saved state, but {LINEAGE_FILE} does not prove what it started from",
            expected="a {LINEAGE_FILE} of the attempt that saved it",
            hint=f"mv {str(folder / 'resume')!r} {str(folder / 'resume.old')!r}    to start from the parent again",
        )
    return lineage


def find_parent(config: RunConfig, folder: Path) -> ParentCheckpoint:
    """Return the checkpoint that a stage continues from.

    Raises:
        ParentNotReadyError: the parent is not trained, or the checkpoint is missing or incomplete.
        LineageError: a file of the checkpoint was changed.
    """
    parent = config.parent
    assert parent is not None
    # Runs lie side by side, and a name leads nowhere else.
    place = folder.parent / PurePath(parent.folder).name
    training = read_training_marker(place)
    if training is None:
        raise _missing(config, place, "training.json does not exist" if place.is_dir() else "its folder does not exist")
    if training.run_digest != parent.run_digest:
        raise _missing(config, place, f"its training.json belongs to another plan ({training.run_digest[:12]})")
    path, marker = _chosen(config, place, training)
    lacking = [name for name in (*marker.files, ADAPTER_FILE) if not (path / PurePath(name).name).is_file()]
    if lacking:
        raise _missing(config, place, f"{path.name} is incomplete, without {', '.join(dict.fromkeys(lacking))}")
    _refuse_other_files(config, path, marker)
    try:
        trainer = read_config(path_of_config(place))
    except InputError as fault:
        raise _missing(config, place, f"its {path_of_config(place).name} cannot be read ({fault.message})") from fault
    if trainer.run_digest != parent.run_digest:
        name = path_of_config(place).name
        raise _missing(config, place, f"its {name} belongs to another plan ({trainer.run_digest[:12]})")
    return ParentCheckpoint(config=parent, trainer=trainer, folder=place, path=path, marker=marker, training=training)


def _chosen(config: RunConfig, place: Path, training: TrainingMarker) -> tuple[Path, ExportMarker]:
    parent = config.parent
    assert parent is not None
    exports = read_exports(place, parent.run_digest)
    if parent.checkpoint == "best":
        scored = [(marker.validation_loss, marker.step, path, marker) for path, marker in exports]
        best = min((each for each in scored if each[0] is not None), key=lambda each: each[:2], default=None)
        if best is None:
            raise _missing(config, place, "none of its checkpoints has a validation loss")
        return best[2], best[3]
    wanted = training.checkpoints[-1] if training.checkpoints else None
    for path, marker in exports:
        if path.name == wanted:
            return path, marker
    raise _missing(config, place, f"its last checkpoint {wanted or ''} does not exist, or has no marker")


def _refuse_other_files(config: RunConfig, path: Path, marker: ExportMarker) -> None:
    for name, saved in marker.files.items():
        file = path / PurePath(name).name
        if file.stat().st_size == saved.size and sha256_file(file) == saved.sha256:
            continue
        what = "adapter" if name in _OWN_FILES else "checkpoint"
        raise LineageError(
            f"run {config.run} does not continue from {marker.run}: {str(file)!r} differs from the saved file",
            expected=f"the {what} with the hash {saved.sha256[:12]} of {path.name}/touchline.json",
            hint=f"restore it, or train {marker.run} again",
        )


def _missing(config: RunConfig, place: Path, what: str) -> ParentNotReadyError:
    assert config.parent is not None
    return ParentNotReadyError(
        f"run {config.run} cannot continue from {config.parent.run}: {what}, {how_it_ended(place)}"
    )
