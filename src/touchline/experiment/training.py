"""Settings of experiment.yaml under `train`, key by key, and the published rule for `learning_rate: auto`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal

from annotated_types import Ge, Le, Lt, MinLen

from touchline.experiment.value_types import NonNegativeInt, PositiveFloat, PositiveInt, Quantization, Text

DEFAULT_BACKEND: Final = "peft"
LORA_RANK: Final = 64
LORA_ALPHA_PER_RANK: Final = 2
LORA_TARGET_MODULES: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MICRO_BATCH_TOKENS: Final = 4096
"""Most padded tokens of a micro-batch that `auto` takes."""
VISION_TOWERS: Final = r".*\b(visual|vision_tower|vision_model)\b.*"
"""Names of layers in a vision tower, which stays frozen: adapters are on the language model alone."""
AGAINST_DIVERGENCE: Final = "a lower train.learning_rate, a longer warmup, or base_dtype: float32"
CheckpointKind = Literal["adapter", "merged", "full"]
"""Contents of a checkpoint: adapter only, merged model, or the whole model as trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Adapter."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    rank: PositiveInt = LORA_RANK
    """Rank of the adapter's matrices."""
    alpha: PositiveFloat | None = None
    """Numerator of the adapter's scale (default: 2 x rank)."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout on the adapter's input."""
    target_modules: Annotated[tuple[Text, ...], MinLen(1)] = LORA_TARGET_MODULES
    """Linear layers that get an adapter."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the adapter's weights and of their optimizer state. `auto` is float32, or the base model's dtype if the
    trainer has one dtype for both."""
    init: Literal["default", "gaussian", "pissa", "olora"] = "default"
    """Initial weights of the adapter, with the names of PEFT's `init_lora_weights`. `default` and `gaussian` start as a
    no-op. `pissa` and `olora` start from factors of the base's weights and subtract them there; the checkpoint is still
    an adapter for the original base, with twice the rank. They need a base that is not quantized, and no DoRA."""
    dora: bool = False
    """Weight-decomposed adapter (DoRA): a trained magnitude per output in addition to the low-rank direction. A stage
    can continue such an adapter, but not merge it."""
    rslora: bool = False
    """Rank-stabilized scale: alpha / sqrt(rank) instead of alpha / rank."""

    @property
    def resolved_dtype(self) -> Literal["float32", "bfloat16"]:
        """Return the element type, float32 where no plan resolved `auto`."""
        return "float32" if self.dtype == "auto" else self.dtype

    @property
    def resolved_alpha(self) -> float:
        """Return the scale numerator, with the default."""
        return float(LORA_ALPHA_PER_RANK * self.rank if self.alpha is None else self.alpha)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """Checkpoints: content, interval and retention."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    save: Literal["adapter", "merged"] = "adapter"
    """The adapter, or the whole model with the adapter merged into it. With `method: full` always the whole model."""
    every: Literal["epoch"] | CheckpointInterval = "epoch"
    """When checkpoints are saved: at the end of each epoch, or also `{steps: 50}` or `{minutes: 20}`."""
    keep: Literal["all", "best"] | PositiveInt = "all"
    """Checkpoints to keep: all, the best by validation loss (and the last), or the last N."""
    resume_minutes: PositiveFloat = 10.0
    """Minutes between saves of the training state, which a killed run resumes from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointInterval:
    """Interval of checkpoints within an epoch. Give one of the two."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    steps: PositiveInt | None = None
    """Optimizer steps between checkpoints."""
    minutes: PositiveFloat | None = None
    """Minutes of training between checkpoints."""

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
    """Training."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    epochs: Annotated[int, Ge(1), Le(10_000)] = 1
    """Passes over the training split."""
    global_batch_size: PositiveInt = 16
    """Examples per optimizer step. Never changed to fit memory."""
    micro_batch_size: PositiveInt | Literal["auto"] = "auto"
    """Examples per device and forward pass. `auto` takes the largest divisor of the global batch within the token limit
    whose upper memory estimate fits."""
    learning_rate: PositiveFloat | Literal["auto"] = "auto"
    """Peak learning rate. `auto` takes one rate for all runs of the experiment, from a published rule for its
    models."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate schedule after warmup."""
    warmup_fraction: Annotated[float, Ge(0), Lt(1)] = 0.05
    """Fraction of all steps in which the learning rate rises from zero."""
    warmup_steps: PositiveInt | None = None
    """Warmup as a number of steps. Replaces `warmup_fraction`."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    max_seq_len: PositiveInt = 2048
    """Longest example in tokens. A longer example is an error and is not truncated."""
    packed: bool | Literal["auto"] = "auto"
    """Whether several examples share a sequence. `auto` packs if that is predicted to be faster and fits."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    base_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the frozen base model. `auto` takes bfloat16 if the CPU or GPU computes it fast, else float32. With
    `method: full`, `auto` computes in that dtype and keeps the weights in float32, so that small updates are not lost;
    `bfloat16` also keeps them in it."""
    validate_every_steps: PositiveInt | None = None
    """Steps between validations. Without it, only at the end of each epoch."""
    method: Literal["lora", "full"] = "lora"
    """Train an adapter on the frozen base model, or all weights. With `full`, each checkpoint is a whole model in the
    dtype of the trained weights. Keys under `lora` and `checkpoint.save` then do not apply, and stages cannot continue
    such a run."""
    quantization: Quantization = "none"
    """Quantization of the frozen base model by bitsandbytes: none, 4-bit NormalFloat with nested scales (QLoRA), or
    8-bit integers (LLM.int8). Training and validation use the quantized base. Checkpoints are evaluated on the base in
    its own dtype, unless `evaluate.quantization` is given."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "muon"] = "adamw"
    """Optimizer. The 8-bit optimizers (bitsandbytes) keep the state of tensors with at least 4,096 elements in 8 bits.
    The paged one also moves it to host memory when a GPU is full. `adafactor` has no relative step sizes and no first
    moment. `muon` has momentum 0.95 and uses the learning rate as written."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability mass spread over all tokens instead of the label, in training. The validation loss is not
    smoothed."""
    neftune_alpha: PositiveFloat | None = None
    """Noise on the input embeddings during training (NEFTune): uniform up to alpha / sqrt(L d), for an example of L
    tokens and embeddings of width d."""
    dataloader_workers: NonNegativeInt = 0
    """Processes that prepare batches during training. With `peft` they are threads that read images, and text is
    tokenized before the first step."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention kernel: torch's fused one (`sdpa`), plain matrix products (`eager`), or the package flash-attn, which
    needs a GPU. `auto` is `sdpa`, with two exceptions for `peft`. On a CPU it takes `eager` for short sequences, where
    that is faster. On a GPU it takes FlexAttention for packed sequences of more than 512 tokens, if a test against
    `sdpa` passes there."""
    kernels: Literal["none", "liger"] = "none"
    """Kernels that replace parts of the model. `liger` (the package liger-kernel, which needs a GPU) computes logits
    and loss together and never holds all logits."""
    compile: bool = False
    """Compile the model (`torch.compile`): faster steps, slower start. It needs a C++ compiler, or on a GPU a C
    compiler and triton. With `peft` each layer is compiled before the first step. Sequences are padded to multiples of
    64 tokens, so that few widths are compiled. The validation split is scored uncompiled."""
    sharding: Literal["none", "full"] = "none"
    """Sharding over the devices of a run. With `full` (FSDP2) each device holds a part of the weights, gradients and
    optimizer state, and gathers a layer while it is computed. With `none` each holds all of them."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapter."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints: content and interval."""
    backend: Text = DEFAULT_BACKEND
    """Trainer."""
    recipe: Text | None = None
    """Program of a trainer that has several: one of its own recipes by name, or a Python file of yours (a path with
    `.py`, relative to experiment.yaml). If not given, the trainer chooses."""

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


