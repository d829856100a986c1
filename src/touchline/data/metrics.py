"""Records of metrics.jsonl, one JSON object per line distinguished by `event`, and of checkpoint and training
markers.

A resumed training appends to the file of the one before it: a row `resume` holds the step it resumes from, and what
the earlier attempts wrote of later steps is superseded. A row `start` supersedes everything before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator

from touchline.core.quantity import Measured
from touchline.core.status import TrainingEnd

FiniteOrNot = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number that may be NaN or infinite; JSON has neither, so the file holds null."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IsolationProof:
    """Check on the loaded model, before the first step, that packed examples do not attend to each other."""

    layout: str
    """Tested layout."""
    passed: bool
    """Whether both differences are within the tolerance."""
    examples: int
    """Number of compared examples."""
    loss_difference: float
    """Largest difference between an example's loss in the layout and alone, in nats."""
    leak: float
    """Largest change of an example's loss when its neighbors' tokens change, in nats; 0 if isolated."""
    tolerance: float
    """Tolerance for rounding in this dtype, in nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptRow:
    """Start of an attempt."""

    event: Literal["start", "resume"]
    """Start from nothing, or from a saved training state."""
    attempt: int
    """Number of the attempt, from 1."""
    time_unix: float
    """Time, in seconds since 1970."""
    from_step: int
    """Optimizer steps done before. Rows of later steps by earlier attempts do not count."""
    run: str
    """The run."""
    run_digest: str
    """Digest of the planned run."""
    steps: int
    """Optimizer steps of the whole run."""
    versions: dict[str, str]
    """Versions of Python and of the libraries."""
    device: str
    """Name of the CPU or GPU."""
    device_kind: Literal["cpu", "cuda"]
    """Kind of device."""
    threads: int
    """CPU threads of the framework."""
    base_dtype: str
    """Dtype of the computation, and of a frozen base model."""
    base_dtype_requested: str
    """Requested dtype."""
    base_dtype_reason: str
    """Reason for the dtype."""
    adapter_dtype: str
    """Dtype of the trained parameters."""
    attention: str
    """Attention implementation, `eager` or `sdpa`."""
    layout: str
    """Layout of examples in sequences."""
    layout_reason: str
    """Reason for the layout."""
    packed_requested: bool
    """Whether packing was requested."""
    isolation: IsolationProof | None
    """Isolation check. None if every example has its own sequence."""
    gradient_checkpointing: bool
    """Whether activations are recomputed in the backward pass."""
    optimizer: str
    """Optimizer, `AdamW, fused`."""
    micro_batch_size: int
    """Examples per forward pass."""
    gradient_accumulation_steps: int
    """Forward passes per optimizer step and process."""
    global_batch_size: int
    """Examples per optimizer step."""
    trainable_parameters: int
    """Trained parameters."""
    label_text: str
    """The label span of the first training example, decoded with its special tokens."""
    label_tokens: int
    """Number of its tokens."""
    setup_seconds: float
    """Wall-clock time from the start of the process's work to the first step."""
    data_parallel_size: int = 1
    """Processes that share each step. Counts of a step are their sums, and peaks of memory their largest."""
    cohort: tuple[str, ...] = ()
    """Runs trained next to this one on the same base. Seconds and memory of a step are those of all."""
    compiled_shapes: int = 0
    """Shapes of micro-batches that the model was compiled for before the first step."""
    compile_seconds: float = 0.0
    """Part of `setup_seconds` that compiling took."""
    sharded: bool = False
    """Whether each process holds a part of the weights, so that memory says nothing of one that holds them all."""

    @property
    def packed(self) -> bool:
        """True if packing was requested and done. A shared prefix alone, several examples per sequence, is none."""
        return self.packed_requested and self.layout != "padded"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRow:
    """Completed optimizer step.

    On a GPU the steps are fetched in groups of up to 10. What was measured of a group is in the row of each of its
    steps.
    """

    event: Literal["step"]
    """Always `step`."""
    attempt: int
    """Attempt."""
    step: int
    """Number of the step, from 1."""
    epoch: int
    """Its epoch, from 0."""
    time_unix: float
    """End of the step."""
    seconds: float
    """Wall-clock time; on a GPU that between the events before and after the step's work."""
    elapsed_seconds: float
    """Wall-clock time of all steps so far over all attempts, without validation and saving."""
    loss: FiniteOrNot
    """Mean loss per label token before the update, in nats."""
    learning_rate: float
    """Learning rate of the update."""
    grad_norm: FiniteOrNot
    """Norm of the gradient before clipping."""
    examples: int
    """Examples of the step."""
    micro_batches: int
    """Forward passes of the step."""
    real_tokens: int
    """Tokens of its examples, whether computed or shared."""
    padded_tokens: int
    """Computed tokens, padding included; fewer than `real_tokens` if a prefix is shared."""
    squared_widths: int | None = None
    """Sum of squared sequence lengths, which attention scores scale with. None in older files."""
    target_tokens: int
    """Label tokens."""
    peak_memory: Measured
    """Peak from the attempt's first step to the end of the group: resident set of the process, or memory allocated on
    the GPU."""
    peak_memory_reserved: Measured
    """Peak memory reserved on the GPU, up to the end of the group."""
    cpu_percent: float
    """CPU time of the process over wall-clock time of the group; 100 is one core."""
    gpu_percent: Measured
    """GPU utilization reported by its driver at the end of the group."""
    load_1min: Measured
    """Load average of the machine."""
    data_seconds: float | None = None
    """Time that its forward passes waited for images. None where none are read, and of other trainers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UntrainedScore:
    """Proof by which another run may take the loss of an untrained model over."""

    longest_loss: FiniteOrNot
    """Mean loss per label token of the longest micro-batch, in nats; who takes the loss over computes it again."""
    sha256: str
    """Hash of all that the loss depends on, of the loss, and of the other numbers that are taken over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationRow:
    """Completed validation."""

    event: Literal["validation"]
    """Always `validation`."""
    attempt: int
    """Attempt."""
    step: int
    """Steps done; 0 before the first."""
    epoch: int
    """Epoch of the last step, from 0."""
    time_unix: float
    """End of the validation."""
    seconds: float
    """Wall-clock time; 0 if the loss was taken over."""
    elapsed_seconds: float
    """Wall-clock time of all validations so far, over all attempts."""
    loss: FiniteOrNot
    """Mean loss per label token of the whole split, in nats."""
    examples: int
    """Examples of the split."""
    target_tokens: int
    """Label tokens of the split."""
    taken_from: str | None = None
    """Run that computed the loss, with the same untrained model. None if this run did."""
    untrained: UntrainedScore | None = None
    """Proof for other runs of the experiment. None if they may not take this loss over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointRow:
    """Saved checkpoint or training state."""

    event: Literal["checkpoint"]
    """Always `checkpoint`."""
    attempt: int
    """Attempt."""
    step: int
    """Steps done."""
    time_unix: float
    """Time of completion."""
    seconds: float
    """Wall-clock time."""
    kind: Literal["export", "resume"]
    """Checkpoint, or training state for resuming."""
    name: str
    """Its folder, relative to the run's."""
    size_bytes: int
    """Size on disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndRow:
    """Orderly end of an attempt."""

    event: Literal["end"]
    """Always `end`."""
    attempt: int
    """The attempt."""
    step: int
    """Steps done."""
    time_unix: float
    """Time."""
    reason: str
    """Reason for the user: `done`, or `stopped by SIGTERM`."""
    end: TrainingEnd | None = None
    """The same for programs. None in files of older versions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LineageRow:
    """Verification that a stage starts from its parent's weights; lineage.json has the details."""

    event: Literal["lineage"]
    """Always `lineage`."""
    attempt: int
    """Attempt."""
    time_unix: float
    """Time."""
    seconds: float
    """Wall-clock time."""
    parent: str
    """Parent run."""
    checkpoint: str
    """The parent's checkpoint."""
    how: Literal["adapter", "merge"]
    """Adapter continued, or merged into the base model."""
    adapter_sha256: str
    """Hash of the parent's adapter."""
    loss: float | None
    """Loss on the parent's validation items before the first step, in nats. None if it has none."""
    recorded_loss: float | None
    """Loss that the parent recorded."""


