"""Settings of experiment.yaml under `train`, key by key."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Lt, MinLen

from touchline.experiment import defaults
from touchline.experiment.quantization import Quantization
from touchline.experiment.value_types import NonNegativeInt, PositiveFloat, PositiveInt, Text

CheckpointKind = Literal["adapter", "merged", "full"]
"""Contents of a checkpoint: adapter only, merged model, or the whole model as trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """The adapter."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    rank: PositiveInt = defaults.LORA_RANK
    """Rank of the two factors."""
    alpha: PositiveFloat | None = None
    """Scale numerator; 2 x rank when not given."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout on the adapter's input."""
    target_modules: Annotated[tuple[Text, ...], MinLen(1)] = defaults.LORA_TARGET_MODULES
    """The linear layers that get an adapter."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Element type of the adapter's weights and of its optimizer state; `auto` is float32, and the base's dtype with a
    trainer that has one dtype for both."""
    init: Literal["default", "gaussian", "pissa", "olora"] = "default"
    """Initial weights of the adapter, as PEFT's `init_lora_weights` names them; `default` and `gaussian` start as a
    no-op. `pissa` and `olora` start from factors of the base's weights and subtract them there; the checkpoint is still
    an adapter for the original base, with twice the rank. They need a base that is not quantized, and no DoRA."""
    dora: bool = False
    """Weight-decomposed adapters (DoRA): a trained magnitude per output, besides the low-rank direction. A stage can
    continue such an adapter, but not merge it."""
    rslora: bool = False
    """Rank-stabilized scale: alpha / sqrt(rank) instead of alpha / rank."""

    @property
    def resolved_dtype(self) -> Literal["float32", "bfloat16"]:
        """Return the element type, float32 where no plan resolved `auto`."""
        return "float32" if self.dtype == "auto" else self.dtype

    @property
    def resolved_alpha(self) -> float:
        """Return the scale numerator, with the default."""
        return float(defaults.LORA_ALPHA_PER_RANK * self.rank if self.alpha is None else self.alpha)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """Checkpoints: content, interval and retention."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    save: Literal["adapter", "merged"] = "adapter"
    """The adapter alone, or the whole model with the adapter merged into it. With `method: full` always the whole
    model."""
    every: Literal["epoch"] | CheckpointInterval = "epoch"
    """Interval of checkpoints: at the end of each epoch, or also `{steps: 50}` or `{minutes: 20}`."""
    keep: Literal["all", "best"] | PositiveInt = "all"
    """Checkpoints to keep: all, the best by validation loss (and the last), or the last N."""
    resume_minutes: PositiveFloat = defaults.RESUME_INTERVAL
    """Minutes between saves of the training state for resuming, apart from checkpoints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointInterval:
    """Exports between the epochs' ends; give one of the two."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    steps: PositiveInt | None = None
    """Every so many optimizer steps."""
    minutes: PositiveFloat | None = None
    """Every so many minutes of training."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give either steps or minutes")


