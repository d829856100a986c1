"""Values of config.json, and the block of each architecture: linear layers by name, other parameters by count.

Read off the modeling files of transformers 5.23 (`transformers/models/*/modeling_*.py`), and compared with the modules
themselves by `tests/data/test_shapes_transformers.py`. An RMSNorm has one parameter per channel; a LayerNorm has two
where it has a bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from touchline.core.shape import Linear
from touchline.core.text import shorten

LARGEST_WIDTH = 1 << 20
"""Limit on widths, heads and layers. The largest public model has 53,248."""
LARGEST_VOCABULARY = 1 << 27
"""Limit on rows of the embedding. The largest public vocabulary has 262,208."""
LARGEST_CONTEXT = 1 << 30
"""Limit on context length. Public models claim up to ten million."""
LARGEST_MODEL = 10**14
"""Limit on total parameters."""
_SHOWN = 10**18


class ModelConfigError(Exception):
    """config.json without usable dimensions; the message names the key."""


class ModelConfigReader:
    """config.json, or the part that describes the text model."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self._config = config

    def __contains__(self, key: str) -> bool:
        """Return True if a key has a value other than `null`."""
        return self._config.get(key) is not None

    def count(self, *keys: str, default: int | None = None, limit: int = LARGEST_WIDTH) -> int:
        """Return a positive integer by the first of its names in the file.

        Raises:
            ModelConfigError: it is missing without a default, or no positive integer up to the limit.
        """
        key = next((name for name in keys if name in self), None)
        if key is None:
            if default is None:
                raise ModelConfigError(f"config.json: {keys[0]} is missing")
            return default
        value = self._config[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelConfigError(f"config.json: {key} is {shown(value)}, expected a positive integer")
        if value > limit:
            raise ModelConfigError(f"config.json: {key} is {shown(value)}, which is not plausible")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean.

        Raises:
            ModelConfigError: it is something else.
        """
        value = self._config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ModelConfigError(f"config.json: {key} is {shown(value)}, expected true or false")
        return value

    def text(self, key: str) -> str:
        """Return a text, or an empty one."""
        value = self._config.get(key)
        return value if isinstance(value, str) else ""

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the texts of a list, or an empty one."""
        value = self._config.get(key)
        return tuple(entry for entry in value if isinstance(entry, str)) if isinstance(value, list) else ()

    def list_of(self, key: str) -> list[object]:
        """Return a list, or an empty one."""
        value = self._config.get(key)
        return value if isinstance(value, list) else []

    def is_empty(self, key: str) -> bool:
        """Return True if a list is empty or missing."""
        return self._config.get(key) in (None, [])


def shown(value: object) -> str:
    """Return a value shortened for a message."""
    if isinstance(value, int) and abs(value) > _SHOWN:
        # One of thousands of digits may not even be written out.
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (dict, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return shorten(repr(value), 40)


@dataclass(frozen=True, kw_only=True, slots=True)
class Widths:
    """Sizes that every architecture has."""

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @property
    def q(self) -> int:
        """Total width of the queries."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Total width of the keys, and of the values."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Layers of one block, and parameters outside the blocks."""

    linears: tuple[Linear, ...]
    others: int
    """Number of other parameters."""
    outside: int
    """Parameters outside the blocks, apart from the embedding and the output layer."""
    gated: bool
    """Whether the feed-forward part has a gate."""
    extrapolated: str | None = None
    count_error: float = 0.0
    """Standard deviation of the logarithm of the parameter count, if the config does not determine it."""


Builder = Callable[[ModelConfigReader, Widths], Block]
Bias = Literal["never", "always", "attention_bias", "qkv_bias", "use_qkv_bias"]
"""Whether queries, keys and values have a bias, or the key of config.json with the answer."""
HeadNorm = Literal["none", "shared", "whole"]
"""Norms of queries and keys: one of head width for all heads, or one over the whole width."""


def attention(
    widths: Widths, *, inputs_biased: bool = False, output_biased: bool = False, output: str = "o_proj"
) -> tuple[Linear, ...]:
    """Return the four layers of an unfused attention part."""
    return (
        Linear(name="q_proj", inputs=widths.hidden, outputs=widths.q, bias=inputs_biased),
        Linear(name="k_proj", inputs=widths.hidden, outputs=widths.kv, bias=inputs_biased),
        Linear(name="v_proj", inputs=widths.hidden, outputs=widths.kv, bias=inputs_biased),
        Linear(name=output, inputs=widths.q, outputs=widths.hidden, bias=output_biased),
    )


def _gated_feed_forward(widths: Widths, biased: bool = False) -> tuple[Linear, ...]:
    return (
        Linear(name="gate_proj", inputs=widths.hidden, outputs=widths.inner, bias=biased),
        Linear(name="up_proj", inputs=widths.hidden, outputs=widths.inner, bias=biased),
        Linear(name="down_proj", inputs=widths.inner, outputs=widths.hidden, bias=biased),
    )


def _plain_feed_forward(widths: Widths, up: str, down: str, biased: bool) -> tuple[Linear, ...]:
    return (
        Linear(name=up, inputs=widths.hidden, outputs=widths.inner, bias=biased),
        Linear(name=down, inputs=widths.inner, outputs=widths.hidden, bias=biased),
    )


def llama_like(
    *,
    inputs_bias: Bias = "never",
    inputs_bias_default: bool = False,
    output_bias: str | None = None,
    feed_bias: str | None = None,
    norms: int = 2,
    head_norm: HeadNorm = "none",
    gated: bool = True,
    extrapolated: str | None = None,
    count_error: float = 0.0,
) -> Builder:
    """Return a block with separate queries, keys and values, RMSNorms and a gated feed-forward part.

    Args:
        output_bias: key of config.json that gives attention's output a bias; none: it has none.
        feed_bias: key that gives the feed-forward part biases; none: it has none.
        norms: norms over the stream in a block, apart from the last one of the model; 0 when they have no parameters.
    """

    def build(values: ModelConfigReader, widths: Widths) -> Block:
        keyed = inputs_bias not in ("never", "always")
        biased = values.flag(inputs_bias, inputs_bias_default) if keyed else inputs_bias == "always"
        layers = attention(
            widths,
            inputs_biased=biased,
            output_biased=output_bias is not None and values.flag(output_bias, False),
        )
        feed_biased = feed_bias is not None and values.flag(feed_bias, False)
        if gated:
            layers += _gated_feed_forward(widths, feed_biased)
        else:
            layers += _plain_feed_forward(widths, "up_proj", "down_proj", feed_biased)
        per_head = {"none": 0, "shared": 2 * widths.head_dim, "whole": widths.q + widths.kv}[head_norm]
        return Block(
            linears=layers,
            others=norms * widths.hidden + per_head,
            outside=widths.hidden if norms else 0,
            gated=gated,
            extrapolated=extrapolated,
            count_error=count_error,
        )

    return build


def phi3(values: ModelConfigReader, widths: Widths) -> Block:
    """Return a block of Phi-3 or Phi-4: fused queries, keys and values, and fused gate and input."""
    del values
    return Block(
        linears=(
            Linear(name="qkv_proj", inputs=widths.hidden, outputs=widths.q + 2 * widths.kv),
            Linear(name="o_proj", inputs=widths.q, outputs=widths.hidden),
            Linear(name="gate_up_proj", inputs=widths.hidden, outputs=2 * widths.inner),
            Linear(name="down_proj", inputs=widths.inner, outputs=widths.hidden),
        ),
        others=2 * widths.hidden,
        outside=widths.hidden,
        gated=True,
    )


def phi(values: ModelConfigReader, widths: Widths) -> Block:
    """Return a block of Phi-1, 1.5 or 2: one LayerNorm, parallel attention and feed-forward parts, biases
    everywhere."""
    normed = values.flag("qk_layernorm", False)
    return Block(
        linears=attention(widths, inputs_biased=True, output_biased=True, output="dense")
        + _plain_feed_forward(widths, "fc1", "fc2", biased=True),
        others=2 * widths.hidden + (4 * (widths.hidden // widths.heads) if normed else 0),
        # The last norm, and the output layer's bias.
        outside=2 * widths.hidden + widths.vocab,
        gated=False,
    )


def stablelm(values: ModelConfigReader, widths: Widths) -> Block:
    """Return a block of StableLM 3B or 2: LayerNorms, and optional norms per head."""
    norms = 1 if values.flag("use_parallel_residual", False) else 2
    normed = values.flag("qk_layernorm", False)
    return Block(
        linears=attention(widths, inputs_biased=values.flag("use_qkv_bias", False)) + _gated_feed_forward(widths),
        others=norms * 2 * widths.hidden + (widths.q + widths.kv if normed else 0),
        outside=2 * widths.hidden,
        gated=True,
    )


def cohere(values: ModelConfigReader, widths: Widths) -> Block:
    """Return a block of Command R: one LayerNorm without bias, parallel attention and feed-forward parts."""
    biased = values.flag("attention_bias", False)
    normed = values.flag("use_qk_norm", False)
    return Block(
        linears=attention(widths, inputs_biased=biased, output_biased=biased) + _gated_feed_forward(widths),
        others=widths.hidden + (widths.q + widths.kv if normed else 0),
        outside=widths.hidden,
        gated=True,
        extrapolated="attention and feed-forward layers share one norm, but the formulas were checked on Llama blocks",
    )


def starcoder2(values: ModelConfigReader, widths: Widths) -> Block:
    """Return a block of StarCoder 2: LayerNorms and an ungated feed-forward part."""
    biased = values.flag("use_bias", True)
    return Block(
        linears=attention(widths, inputs_biased=biased, output_biased=biased)
        + _plain_feed_forward(widths, "c_fc", "c_proj", biased),
        others=4 * widths.hidden,
        outside=2 * widths.hidden,
        gated=False,
        extrapolated=_UNGATED,
    )


def gpt2(values: ModelConfigReader, widths: Widths) -> Block:
    """Return a block of GPT-2: fused queries, keys and values, learned positions; two layers are named `c_proj`."""
    if values.flag("add_cross_attention", False):
        raise ModelConfigError("config.json: add_cross_attention is true, so it is not a standalone decoder")
    positions = values.count("n_positions", "max_position_embeddings", default=1024, limit=LARGEST_CONTEXT)
    return Block(
        linears=(
            Linear(name="c_attn", inputs=widths.hidden, outputs=3 * widths.hidden, bias=True),
            Linear(name="c_proj", inputs=widths.hidden, outputs=widths.hidden, bias=True),
            *_plain_feed_forward(widths, "c_fc", "c_proj", biased=True),
        ),
        others=4 * widths.hidden,
        outside=positions * widths.hidden + 2 * widths.hidden,
        gated=False,
        extrapolated=_UNGATED,
    )


def gpt_neox(values: ModelConfigReader, widths: Widths) -> Block:
    """Return a block of GPT-NeoX, Pythia or StableLM Alpha: fused queries, keys and values, LayerNorms."""
    biased = values.flag("attention_bias", True)
    return Block(
        linears=(
            Linear(name="query_key_value", inputs=widths.hidden, outputs=3 * widths.hidden, bias=biased),
            Linear(name="dense", inputs=widths.hidden, outputs=widths.hidden, bias=biased),
            *_plain_feed_forward(widths, "dense_h_to_4h", "dense_4h_to_h", biased=True),
        ),
        others=4 * widths.hidden,
        outside=2 * widths.hidden,
        gated=False,
        extrapolated=_UNGATED,
    )


def falcon(values: ModelConfigReader, widths: Widths) -> Block:
    """Return a block of Falcon: multi-query attention, grouped, or one key per head."""
    biased = values.flag("bias", False)
    grouped = values.flag("new_decoder_architecture", False)
    two = values.count("num_ln_in_parallel_attn", default=2 if grouped else 1) == 2
    norms = 2 if two or not values.flag("parallel_attn", True) else 1
    return Block(
        linears=(
            Linear(name="query_key_value", inputs=widths.hidden, outputs=widths.q + 2 * widths.kv, bias=biased),
            Linear(name="dense", inputs=widths.hidden, outputs=widths.hidden, bias=biased),
            *_plain_feed_forward(widths, "dense_h_to_4h", "dense_4h_to_h", biased),
        ),
        others=norms * 2 * widths.hidden,
        outside=2 * widths.hidden,
        gated=False,
        extrapolated=_UNGATED,
    )


def experts(width_key: str, *, shared_key: str | None = None, like: Builder) -> Builder:
    """Return a mixture-of-experts block with the attention of another architecture.

    The experts' matrices are single parameters of three dimensions and no linear layers, so that they have no name
    that a LoRA adapter could target.

    Args:
        shared_key: key with the width inside the expert that sees every token; none: there is none.
    """

    def build(values: ModelConfigReader, widths: Widths) -> Block:
        if values.count("decoder_sparse_step", default=1) != 1 or not values.is_empty("mlp_only_layers"):
            raise ModelConfigError("config.json: decoder_sparse_step or mlp_only_layers makes its blocks differ")
        dense = like(values, widths)
        count, inner = values.count("num_experts", "num_local_experts"), values.count(width_key)
        used = values.count("num_experts_per_tok")
        shared: tuple[Linear, ...] = ()
        if shared_key is not None:
            width = values.count(shared_key)
            shared = (
                Linear(name="gate_proj", inputs=widths.hidden, outputs=width),
                Linear(name="up_proj", inputs=widths.hidden, outputs=width),
                Linear(name="down_proj", inputs=width, outputs=widths.hidden),
                Linear(name="shared_expert_gate", inputs=widths.hidden, outputs=1),
            )
        routed = count * 3 * widths.hidden * inner + count * widths.hidden
        return Block(
            linears=tuple(linear for linear in dense.linears if linear.name in _ATTENTION) + shared,
            others=dense.others + routed,
            outside=dense.outside,
            gated=True,
            extrapolated=f"mixture of experts ({used} of {count} per token), but formulas were checked on dense models",
        )

    return build


def _latent_attention(values: ModelConfigReader, widths: Widths) -> tuple[Linear, ...]:
    """Return the layers of multi-head latent attention (DeepSeek-V2 and V3, GLM-4.7 Flash)."""
    rotated, plain = values.count("qk_rope_head_dim"), values.count("qk_nope_head_dim")
    latent, value = values.count("kv_lora_rank"), values.count("v_head_dim")
    wide = widths.heads * (rotated + plain)
    queries = [Linear(name="q_proj", inputs=widths.hidden, outputs=wide)]
    if "q_lora_rank" in values:
        rank = values.count("q_lora_rank")
        queries = [
            Linear(name="q_a_proj", inputs=widths.hidden, outputs=rank),
            Linear(name="q_b_proj", inputs=rank, outputs=wide),
        ]
    return (
        *queries,
        Linear(name="kv_a_proj_with_mqa", inputs=widths.hidden, outputs=latent + rotated),
        Linear(name="kv_b_proj", inputs=latent, outputs=widths.heads * (plain + value)),
        Linear(name="o_proj", inputs=widths.heads * value, outputs=widths.hidden),
    )


def counted_from_keys(reason: str, count_error: float) -> Builder:
    """Return a builder that counts an unknown architecture by the config keys that it shares with known ones.

    Args:
        reason: what is unknown about it; marks every estimate.
    """

    def build(values: ModelConfigReader, widths: Widths) -> Block:
        latent = "kv_lora_rank" in values
        biased = values.flag("attention_bias", False)
        mixing = _latent_attention(values, widths) if latent else attention(widths, inputs_biased=biased)
        experts_keys = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
        if not any(key in values for key in experts_keys):
            return Block(
                linears=mixing + _gated_feed_forward(widths),
                others=2 * widths.hidden,
                outside=widths.hidden,
                gated=True,
                extrapolated=reason,
                count_error=count_error,
            )
        count = values.count(*experts_keys)
        inner = values.count("moe_intermediate_size", default=widths.inner)
        shared = values.count("shared_expert_intermediate_size", default=1)
        if "n_shared_experts" in values:
            shared = values.count("n_shared_experts") * inner
        routed = count * 3 * widths.hidden * inner + count * widths.hidden
        return Block(
            linears=(
                *mixing,
                Linear(name="gate_proj", inputs=widths.hidden, outputs=shared),
                Linear(name="up_proj", inputs=widths.hidden, outputs=shared),
                Linear(name="down_proj", inputs=shared, outputs=widths.hidden),
            ),
            others=2 * widths.hidden + routed,
            outside=widths.hidden,
            gated=True,
            extrapolated=reason,
            count_error=count_error,
        )

    return build


_UNGATED = "blocks without a gated feed-forward layer, but the formulas were checked on Llama blocks"
_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
