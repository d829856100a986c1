"""Memory of a training step by part: resident memory, and what is allocated at the peak."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from touchline.backends.facts import MemoryCoefficients
from touchline.core.estimate import LossKind, MicroBatch, TrainingSetup
from touchline.estimate.coefficients import (
    ADAFACTOR_BYTES,
    FOREACH_COPIES,
    INT8_SCALE_BYTES,
    LOSS_BYTES,
    MASK_BYTES,
    NF4_BYTES,
    NF4_DOUBLE_SCALE_BYTES,
    NF4_SCALE_BYTES,
    OPTIMIZER_STATES,
    SMALLEST_8BIT,
    STATE_BYTES_8BIT,
    UPCAST_KEPT_BYTES,
    UPCAST_MOST_BYTES,
    WORKSPACE_BYTES,
)
from touchline.estimate.layers import FLOAT, BlockBytes, block_bytes, computes_in, size_of

PARTS = ("weights", "adapter", "optimizer", "gradients", "layers", "logits", "other")


@dataclass(frozen=True, kw_only=True, slots=True)
class PeakParts:
    """Bytes at the peak, by part."""

    weights: float
    """Base model, with the 16-bit copies that autocast makes of it if it is trained."""
    adapter: float
    """Adapter, with the 16-bit copies that autocast makes of it."""
    optimizer: float
    """Optimizer state, and float32 copies of trained weights."""
    gradients: float
    layers: float
    logits: float
    """Logits, their probabilities and gradients."""
    other: float
    """Position tables and the cuBLAS workspace."""
    resident: float
    """Part that is allocated before a step begins."""
    at_loss: float
    """Bytes of logits at the loss, even if the peak is elsewhere."""
    below_peak: float
    """Bytes by which the total at the loss is below the peak."""
    phase: str = field(default="loss")
    """Phase of the peak: `loss`, `backward`, `end of backward` or `optimizer step`."""

    @property
    def total(self) -> float:
        """Return the sum of all parts."""
        return sum(self.by_name().values())

    @property
    def activations(self) -> float:
        """Return the part that is allocated within a step."""
        return self.total - self.resident

    def by_name(self) -> dict[str, float]:
        """Return the bytes by part."""
        return {name: float(getattr(self, name)) for name in PARTS}


def weight_bytes(setup: TrainingSetup, coefficients: MemoryCoefficients) -> float:
    """Return the bytes of the base model."""
    shape = setup.shape
    head = shape.vocab_size * shape.hidden_size
    copied = head if coefficients.unties and shape.tied_embeddings else 0
    matrices = shape.num_layers * sum(linear.inputs * linear.outputs for linear in shape.linears)
    if setup.method != "qlora":
        whole = float((shape.num_parameters + copied) * size_of(setup.weights_dtype))
        if not setup.int8_base:
            return whole
        outputs = shape.num_layers * sum(linear.outputs for linear in shape.linears)
        return whole - matrices * (size_of(setup.base_dtype) - 1) + INT8_SCALE_BYTES * outputs
    if shape.vision is not None and not setup.dynamic_4bit:
        # bitsandbytes quantizes every linear layer but the output layer; a dynamic 4-bit model leaves its tower out.
        matrices += shape.vision.matrix_parameters
    rest = shape.num_parameters + copied - matrices
    if coefficients.quantises_head:
        matrices, rest = matrices + head, rest - head
    nested = coefficients.nf4_double_quant if setup.nested_scales is None else setup.nested_scales
    scales = NF4_DOUBLE_SCALE_BYTES if nested else NF4_SCALE_BYTES
    size = matrices * (NF4_BYTES + scales) + rest * computes_in(setup, coefficients)
    if setup.dynamic_4bit:
        size += matrices * coefficients.dynamic_extra[0]
    # An embedding that is trained whole lies there in float32, and its 16-bit original on disk.
    return size - (len(setup.whole_modules) * head * computes_in(setup, coefficients) if setup.whole_modules else 0)


def optimizer_bytes(setup: TrainingSetup, coefficients: MemoryCoefficients) -> float:
    """Return the bytes of the optimizer state, including float32 copies of the trained weights."""
    element = _trained_size(setup)
    master = FLOAT if coefficients.master_weights and element < FLOAT else 0
    return state_bytes(setup, master or element) + setup.trained_parameters * master


def state_bytes(setup: TrainingSetup, element: int) -> float:
    """Return the bytes of the optimizer's states.

    Args:
        element: bytes per element of a state that has the parameter's type.
    """
    trained = setup.trained_parameters
    states = next((found for name, found in OPTIMIZER_STATES.items() if name in setup.optimizer), 2.0)
    if "8bit" in setup.optimizer_family:
        sizes = [(rows * columns, count) for rows, columns, count in adapter_matrices(setup)]
        small = sum(size * count for size, count in sizes if size < SMALLEST_8BIT)
        return states * (small * FLOAT + (trained - small) * STATE_BYTES_8BIT)
    if "adafactor" in setup.optimizer:
        matrices = list(adapter_matrices(setup))
        rest = trained - sum(rows * columns * count for rows, columns, count in matrices)
        sums = sum(count * (rows + columns if min(rows, columns) > 1 else rows) for rows, columns, count in matrices)
        return FLOAT * sums + ADAFACTOR_BYTES * rest
    return trained * states * element


def adapter_matrices(setup: TrainingSetup) -> Iterator[tuple[int, int, int]]:
    """Yield rows, columns and number of the adapter's tensors in the blocks; a vector has one column."""
    if setup.method == "full":
        return
    shape = setup.shape
    for linear in shape.linears:
        if linear.name in setup.target_modules:
            yield setup.rank, linear.inputs, shape.num_layers
            yield linear.outputs, setup.rank, shape.num_layers
            if setup.magnitudes:
                yield linear.outputs, 1, shape.num_layers


