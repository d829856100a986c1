"""Record of a finished run: the entry of the history from which later plans are made.

A record holds facts and the places where they were read, nothing of the reader: no date, no user, no machine's
paths. The same sources therefore give the same record, byte for byte, wherever and whenever they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from touchline.core.machine import cpu_key
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.experiment.runs import ControlKind
from touchline.history.reading import EvidenceLine, OptionalText, ScoreFacts, Segment, SourcedText, ValidationPoint

RECORD_SCHEMA_VERSION = 1

Origin = Literal["imported", "touchline"]
"""Origin of a record: imported from logs, or made by touchline, which knows more of its own runs."""

Quantities = tuple[Quantity, ...] | Missing
"""The same thing measured in several ways, each with its kind or unit; or why there is none."""


def first(quantities: Quantities) -> Measured:
    """Return the first of several measurements of one thing."""
    return quantities if isinstance(quantities, Missing) else quantities[0]


NOT_LOGGED = Missing(missing="not in any log")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """File that the record was read from."""

    name: str
    """Name, with as many folders as distinguish it from the run's other files; never from the root of the disk."""
    size_bytes: int
    """Size when it was read."""
    sha256: str
    """Hash of its content."""
    growth: str
    """Cumulative digests of a file that only grows, eight hex digits each: of its first line, its first two, and so on
    (`history/records.py`). A grown file begins with the digests it had. Empty for files rewritten as a whole.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """The base model."""

    name: OptionalText
    """Id of the model, or the last part of its path."""
    parameters: Measured
    """All parameters."""
    layers: Measured
    """Transformer blocks."""
    hidden_size: Measured
    """Width of the residual stream."""
    intermediate_size: Measured
    """Width inside the feed-forward part."""
    heads: Measured
    """Attention heads."""
    kv_heads: Measured
    """Heads of keys and values."""
    vocab_size: Measured
    """Rows of the embedding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFacts:
    """Training method, and the types of the numbers."""

    method: OptionalText
    """lora, qlora, full."""
    rank: Measured
    """Rank of the adapter."""
    alpha: Measured
    """Alpha of the adapter."""
    target_modules: OptionalText
    """Modules that it adapts."""
    trainable_parameters: Measured
    """Parameters with a gradient."""
    base_dtype: OptionalText
    """Element type of the base."""
    adapter_dtype: OptionalText
    """Element type of the adapter."""
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
    compiled: OptionalText = NOT_LOGGED
    """true or false."""
    dropout: Measured = NOT_LOGGED
    """Dropout on the adapter's input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StackFacts:
    """The programs."""

    trainer: OptionalText
    """Trainer that printed it."""
    versions: tuple[str, ...]
    """`library=version`, sorted; only those that are known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineFacts:
    """Machine of the run."""

    gpu: OptionalText
    """Name of the device."""
    gpu_memory: Measured
    """Capacity of one device."""
    gpus: Measured
    """Devices that trained."""
    processor: OptionalText = NOT_LOGGED
    """Name of the CPU, if it trained."""
    threads: Measured = NOT_LOGGED
    """Number of compute threads, on a CPU."""
    at_once: Measured = NOT_LOGGED
    """Number of runs that shared the CPU, each with these threads, this one included."""

    @property
    def key(self) -> str | None:
        """Text that must be equal for times of the same machine, as in `TargetMachine.key`; none if not known."""
        if isinstance(self.gpu, SourcedText):
            return self.gpu.value
        if isinstance(self.processor, SourcedText) and isinstance(self.threads, Quantity):
            at_once = round(self.at_once.value) if isinstance(self.at_once, Quantity) else 1
            return cpu_key(self.processor.value, round(self.threads.value), at_once)
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchFacts:
    """Batch sizes and lengths."""

    micro_batch_size: Measured
    """Examples, or packed rows, per forward pass and device."""
    gradient_accumulation_steps: Measured
    """Forward passes per optimizer step."""
    global_batch_size: Measured
    """Examples, or packed rows, per optimizer step over all devices."""
    max_seq_len: Measured
    """Most tokens per sequence."""
    mean_tokens: Measured
    """Mean length of an example, in tokens."""
    longest_tokens: Measured
    """Length of the longest example, in tokens."""
    grouped_by_length: OptionalText = NOT_LOGGED
    """true where batches are of examples of similar lengths, so that a row is hardly padded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingFacts:
    """Packing of the examples."""

    packed: OptionalText
    """true or false."""
    examples: Measured
    """Examples of the training split, before packing."""
    sequences: Measured
    """Rows after packing."""
    density: Measured
    """Examples a packed row."""
    efficiency: Measured
    """Per cent of the tokens that are no padding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFacts:
    """Dataset of the training."""

    name: OptionalText = NOT_LOGGED
    """Name of the dataset, or of its file."""
    sha256: OptionalText = NOT_LOGGED
    """Hash of the file."""
    examples: Measured = NOT_LOGGED
    """Examples of its training split."""


