"""Data types of checkpoint verification and disk usage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from touchline.core.quantity import Measured


class CheckpointKind(StrEnum):
    """Content of a checkpoint folder."""

    ADAPTER = "adapter"
    FULL = "full model"
    BOTH = "full model and adapter"
    UNKNOWN = "no weights"


Depth = Literal["headers", "values"]
"""Verification depth: file sizes and headers, or every value too."""

_BESIDE = (".json", ".jinja", ".model", ".txt")
"""Suffixes of configs and tokenizer files."""
_ARCHIVES = (".pt", ".pth", ".bin")
_INDEX = ".index.json"
"""Suffix of the shard index."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFault:
    """Problem of a checkpoint."""

    code: str
    """`truncated`, `zero-byte`, `missing-file`, `wrong-shape`, `other-base`, `nan` ...; one or two words, hyphenated.
    """
    file: str | None
    """File name relative to the checkpoint."""
    message: str
    """Problem and expected value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFile:
    """File of a checkpoint."""

    name: str
    """Name relative to the checkpoint."""
    size_bytes: int
    """File size."""
    role: Literal["adapter", "model", "index", "config", "tokenizer", "optimizer", "marker", "other"]
    """Role of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedCheckpoint:
    """Checkpoint folder of a run."""

    run: str
    """Run name."""
    name: str
    """Folder name, `epoch_0`."""
    epoch: int | None
    """Epoch it ends; None for an intermediate one."""
    step: int | None
    """Optimizer steps done; None if unknown."""
    kind: CheckpointKind
    """Content of the folder."""
    depth: Depth
    """Verification depth."""
    sound: bool
    """Whether it has no problems."""
    faults: tuple[CheckpointFault, ...]
    """Problems found."""
    files: tuple[CheckpointFile, ...]
    """Files of the folder."""
    size_bytes: int
    """Total size of the folder."""
    adapter_bytes: int | None
    """Size of the adapter weights; None without an adapter."""
    model_bytes: int | None
    """Size of the full model weights; None without a model."""
    tensors: int | None
    """Number of tensors; None if no header could be read."""
    dtype: str | None
    """Dtype of the tensors, several joined by `, `."""
    rank: int | None
    """Adapter rank, from its tensors."""
    validation_loss: float | None
    """Validation loss recorded at saving."""

    @property
    def weights_sound(self) -> bool:
        """Return True if its weights are valid: all problems are in copies, or in files that need no training."""
        copies = self.damaged_copies
        return self.kind is not CheckpointKind.UNKNOWN and all(
            fault.file in copies
            or (fault.file is not None and fault.file.endswith(_BESIDE) and not fault.file.endswith(_INDEX))
            for fault in self.faults
        )

    @property
    def damaged_copies(self) -> tuple[str, ...]:
        """Return the damaged archives of weights that the folder also holds in whole safetensors files."""
        damaged = {fault.file for fault in self.faults}
        whole = {file.role for file in self.files if file.name.endswith(".safetensors") and file.name not in damaged}
        copies = (file for file in self.files if file.role in ("adapter", "model") and file.name.endswith(_ARCHIVES))
        return tuple(file.name for file in copies if file.name in damaged and file.role in whole)


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingCheckpoint:
    """Checkpoint that should exist and does not."""

    run: str
    """Run name."""
    name: str
    """Planned name."""
    reason: str
    """`the training has not come so far`, `keep: best`, `not there although the training is complete`."""
    expected: bool
    """Whether its absence is as planned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deletable:
    """File or folder that is safe to delete."""

    run: str
    """Run name."""
    path: str
    """Path relative to the experiment folder."""
    size_bytes: int
    """Size in bytes."""
    why: str
    """Reason: `broken; epoch_1 is sound`, `resume state of a finished training`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSize:
    """Size of one kind of adapter."""

    model: str
    """Base model."""
    rank: int | None
    """Rank."""
    dtype: str | None
    """Dtype."""
    size_bytes: int
    """Size of its weights."""
    run: str
    """Example run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStorage:
    """Disk usage of one run."""

    run: str
    """Run name."""
    checkpoints: int
    """Number of checkpoint folders."""
    total_bytes: int
    """Total of its folder."""
    checkpoint_bytes: int
    """Total of its checkpoints."""
    adapter_bytes: int
    """Total of its adapter weights."""
    full_model_bytes: Measured
    """Actual or hypothetical size of the checkpoints as full models (unit B)."""
    adapter_only_bytes: Measured
    """Actual or hypothetical size of the checkpoints as adapters only (unit B)."""
    forecast: Measured
    """Predicted size (unit B)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageSummary:
    """Disk usage of an experiment."""

    bases: dict[str, Measured]
    """Size of each base model's weights (unit B)."""
    adapters: tuple[AdapterSize, ...]
    """Adapters by base model and rank."""
    runs: tuple[RunStorage, ...]
    """Usage per run."""
    total_bytes: int
    """Total of all runs."""
    forecast: Measured
    """Predicted total (unit B)."""
    deletable: tuple[Deletable, ...]
    """Items that are safe to delete."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """Verification result of an experiment."""

    depth: Depth
    """Verification depth."""
    checkpoints: tuple[VerifiedCheckpoint, ...]
    """Checkpoints in the order of runs and epochs."""
    missing: tuple[MissingCheckpoint, ...]
    """Missing checkpoints."""
    storage: StorageSummary
    """Disk usage."""