def accumulation_steps(global_batch_size: int, micro_batch_size: int, data_parallel_size: int) -> int:
    """Return the gradient accumulation steps: micro-batch size x these x devices is the global batch size."""
    return -(-global_batch_size // (micro_batch_size * data_parallel_size))


def optimizer_steps(rows: int, rows_per_step: int, *, devices: int = 1, drops_incomplete: bool = False) -> int:
    """Return the optimizer steps of an epoch.

    Args:
        rows: examples or packed sequences of an epoch.
        rows_per_step: rows of a step on all devices: micro-batch size x accumulation x devices.
        devices: data-parallel size.
        drops_incomplete: whether each device leaves out its last rows if they fill no step; else the last step has
            fewer rows.
    """
    if drops_incomplete:
        return -(-rows // devices) // max(rows_per_step // devices, 1)
    return -(-rows // rows_per_step)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The training, in the field's terms."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    epochs: PositiveInt = defaults.EPOCHS
    """Passes over the training split."""
    global_batch_size: PositiveInt = defaults.GLOBAL_BATCH_SIZE
    """Examples per optimizer step: part of the science, never changed to fit memory."""
    micro_batch_size: PositiveInt | Literal["auto"] = "auto"
    """Examples per forward pass; `auto` takes the largest divisor of the global batch within the token limit."""
    learning_rate: PositiveFloat | Literal["auto"] = "auto"
    """Peak learning rate; `auto` is one rate for all runs of the experiment, by a published rule for its models."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Decay of the learning rate after warmup."""
    warmup_fraction: Annotated[float, Ge(0), Lt(1)] = defaults.WARMUP_FRACTION
    """Share of all steps in which the learning rate rises from zero."""
    warmup_steps: PositiveInt | None = None
    """The same as a number of steps, which replaces the share when given."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: PositiveFloat = defaults.MAX_GRAD_NORM
    """Gradients are clipped to this norm."""
    max_seq_len: PositiveInt = defaults.MAX_SEQ_LEN
    """Longest example in tokens. A longer one is an error and is not truncated."""
    packed: bool | Literal["auto"] = "auto"
    """Whether several examples share a row; `auto` packs when it is predicted to be faster and fits."""
    gradient_checkpointing: bool = False
    """Trade time for memory: recompute activations in the backward pass."""
    base_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the frozen base; `auto` takes bfloat16 if the CPU or GPU computes it fast. With `method: full`, `auto`
    computes in that dtype and trains weights in float32, which keep small updates; `bfloat16` also trains in it."""
    validate_every_steps: PositiveInt | None = None
    """Validation loss every so many steps; none: at each epoch's end only."""
    method: Literal["lora", "full"] = "lora"
    """Train an adapter on the frozen base, or all weights. With `full`, every checkpoint is a whole model, in the dtype
    that was trained; keys under `lora` and `checkpoint.save` do not apply, and stages cannot continue such a run."""
    quantization: Quantization = "none"
    """Stored form of the frozen base: its own dtype, 4-bit NormalFloat with nested scales (QLoRA), or 8-bit integers
    (LLM.int8), by bitsandbytes. Training and validation use the quantized base; checkpoints are evaluated on the base
    in its own dtype, unless `evaluate.quantization` says otherwise."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "muon"] = "adamw"
    """Optimizer. The 8-bit ones (bitsandbytes) keep the state of tensors from 4,096 elements on in 8 bits, the paged
    one where the driver moves it to host memory when a GPU is full. `adafactor` has no relative step sizes and no first
    moment. `muon` has momentum 0.95, and its learning rate as written."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability mass spread over all tokens instead of the label, in training; the validation loss stays the plain
    one."""
    neftune_alpha: PositiveFloat | None = None
    """Noise on the input embeddings during training (NEFTune): uniform up to alpha / sqrt(L d), for an example of L
    tokens and embeddings of width d; none when not given."""
    dataloader_workers: NonNegativeInt = 0
    """Processes that prepare batches beside the training process. With `peft` they are threads that read images; for
    text it changes nothing there, because all of it is tokenized before the first step."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention kernel: torch's fused one (`sdpa`), plain matrix products (`eager`), or that of the package flash-attn,
    which needs a GPU. `auto` is `sdpa`; with `peft` on a CPU `eager` for short rows, where it is faster, and on a GPU
    FlexAttention for packed rows of more than 512 tokens, if a test against `sdpa` passes there."""
    kernels: Literal["none", "liger"] = "none"
    """Kernels that replace parts of the model: `liger` (the package liger-kernel, which needs a GPU) computes logits
    and loss together and never holds all logits."""
    compile: bool = False
    """Compile the model (`torch.compile`): steps take less time, and the start takes more. It needs a C++ compiler, or
    on a GPU a C compiler and triton. With `peft` every layer is compiled before the first step, rows are padded to
    multiples of 64 tokens so that few widths are compiled, and the validation split is scored uncompiled."""
    sharding: Literal["none", "full"] = "none"
    """What several devices of a run share: with `full` (FSDP2) each holds a part of every weight, gradient and
    optimizer state, and gathers a layer while it is computed; with `none` each holds all of them."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """The adapter."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints: content and interval."""
    backend: Text = defaults.DEFAULT_BACKEND
    """Trainer."""
    recipe: Text | None = None
    """The trainer's program, for a trainer that has recipes: one of its own by name, or a Python file of yours (a path
    with `.py`, relative to experiment.yaml). The trainer chooses when not given."""

    @property
    def recipe_path(self) -> str | None:
        """Return the path in `recipe`; None without one, and for a name."""
        return self.recipe if self.recipe is not None and (".py" in self.recipe or "/" in self.recipe) else None

    @property
    def peak_learning_rate(self) -> float:
        """Return the learning rate of a planned training, in which `auto` has become a number."""
        if self.learning_rate == "auto":
            raise ValueError("learning_rate: auto was not resolved by a plan")
        return self.learning_rate

    def warmup(self, steps: int) -> int:
        """Return the steps in which the learning rate rises, of a training with so many."""
        rising = math.ceil(self.warmup_fraction * steps) if self.warmup_steps is None else self.warmup_steps
        return min(rising, steps)

    @property
    def uses_bitsandbytes(self) -> bool:
        """Return whether the base or the optimizer's states are quantized."""
        return self.quantization != "none" or "8bit" in self.optimizer

    @property
    def trains_all(self) -> bool:
        """Return whether all weights are trained."""
        return self.method == "full"

    @property
    def is_sharded(self) -> bool:
        """Return whether several devices share weights, gradients and optimizer states."""
        return self.sharding == "full"

    @property
    def trained_dtype(self) -> Literal["float32", "bfloat16"]:
        """Return the dtype of the trained parameters and of their gradients."""
        if self.method == "lora":
            return self.lora.resolved_dtype
        return "bfloat16" if self.base_dtype == "bfloat16" else "float32"

    @property
    def saves(self) -> CheckpointKind:
        """Return what a checkpoint holds."""
        return "full" if self.method == "full" else self.checkpoint.save
