"""Observation from one line of a log or one entry of a state file: the raw material of evidence.

Readers turn lines into events, each on its own. `history/` puts the events of a file in order, separates attempts and
computes. A number without its phase, kind, token unit and aggregation is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from touchline.core.quantity import Aggregation, MemoryKind, Phase, TokenUnit

Inside = Literal["evaluation", "saving", "loading"]
"""Work in a duration apart from training steps."""

ObservationName = Literal[
    # what the run is: read from banners, configs and arguments
    "trainer",  # a backend's folder, hf_trainer, generic, ...
    "model",  # id or path of the base, as the log writes it
    "method",  # lora, qlora, dora, full
    "lora_rank",
    "lora_alpha",
    "target_modules",  # comma separated
    "dtype",  # of the base or of the computation: bfloat16, float16, float32
    "adapter_dtype",  # of the trained weights
    "dropout",  # on the adapter's input; 0: none
    "quantization",  # nf4, int8, 4-bit
    "optimizer",
    "learning_rate",  # the peak or configured one, not that of a step
    "gradient_checkpointing",  # true, false
    "compiled",  # true, false: torch.compile
    "attention",  # eager, sdpa, flash_attention_2
    "packed",  # true, false
    "max_seq_len",
    "dataset",  # what it trained on, as the config or its user names it
    "grouped_by_length",  # true: batches are of examples of similar lengths
    "mean_tokens",  # mean length of an example
    "longest_tokens",  # length of the longest example
    "epochs",  # planned
    "steps_total",  # planned optimizer steps
    "micro_batch_size",
    "gradient_accumulation_steps",
    "global_batch_size",
    "gpus",
    "gpu",  # its name
    "gpu_memory_total",  # capacity, GiB
    "train_examples",  # rows of the training split
    "trainable_parameters",
    "total_parameters",
    "version",  # `library=1.2.3`
    "time_limit_seconds",  # of the scheduler
    # what was measured, while it ran or at its end
    "loss",  # training loss logged at `step` or `epoch`
    "mean_train_loss",  # over the run, as the trainer's last row says
    "eval_loss",
    "step",  # optimizer steps done, where a line says no more than that
    "epoch",  # epochs done, fractional
    "train_seconds",
    "eval_seconds",
    "save_seconds",
    "train_samples_per_second",
    "train_steps_per_second",
    "step_seconds",  # of one step, as the trainer timed it
    "tokens_per_second",
    "peak_memory",  # GiB (or GB where only that is known), with phase and kind
    "mean_memory",
    "memory_before_training",  # resident or reserved before the first step
    "gpu_utilization_percent",
    "checkpoint_size",  # GiB on disk
    "total_examples",  # before packing
    "total_sequences",  # after packing
    "packing_density",  # examples a sequence
    "packing_efficiency",  # percent of tokens that are no padding
    "exit_code",
]
"""What a number or word is of. A reader that knows a further thing adds its name here, with a line in its test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """A number or a word that a line says."""

    name: ObservationName
    value: float | str
    """The number in `unit`, or the word."""
    line: int
    """Line of the file, from 1; 0 for a file as a whole."""
    unit: str = "1"
    """`s`, `GiB`, `tokens/s`, `examples`, `steps`, `%`, ...; `1` for a bare number or a word."""
    step: int | None = None
    epoch: float | None = None
    phase: Phase | None = None
    """Phase of the measurement; every memory figure has one."""
    kind: MemoryKind | None = None
    """Kind of memory; every memory figure has one."""
    token_unit: TokenUnit | None = None
    """Kind of tokens; every rate or count of tokens has one."""
    aggregation: Aggregation | None = None
    """How many measurements became this one; a rate or loss without one is of that single line."""
    inside: tuple[Inside, ...] = ()
    """Work in a duration or a rate apart from training steps."""
    certain: bool = True
    """Whether the line says it in a form that only this trainer prints; a guess gives way to a certain one."""


@dataclass(frozen=True, slots=True)
class ProgressBarEvent:
    """State of a progress bar. (Positional, because there are millions.)"""

    label: str
    """What stands before the bar, without its colon."""
    done: int
    total: int | None
    """Items in all; none when the bar does not know."""
    elapsed_seconds: float | None
    """Time since the bar began, as it says."""
    line: int


class SignKind(StrEnum):
    """Event in the course of a run."""

    START = "start"
    """A process begins a training: a banner, a recipe's first words."""
    RESUMED = "resumed"
    """It continues from a saved state; `step` where the line says it."""
    TRAINED = "trained"
    """The trainer says that the training is over."""
    STOPPED = "stopped"
    """The training ends itself before its last planned step: early stopping, a limit on its time."""
    EVALUATING = "evaluating"
    """An evaluation begins."""
    SAVING = "saving"
    """A checkpoint is being written."""
    SAVED = "saved"
    """It is written."""
    EXPORTING = "exporting"
    """After training: the final model is saved, merged, pushed."""
    DONE = "done"
    """The program's own last words: everything went well."""
    EXCEPTION = "exception"
    """The last line of a traceback, or a fatal error that ended the program."""
    INTERRUPTED = "interrupted"
    """KeyboardInterrupt, SIGINT, SIGTERM without the scheduler's reason."""
    TIME_LIMIT = "time limit"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    REQUEUED = "requeued"
    NODE_FAILED = "node failed"
    TASK_FAILED = "task failed"
    """The scheduler ends a step because one of its tasks failed, or a launcher reports a failed child."""
    HOST_OOM = "host out of memory"
    GPU_OOM = "gpu out of memory"
    DISK_FULL = "disk full"
    NOT_A_NUMBER = "not a number"
    """The loss or gradient is nan or inf."""
    FAILED_COMMAND = "failed command"
    """A command of the job's script failed, before or after the training: `mv: ... are the same file`."""


OVER = frozenset({SignKind.TRAINED, SignKind.STOPPED})
"""Signs of a training that is over."""

During = Literal["load", "train", "evaluate", "save", "export"]
"""In which part of the run an exception was raised, as the frames of its traceback say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign:
    """Sign of how the run went, with its line."""

    kind: SignKind
    line: int
    text: str
    """The line itself, at most 300 characters."""
    step: int | None = None
    during: During | None = None
    """Where an exception was raised."""
    is_uncaught: bool = False
    """Whether the traceback begins at the program's outermost frame, so that nothing in it caught the exception."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A wall-clock time at the beginning of a line."""

    unix: float
    """Seconds since 1970, as if the clock showed UTC: only differences within one file mean anything."""
    line: int


Event = Observation | ProgressBarEvent | Sign | Stamp