NO_DATASET = DatasetFacts()
"""Dataset of a run whose files name none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CostFacts:
    """Time and memory of the run."""

    seconds_per_step: Measured
    """Median or mean of an optimizer step after warm-up."""
    seconds_per_step_without_pauses: Measured
    """Median over windows of steps: what a step takes when nothing else is done."""
    tokens_per_second: Quantities
    """Throughput, with one entry per token unit."""
    examples_per_second: Measured
    """Examples, not packed rows, a second of training."""
    peak_memory: Quantities
    """Peaks while training, one entry a kind of memory."""
    memory_after_init: Measured
    """Peak after the model was loaded, which shows nothing of training."""
    mean_memory: Measured
    """Mean of the GPU memory in use while training."""
    gpu_utilization_percent: Measured
    """Mean share of time in which the GPU was busy."""
    train_seconds: Measured
    """Duration of the training; its method names what else is inside."""
    evaluate_seconds: Measured
    """All evaluations within the training."""
    save_seconds: Measured
    """All savings within the training."""
    checkpoint_size: Measured
    """Size on disk of a checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkFacts:
    """Computed work: the mean optimizer step, the largest micro-batch, and what took time apart from the steps."""

    micro_batches: Measured = NOT_LOGGED
    """Forward passes of a step."""
    padded_tokens: Measured = NOT_LOGGED
    """Positions of a step, padding included."""
    squared_widths: Measured = NOT_LOGGED
    """Sum over a step's rows of the row's width squared: what attention's scores grow with."""
    label_tokens: Measured = NOT_LOGGED
    """Positions of a step with a loss."""
    steps: Measured = NOT_LOGGED
    """Steps that these are the mean of, and that the pace was measured over."""
    largest_rows: Measured = NOT_LOGGED
    """Rows of the largest micro-batch."""
    largest_width: Measured = NOT_LOGGED
    """Tokens of its rows, padding included."""
    largest_label_tokens: Measured = NOT_LOGGED
    """Label tokens among its positions."""
    startup_seconds: Measured = NOT_LOGGED
    """From the process's start to the first step."""
    validation_seconds: Measured = NOT_LOGGED
    """Duration of a validation."""
    validation_tokens: Measured = NOT_LOGGED
    """Tokens that it scored."""
    saving_seconds: Measured = NOT_LOGGED
    """Duration of saving a checkpoint."""
    evaluation_seconds: Measured = NOT_LOGGED
    """The evaluation of one checkpoint after training."""
    evaluation_samples: Measured = NOT_LOGGED
    """Items that it asked."""
    compile_seconds: Measured = NOT_LOGGED
    """Compiling the model before the first step, which is not inside the start-up."""
    compiled_shapes: Measured = NOT_LOGGED
    """Shapes of micro-batches that it was compiled for."""
    side_by_side: Measured = NOT_LOGGED
    """Runs of the cohort that shared the process, this one included."""
    whole_seconds_per_step: Measured = NOT_LOGGED
    """Of a probe of slots: the same step with all threads and nothing next to it, measured just before."""


