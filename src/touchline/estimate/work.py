"""Work of one optimizer step, in the terms that its time depends on, and its floating-point operations.

A product of a matrix of P elements with T tokens is 2·P·T operations. A trained layer does three of them: forward,
gradient of its input, gradient of its weight; a frozen one (LoRA) only the first two, and with gradient checkpointing
the forward pass once more. The output layer is not computed again, and where a trainer keeps only the positions with a
loss, it sees only these. Causal attention of T tokens in rows of S costs 4·S·q·T/2 a layer and forward pass (scores and
their product with the values, half of which the causal mask leaves), 2.5 times that backward in a fused kernel, which
computes the scores again; eager attention computes the masked half too, and its backward pass is twice the forward one.
Kaplan et al. 2020, appendix; Dao 2023 (FlashAttention-2), section 4.1.

A vision tower is a transformer of patches (Dosovitskiy et al. 2021, section 3.1) without a causal mask: by the same
rules, its embedding and blocks cost 2·P a patch, the layers that join patches 2·P a token, and attention of an image of
N patches 4·N²·width a block. Which matrices it has is read from transformers 5.23 (models/qwen2_vl, qwen2_5_vl,
qwen3_vl). It is frozen and nothing below it is trained, so an adapter's step computes it forward once; Qwen2.5-VL's
windows, which see less than an image, are counted as whole images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from touchline.backends.facts import MemoryCoefficients
from touchline.backends.registry import memory_coefficients
from touchline.core.estimate import MicroBatch, TrainingSetup
from touchline.data.packing.forecast import BatchForecast, BatchSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class StepWork:
    """Optimizer step on one device; a mean over the steps of a run may be fractional."""

    micro_batches: float
    tokens: float
    """Computed tokens over all forward passes, padding included."""
    squares: float
    """Sum of squared sequence lengths, which attention scores scale with."""
    label_tokens: float
    patches: float = 0.0
    patch_squares: float = 0.0
    """Sum of the squared patches of each image, which the tower's attention scores scale with."""

    def __post_init__(self) -> None:
        if not (self.micro_batches > 0 and self.tokens > 0 and self.squares > 0 and self.label_tokens >= 0):
            raise ValueError(f"a step without work: {self}")

    @property
    def tokens_per_micro_batch(self) -> float:
        """Return the mean computed tokens per forward pass."""
        return self.tokens / self.micro_batches

    @property
    def width(self) -> float:
        """Return the token-weighted mean sequence length."""
        return self.squares / self.tokens

    def times(self, factor: float) -> StepWork:
        """Return the work of several such steps."""
        return StepWork(
            micro_batches=self.micro_batches * factor,
            tokens=self.tokens * factor,
            squares=self.squares * factor,
            label_tokens=self.label_tokens * factor,
            patches=self.patches * factor,
            patch_squares=self.patch_squares * factor,
        )

    def with_images_of(self, other: StepWork) -> StepWork:
        """Return the work with as many images per token as another step has."""
        share = self.tokens / other.tokens
        return replace(self, patches=other.patches * share, patch_squares=other.patch_squares * share)


def work_of(batches: Sequence[MicroBatch]) -> StepWork:
    """Return the work of a step from its micro-batches. Raises ValueError: there is no micro-batch."""
    if not batches:
        raise ValueError("a step has at least one micro-batch")
    return StepWork(
        micro_batches=float(len(batches)),
        tokens=float(sum(batch.tokens for batch in batches)),
        squares=float(sum(batch.rows * batch.width**2 for batch in batches)),
        label_tokens=float(sum(batch.label_tokens for batch in batches)),
    )


def work_of_forecast(forecast: BatchForecast, settings: BatchSettings) -> StepWork:
    """Return the mean step of a forecast on one device, with the largest micro-batch's share of label tokens.

    Raises ValueError: the forecast has no step.
    """
    if forecast.steps_per_epoch < 1:
        raise ValueError("less data than one step needs")
    tokens = forecast.micro_batch_tokens.astype(float)
    # A row of the largest micro-batch may hold several examples (a packed batch of one row), so rows come from there.
    rows = max(1.0, min(float(settings.micro_batch_size), float(forecast.largest.rows)))
    steps = forecast.steps_per_epoch * max(1, settings.data_parallel_size)
    share = forecast.largest.label_tokens / forecast.largest.tokens
    return StepWork(
        micro_batches=len(tokens) / steps,
        tokens=float(tokens.sum()) / steps,
        squares=float((tokens * tokens).sum()) / rows / steps,
        label_tokens=float(tokens.sum()) * share / steps,
    )


