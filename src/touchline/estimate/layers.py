"""Memory that a model's blocks keep for the backward pass, in bytes per token: the closed form, tensor by tensor.

Derived from transformers' modules and PEFT's layers (torch 2.13, transformers 5.23, PEFT 0.21). Autograd keeps the
float32 copy that a norm takes of its input; the inputs of layers that are trained or have an adapter; gate, up and
their product; queries, keys, values, attention's result and one float32 number per head. A frozen layer keeps its
weight, not its input. `tests/estimate/test_memory_simulated.py` compares it with a simulation of that code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from touchline.backends.facts import MemoryCoefficients
from touchline.core.estimate import TrainingSetup
from touchline.core.shape import Linear, ModelShape
from touchline.estimate.coefficients import EAGER_BACKWARD_BYTES, EAGER_KEPT_BYTES, VARIANT_BYTES

Role = Literal["attention_in", "attention_out", "feed_in", "feed_out"]
FLOAT = 4
"""Bytes of float32."""
_SIZES = {"float32": FLOAT, "bfloat16": 2, "float16": 2}
_ATTENTION_IN = frozenset({"q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "Wqkv", "c_attn", "W_pack"})
_OUT = frozenset({"o_proj", "out_proj", "dense", "c_proj", "wo", "output_proj", "proj"})
LAYER_NORMS = frozenset({"bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt", "opt", "phi"})
"""Families with LayerNorm, whose kernel keeps its input unchanged. The others have RMSNorm, computed in float32."""
QUERY_NORMS = frozenset({"qwen3", "qwen3_moe", "gemma3", "gemma3_text", "olmo2", "olmo3"})
"""Families that also normalize queries and keys."""


def size_of(dtype: str) -> int:
    """Return the bytes per element of a dtype."""
    return _SIZES[dtype]


def computes_in(setup: TrainingSetup, coefficients: MemoryCoefficients) -> int:
    """Return the bytes per element of the activations."""
    upcast = setup.method == "qlora" and coefficients.nf4_upcasts
    return FLOAT if upcast else size_of(setup.base_dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockBytes:
    """Bytes of one block per token; those `per_width` are also multiplied by the sequence length."""

    kept: float
    kept_per_width: float
    """Bytes of fully stored attention scores, per token of width."""
    backward: float
    """Peak bytes during the block's backward pass, including what the forward pass kept."""
    backward_per_width: float


def role_of(linear: Linear, shape: ModelShape) -> Role:
    """Return the position of a linear layer in a block, by its name or else by its size."""
    if linear.name in _ATTENTION_IN:
        return "attention_in"
    if linear.inputs == shape.intermediate_size and linear.outputs == shape.hidden_size:
        # `c_proj` is the name of two layers, and an intermediate size may equal the queries' width.
        return "attention_out" if linear.name in {"o_proj", "out_proj", "output_proj"} else "feed_out"
    if linear.name in _OUT and linear.outputs == shape.hidden_size:
        return "attention_out"
    return "feed_in"


def norms_of(shape: ModelShape) -> int:
    """Return the number of norms over the residual stream in a block, from its other parameters."""
    per_norm = shape.hidden_size * (2 if shape.model_type in LAYER_NORMS else 1)
    return max(1, min(4, round(shape.other_parameters_per_layer / per_norm)))


def block_bytes(setup: TrainingSetup, coefficients: MemoryCoefficients) -> BlockBytes:
    """Return the closed form for one block."""
    shape, element = setup.shape, computes_in(setup, coefficients)
    feed = _feed_forward(setup, coefficients, element)
    rest = _norms(setup, coefficients, element) + _attention(setup, coefficients, element)
    if setup.method == "qlora":
        rest += coefficients.nf4_input_bytes * sum({role_of(one, shape): one.inputs for one in shape.linears}.values())
    rest += VARIANT_BYTES[setup.variant] * adapted_outputs(setup)
    inner, outer = element * shape.intermediate_size, element * shape.hidden_size
    # Where the product's gradient splits: gate, its activation and up, and a gradient of each; a float32 adapter on the
    # way out has two more of that width.
    casts = setup.adapter_dtype == "float32" and element < FLOAT and coefficients.float32_adapters != "autocast_shared"
    widths = (8 if casts and any(role == "feed_out" for _, role in _adapted(setup)) else 6) if shape.gated else 4
    through_feed = rest + widths * inner - outer
    # Where the norm behind attention runs backward the feed-forward part is free again.
    through_norm = rest + 8 * outer
    eager = is_eager(setup, coefficients)
    heads = shape.num_heads if eager else 0
    factor = coefficients.activation_factor
    return BlockBytes(
        kept=(rest + feed) * factor,
        kept_per_width=EAGER_KEPT_BYTES[element] * heads,
        backward=max(rest + feed, through_feed, through_norm) * factor,
        backward_per_width=EAGER_BACKWARD_BYTES[element] * heads,
    )


def adapted_outputs(setup: TrainingSetup) -> int:
    """Return the total outputs of all adapted layers of a block."""
    return 0 if setup.method == "full" else sum(linear.outputs for linear, _ in _adapted(setup))


