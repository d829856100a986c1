"""Every setting that a run depends on, declared once: words, unit, reason of its default, and what it changes.

Type, bounds and default are on the dataclass that experiment.yaml fills; its docstring is the reference page. Tables,
run names, imports, comparisons, confounders and docs/reference/defaults.md come from the rows here. No time, memory or
disk size has a default: those come from measured runs, or they are missing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Final, get_type_hints

from touchline.experiment.experiment import Experiment, as_written
from touchline.experiment.training import LORA_ALPHA_PER_RANK, MICRO_BATCH_TOKENS, RULE, TrainConfig

SINCE_0_1: Final = 2
"""Largest `Setting.since` of touchline 0.1.0."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Setting of a run."""

    key: str
    """Dotted key of experiment.yaml; of a computed or fixed setting the key that it would have."""
    name: str
    reason: str = ""
    """Reason for the default; empty without a default."""
    default: str = ""
    """Default in words, where it is not the text of the dataclass's value."""
    unit: str | None = None
    unset: str = "-"
    """Text for a value that is not set."""
    since: int = 1
    """First version of the defaults in plan.json that lists it."""
    computed: str | None = None
    """Rule by which the planner computes it in every run."""
    decided_in: str | None = None
    """Field of a planned run that says why its `auto` became this value."""
    short: str | None = None
    """Word in names of runs (default: the key's last part); empty where the value alone identifies the setting."""
    also: tuple[str, ...] = ()
    """Further names in configs of other tools."""
    changes_speed: bool = False
    """Whether times and rates are comparable only at equal values."""
    is_free: bool = False
    """Whether it changes neither time nor memory nor disk."""
    is_per_run: bool = False
    """Whether runs that train side by side on one base may differ in it."""
    tuned_per_model: bool = False
    """Whether it should be chosen for each model."""

    @property
    def field(self) -> str:
        """Return the key's last part, its name in a dataclass."""
        return self.key.rpartition(".")[2]

    @property
    def group(self) -> str:
        """Return the key's first part."""
        return self.key.partition(".")[0]

    @property
    def value(self) -> str:
        """Return the default as one writes it."""
        return self.default or written(_default_of(self.key))


