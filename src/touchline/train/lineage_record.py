"""lineage.json: the proof that a stage of a chain goes on from its parent's weights, made before its first step.

Three things are compared. The file: its hash with those in the checkpoint's own marker and in the parent's
training.json, and the tensors as they sit in the model with those in the file. The loss: of the model before its first
step, on the parent's validation items, with the one that the parent recorded. The size: the adapter's parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from touchline.core.quantity import Measured

LINEAGE_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LossProof:
    """The parent's validation items, scored by the stage's model before its first step."""

    recorded: float
    """The parent's validation loss at that checkpoint, in nats, as it recorded it."""
    found: float
    """The stage's model's, in nats."""
    relative_difference: float
    """Of the two, by the recorded one."""
    tolerance: float
    """What rounding alone may do."""
    tolerance_reason: str
    """Why so much: the same arithmetic, merged in bfloat16, another device or element type than the parent's."""
    examples: int
    """Validation items."""
    target_tokens: int
    """Their target tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """lineage.json."""

    schema_version: int = LINEAGE_SCHEMA_VERSION
    """Version of this file's form."""
    run: str
    """The stage's run."""
    run_digest: str
    """Digest of what was planned for it."""
    parent: str
    """The parent's run."""
    parent_digest: str
    """Digest of what was planned for the parent, and trained."""
    how: Literal["adapter", "merge"]
    """`adapter`: trained further; `merge`: merged into the base, and a new one trained."""
    checkpoint: str
    """The parent's checkpoint, `epoch_0`."""
    checkpoint_rule: Literal["last", "best"]
    """Why this one."""
    adapter_sha256: str
    """Hash of the adapter's file as it was read."""
    marker_sha256: str
    """The same as the checkpoint's own marker has it."""
    record_sha256: str | None
    """The same as the parent's training.json has it; none where that does not know the checkpoint."""
    file_tensors_sha256: str
    """Hash over names, types, shapes and elements of the tensors in the file that the stage takes over."""
    model_tensors_sha256: str
    """The same of the tensors as they sit in the model; with `merge`, of those that were merged."""
    loss: LossProof | None
    """The loss before the first step; none where the parent has no validation loss."""
    loss_missing: str | None
    """Why there is none."""
    parent_parameters: int
    """Parameters that the parent trained."""
    trainable_parameters: int
    """Parameters that the stage trains; with `adapter` the same."""
    merged_rank: int
    """Largest rank of what is merged into the base under the stage's adapter; 0: nothing."""
    merge_rounding: Measured
    """What rounding to the base's element type changed, relative to the change that was merged."""
    problems: tuple[str, ...] = ()
    """What is broken; none: the lineage is proved."""
    time_unix: float
    """When it was made, in seconds since 1970."""
    seconds: float
    """Wall time of loading, merging and proving."""

    @property
    def proved(self) -> bool:
        """Whether nothing is broken."""
        return not self.problems
