"""Where the memory of a training step goes: what lies there all the time, and what comes and goes at its peak."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from touchline.backends.memory import MemoryCoefficients
from touchline.core.estimate import LossKind, MicroBatch, TrainingSetup
from touchline.estimate.coefficients_memory import (
    FOREACH_COPIES,
    LOSS_BYTES,
    MASK_BYTES,
    NF4_BYTES,
    NF4_DOUBLE_SCALE_BYTES,
    NF4_SCALE_BYTES,
    OPTIMIZER_STATES,
    UPCAST_KEPT_BYTES,
    UPCAST_MOST_BYTES,
    WORKSPACE_BYTES,
)
from touchline.estimate.layers import FLOAT, block_bytes, computes_in, size_of

PARTS = ("weights", "adapter", "optimizer", "gradients", "layers", "logits", "other")


@dataclass(frozen=True, kw_only=True, slots=True)
class PeakParts:
    """Bytes at the moment of the peak, by part."""

    weights: float
    """The base."""
    adapter: float
    """The adapter, with the 16-bit copies that autocast makes of it."""
    optimizer: float
    """Moments, and float32 copies of trained weights."""
    gradients: float
    """Of what is trained, as far as they are there at the peak."""
    layers: float
    """Activations of the blocks."""
    logits: float
    """Logits, their probabilities and gradients."""
    other: float
    """Tables of positions and the workspace of cuBLAS."""
    resident: float
    """Of all this, what is there before a step begins."""
    at_loss: float
    """Of the step, what the loss takes of logits, also where the peak is elsewhere."""
    phase: str = field(default="loss")
    """What happens at the peak: `loss`, `backward`, `end of backward` or `optimizer step`."""

    @property
    def total(self) -> float:
        """All parts."""
        return sum(self.by_name().values())

    @property
    def activations(self) -> float:
        """What comes and goes."""
        return self.total - self.resident

    def by_name(self) -> dict[str, float]:
        """Part -> bytes."""
        return {name: float(getattr(self, name)) for name in PARTS}


def weight_bytes(setup: TrainingSetup, coefficients: MemoryCoefficients) -> float:
    """Bytes of the base."""
    shape = setup.shape
    head = shape.vocab_size * shape.hidden_size
    copied = head if coefficients.unties and shape.tied_embeddings else 0
    if setup.method != "qlora":
        return float((shape.num_parameters + copied) * size_of(setup.base_dtype))
    matrices = shape.num_layers * sum(linear.inputs * linear.outputs for linear in shape.linears)
    rest = shape.num_parameters + copied - matrices
    if coefficients.quantises_head:
        matrices, rest = matrices + head, rest - head
    scales = NF4_DOUBLE_SCALE_BYTES if coefficients.nf4_double_quant else NF4_SCALE_BYTES
    size = matrices * (NF4_BYTES + scales) + rest * computes_in(setup, coefficients)
    if setup.dynamic_4bit:
        size += matrices * coefficients.dynamic_extra[0]
    # An embedding that is trained whole lies there in float32, and its 16-bit original on disk.
    return size - (len(setup.whole_modules) * head * computes_in(setup, coefficients) if setup.whole_modules else 0)


def optimizer_bytes(setup: TrainingSetup, coefficients: MemoryCoefficients) -> float:
    """Bytes of the optimizer's state, float32 copies of the trained weights included."""
    trained, element = setup.trained_parameters, _trained_size(setup)
    named = (found for name, found in OPTIMIZER_STATES.items() if name in setup.optimizer)
    states, in_bytes = next(named, OPTIMIZER_STATES["adam"])
    master = FLOAT if coefficients.master_weights and element < FLOAT else 0
    if master and not in_bytes:
        element = FLOAT
    return trained * (states if in_bytes else states * element) + trained * master


def after_init_bytes(setup: TrainingSetup, coefficients: MemoryCoefficients) -> float:
    """What is allocated once the model is there, before the first step: no training's peak."""
    adapter = 0 if setup.method == "full" else setup.trained_parameters * size_of(setup.adapter_dtype)
    return weight_bytes(setup, coefficients) + adapter + _tables(setup, coefficients)


def vocab_bytes(setup: TrainingSetup, coefficients: MemoryCoefficients) -> tuple[float, float, float]:
    """(typical, lowest, highest) bytes per token with logits and vocabulary entry."""
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