RULE: Final = "LoRA Without Regret, 2025"
"""Source of the rule as plans name it: Schulman and Thinking Machines Lab, September 2025, in the form of
tinker-cookbook's `get_lr` (version of 2026-08-19). It was fitted to Llama and Qwen models with AdamW."""
FAR: Final = 3.0
"""Factor from the rule's rate beyond which a rate is a warning."""
UNLIKE: Final = 2.0
"""Factor between the rule's rates of two runs beyond which one rate for both is a warning."""
_ADAPTER_RATE: Final = 5e-4
_ALL_WEIGHTS: Final = 0.1
_WIDTH: Final = 2000
_EXPONENTS: Final = {"llama": 0.781, "qwen": 0.0775}
_SMALLEST: Final = 500_000_000


@dataclass(frozen=True, slots=True)
class RuleRate:
    """Learning rate that the rule gives a model."""

    value: float
    extrapolated: str = ""
    """Why the rule was not fitted to this; empty if it was."""

    def __str__(self) -> str:
        return rate_text(self.value) + (f" (extrapolated: {self.extrapolated})" if self.extrapolated else "")


def rule_rate(
    model_type: str, hidden_size: int, num_parameters: int | None, *, trains_all: bool = False, optimizer: str = "adamw"
) -> RuleRate:
    """Return the rule's learning rate: for LoRA 5e-4 x (2000 / hidden size)^p, for all weights a tenth of it.

    Llama has p = 0.781, Qwen 0.0775; other decoders get Llama's p.

    Args:
        model_type: `model_type` of config.json.
        hidden_size: its width, more than 0.
        num_parameters: its parameters, where they are known.
        trains_all: whether all weights are trained.
    """
    family = next((family for family in _EXPONENTS if model_type.lower().startswith(family)), None)
    rate = _ADAPTER_RATE * (_WIDTH / hidden_size) ** _EXPONENTS[family or "llama"]
    reasons = (
        ("not a Llama or Qwen model" if family is None else ""),
        ("below 0.5B parameters" if num_parameters is not None and num_parameters < _SMALLEST else ""),
        ("not AdamW" if "adam" not in optimizer.lower() else ""),
    )
    return RuleRate(two_digits(rate * _ALL_WEIGHTS if trains_all else rate), ", ".join(filter(None, reasons)))


def two_digits(rate: float) -> float:
    """Return a rate rounded to two digits."""
    return float(f"{rate:.1e}")


def rate_text(rate: float) -> str:
    """Return a rate as one writes it: `2e-4`, `1.3e-3`."""
    digits, _, exponent = f"{rate:.2e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"