NO_WORK = WorkFacts()
"""Work of a run that is known by its logs alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictedFacts:
    """Predictions made before the run, to be scored against the measurements."""

    seconds_per_step: Measured = NOT_LOGGED
    """Time of an optimizer step."""
    train_seconds: Measured = NOT_LOGGED
    """Time of all optimizer steps; validation, saving and start-up are not inside."""
    peak_memory: Measured = NOT_LOGGED
    """Peak memory of the process."""
    disk: Measured = NOT_LOGGED
    """Size on disk."""
    packed_tokens: Measured = NOT_LOGGED
    """Tokens that an epoch computes with packing, by simulating the trainer's own packer."""
    unpacked_tokens: Measured = NOT_LOGGED
    """Tokens that an epoch computes without packing, padding included."""


NOTHING_PREDICTED = PredictedFacts()
"""Predictions of a run that was not planned here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossFacts:
    """Losses reached."""

    last: Measured
    """Training loss of the last row that has one."""
    mean: Measured
    """Mean training loss over the run."""
    evaluation: Measured
    """Last validation loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CourseFacts:
    """Course of the run."""

    steps_done: Measured
    """Optimizer steps done."""
    steps_total: Measured
    """Optimizer steps planned."""
    epochs: Measured
    """Epochs planned."""
    outcome: SourcedText
    """An `Outcome`."""
    exit: OptionalText
    """End of the job's process, a fact next to the outcome."""
    segments: tuple[Segment, ...]
    """Attempts, resumes and restarts, in order."""
    proofs: tuple[EvidenceLine, ...]
    """The lines that prove the outcome."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """Finished run."""

    schema_version: int = RECORD_SCHEMA_VERSION
    """Version of this form."""
    reader_version: int
    """Version of the readers that read it; of two records of the same sources the later reader's counts."""
    origin: Origin
    """Whose run it is."""
    name: str
    """Name of the log without words for its stream or role; of our own run its name."""
    experiment: str | None = None
    """Our own experiment; none for an import."""
    run: str | None = None
    """Our own run; none for an import."""
    run_digest: str | None = None
    """Digest of what was planned for our own run; none for an import."""
    task: str | None = None
    """Task of our own experiment; none for an import, and in older records."""
    control: ControlKind | None = None
    """Kind of control of our own run; none for other runs."""
    seed: int | None = None
    """Seed of our own run; none for an import, and in older records."""
    stage: str | None = None
    """Stage of our own run; none for a run of a single training, for an import, and in older records."""
    position: int | None = None
    """Position of our own run in its plan, from 0; none for an import, and in older records."""
    started_unix: float | None = None
    """Start of the first attempt, in seconds since 1970, by the run's own files; none for an import, whose clock is not
    known, and in older records."""
    condition: str | None = None
    """Hash of what was planned without the seed (`plan/identity.py`), equal for all seeds of a condition in any
    experiment; none for an import, and in older records."""
    part: int = 0
    """Number of the run among those in these sources, from 0."""
    model: ModelFacts
    """The base model."""
    training: TrainingFacts
    """Training method."""
    stack: StackFacts
    """The programs."""
    machine: MachineFacts
    """Machine."""
    batching: BatchFacts
    """Batch sizes and lengths."""
    packing: PackingFacts
    """Packing."""
    costs: CostFacts
    """Time and memory."""
    losses: LossFacts
    """Losses."""
    validation: tuple[ValidationPoint, ...] = ()
    """Validation losses in the order of their steps; empty where none was measured or the record is an older one."""
    scores: tuple[ScoreFacts, ...] = ()
    """Scores of the last checkpoint, the experiment's own task first; empty where nothing was evaluated, for an import,
    and in older records."""
    course: CourseFacts
    """Course of the run."""
    work: WorkFacts = NO_WORK
    """Computed work."""
    predicted: PredictedFacts = NOTHING_PREDICTED
    """Predictions made before the run."""
    dataset: DatasetFacts = NO_DATASET
    """Dataset."""
    revision: int = 0
    """Number of changes of the facts stated of these files; of two records of the same files the later one counts."""
    fingerprint: str
    """Hash of the settings that make two runs comparable in time and memory."""
    fingerprint_unknown: tuple[str, ...]
    """Those of these settings that are not known: equal fingerprints say nothing of them."""
    sources: tuple[SourceFile, ...]
    """The files that it was read from, by name."""
    notes: tuple[str, ...]
    """Corrections, refusals and omissions, with their reasons."""