def _of_release(setup: TrainingSetup, coefficients: MemoryCoefficients) -> tuple[float, float, float]:
    """The trainer's own way, in the release that the settings name."""
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
    """The largest of a step's peaks.

    They are the loss, with all that the blocks kept; a block's backward pass; its end and the optimizer's step, with
    all gradients. `per_entry` stands for the bytes per token and vocabulary entry where another than the typical figure
    is asked for.
    """
    shape, tokens = setup.shape, batch.tokens
    element, block = computes_in(setup, coefficients), block_bytes(setup, coefficients)
    entry = vocab_bytes(setup, coefficients)[0] if per_entry is None else per_entry
    weights, other = weight_bytes(setup, coefficients), _tables(setup, coefficients) + WORKSPACE_BYTES
    opening = _dequantised(setup)
    if coefficients.keeps_dequantised:
        other, opening = other + opening, 0.0
    adapter, gradients = _adapter(setup), float(setup.trained_parameters * _trained_size(setup))
    optimizer = optimizer_bytes(setup, coefficients)
    with_logits = batch.label_tokens if coefficients.logits_of == "label" else tokens
    logits = entry * shape.vocab_size * with_logits
    stream = float(element * shape.hidden_size)
    if setup.gradient_checkpointing:
        boundaries = 0.0 if coefficients.offloads_checkpoints else shape.num_layers * stream
        kept = tokens * (boundaries + FLOAT * shape.hidden_size)
    else:
        kept = tokens * shape.num_layers * (block.kept + block.kept_per_width * batch.width)
        kept += tokens * FLOAT * shape.hidden_size if setup.method == "full" else 0.0
    # A block's backward pass needs that block whole; without checkpointing it already is.
    whole = 0.0 if setup.gradient_checkpointing else block.kept + block.kept_per_width * batch.width
    backward = kept + tokens * (block.backward + block.backward_per_width * batch.width - whole)
    # The last norm runs backward in float32: its input, result and their gradients.
    top = tokens * (10 if element < FLOAT else 8) * stream
    waiting = gradients if setup.accumulates else 0.0
    head = shape.vocab_size * shape.hidden_size * element if setup.method == "full" and not setup.accumulates else 0.0
    copies = _adapter_copies(setup, coefficients)
    held = weights + adapter + copies + optimizer + other
    opened = 0.0
    if setup.method == "qlora" and coefficients.quantises_head:
        # A 4-bit output layer is turned back to 16 bits where it is multiplied, beside everything that was kept.
        opened = float(shape.vocab_size * shape.hidden_size * size_of(setup.base_dtype))
    at_loss = held + waiting + kept + max(logits + opened, top)
    in_backward = held + waiting + head + backward + opening
    if setup.padded:
        mask = float(MASK_BYTES * batch.rows * batch.width**2)
        at_loss, in_backward = at_loss + mask, in_backward + mask
    # Autocast's copies are gone when the backward pass is over.
    at_step = held - copies + gradients * (1.0 + FOREACH_COPIES.get(setup.optimizer, 0.0))
    at_end = held - copies + gradients + _second_gradient(setup)
    peak = max(at_loss, in_backward, at_step, at_end)
    common = {"weights": weights, "optimizer": optimizer, "other": other, "at_loss": logits}
    if peak in (at_step, at_end):
        phase = "optimizer step" if peak == at_step else "end of backward"
        held -= copies
        return PeakParts(
            **common, adapter=adapter, resident=held, gradients=peak - held, layers=0.0, logits=0.0, phase=phase
        )
    common |= {"adapter": adapter + copies, "resident": held}
    if peak == at_loss:
        in_layers = kept if logits + opened >= top else kept + top - logits
        logits += opened if logits + opened >= top else 0.0
        return PeakParts(**common, gradients=waiting, layers=in_layers, logits=logits, phase="loss")
    layers = in_backward - held - waiting - head
    return PeakParts(**common, gradients=waiting + head, layers=layers, logits=0.0, phase="backward")


def _trained_size(setup: TrainingSetup) -> int:
    return size_of(setup.base_dtype if setup.method == "full" else setup.adapter_dtype)


def _adapter(setup: TrainingSetup) -> float:
    return 0.0 if setup.method == "full" else float(setup.trained_parameters * size_of(setup.adapter_dtype))


def _adapter_copies(setup: TrainingSetup, coefficients: MemoryCoefficients) -> float:
    """Autocast's copies stay for the backward pass, except where a block's forward pass runs again and makes them."""
    element, base = size_of(setup.adapter_dtype), size_of(setup.base_dtype)
    if setup.method == "full" or setup.gradient_checkpointing or element <= base:
        return 0.0
    return 0.0 if coefficients.float32_adapters == "promoted" else float(setup.trained_parameters * base)


def _tables(setup: TrainingSetup, coefficients: MemoryCoefficients) -> float:
    """A sine and a cosine for each position and half of a head's width."""
    return float(FLOAT * setup.shape.context_length * setup.shape.head_dim) if coefficients.rope_table else 0.0


def _second_gradient(setup: TrainingSetup) -> float:
    """A tied embedding gets two gradients, one from each end of the model, and their sum is a third tensor."""
    if setup.method != "full" or not setup.shape.tied_embeddings:
        return 0.0
    return 2.0 * setup.shape.vocab_size * setup.shape.hidden_size * size_of(setup.base_dtype)


def _dequantised(setup: TrainingSetup) -> float:
    """The largest matrix of a 4-bit base in 16 bits, while it is multiplied."""
    if setup.method != "qlora":
        return 0.0
    return float(max(linear.inputs * linear.outputs for linear in setup.shape.linears) * size_of(setup.base_dtype))