def after_init_bytes(setup: TrainingSetup, coefficients: MemoryCoefficients) -> float:
    """Return the bytes allocated once the model is loaded, before the first step."""
    adapter = 0 if setup.method == "full" else setup.trained_parameters * size_of(setup.adapter_dtype)
    return (weight_bytes(setup, coefficients) + adapter) / setup.shards + _tables(setup, coefficients)


def vocab_bytes(setup: TrainingSetup, coefficients: MemoryCoefficients) -> tuple[float, float, float]:
    """Return typical, lowest and highest bytes per vocabulary entry and token with logits."""
    if setup.loss is not None:
        typical = _loss_bytes(setup.loss, coefficients)
        low = high = typical
    else:
        typical, low, high = _of_release(setup, coefficients)
    if setup.method == "qlora" and coefficients.nf4_upcasts:
        if typical > LOSS_BYTES["full"]:
            typical += UPCAST_KEPT_BYTES
        return typical, low, max(high, typical, UPCAST_MOST_BYTES if high >= LOSS_BYTES["full"] else high)
    return typical, low, high


def tokens_with_logits(setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients) -> int:
    """Return the tokens of a micro-batch that have logits at once: all, those with a label, or one chunk of these.

    A chunk holds the coefficients' `logits_at_once` over the vocabulary. There is none where the head is trained, or
    where the kind of loss is a setting.
    """
    if coefficients.logits_of == "padded":
        return batch.tokens
    trains_head = setup.method == "full" or bool(setup.whole_modules) or "lm_head" in setup.target_modules
    if coefficients.logits_at_once is None or trains_head or setup.loss is not None:
        return batch.label_tokens
    return min(batch.label_tokens, max(1, coefficients.logits_at_once // setup.shape.vocab_size))


def _of_release(setup: TrainingSetup, coefficients: MemoryCoefficients) -> tuple[float, float, float]:
    number = tuple(int(part) for part in re.findall(r"\d+", setup.release or "")[:2])
    for release in coefficients.releases if number else ():
        if not release.before or number < release.before:
            return release.typical, release.low, release.high
    typical = coefficients.vocab_bytes
    if coefficients.releases and setup.base_dtype == "float16":
        # Without bfloat16 the outputs are turned to float32, and most published runs are of the oldest releases, but
        # for 4-bit models of the second.
        typical = coefficients.releases[1 if setup.dynamic_4bit else 0].typical
    return typical, coefficients.vocab_bytes_low, coefficients.vocab_bytes_high


def _loss_bytes(loss: LossKind, coefficients: MemoryCoefficients) -> float:
    own = coefficients.vocab_bytes
    # A trainer whose own way is of that kind knows its figure better than the table does.
    if loss == "full" and own >= LOSS_BYTES["full"]:
        return own
    return LOSS_BYTES[loss]


def peak_parts(
    setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients, per_entry: float | None = None
) -> PeakParts:
    """Return the largest peak of a step.

    The candidates are the loss, with all that the blocks kept; a block's backward pass; its end and the optimizer
    step, with all gradients. `per_entry` replaces the typical bytes per token and vocabulary entry.
    """
    shape, tokens = setup.shape, batch.tokens
    block = block_bytes(setup, coefficients)
    entry = vocab_bytes(setup, coefficients)[0] if per_entry is None else per_entry
    weights = weight_bytes(setup, coefficients) / setup.shards
    other = _tables(setup, coefficients) + WORKSPACE_BYTES + _gathered(setup, coefficients)
    opening = _dequantised(setup)
    if coefficients.keeps_dequantised:
        other, opening = other + opening, 0.0
    adapter = _adapter(setup) / setup.shards
    gradients = setup.trained_parameters * _trained_size(setup) / setup.shards
    optimizer = optimizer_bytes(setup, coefficients) / setup.shards
    logits = _logit_bytes(setup, batch, coefficients, entry)
    # Between float32 weights the stream is float32, too.
    wide = FLOAT if setup.is_mixed else computes_in(setup, coefficients)
    stream = float(wide * shape.hidden_size)
    kept = _kept_bytes(setup, batch, coefficients, block, stream)
    # A block's backward pass needs that block whole; without checkpointing it already is.
    whole = 0.0 if setup.gradient_checkpointing else block.kept + block.kept_per_width * batch.width
    backward = kept + tokens * (block.backward + block.backward_per_width * batch.width - whole)
    # The last norm runs backward in float32: its input, result and their gradients.
    top = tokens * (10 if wide < FLOAT else 8) * stream
    waiting = gradients if setup.accumulates else 0.0
    head = shape.vocab_size * shape.hidden_size * _trained_size(setup) / setup.shards
    head = head if setup.method == "full" and not setup.accumulates else 0.0
    copies = _copies(setup, coefficients)
    if setup.gradient_buckets:
        other += gradients
    held = weights + adapter + copies + optimizer + other
    opened = 0.0
    if setup.method == "qlora" and coefficients.quantises_head:
        # A 4-bit output layer is turned back to 16 bits where it is multiplied, beside everything that was kept.
        opened = float(shape.vocab_size * shape.hidden_size * size_of(setup.base_dtype))
    in_forward = _forward_copies(setup, coefficients, max(logits, top))
    at_loss = held + waiting + kept + max(logits + opened, top) + in_forward
    in_backward = held + waiting + head + backward + opening
    if setup.padded:
        mask = float(MASK_BYTES * batch.rows * batch.width**2)
        at_loss, in_backward = at_loss + mask, in_backward + mask
    grown = 0.0
    if setup.method == "full" and not setup.accumulates:
        # With every block that is done its activations go and its gradients stay: the first block may be the larger.
        others = shape.linear_parameters * (1 - 1 / shape.num_layers) * _trained_size(setup) / setup.shards
        grown = max(0.0, others - copies - (kept - tokens * whole))
    in_backward += grown
    # Autocast's copies are gone when the backward pass is over.
    at_step = held - copies + gradients * (1.0 + FOREACH_COPIES.get(setup.optimizer, 0.0))
    at_end = held - copies + gradients + _second_gradient(setup)
    peak = max(at_loss, in_backward, at_step, at_end)
    common = {
        "weights": weights,
        "optimizer": optimizer,
        "other": other,
        "at_loss": logits,
        "below_peak": peak - at_loss,
    }
    if peak in (at_step, at_end):
        phase = "optimizer step" if peak == at_step else "end of backward"
        held -= copies
        return PeakParts(
            **common, adapter=adapter, resident=held, gradients=peak - held, layers=0.0, logits=0.0, phase=phase
        )
    if setup.is_mixed:
        # The copies of all weights come and go with a step; those of an adapter are too small to tell apart.
        copied = copies + (in_forward if peak == at_loss else 0.0)
        common |= {"weights": weights + copied, "adapter": adapter, "resident": held - copies}
    else:
        common |= {"adapter": adapter + copies, "resident": held}
    if peak == at_loss:
        in_layers = kept if logits + opened >= top else kept + top - logits
        logits += opened if logits + opened >= top else 0.0
        return PeakParts(**common, gradients=waiting, layers=in_layers, logits=logits, phase="loss")
    layers = in_backward - held - waiting - head - grown
    return PeakParts(**common, gradients=waiting + head + grown, layers=layers, logits=0.0, phase="backward")


def _logit_bytes(setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients, entry: float) -> float:
    """Return the bytes of the logits: `entry` times the vocabulary times the tokens that have logits at once.

    If these are fewer than the label tokens, each label token's hidden state and its gradient wait next to them.
    """
    with_logits = tokens_with_logits(setup, batch, coefficients)
    logits = entry * setup.shape.vocab_size * with_logits
    if coefficients.logits_of == "label" and with_logits < batch.label_tokens:
        logits += 2.0 * batch.label_tokens * setup.shape.hidden_size * computes_in(setup, coefficients)
    return logits


def _kept_bytes(
    setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients, block: BlockBytes, stream: float
) -> float:
    """Return the bytes that the forward pass keeps of all blocks; `stream` is the size of a token between two."""
    shape, tokens = setup.shape, batch.tokens
    if setup.gradient_checkpointing:
        boundaries = 0.0 if coefficients.offloads_checkpoints else shape.num_layers * stream
        return tokens * (boundaries + FLOAT * shape.hidden_size)
    kept = tokens * shape.num_layers * (block.kept + block.kept_per_width * batch.width)
    return kept + (tokens * FLOAT * shape.hidden_size if setup.method == "full" else 0.0)


def _trained_size(setup: TrainingSetup) -> int:
    return size_of(setup.adapter_dtype)


def _adapter(setup: TrainingSetup) -> float:
    return 0.0 if setup.method == "full" else float(setup.trained_parameters * size_of(setup.adapter_dtype))


def _copies(setup: TrainingSetup, coefficients: MemoryCoefficients) -> float:
    """Return the bytes of autocast's copies of trained parameters, which stay for the backward pass unless a block's
    forward pass is recomputed."""
    element, base = size_of(setup.adapter_dtype), size_of(setup.base_dtype)
    if setup.shards > 1:
        # What is gathered is in 16 bits already.
        return 0.0
    if setup.is_mixed:
        blocks = 0 if setup.gradient_checkpointing else setup.shape.linear_parameters
        return float((blocks + setup.shape.vocab_size * setup.shape.hidden_size) * base)
    if setup.method == "full" or setup.gradient_checkpointing or element <= base:
        return 0.0
    return 0.0 if coefficients.float32_adapters == "promoted" else float(setup.trained_parameters * base)


def _forward_copies(setup: TrainingSetup, coefficients: MemoryCoefficients, logits: float) -> float:
    """Return the bytes by which the end of autocast's forward pass exceeds the start of the backward pass, with
    checkpointing.

    Until then autocast holds its copies of the blocks, too. The logits are in 16 bits there, and where the loss is
    computed in the same pass, also in float32 with their log-probabilities: 2 or 10 of 12 bytes.
    """
    if not setup.is_mixed or not setup.gradient_checkpointing or setup.shards > 1:
        return 0.0
    blocks = float(setup.shape.linear_parameters * size_of(setup.base_dtype))
    later = (2 if coefficients.logits_of == "padded" else 10) / 12
    return max(0.0, blocks - later * logits)


def _gathered(setup: TrainingSetup, coefficients: MemoryCoefficients) -> float:
    """Return the bytes of what a device gathers of weights that it shares.

    That is the block that is computed, the next one, and the ends of the model, which stay from the forward pass to the
    backward pass; if all weights are trained, also the gradients of a block and of the ends before they are summed.
    """
    if setup.shards == 1:
        return 0.0
    shape = setup.shape
    block = shape.linear_parameters / shape.num_layers + shape.other_parameters_per_layer
    ends = shape.vocab_size * shape.hidden_size * (1 if shape.tied_embeddings else 2)
    gradients = block + ends if setup.method == "full" else 0.0
    return (2 * block + ends + gradients) * computes_in(setup, coefficients)


def _tables(setup: TrainingSetup, coefficients: MemoryCoefficients) -> float:
    """Return the bytes of the sine and cosine tables: one each per position and half of a head's width."""
    return float(FLOAT * setup.shape.context_length * setup.shape.head_dim) if coefficients.rope_table else 0.0


def _second_gradient(setup: TrainingSetup) -> float:
    """Return the bytes of the extra gradients of a tied embedding: one per end of the model, and their sum."""
    if setup.method != "full" or not setup.shape.tied_embeddings:
        return 0.0
    return 2.0 * setup.shape.vocab_size * setup.shape.hidden_size * _trained_size(setup)


def _dequantised(setup: TrainingSetup) -> float:
    """Return the bytes of the largest matrix of a quantized base in 16 bits, while it is multiplied."""
    if setup.method != "qlora" and not setup.int8_base:
        return 0.0
    return float(max(linear.inputs * linear.outputs for linear in setup.shape.linears) * size_of(setup.base_dtype))
