"""File lineage.json: proof that a stage continues from its parent's weights.

Three comparisons are recorded. File: its hash with those in the checkpoint marker and the parent's training.json, and
the tensors in the model with those in the file. Loss: of the model before its first step, on the parent's validation
items, with the recorded one. Size: number of adapter parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from touchline.core.quantity import Measured

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
        """Whether there are no problems."""
        return not self.problems