def written(value: object) -> str:
    """Return a value as one writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def value_of(experiment: object, key: str) -> object:
    """Return the value of a dotted key in an experiment, or in a part of it."""
    node = experiment
    for part in key.split("."):
        node = getattr(node, part)
    return node


def with_defaults(train: TrainConfig, settings: Iterable[Setting]) -> TrainConfig:
    """Return a training in which these settings have their defaults."""
    values: dict[str, dict[str, Any]] = {"train": {}, "train.lora": {}}
    for setting in settings:
        values[setting.key.rpartition(".")[0]][setting.field] = _default_of(setting.key)
    return replace(train, **values["train"], lora=replace(train.lora, **values["train.lora"]))


@functools.cache
def _default_of(key: str) -> object:
    """Return the default that a dataclass has for a dotted key."""
    node: type = Experiment
    *groups, last = key.split(".")
    for group in groups:
        node = get_type_hints(node)[group]
    found = next(each for each in fields(node) if as_written(each.name) == last)
    assert found.default is not MISSING, key
    return found.default


SETTINGS: Final = (
    Setting(
        "train.learning_rate",
        "learning rate",
        f"one rate for all runs, from a published rule for the models ({RULE})",
        decided_in="learning_rate_reason",
        short="lr",
        also=("lr",),
        tuned_per_model=True,
        is_free=True,
        is_per_run=True,
    ),
    Setting(
        "train.epochs",
        "epochs",
        "1 to 3 are usual; the validation loss shows whether more help",
        also=("num_train_epochs", "num_epochs"),
    ),
    Setting(
        "train.global_batch_size",
        "global batch size",
        "common for adapters on a few thousand examples",
        unit="examples",
        short="batch",
        changes_speed=True,
    ),
    Setting(
        "train.micro_batch_size",
        "micro-batch size",
        f"largest micro-batch whose upper memory estimate fits, at most {MICRO_BATCH_TOKENS:,} padded tokens",
        default=f"largest divisor of the global batch within {MICRO_BATCH_TOKENS} padded tokens",
        unit="sequences",
        decided_in="micro_batch_reason",
        short="micro",
        also=("per_device_train_batch_size", "micro_batch_size"),
        changes_speed=True,
    ),
    Setting(
        "train.gradient_accumulation_steps",
        "gradient accumulation steps",
        computed="global batch size / (micro-batch size x devices)",
        changes_speed=True,
    ),
    Setting(
        "compute.gpus_per_run", "devices per run", "one GPU per run, or the CPU if there is no GPU", changes_speed=True
    ),
    Setting(
        "train.max_seq_len",
        "max_seq_len",
        "longer examples are errors, never truncated silently",
        unit="tokens",
        short="len",
        changes_speed=True,
    ),
    Setting(
        "train.packed",
        "packed",
        "packs if predicted to be at least 5% faster and the upper memory estimate fits",
        decided_in="packed_reason",
        changes_speed=True,
    ),
    Setting(
        "train.lora.rank",
        "LoRA rank",
        "high enough for most tasks, and costs little memory",
        also=("lora_r",),
        is_per_run=True,
    ),
    Setting(
        "train.lora.alpha",
        "LoRA alpha",
        "keeps the adapter's scale the same when the rank varies",
        default=f"{LORA_ALPHA_PER_RANK} x rank",
        is_free=True,
        is_per_run=True,
    ),
    Setting("train.lora.dropout", "LoRA dropout", "off: try some if the validation loss rises", since=2),
    Setting(
        "train.lora.target_modules",
        "LoRA target modules",
        "all linear layers of a Llama-like block: attention alone learns less at equal rank",
    ),
    Setting(
        "train.lora.dtype",
        "adapter dtype",
        "float32 keeps small updates, if the trainer has a dtype for the adapter",
        since=2,
    ),
    Setting(
        "train.lora.init", "adapter initialization", "starts as a no-op, so the first loss is the base model's", since=3
    ),
    Setting("train.lora.dora", "DoRA", "off: DoRA costs time and memory in every layer", since=3),
    Setting("train.lora.rslora", "rank-stabilized LoRA", "off: alpha already scales with the rank", since=3),
    Setting("train.method", "trained weights", "an adapter needs a fraction of the memory and disk", since=3),
    Setting(
        "train.base_dtype",
        "base model dtype",
        "bfloat16 if the CPU or GPU computes it fast, else float32",
        tuned_per_model=True,
    ),
    Setting("train.quantization", "quantization", "off: a quantized base saves memory and costs time", since=3),
    Setting("train.optimizer", "optimizer", "the common choice", since=3, short=""),
    Setting(
        "train.label_smoothing", "label smoothing", "off: losses stay comparable with those of other runs", since=3
    ),
    Setting("train.neftune_alpha", "NEFTune alpha", "off: no noise on the embeddings", unset="none", since=3),
    Setting(
        "train.dataloader_workers", "data loader workers", "all batches are tokenized before the first step", since=3
    ),
    Setting("train.attention", "attention", "the trainer's default kernel, which runs on any machine", since=3),
    Setting("train.kernels", "kernels", "the model's own code, which runs on any machine", since=3),
    Setting(
        "train.compile", "compiled", "off: short runs end before compiling pays off, and it needs a compiler", since=3
    ),
    Setting(
        "train.sharding", "sharding over devices", "off: each device holds the whole model (data parallel)", since=3
    ),
    Setting("train.loss", "loss"),
    Setting(
        "train.schedule",
        "learning rate schedule",
        "decays to zero at the last step",
        tuned_per_model=True,
        is_free=True,
    ),
    Setting(
        "train.warmup_fraction",
        "warmup",
        "a fraction of the steps, so that short runs are not all warmup",
        unit="of all steps",
        tuned_per_model=True,
        is_free=True,
        is_per_run=True,
    ),
    Setting(
        "train.warmup_steps",
        "warmup steps",
        "the fraction decides unless you give a number of steps",
        computed="as given, or warmup fraction x steps, rounded up",
        since=4,
        tuned_per_model=True,
        is_free=True,
        is_per_run=True,
    ),
    Setting(
        "train.weight_decay",
        "weight decay",
        "off: short runs at low rank need none",
        since=2,
        is_free=True,
        is_per_run=True,
    ),
    Setting(
        "train.max_grad_norm",
        "gradient clipping (norm)",
        "clips only unusually large gradients",
        default="1.0",
        is_free=True,
    ),
    Setting(
        "train.gradient_checkpointing",
        "gradient checkpointing",
        "off: it takes about a third more time, to save memory",
    ),
    Setting("seeds", "training seed", "one replicate: claims about a setting need three or more", default="[1]"),
    Setting("train.steps", "optimizer steps", computed="from the batches of the training split"),
    Setting(
        "train.validate_every_steps",
        "validation every",
        "a validation costs time: give a number of steps to see the curve",
        default="at the end of each epoch",
        unit="steps",
        unset="at the end of each epoch",
        since=2,
    ),
    Setting(
        "train.checkpoint.every",
        "checkpoint every",
        "checkpoints after whole passes over the data can be compared",
        since=2,
    ),
    Setting("train.checkpoint.save", "checkpoint contents", "the base model is already on disk", since=2),
    Setting("train.checkpoint.keep", "checkpoints kept", "checkpoints are deleted only if you ask for it"),
    Setting(
        "train.checkpoint.resume_minutes",
        "training state saved every",
        "a killed run loses at most this many minutes of work",
        default="10.0",
        unit="minutes",
    ),
    Setting("train.backend", "trainer", "trains on exactly the planned micro-batches", since=2, short=""),
    Setting(
        "train.recipe",
        "recipe",
        "the trainer's recipe for these settings, named in the plan",
        unset="the trainer's own",
        since=4,
    ),
    Setting("models", "base model"),
    Setting("data.path", "dataset"),
    Setting("data.train", "training data", since=4),
    Setting("data.validation", "validation data", since=4),
    Setting("data.test", "test data", since=4),
    Setting("data.input", "input column", "found by the column names", since=2),
    Setting("data.output", "answer column", "found by the column names", since=2),
    Setting("data.messages", "chat column", unset="none"),
    Setting("data.images", "image column", "text only", unset="none", since=3),
    Setting(
        "data.image_root",
        "folder of images",
        "image paths are usually relative to the dataset",
        default="the dataset's folder",
        unset="the dataset's",
        since=3,
    ),
    Setting("data.prompt", "prompt", "the prompt of the task", default="of the task", unset="none"),
    Setting("data.system", "system prompt", "no system turn is added", unset="none"),
    Setting(
        "data.train_fraction",
        "training fraction (random split)",
        "for files without splits: of the remaining rows, 25% validate and 75% test",
    ),
    Setting("data.split_seed", "random split seed", "any fixed number: changing it makes another experiment"),
    Setting("task", "task"),
    Setting("evaluate.epochs", "evaluated epochs", "the checkpoint that is usually kept", unset="none"),
    Setting("evaluate.samples", "evaluated test items", "more items give narrower intervals"),
    Setting(
        "evaluate.batch_size",
        "evaluation batch size",
        "the same on any machine: in bfloat16 some answers depend on it",
        unit="prompts",
    ),
    Setting(
        "evaluate.max_new_tokens",
        "longest answer",
        "for short answers: a truncated answer is scored as it is",
        unit="tokens",
    ),
    Setting(
        "evaluate.temperature",
        "temperature (0: greedy decoding)",
        "greedy decoding: answers do not depend on a sampling seed",
    ),
    Setting("evaluate.top_p", "top_p", "samples from the whole distribution", since=2),
    Setting("evaluate.repeats", "answers per item", "one answer per item", since=2),
    Setting("evaluate.seed", "sampling seed", "used only above temperature 0", since=2),
    Setting(
        "evaluate.max_error_rate",
        "allowed fraction of failed answers",
        "an answer that could not be generated is an error, not a wrong answer",
    ),
    Setting("evaluate.tasks", "further tasks", "only the experiment's own task", unset="none"),
    Setting("evaluate.cluster", "cluster column", "items are treated as independent", unset="none"),
    Setting(
        "evaluate.metric",
        "primary metric",
        "a task declares its main score first",
        default="the task's first",
        unset="the task's first",
    ),
    Setting(
        "evaluate.labels",
        "labels",
        "a label that no row has cannot be learned",
        default="all answers of the dataset",
        unset="all answers of the dataset",
    ),
    Setting(
        "evaluate.quantization",
        "quantization in evaluation",
        "scores in the base model's own dtype, as users of a checkpoint load it",
    ),
    Setting("compute.executor", "executor", "runs on this machine"),
)
"""All settings, in the order of the table that plans and reports show."""
SETTING: Final[Mapping[str, Setting]] = {setting.key: setting for setting in SETTINGS}
_DEFAULTS = (
    *("train.lora.rank", "train.lora.alpha", "train.lora.target_modules", "train.lora.dropout", "train.lora.dtype"),
    *("train.lora.init", "train.lora.dora", "train.lora.rslora", "train.method", "train.quantization"),
    *("train.optimizer", "train.label_smoothing", "train.neftune_alpha", "train.dataloader_workers"),
    *("train.attention", "train.kernels", "train.compile", "train.sharding", "train.epochs"),
    *("train.global_batch_size", "train.micro_batch_size", "train.learning_rate", "train.schedule"),
    *("train.warmup_fraction", "train.warmup_steps", "train.weight_decay", "train.max_grad_norm"),
    *("train.max_seq_len", "train.packed", "train.gradient_checkpointing", "train.base_dtype"),
    *("train.validate_every_steps", "train.checkpoint.save", "train.checkpoint.every", "train.checkpoint.keep"),
    *("train.checkpoint.resume_minutes", "train.backend", "train.recipe", "data.input", "data.output", "data.images"),
    *("data.image_root", "data.prompt", "data.system", "data.train_fraction", "data.split_seed", "seeds"),
    *("evaluate.epochs", "evaluate.samples", "evaluate.batch_size", "evaluate.max_new_tokens"),
    *("evaluate.temperature", "evaluate.top_p", "evaluate.repeats", "evaluate.seed", "evaluate.tasks"),
    *("evaluate.cluster", "evaluate.metric", "evaluate.labels", "evaluate.quantization", "evaluate.max_error_rate"),
    *("compute.executor", "compute.gpus_per_run"),
)
DEFAULTS: Final = tuple(
    sorted(
        filter(lambda setting: setting.reason, SETTINGS),
        key=lambda setting: [*_DEFAULTS, setting.key].index(setting.key),
    )
)
"""Settings with a default, in the order in which plans list what was not given; later ones come last."""
FREE: Final = tuple(setting for setting in SETTINGS if setting.is_free)
PER_RUN: Final = tuple(setting for setting in SETTINGS if setting.is_per_run)
LEADING: Final = (
    *("train.learning_rate", "train.epochs", "train.global_batch_size", "train.max_seq_len"),
    *("train.lora.rank", "train.lora.alpha"),
)
"""The most important settings."""
CHANGING: Final = (
    *("train.global_batch_size", "train.micro_batch_size", "train.gradient_accumulation_steps"),
    *("train.learning_rate", "train.lora.rank", "train.lora.alpha", "train.packed", "train.max_seq_len"),
    *("train.epochs", "compute.gpus_per_run"),
)
"""Settings that change a score, a loss or a time, in the order in which findings name them."""
COLLECTED: Final[Mapping[str, str]] = {
    "model": "models",
    "seed": "seeds",
    "batch_size": "train.micro_batch_size",
    "packed": "train.packed",
    "max_seq_len": "train.max_seq_len",
    "gradient_accumulation_steps": "train.gradient_accumulation_steps",
    "effective_batch_size": "train.global_batch_size",
    "lora_rank": "train.lora.rank",
    "lora_alpha": "train.lora.alpha",
    "learning_rate": "train.learning_rate",
    "epochs": "train.epochs",
}
"""Settings by their keys in run_metrics.yaml; some are known for runs that touchline did not plan."""
COLLECTED_AS: Final[Mapping[str, str]] = {
    **{key: name for name, key in COLLECTED.items()},
    "compute.gpus_per_run": "gpus",
}
"""Names in `RunResult.settings`, which also holds the devices of runs that touchline did not plan."""
FACTORS: Final = (
    *("train.lora.rank", "train.learning_rate", "train.epochs", "train.packed", "train.max_seq_len"),
    *("train.lora.alpha", "train.global_batch_size", "train.micro_batch_size", "train.gradient_accumulation_steps"),
    "compute.gpus_per_run",
)
"""Settings that may be factors of runs without a plan. One that follows from an earlier one is no factor."""
