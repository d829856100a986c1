"""Settings of a training config in one vocabulary for all trainers, each with its key and place.

A backend's reader fills it in from its own file. What the file leaves out is the trainer's own default where that is
known (`is_default`), and None where it is not or does not apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from touchline.core.finding import Location
from touchline.experiment.training import RuleRate

T = TypeVar("T", covariant=True)

QLORA_BITS = 4
"""Most bits of a base with which an adapter is QLoRA; on 8 bits it is plain LoRA."""
Cadence = Literal["no", "steps", "epoch"]
"""Interval: never, every N steps, or at the end of each epoch."""


@dataclass(frozen=True, slots=True)
class Stated(Generic[T]):
    """Setting as written in a file."""

    value: T
    """The value, in the field's unit."""
    key: str
    """The setting's name in that file, dotted: `train.lr`, `per_device_train_batch_size`."""
    where: Location
    """Place of the value; for a default, the file itself."""
    is_default: bool = False
    """Whether the trainer's default was filled in."""

    def __str__(self) -> str:
        shown = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"{self.key}: {shown}"

    def line_with(self, value: object) -> str:
        """Return the setting's line in a config, with another value."""
        return f"{self.key.rpartition('.')[2]}: {value}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StatedSource:
    """Dataset named by a config."""

    name: Stated[str]
    """A path, a name on a hub, a registered name, or a builder such as `alpaca_cleaned_dataset`."""
    kind: Literal["file", "folder", "hub", "registered", "builder"]
    role: Literal["train", "validation"] = "train"
    split: Stated[str] | None = None
    """The split that is asked for, `train[:95%]`."""
    field: Stated[str] | None = None
    """The key of a JSON file under which the rows are."""
    format: Stated[str] | None = None
    """How rows are understood: `alpaca`, `chat_template`, `json`, `parquet`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StatedTraining:
    """Training as described by one config."""

    backend: str
    """The format that it was read by, named as the backend's folder."""
    where: Location
    """The file, or the place in it where this training begins."""
    subject: str
    """What to call it: the file's folder, or the run's name."""

    model: Stated[str] | None = None
    """The base model: a path, or a name on a hub; of a builder the builder's last part."""
    model_path: Stated[str] | None = None
    """The folder that the base is read from, where `model` is a builder's name."""
    parent: Stated[str] | None = None
    """An earlier training's adapter or checkpoint that this one continues from."""
    method: Stated[Literal["lora", "qlora", "full"]] | None = None
    rank: Stated[int] | None = None
    alpha: Stated[float] | None = None
    dropout: Stated[float] | None = None
    target_modules: Stated[tuple[str, ...]] | None = None
    """Layers with an adapter, in the file's own names."""
    quantization_bits: Stated[int] | None = None

    epochs: Stated[float] | None = None
    max_steps: Stated[int] | None = None
    micro_batch_size: Stated[int] | None = None
    gradient_accumulation_steps: Stated[int] | None = None
    global_batch_size: Stated[int] | None = None
    """Rows per optimizer step, where the file states it itself."""
    devices: Stated[int] | None = None
    """Devices that share a step, where the file states it."""

    rule_rate: RuleRate | None = None
    """Learning rate by the published rule for this model and method; None in configs of other tools, which may train
    on preferences, and where the rate is a level."""
    learning_rate: Stated[float] | None = None
    schedule: Stated[str] | None = None
    """Schedule, in the file's own word."""
    warmup_steps: Stated[int] | None = None
    warmup_fraction: Stated[float] | None = None
    """The same as a share of all steps."""
    weight_decay: Stated[float] | None = None
    optimizer: Stated[str] | None = None
    max_grad_norm: Stated[float] | None = None
    seed: Stated[int] | None = None
    shuffle: Stated[bool] | None = None

    max_seq_len: Stated[int] | None = None
    packed: Stated[bool] | None = None
    template: Stated[str] | None = None
    trains_on_prompt: Stated[bool] | None = None
    """Whether the loss is taken on the prompt too."""

    dtype: Stated[Literal["bfloat16", "float16", "float32"]] | None = None
    """Element type that is computed in."""
    gradient_checkpointing: Stated[bool] | None = None
    attention: Stated[str] | None = None
    """Attention kernel, in the file's word: `flash_attention_2`, `sdpa`, `eager`, `xformers`."""
    compiled: Stated[bool] | None = None
    device: Stated[str] | None = None
    """`cuda`, `cpu`, `mps`."""
    offloads: Stated[str] | None = None
    """What waits in host memory while it trains, in the file's word: activations, optimizer, parameters; then what the
    GPU must hold is not known."""
    distributed: Stated[str] | None = None
    """A setting of sharding, in the file's word."""
    data_workers: Stated[int] | None = None
    """Processes that load data while it trains, for each device."""

    sources: tuple[StatedSource, ...] = ()
    validation_fraction: Stated[float] | None = None
    """Share of the rows held out; a value of 1 or more is a number of rows."""
    max_examples: Stated[int] | None = None
    """Rows taken of each dataset at most."""

    output_dir: Stated[str] | None = None
    resume: Stated[str] | None = None
    """Checkpoint to resume from, or `true`."""
    save_cadence: Stated[Cadence] | None = None
    save_steps: Stated[float] | None = None
    """Every so many optimizer steps; below 1 a share of all steps."""
    save_limit: Stated[int] | None = None
    save_only_model: Stated[bool] | None = None
    """Whether the optimizer's state is left out, so that a checkpoint cannot be resumed from."""
    save_adapter_only: Stated[bool] | None = None
    eval_cadence: Stated[Cadence] | None = None
    eval_steps: Stated[float] | None = None
    """Every so many optimizer steps; below 1 a share of all steps."""
    load_best: Stated[bool] | None = None
    image_root: Stated[str] | None = None
