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
    _row("train.lora.rank", LORA_RANK, "high enough for most tasks; a rank costs little memory"),
    _row(
        "train.lora.alpha", f"{LORA_ALPHA_PER_RANK} x rank", "keeps the adapter's scale the same when the rank varies"
    ),
    _row(
        "train.lora.target_modules",
        ", ".join(LORA_TARGET_MODULES),
        "all linear layers of a Llama-like block; attention alone learns less at equal rank",
    ),
    _row("train.lora.dropout", 0, "no dropout on the adapter's input; try some where validation loss rises"),
    _row("train.lora.dtype", "auto", "float32 keeps small updates; the base's dtype if the trainer has one for both"),
    _row("train.lora.init", "default", "starts as a no-op, so the first loss is that of the base"),
    _row("train.lora.dora", "false", "plain LoRA; DoRA costs time and memory at every layer"),
    _row("train.lora.rslora", "false", "alpha follows the rank already"),
    _row("train.method", "lora", "an adapter needs a fraction of the memory and disk"),
    _row("train.quantization", "none", "a quantized base saves memory and costs time; ask for it when memory needs it"),
    _row("train.optimizer", "adamw", "the common choice"),
    _row("train.label_smoothing", 0, "no smoothing; the loss stays comparable with other runs"),
    _row("train.neftune_alpha", "none", "no noise on the embeddings"),
    _row("train.dataloader_workers", 0, "batches are tokenized before the first step"),
    _row("train.attention", "auto", "the trainer's default kernel, on any machine"),
    _row("train.kernels", "none", "the model's own code, on any machine"),
    _row("train.compile", "false", "short runs end before compiling pays, and it needs a compiler"),
    _row("train.sharding", "none", "data parallel: each device holds the whole model"),
    _row("train.epochs", EPOCHS, "more passes are a choice to make, not to inherit"),
    _row("train.global_batch_size", GLOBAL_BATCH_SIZE, "a common size for adapters on some thousand examples"),
    _row(
        "train.micro_batch_size",
        f"largest divisor of the global batch within {MICRO_BATCH_TOKENS} padded tokens",
        "largest micro-batch whose upper memory estimate fits; more tokens than this gain no speed",
    ),
    _row(
        "train.learning_rate",
        "auto",
        f"one rate for all runs, by a published rule for the models ({RULE}); the plan names it",
    ),
    _row("train.schedule", "linear", "falls to zero at the last step"),
    _row("train.warmup_fraction", WARMUP_FRACTION, "a share of the steps, so that short runs are not all warm-up"),
    _row("train.warmup_steps", "none", "the share decides; a number of steps is for settings that come from elsewhere"),
    _row("train.weight_decay", 0, "short trainings and low ranks need none"),
    _row("train.max_grad_norm", MAX_GRAD_NORM, "clips only steps that are out of the ordinary"),
    _row("train.max_seq_len", MAX_SEQ_LEN, "longer examples are errors, never truncated silently"),
    _row("train.packed", "auto", "packs if that is predicted to be 5% faster and its upper memory estimate fits"),
    _row("train.gradient_checkpointing", "false", "costs about a third more time; ask for it when memory needs it"),
    _row("train.base_dtype", "auto", "bfloat16 where the CPU or GPU is fast at it, else float32"),
    _row(
        "train.validate_every_steps",
        "at the end of each epoch",
        "a validation costs time; give a number of steps to see the curve",
    ),
    _row("train.checkpoint.save", "adapter", "the base is on disk already"),
    _row("train.checkpoint.every", "epoch", "a whole pass over the data is a state that can be compared"),
    _row("train.checkpoint.keep", "all", "nothing is deleted unless you say so"),
    _row("train.checkpoint.resume_minutes", RESUME_INTERVAL, "a killed run loses at most this much work"),
    _row("train.backend", DEFAULT_BACKEND, "consumes exactly the micro-batches that were planned"),
    _row("train.recipe", "none", "the recipe that the trainer has for this training; the plan names it"),
    _row("data.input", "input", "found by the names of the columns"),
    _row("data.output", "output", "found by the names of the columns"),
    _row("data.images", "none", "texts alone"),
    _row("data.image_root", "the dataset's folder", "paths of images are usually relative to the dataset"),
    _row("data.prompt", "of the task", "the prompt of the task"),
    _row("data.system", "none", "no system turn is put before the user's"),
    _row(
        "data.train_fraction",
        TRAIN_FRACTION,
        "for files without splits; of the rest a quarter validates, the other tests",
    ),
    _row("data.split_seed", SPLIT_SEED, "any fixed number does; changing it makes another experiment"),
    _row("seeds", "[1]", "one replicate; two or more say how far a seed alone moves the result"),
    _row("evaluate.epochs", "last", "the model that one would keep"),
    _row("evaluate.samples", "all", "the interval shrinks with the number of items"),
    _row("evaluate.batch_size", EVALUATE_BATCH_SIZE, "the same on any machine: in bfloat16 some answers depend on it"),
    _row("evaluate.max_new_tokens", MAX_NEW_TOKENS, "short answers; an answer that is cut is counted as it stands"),
    _row("evaluate.temperature", "0", "greedy: one answer an item, and nothing of the difference is luck of the draw"),
    _row("evaluate.top_p", 1, "nothing is cut from the distribution"),
    _row("evaluate.repeats", 1, "one answer per item"),
    _row("evaluate.seed", 0, "counts only above temperature 0"),
    _row("evaluate.tasks", "none", "the experiment's own task alone"),
    _row("evaluate.cluster", "none", "items count as independent"),
    _row("evaluate.metric", "the task's first", "the score that a task declares first is the one it is about"),
    _row(
        "evaluate.labels",
        "all answers of the dataset",
        "a label that no row has cannot be learned",
    ),
    _row("evaluate.quantization", "none", "scores on the base in its own dtype, as users of a checkpoint load it"),
    _row("evaluate.max_error_rate", "0", "an answer that could not be generated is an error, not a score"),
    _row("compute.executor", "local", "this machine"),
    _row("compute.gpus_per_run", 1, "one GPU per run; the CPU where there is no GPU"),
)