def is_eager(setup: TrainingSetup, coefficients: MemoryCoefficients) -> bool:
    """Return True if attention stores its full scores."""
    return setup.attention == "eager" or setup.shape.model_type in coefficients.eager_families


def expands_kv(setup: TrainingSetup, coefficients: MemoryCoefficients) -> bool:
    """Return True if keys and values are stored as wide as the queries."""
    masked = coefficients.masks_expand_kv and bool(setup.padded)
    return coefficients.expands_kv or masked or is_eager(setup, coefficients)


def _adapted(setup: TrainingSetup) -> Iterator[tuple[Linear, Role]]:
    """Yield the layers whose inputs are kept: those with an adapter, or all in full fine-tuning."""
    for linear in setup.shape.linears:
        if setup.method == "full" or linear.name in setup.target_modules:
            yield linear, role_of(linear, setup.shape)


def _norms(setup: TrainingSetup, coefficients: MemoryCoefficients, element: int) -> float:
    shape = setup.shape
    plain = coefficients.fused_layers or setup.compiled or shape.model_type in LAYER_NORMS
    # Between float32 weights the stream is float32, too.
    stream = FLOAT if setup.is_mixed else element
    each = (stream if plain else FLOAT) * shape.hidden_size
    if setup.method == "full" and not plain:
        each += stream * shape.hidden_size
    total = float(norms_of(shape) * each)
    if shape.model_type in QUERY_NORMS:
        total += (element if plain else FLOAT) * (shape.q_size + shape.kv_size)
    return total + _inputs(setup, coefficients, element, frozenset({"attention_in", "feed_in"}))


def _attention(setup: TrainingSetup, coefficients: MemoryCoefficients, element: int) -> float:
    shape = setup.shape
    eager = is_eager(setup, coefficients)
    kept_values = shape.q_size if expands_kv(setup, coefficients) else shape.kv_size
    total = float(element * (shape.q_size + 2 * kept_values))
    if coefficients.fused_qkv:
        whole = element * (shape.q_size + 2 * shape.kv_size)
        adapted = {linear.name for linear, role in _adapted(setup) if role == "attention_in"}
        if adapted and adapted < {"q_proj", "k_proj", "v_proj"}:
            total += whole
        if shape.kv_size == shape.q_size:
            total += whole - element * shape.kv_size
    if not eager:
        total += element * shape.q_size + FLOAT * shape.num_heads
    return total + _inputs(setup, coefficients, element, frozenset({"attention_out"}))


def _feed_forward(setup: TrainingSetup, coefficients: MemoryCoefficients, element: int) -> float:
    shape = setup.shape
    fused = coefficients.fused_layers or setup.compiled
    widths = (2 if fused else 3) if shape.gated else 1
    own = float(widths * element * shape.intermediate_size)
    # Fused kernels compute the product again, and with it what the way out would keep.
    return own if fused and shape.gated else own + _inputs(setup, coefficients, element, frozenset({"feed_out"}))


def _inputs(setup: TrainingSetup, coefficients: MemoryCoefficients, element: int, roles: frozenset[Role]) -> float:
    """Return the bytes that layers of these roles keep of their inputs, and adapters between their two matrices."""
    layers = [(linear, role) for linear, role in _adapted(setup) if role in roles]
    if coefficients.fused_qkv:
        layers = _joined(layers)
    if setup.is_mixed:
        # Every layer that reads the float32 stream casts it for itself.
        casts = sum(element * linear.inputs for linear, role in layers if role in ("attention_in", "feed_in"))
        layers = [(linear, role) for linear, role in layers if role not in ("attention_in", "feed_in")]
        return casts + sum(
            element * width for width, role in _shared(layers) if not _held_anyway(setup, coefficients, role)
        )
    if setup.method == "full":
        return sum(element * width for width, role in _shared(layers) if not _held_anyway(setup, coefficients, role))
    cast = setup.adapter_dtype == "float32" and element < FLOAT
    way = coefficients.float32_adapters if cast else "autocast_shared"
    middle = FLOAT if cast and way == "promoted" else element
    between = float(sum(middle * setup.rank for _ in layers))
    if setup.dropout > 0:
        return between + sum((middle + 1) * linear.inputs for linear, _ in layers)
    if way == "autocast_shared":
        return between + sum(
            element * width for width, role in _shared(layers) if not _held_anyway(setup, coefficients, role)
        )
    return between + sum(middle * linear.inputs for linear, _ in layers)


def _joined(layers: list[tuple[Linear, Role]]) -> list[tuple[Linear, Role]]:
    """Return the layers with queries, keys and values as one, since their adapter shares the input."""
    inputs = [layer for layer in layers if layer[1] == "attention_in"]
    return [*inputs[:1], *(layer for layer in layers if layer[1] != "attention_in")]


def _shared(layers: list[tuple[Linear, Role]]) -> set[tuple[int, Role]]:
    return {(linear.inputs, role) for linear, role in layers}


def _held_anyway(setup: TrainingSetup, coefficients: MemoryCoefficients, role: Role) -> bool:
    """Return True if fused attention keeps that input itself."""
    return role == "attention_out" and not is_eager(setup, coefficients)