_PRODUCT = 2
"""Operations of a multiplication and an addition."""
_BACKWARD_FUSED = 2.5
_BACKWARD_EAGER = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFlops:
    """Operations of one optimizer step, by part."""

    linear: float
    adapter: float
    head: float
    attention: float
    """Attention scores, and their product with the values."""
    vision: float = 0.0

    @property
    def total(self) -> float:
        """Return the sum of all parts."""
        return self.linear + self.adapter + self.head + self.attention + self.vision


def passes(setup: TrainingSetup) -> int:
    """Return how often a frozen matrix is multiplied per step: forward, backward, and forward again with
    checkpointing."""
    return 3 if setup.gradient_checkpointing else 2


def step_flops(setup: TrainingSetup, work: StepWork) -> StepFlops:
    """Return the operations of one optimizer step on one device."""
    shape = setup.shape
    trained = setup.method == "full"
    again = 1 if setup.gradient_checkpointing else 0
    matrices = _PRODUCT * work.tokens * shape.linear_parameters
    adapter = 0 if trained else setup.trained_parameters
    logits = work.label_tokens if _label_tokens_only(setup) else work.tokens
    norms = _PRODUCT * work.micro_batches * shape.num_layers * _dora_products(setup)
    if setup.magnitudes and setup.dropout > 0:
        # With dropout, a DoRA layer multiplies its base once more, by the input that was not dropped.
        matrices *= 2
    fused = setup.attention == "fused"
    scores = 2 * _PRODUCT * work.squares * shape.q_size * shape.num_layers * (0.5 if fused else 1.0)
    return StepFlops(
        linear=matrices * (3 + again if trained else 2 + again),
        adapter=_PRODUCT * work.tokens * adapter * (3 + again) + norms * (1 + again),
        head=_PRODUCT * logits * shape.vocab_size * shape.hidden_size * (3 if trained else 2),
        attention=scores * (1 + again + (_BACKWARD_FUSED if fused else _BACKWARD_EAGER)),
        vision=vision_flops(setup, work) * (3 + again if trained else 1),
    )


def vision_flops(setup: TrainingSetup, work: StepWork) -> float:
    """Return the operations of the vision tower's forward pass."""
    tower = setup.shape.vision
    if tower is None:
        return 0.0
    blocks = tower.matrix_parameters - tower.joining_parameters
    matrices = work.patches * (blocks + tower.embedding_parameters)
    joining = work.patches / tower.patches_per_token * tower.joining_parameters
    scores = 2 * work.patch_squares * tower.hidden_size * tower.num_layers
    return _PRODUCT * (matrices + joining + scores)


def _dora_products(setup: TrainingSetup) -> int:
    """Return the multiplications of a block by which DoRA computes the norms of its layers' weights in a forward pass.

    PEFT 0.21 (tuners/lora/dora.py) multiplies an identity of the inputs' width by both factors, without gradient.
    """
    if not setup.magnitudes:
        return 0
    adapted = [linear for linear in setup.shape.linears if linear.name in setup.target_modules]
    return sum(setup.rank * linear.inputs * (linear.inputs + linear.outputs) for linear in adapted)


def forward_flops(setup: TrainingSetup, work: StepWork) -> float:
    """Return the operations of a forward pass, as in a validation."""
    shape = setup.shape
    logits = work.label_tokens if _label_tokens_only(setup) else work.tokens
    adapter = 0 if setup.method == "full" else setup.trained_parameters
    scores = 2 * work.squares * shape.q_size * shape.num_layers * (0.5 if setup.attention == "fused" else 1.0)
    text = work.tokens * (shape.linear_parameters + adapter) + logits * shape.vocab_size * shape.hidden_size + scores
    return _PRODUCT * text + vision_flops(setup, work)


def _label_tokens_only(setup: TrainingSetup) -> bool:
    found = memory_coefficients(setup.backend)
    return isinstance(found, MemoryCoefficients) and found.logits_of == "label"
