"""metrics.jsonl: what a training measured, one JSON object a line, told apart by `event`.

A resumed training appends to the file of the one before it: a row `resume` says from which step it goes on, and what
the earlier attempts wrote of later steps is superseded. A row `start` supersedes everything before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from touchline.core.quantity import Measured


@dataclass(frozen=True, kw_only=True, slots=True)
class IsolationProof:
    """Whether examples that share a row are hidden from each other, tried on the loaded model before the first step."""

    layout: str
    """The layout that was tried."""
    passed: bool
    """Whether both differences are within the tolerance."""
    examples: int
    """Examples that were compared."""
    loss_difference: float
    """Largest difference, over the examples, between the loss in the layout and the loss alone, in nats."""
    leak: float
    """Largest change of an example's loss when the tokens of its neighbours change, in nats; 0 where nothing leaks."""
    tolerance: float
    """What rounding alone may do in this element type, in nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptRow:
    """An attempt begins."""

    event: Literal["start", "resume"]
    """From nothing, or from a saved state."""
    attempt: int
    """Number of the attempt, from 1."""
    time_unix: float
    """When, in seconds since 1970."""
    from_step: int
    """Optimizer steps done before it; rows of later steps by earlier attempts do not count."""
    run: str
    """The run."""
    run_digest: str
    """Digest of what was planned for it."""
    steps: int
    """Optimizer steps of the whole run."""
    versions: dict[str, str]
    """Versions of Python and of the libraries."""
    device: str
    """Name of the processor or GPU."""
    device_kind: Literal["cpu", "cuda"]
    """Which of the two."""
    threads: int
    """Threads of the framework on the processor."""
    base_dtype: str
    """Element type of the frozen base."""
    base_dtype_requested: str
    """What was asked for."""
    base_dtype_reason: str
    """Why it is what it is."""
    adapter_dtype: str
    """Element type of the adapter."""
    attention: str
    """Implementation of attention, `eager` or `sdpa`."""
    layout: str
    """How examples lie in rows."""
    layout_reason: str
    """Why."""
    packed_requested: bool
    """Whether several examples a row were asked for."""
    isolation: IsolationProof | None
    """The proof; none where every example has a row of its own."""
    gradient_checkpointing: bool
    """Whether activations are computed again in the backward pass."""
    optimizer: str
    """The optimizer as it runs, `AdamW, fused`."""
    micro_batch_size: int
    """Examples per forward pass."""
    gradient_accumulation_steps: int
    """Forward passes per optimizer step."""
    global_batch_size: int
    """Examples per optimizer step."""
    trainable_parameters: int
    """Parameters of the adapter."""
    label_text: str
    """The label span of the first training example, decoded with its special tokens."""
    label_tokens: int
    """Tokens of that span."""
    setup_seconds: float
    """Wall time from the beginning of the process's work to the first step: data, libraries, weights, proof."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRow:
    """An optimizer step is done."""

    event: Literal["step"]
    """Always `step`."""
    attempt: int
    """The attempt that did it."""
    step: int
    """Number of the step, from 1."""
    epoch: int
    """Its epoch, from 0."""
    time_unix: float
    """When it ended."""
    seconds: float
    """Its wall time."""
    elapsed_seconds: float
    """Wall time of all steps up to it, over all attempts; validation and saving are not in it."""
    loss: float
    """Mean over the step's target tokens, before the update, in nats."""
    learning_rate: float
    """Learning rate of the update."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    examples: int
    """Examples of the step."""
    micro_batches: int
    """Forward passes of the step."""
    real_tokens: int
    """Tokens of its examples, whether they were computed, shared or only predicted."""
    padded_tokens: int
    """Positions that were computed, padding included; below `real_tokens` where a prefix is shared."""
    squared_widths: int | None = None
    """Sum over the rows of the row's width squared, what attention's scores grow with; none in older files."""
    target_tokens: int
    """Tokens with a loss."""
    peak_memory: Measured
    """Peak since the attempt's first step began: resident set of the process, or memory allocated on the GPU."""
    peak_memory_reserved: Measured
    """The same for what the framework holds on the GPU."""
    cpu_percent: float
    """Processor time of the process over wall time; 100 is one core."""
    gpu_percent: Measured
    """Share of time in which the GPU was busy, as its driver says at the end of the step."""
    load_1min: Measured
    """The machine's load."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationRow:
    """The validation split was scored."""

    event: Literal["validation"]
    """Always `validation`."""
    attempt: int
    """The attempt that did it."""
    step: int
    """Steps done; 0 is before the first."""
    epoch: int
    """Epoch of the last step, from 0."""
    time_unix: float
    """When it ended."""
    seconds: float
    """Its wall time."""
    elapsed_seconds: float
    """Wall time of all validations up to it, over all attempts."""
    loss: float
    """Mean over the target tokens of the whole split, in nats."""
    examples: int
    """Examples of the split."""
    target_tokens: int
    """Target tokens of the split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointRow:
    """Something was saved."""

    event: Literal["checkpoint"]
    """Always `checkpoint`."""
    attempt: int
    """The attempt that did it."""
    step: int
    """Steps done."""
    time_unix: float
    """When it was complete."""
    seconds: float
    """Its wall time."""
    kind: Literal["export", "resume"]
    """For use, or to go on from."""
    name: str
    """Its folder, relative to the run's."""
    size_bytes: int
    """Size on disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndRow:
    """An attempt ended in order."""

    event: Literal["end"]
    """Always `end`."""
    attempt: int
    """The attempt."""
    step: int
    """Steps done."""
    time_unix: float
    """When."""
    reason: str
    """`done`, or `stopped by SIGTERM`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LineageRow:
    """A stage of a chain has proved that it goes on from its parent's weights; lineage.json says more."""

    event: Literal["lineage"]
    """Always `lineage`."""
    attempt: int
    """The attempt that did it."""
    time_unix: float
    """When."""
    seconds: float
    """Its wall time."""
    parent: str
    """The run that it goes on from."""
    checkpoint: str
    """The parent's checkpoint."""
    how: Literal["adapter", "merge"]
    """Trained further, or merged into the base."""
    adapter_sha256: str
    """Hash of the parent's adapter."""
    loss: float | None
    """Loss on the parent's validation items before the first step, in nats; none where it has none."""
    recorded_loss: float | None
    """The one that the parent recorded."""