MetricsRow = AttemptRow | StepRow | ValidationRow | CheckpointRow | EndRow | LineageRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """Content of a metrics.jsonl, without superseded rows."""

    attempts: tuple[AttemptRow, ...]
    """All attempts, oldest first; the first may be superseded by a fresh start."""
    steps: tuple[StepRow, ...]
    validations: tuple[ValidationRow, ...]
    checkpoints: tuple[CheckpointRow, ...]
    end: EndRow | None
    """End of the last attempt. None if it is running or was killed."""
    superseded_steps: int
    """Steps that were repeated after a kill."""
    torn_lines: int
    """Incomplete lines after a kill or on a full disk."""
    unread: str | None = None
    """Reason why the file or its rest was not read. None if it was read or does not exist."""

    @property
    def timed_validations(self) -> tuple[ValidationRow, ...]:
        """Validations that this run computed itself."""
        return tuple(row for row in self.validations if row.taken_from is None)


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedFile:
    """File of a checkpoint."""

    size: int
    """Size in bytes."""
    sha256: str
    """Hash."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportMarker:
    """touchline.json of a checkpoint, written last: description and required files."""

    schema_version: int = 1
    """Version of this format."""
    experiment: str
    """The experiment."""
    run: str
    """The run."""
    run_digest: str
    """Digest of the planned run."""
    kind: Literal["adapter", "merged", "full"]
    """Adapter only, merged model, or the whole model as trained."""
    step: int
    """Optimizer steps done."""
    epoch: int | None
    """Epoch that it ends, from 0. None between epochs."""
    validation_loss: float | None
    """Validation loss at this step, in nats. None without a validation."""
    base_path: str
    """Folder of the base model, absolute."""
    base_weights_sha256: str
    """`ModelInfo.weights_sha256` of the base model."""
    adapter_sha256: str
    """Hash of the adapter's weights as adapter_model.safetensors, saved alone or merged; of a model trained as a whole,
    of its weights file, or of the hashes of several."""
    files: dict[str, SavedFile]
    """All files except this one, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetainedCheckpoint:
    """Entry of training.json for a kept checkpoint."""

    name: str
    """Folder."""
    step: int
    """Optimizer steps done."""
    adapter_sha256: str
    """Hash of the trained weights."""
    validation_loss: float | None
    """Validation loss at this step, in nats. None without a validation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringSetup:
    """Setup of the validation; equal setups give equal losses up to rounding."""

    items_sha256: str
    """Hash of the validation items' tokens, in split order."""
    examples: int
    """Validation items."""
    micro_batch_size: int
    """Items per micro-batch."""
    row_tokens: int | None
    """`Layout.row_tokens`."""
    share_prefix: bool
    """`Layout.share_prefix`."""
    base_dtype: str
    """Dtype of the frozen base model."""
    attention: str
    """Attention implementation."""
    device_kind: Literal["cpu", "cuda"]
    """Kind of device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingMarker:
    """training.json, written last: the training is complete."""

    schema_version: int = 1
    """Version of this format."""
    experiment: str
    """The experiment."""
    run: str
    """The run."""
    run_digest: str
    """Digest of the planned run."""
    steps: int
    """Optimizer steps done."""
    final_train_loss: float
    """Mean loss of the last steps, at most ten, in nats."""
    final_validation_loss: float | None
    """Last validation loss. None without a validation split."""
    best_epoch: int | None
    """Epoch with the lowest validation loss. None without a validation split."""
    elapsed_seconds: float
    """Wall-clock time of all steps, over all attempts."""
    validation_seconds: float
    """Wall-clock time of all validations, over all attempts."""
    checkpoints: tuple[str, ...]
    """Kept checkpoints, oldest first."""
    adapter_sha256: str
    """Hash of the last checkpoint's trained weights."""
    kept: tuple[RetainedCheckpoint, ...] = ()
    """The same checkpoints with hashes and losses. None in files of older versions."""
    trainable_parameters: int | None = None
    """Trainable parameters. None in files of older versions."""
    scoring: ScoringSetup | None = None
    """Setup of the validation. None in files of older versions."""


