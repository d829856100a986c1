"""Reading of one run from its logs. Absent is not zero: a field has a value or a reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.history.scores import ValidationPoint


class Outcome(StrEnum):
    """Outcome of a run, by the evidence."""

    COMPLETED = "completed"
    RUNNING_OR_TRUNCATED = "running_or_truncated"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    HOST_OOM = "host_oom"
    GPU_OOM = "gpu_oom"
    DISK_QUOTA = "disk_quota"
    CRASH_START = "crash_start"
    CRASH_MID = "crash_mid"
    CRASH_EVAL = "crash_eval"
    CRASH_EXPORT = "crash_export"
    DIVERGED_NAN = "diverged_nan"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcedText:
    """Something that is not a number, and where it was read."""

    value: str
    """The word."""
    where: str | None = None
    """`file:line` or the file that it was read from."""
    method: str | None = None
    """Method, if it was not read off directly."""


OptionalText = SourcedText | Missing
"""A word, or why there is none."""

_BY_CAUSE = "failed: "
"""Prefix of the value of `RunReading.exit` where a line gives the cause and none the exit code."""


def exit_by_cause(cause: str, where: str) -> SourcedText:
    """Return the exit of a process of which only the cause of its end is known."""
    return SourcedText(value=_BY_CAUSE + cause, where=where)


def exit_code(exit_word: SourcedText) -> int | None:
    """Return the exit code. None where only the cause is known."""
    return int(exit_word.value) if exit_word.value.isdecimal() else None


def exit_cause(exit_word: SourcedText) -> str:
    """Return the line that gives the cause."""
    return exit_word.value.removeprefix(_BY_CAUSE)


_NOT_LOGGED = Missing(missing="not in the log")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceLine:
    """A line that proves something."""

    where: str
    """`file:line`."""
    text: str
    """The line, at most 300 characters, secrets redacted."""
    says: str
    """Statement that it proves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Attempt, resume or restart within a run's files."""

    where: str
    """`file:first-last`."""
    begins: str
    """`fresh`, `resumed`, `restarted`, `another run`."""
    first_step: int | None
    """Optimizer steps done before it; None if no line shows it."""
    last_step: int | None
    """Optimizer steps done at its end."""
    outcome: Outcome
    """Outcome of the segment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReading:
    """Run found in logs: the flat fields, what a record needs next to them, and the proof."""

    schema_version: int = 1
    """Version of this form."""
    name: str
    """Name of the log without words for its stream or role."""
    files: tuple[str, ...]
    """The files that it was read from."""
    trainer: OptionalText
    """Trainer that printed it."""
    model: OptionalText
    """The base model, as the log names it."""
    steps_done: Measured
    """Optimizer steps done, of the last segment that counts."""
    steps_total: Measured
    """Optimizer steps planned."""
    epochs: Measured
    """Epochs planned."""
    micro_batch_size: Measured
    """Examples, or packed rows, per forward pass and device."""
    gradient_accumulation_steps: Measured
    """Forward passes per optimizer step."""
    global_batch_size: Measured
    """Examples, or packed rows, per optimizer step over all devices."""
    gpus: Measured
    """Devices that trained."""
    trainable_parameters: Measured
    """Parameters with a gradient."""
    last_loss: Measured
    """Training loss of the last row that has one."""
    mean_train_loss: Measured
    """Mean training loss over the run; corrected or refused after a resume."""
    eval_loss: Measured
    """Last validation loss."""
    train_seconds: Measured
    """Duration of the training; its method names what else is inside."""
    seconds_per_step: Measured
    """Time over steps, from after warm-up to the last step known; evaluations and savings in between are inside."""
    seconds_per_step_without_pauses: Measured
    """Median over windows of steps: what a step takes when nothing else is done."""
    tokens_per_second: Measured
    """With its token unit."""
    peak_memory: Measured
    """Peak of the GPU (or process) memory while training, with phase and kind."""
    total_examples: Measured
    """Examples of the training split, before packing."""
    total_sequences: Measured
    """Rows after packing."""
    packing_density: Measured
    """Examples a packed row."""
    packing_efficiency: Measured
    """Per cent of the tokens that are no padding."""
    examples_per_second: Measured
    """Examples, not packed rows, a second of training."""
    outcome: SourcedText
    """An `Outcome`."""
    segments: Quantity
    """Number of segments."""
    method: OptionalText
    """lora, qlora, full."""
    lora_rank: Measured
    """Rank of the adapter."""
    lora_alpha: Measured
    """Alpha of the adapter."""
    target_modules: OptionalText
    """Modules that it adapts."""
    dtype: OptionalText
    """Element type of the base."""
    quantization: OptionalText
    """Quantization of the base."""
    optimizer: OptionalText
    """The optimizer."""
    learning_rate: Measured
    """The configured one."""
    gradient_checkpointing: OptionalText
    """true or false."""
    attention: OptionalText
    """Implementation of attention."""
    packed: OptionalText
    """true or false."""
    max_seq_len: Measured
    """Most tokens per sequence."""
    gpu: OptionalText
    """Name of the device."""
    gpu_memory_total: Measured
    """Capacity of the GPU."""
    total_parameters: Measured
    """All parameters."""
    memory_after_init: Measured
    """Peak after the model was loaded, which shows nothing of training."""
    mean_memory: Measured
    """Mean of the GPU memory in use while training."""
    gpu_utilization_percent: Measured
    """Mean share of time in which the GPU was busy."""
    evaluate_seconds: Measured
    """All evaluations within the training."""
    save_seconds: Measured
    """All savings within the training."""
    checkpoint_size: Measured
    """Size on disk of a checkpoint."""
    exit: OptionalText
    """End of the job's process, a fact next to the outcome: `0`, `1`, `failed: mv: ...`."""
    versions: tuple[str, ...]
    """`library=version`, as far as they were printed."""
    segment_list: tuple[Segment, ...]
    """The segments, in order."""
    proofs: tuple[EvidenceLine, ...]
    """The lines that prove the outcome."""
    notes: tuple[str, ...]
    """Corrections, refusals and omissions, with their reasons."""
    dataset: OptionalText = _NOT_LOGGED
    """Dataset of the training."""
    mean_tokens: Measured = _NOT_LOGGED
    """Mean length of an example, in tokens."""
    longest_tokens: Measured = _NOT_LOGGED
    """Length of the longest example, in tokens."""
    grouped_by_length: OptionalText = _NOT_LOGGED
    """true where batches are of examples of similar lengths."""
    adapter_dtype: OptionalText = _NOT_LOGGED
    """Element type of the adapter."""
    dropout: Measured = _NOT_LOGGED
    """Dropout on the adapter's input."""
    compiled: OptionalText = _NOT_LOGGED
    """true or false."""
    validation: tuple[ValidationPoint, ...] = ()
    """Validation losses in the order of their optimizer steps; empty where no step is known."""