MetricsRow = AttemptRow | StepRow | ValidationRow | CheckpointRow | EndRow | LineageRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """A metrics.jsonl, without what was superseded."""

    attempts: tuple[AttemptRow, ...]
    """All attempts, oldest first; the first may have been superseded by a fresh start."""
    steps: tuple[StepRow, ...]
    """The steps that count, in order."""
    validations: tuple[ValidationRow, ...]
    """The validations that count, in order."""
    checkpoints: tuple[CheckpointRow, ...]
    """What was saved and counts, in order."""
    end: EndRow | None
    """How the last attempt ended; none while it runs, or when it was killed."""
    superseded_steps: int
    """Steps that were done again after a kill."""
    torn_lines: int
    """Lines that a kill or a full disk cut off."""
    unread: str | None = None
    """Why the file, or its rest, could not be read; none where it could, or is not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedFile:
    """One file of something saved."""

    size: int
    """Its size in bytes."""
    sha256: str
    """Its hash."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportMarker:
    """touchline.json of an exported checkpoint, written last: what it is and what it must hold."""

    schema_version: int = 1
    """Version of this file's form."""
    experiment: str
    """The experiment."""
    run: str
    """The run."""
    run_digest: str
    """Digest of what was planned for it."""
    kind: Literal["adapter", "merged"]
    """The adapter alone, or the whole model."""
    step: int
    """Optimizer steps done."""
    epoch: int | None
    """The epoch that it ends, from 0; none in between."""
    validation_loss: float | None
    """Validation loss at this step, in nats; none when none was taken."""
    base_path: str
    """Folder of the base, absolute."""
    base_weights_sha256: str
    """`ModelInfo.weights_sha256` of the base."""
    adapter_sha256: str
    """Hash of the adapter's weights as adapter_model.safetensors, whether they were saved alone or merged."""
    files: dict[str, SavedFile]
    """All files but this one, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetainedCheckpoint:
    """What training.json says of an export that is kept."""

    name: str
    """Its folder."""
    step: int
    """Optimizer steps done."""
    adapter_sha256: str
    """Hash of the adapter's weights."""
    validation_loss: float | None
    """Validation loss at this step, in nats; none when none was taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringSetup:
    """How validation losses were computed: the same setup gives the same loss, but for rounding."""

    items_sha256: str
    """Hash over the validation items' tokens, in the order of the split."""
    examples: int
    """Validation items."""
    micro_batch_size: int
    """Items that were arranged together."""
    row_tokens: int | None
    """`Layout.row_tokens`."""
    share_prefix: bool
    """`Layout.share_prefix`."""
    base_dtype: str
    """Element type of the frozen base."""
    attention: str
    """Implementation of attention."""
    device_kind: Literal["cpu", "cuda"]
    """Where it was computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingMarker:
    """training.json, written last of all: the training is complete."""

    schema_version: int = 1
    """Version of this file's form."""
    experiment: str
    """The experiment."""
    run: str
    """The run."""
    run_digest: str
    """Digest of what was planned for it."""
    steps: int
    """Optimizer steps done."""
    final_train_loss: float
    """Mean loss of the last steps, at most ten, in nats."""
    final_validation_loss: float | None
    """Last validation loss; none without a validation split."""
    best_epoch: int | None
    """Epoch with the lowest validation loss at its end; none without a validation split."""
    elapsed_seconds: float
    """Wall time of all steps, over all attempts."""
    validation_seconds: float
    """Wall time of all validations, over all attempts."""
    checkpoints: tuple[str, ...]
    """Exports that are kept, oldest first."""
    adapter_sha256: str
    """Hash of the last adapter's weights, whether it was exported alone or merged."""
    kept: tuple[RetainedCheckpoint, ...] = ()
    """The same exports with their hashes and losses; none in files of older versions."""
    trainable_parameters: int | None = None
    """Parameters that were trained; none in files of older versions."""
    scoring: ScoringSetup | None = None
    """How it was validated; none in files of older versions."""


class AttemptStep(Protocol):
    """An optimizer step of an attempt."""

    @property
    def attempt(self) -> int:
        """Number of the attempt."""
        ...

    @property
    def step(self) -> int:
        """Number of the step."""
        ...


_Step = TypeVar("_Step", bound=AttemptStep)


def after_warm_up(steps: Sequence[_Step], *, is_cut: bool = False) -> list[_Step]:
    """Return the steps that speeds are computed from: all but the first of each attempt, which warms up.

    Args:
        steps: in their order.
        is_cut: True if earlier steps are not among them; the first one is no warm-up then.
    """
    firsts: dict[int, int] = {}
    for step in steps:
        firsts.setdefault(step.attempt, step.step)
    if is_cut and steps:
        firsts.pop(steps[0].attempt, None)
    return [step for step in steps if firsts.get(step.attempt) != step.step]