_FEW = 2
"""Minimum number of steps after warm-up for a typical step time."""


def after_warm_up(steps: Sequence[StepRow], *, is_cut: bool = False) -> list[StepRow]:
    """Return all steps but the first of each attempt, which warms up.

    Args:
        is_cut: True if earlier steps are not among them; the first one is no warm-up then.
    """
    firsts: dict[int, int] = {}
    for step in steps:
        firsts.setdefault(step.attempt, step.step)
    if is_cut and steps:
        firsts.pop(steps[0].attempt, None)
    return [step for step in steps if firsts.get(step.attempt) != step.step]


def timed_steps(steps: Sequence[StepRow], *, is_cut: bool = False) -> list[StepRow]:
    """Return the steps that rates are computed from: those after warm-up, or all if there are no others."""
    kept = [step for step in after_warm_up(steps, is_cut=is_cut) if step.seconds > 0]
    return kept or [step for step in steps if step.seconds > 0]


def steady_steps(steps: Sequence[StepRow]) -> list[StepRow]:
    """Return the steps after warm-up that hold as many examples as the largest. Empty where there are too few."""
    kept = after_warm_up(steps)
    if len(kept) < _FEW:
        return []
    usual = max(row.examples for row in kept)
    return [row for row in kept if row.examples == usual]


def token_rate(steps: Sequence[StepRow]) -> float:
    """Return data tokens per second of steps with a duration."""
    return sum(step.real_tokens for step in steps) / sum(step.seconds for step in steps)
