"""What checkpoints on disk really are, found by reading them, and what they take."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from touchline.core.quantity import Measured


class CheckpointKind(StrEnum):
    """What a checkpoint folder holds."""

    ADAPTER = "adapter"
    FULL = "full model"
    BOTH = "full model and adapter"
    UNKNOWN = "no weights"


Depth = Literal["headers", "values"]
"""How far a checkpoint was read: file sizes and headers, or every value too."""

_BESIDE = (".json", ".jinja", ".model", ".txt")
"""Endings of the files beside the weights: configs and tokenizer."""
_INDEX = ".index.json"
"""Ending of the file that tells which shard holds which weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFault:
    """One thing that is wrong with a checkpoint."""

    code: str
    """`truncated`, `zero-byte`, `missing-file`, `wrong-shape`, `other-base`, `nan` ...; one word or two, hyphenated."""
    file: str | None
    """The file, relative to the checkpoint."""
    message: str
    """What is wrong, what was expected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFile:
    """One file of a checkpoint."""

    name: str
    """Relative to the checkpoint."""
    size_bytes: int
    """Its size."""
    role: Literal["adapter", "model", "index", "config", "tokenizer", "optimizer", "marker", "other"]
    """What it is for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedCheckpoint:
    """One checkpoint folder of a run."""

    run: str
    """The run."""
    name: str
    """Its folder's name, `epoch_0`."""
    epoch: int | None
    """The epoch that it ends; none for one in between."""
    step: int | None
    """Optimizer steps done; none when nothing says so."""
    kind: CheckpointKind
    """What it holds."""
    depth: Depth
    """How far it was read."""
    sound: bool
    """Whether nothing is wrong with it."""
    faults: tuple[CheckpointFault, ...]
    """What is wrong with it."""
    files: tuple[CheckpointFile, ...]
    """What is in it."""
    size_bytes: int
    """Everything in it."""
    adapter_bytes: int | None
    """The adapter's weights; none when there is no adapter."""
    model_bytes: int | None
    """The full model's weights; none when there are none."""
    tensors: int | None
    """Tensors in its weights; none when no header could be read."""
    dtype: str | None
    """Their element type, or several joined by `, `."""
    rank: int | None
    """Rank of the adapter, as its tensors have it."""
    validation_loss: float | None
    """Recorded when it was saved."""

    @property
    def weights_sound(self) -> bool:
        """Whether its weights are sound: nothing is wrong but with files that can be written again without training."""
        return self.kind is not CheckpointKind.UNKNOWN and all(
            fault.file is not None and fault.file.endswith(_BESIDE) and not fault.file.endswith(_INDEX)
            for fault in self.faults
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingCheckpoint:
    """A checkpoint that should be there and is not."""

    run: str
    """The run."""
    name: str
    """What it would be called."""
    reason: str
    """`the training has not come so far`, `keep: best`, `not there although the training is complete`."""
    expected: bool
    """Whether its absence is as planned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deletable:
    """Something that may go without loss."""

    run: str
    """The run."""
    path: str
    """Relative to the experiment's folder."""
    size_bytes: int
    """What it gives back."""
    why: str
    """Why nothing is lost: `broken; epoch_1 is sound`, `resume state of a finished training`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSize:
    """What one adapter takes."""

    model: str
    """Base model."""
    rank: int | None
    """Its rank."""
    dtype: str | None
    """Element type."""
    size_bytes: int
    """Size of its weights."""
    run: str
    """A run that has one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStorage:
    """What one run takes."""

    run: str
    """The run."""
    checkpoints: int
    """Checkpoint folders."""
    total_bytes: int
    """Its folder, everything in it."""
    checkpoint_bytes: int
    """Of it, checkpoints."""
    adapter_bytes: int
    """Of these, adapters' weights."""
    full_model_bytes: Measured
    """What the same checkpoints take, or would take, as full models each (unit B)."""
    adapter_only_bytes: Measured
    """What they take, or would take, as adapters alone (unit B)."""
    forecast: Measured
    """What the plan said (unit B)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageSummary:
    """Where the bytes are."""

    bases: dict[str, Measured]
    """Size of each base model's weights (unit B)."""
    adapters: tuple[AdapterSize, ...]
    """By base model and rank."""
    runs: tuple[RunStorage, ...]
    """By run."""
    total_bytes: int
    """All runs together."""
    forecast: Measured
    """What the plan said for all of them (unit B)."""
    deletable: tuple[Deletable, ...]
    """What may go without loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """Every checkpoint of an experiment, verified."""

    depth: Depth
    """How far they were read."""
    checkpoints: tuple[VerifiedCheckpoint, ...]
    """In the order of runs and epochs."""
    missing: tuple[MissingCheckpoint, ...]
    """What should be there and is not."""
    storage: StorageSummary
    """What they take."""
