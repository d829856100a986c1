"""Every default of touchline, with its reason; docs/reference/defaults.md is made from this table.

There is no default for a time, a memory size or a disk size: those come from measured runs, or they are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from touchline.experiment.learning_rate import RULE

DEFAULT_BACKEND: Final = "peft"
LORA_RANK: Final = 64
LORA_ALPHA_PER_RANK: Final = 2
LORA_TARGET_MODULES: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EPOCHS: Final = 1
GLOBAL_BATCH_SIZE: Final = 16
WARMUP_FRACTION: Final = 0.05
MAX_GRAD_NORM: Final = 1.0
MAX_SEQ_LEN: Final = 2048
TRAIN_FRACTION: Final = 0.8
SPLIT_SEED: Final = 14
RESUME_INTERVAL: Final = 10.0
EVALUATE_BATCH_SIZE: Final = 64
MAX_NEW_TOKENS: Final = 24
MICRO_BATCH_TOKENS: Final = 4096
VISION_TOWERS: Final = r".*\b(visual|vision_tower|vision_model)\b.*"
"""Names of layers in a vision tower, which stays frozen: adapters are on the language model alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Default:
    """Default value of a setting."""

    key: str
    """The key of experiment.yaml, or the option, that it is for."""
    value: str
    """The value, as one writes it."""
    reason: str
    """Reason for the value."""


def _row(key: str, value: object, reason: str) -> Default:
    return Default(key=key, value=str(value), reason=reason)


DEFAULTS: Final = (
    _row("train.lora.rank", LORA_RANK, "high enough for most tasks, and costs little memory"),
    _row(
        "train.lora.alpha", f"{LORA_ALPHA_PER_RANK} x rank", "keeps the adapter's scale the same when the rank varies"
    ),
    _row(
        "train.lora.target_modules",
        ", ".join(LORA_TARGET_MODULES),
        "all linear layers of a Llama-like block: attention alone learns less at equal rank",
    ),
    _row("train.lora.dropout", 0, "off: try some if the validation loss rises"),
    _row("train.lora.dtype", "auto", "float32 keeps small updates, if the trainer has a dtype for the adapter"),
    _row("train.lora.init", "default", "starts as a no-op, so the first loss is the base model's"),
    _row("train.lora.dora", "false", "off: DoRA costs time and memory in every layer"),
    _row("train.lora.rslora", "false", "off: alpha already scales with the rank"),
    _row("train.method", "lora", "an adapter needs a fraction of the memory and disk"),
    _row("train.quantization", "none", "off: a quantized base saves memory and costs time"),
    _row("train.optimizer", "adamw", "the common choice"),
    _row("train.label_smoothing", 0, "off: losses stay comparable with those of other runs"),
    _row("train.neftune_alpha", "none", "off: no noise on the embeddings"),
    _row("train.dataloader_workers", 0, "all batches are tokenized before the first step"),
    _row("train.attention", "auto", "the trainer's default kernel, which runs on any machine"),
    _row("train.kernels", "none", "the model's own code, which runs on any machine"),
    _row("train.compile", "false", "off: short runs end before compiling pays off, and it needs a compiler"),
    _row("train.sharding", "none", "off: each device holds the whole model (data parallel)"),
    _row("train.epochs", EPOCHS, "1 to 3 are usual; the validation loss shows whether more help"),
    _row("train.global_batch_size", GLOBAL_BATCH_SIZE, "common for adapters on a few thousand examples"),
    _row(
        "train.micro_batch_size",
        f"largest divisor of the global batch within {MICRO_BATCH_TOKENS} padded tokens",
        f"largest micro-batch whose upper memory estimate fits, at most {MICRO_BATCH_TOKENS:,} padded tokens",
    ),
    _row(
        "train.learning_rate",
        "auto",
        f"one rate for all runs, from a published rule for the models ({RULE})",
    ),
    _row("train.schedule", "linear", "decays to zero at the last step"),
    _row("train.warmup_fraction", WARMUP_FRACTION, "a fraction of the steps, so that short runs are not all warmup"),
    _row("train.warmup_steps", "none", "the fraction decides unless you give a number of steps"),
    _row("train.weight_decay", 0, "off: short runs at low rank need none"),
    _row("train.max_grad_norm", MAX_GRAD_NORM, "clips only unusually large gradients"),
    _row("train.max_seq_len", MAX_SEQ_LEN, "longer examples are errors, never truncated silently"),
    _row("train.packed", "auto", "packs if predicted to be at least 5% faster and the upper memory estimate fits"),
    _row("train.gradient_checkpointing", "false", "off: it takes about a third more time, to save memory"),
    _row("train.base_dtype", "auto", "bfloat16 if the CPU or GPU computes it fast, else float32"),
    _row(
        "train.validate_every_steps",
        "at the end of each epoch",
        "a validation costs time: give a number of steps to see the curve",
    ),
    _row("train.checkpoint.save", "adapter", "the base model is already on disk"),
    _row("train.checkpoint.every", "epoch", "checkpoints after whole passes over the data can be compared"),
    _row("train.checkpoint.keep", "all", "checkpoints are deleted only if you ask for it"),
    _row("train.checkpoint.resume_minutes", RESUME_INTERVAL, "a killed run loses at most this many minutes of work"),
    _row("train.backend", DEFAULT_BACKEND, "trains on exactly the planned micro-batches"),
    _row("train.recipe", "none", "the trainer's recipe for these settings, named in the plan"),
    _row("data.input", "input", "found by the column names"),
    _row("data.output", "output", "found by the column names"),
    _row("data.images", "none", "text only"),
    _row("data.image_root", "the dataset's folder", "image paths are usually relative to the dataset"),
    _row("data.prompt", "of the task", "the prompt of the task"),
    _row("data.system", "none", "no system turn is added"),
    _row(
        "data.train_fraction",
        TRAIN_FRACTION,
        "for files without splits: of the remaining rows, 25% validate and 75% test",
    ),
    _row("data.split_seed", SPLIT_SEED, "any fixed number: changing it makes another experiment"),
    _row("seeds", "[1]", "one replicate: claims about a setting need three or more"),
    _row("evaluate.epochs", "last", "the checkpoint that is usually kept"),
    _row("evaluate.samples", "all", "more items give narrower intervals"),
    _row(
        "evaluate.batch_size",
        EVALUATE_BATCH_SIZE,
        "the same on any machine: in bfloat16 some answers depend on it",
    ),
    _row("evaluate.max_new_tokens", MAX_NEW_TOKENS, "for short answers: a truncated answer is scored as it is"),
    _row("evaluate.temperature", "0", "greedy decoding: answers do not depend on a sampling seed"),
    _row("evaluate.top_p", 1, "samples from the whole distribution"),
    _row("evaluate.repeats", 1, "one answer per item"),
    _row("evaluate.seed", 0, "used only above temperature 0"),
    _row("evaluate.tasks", "none", "only the experiment's own task"),
    _row("evaluate.cluster", "none", "items are treated as independent"),
    _row("evaluate.metric", "the task's first", "a task declares its main score first"),
    _row(
        "evaluate.labels",
        "all answers of the dataset",
        "a label that no row has cannot be learned",
    ),
    _row("evaluate.quantization", "none", "scores in the base model's own dtype, as users of a checkpoint load it"),
    _row("evaluate.max_error_rate", "0", "an answer that could not be generated is an error, not a wrong answer"),
    _row("compute.executor", "local", "runs on this machine"),
    _row("compute.gpus_per_run", 1, "one GPU per run, or the CPU if there is no GPU"),
)
