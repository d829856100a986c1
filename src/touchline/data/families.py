"""Supported architectures by `model_type`, and the defaults of their config classes.

Defaults are those of transformers 5.23 (`transformers/models/*/configuration_*.py`), because a config.json leaves out
what equals them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from touchline.data import blocks
from touchline.data.blocks import (
    LARGEST_CONTEXT,
    LARGEST_VOCABULARY,
    Builder,
    ModelConfigError,
    ModelConfigReader,
    Widths,
    llama_like,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Architecture of one `model_type`."""

    build: Builder
    context: int
    tied: bool = False
    """Whether the output layer is tied to the embedding by default."""
    heads: int | None = None
    """Default number of attention heads. None if the file must give it."""
    kv_heads: int | None = None
    """Default number of key and value heads. None for as many as query heads."""
    head_dim: int | None = None
    """Default head width. None for the hidden size divided by the heads."""
    own_head_dim: bool = True
    """Whether a `head_dim` of the file is used."""
    vocab: int | None = None
    """Default rows of the embedding. None if the file must give it."""
    inner_key: str = "intermediate_size"
    inner_factor: int | None = None
    """Default ratio of feed-forward width to hidden size. None if the file must give the width."""
    inner_keys: tuple[str, ...] = ()
    """Further keys of the feed-forward width."""
    any_head_dim: bool = False
    """Whether the head width is rounded down if the hidden size is not divisible."""


_PLAIN = llama_like()
_LLAMA = llama_like(inputs_bias="attention_bias", output_bias="attention_bias", feed_bias="mlp_bias")
_BIASED = llama_like(inputs_bias="attention_bias", output_bias="attention_bias")
_NORMED = llama_like(inputs_bias="attention_bias", output_bias="attention_bias", head_norm="shared")
_NORMED_WHOLE = llama_like(inputs_bias="attention_bias", output_bias="attention_bias", head_norm="whole")
_QWEN2 = llama_like(inputs_bias="always")

FAMILIES: Mapping[str, Family] = {
    "llama": Family(build=_LLAMA, context=2048),
    "mistral": Family(build=_PLAIN, context=131072, kv_heads=8),
    "ministral": Family(build=_PLAIN, context=131072, kv_heads=8),
    "qwen2": Family(build=_QWEN2, context=32768, kv_heads=32),
    "qwen2_vl_text": Family(build=_QWEN2, context=32768, kv_heads=8),
    "qwen2_5_vl_text": Family(build=_QWEN2, context=32768, kv_heads=8),
    "qwen3_vl_text": Family(build=_NORMED, context=128000, kv_heads=32, head_dim=128),
    "qwen3": Family(build=_NORMED, context=32768, kv_heads=32, head_dim=128),
    "smollm3": Family(build=_LLAMA, context=32768, tied=True, kv_heads=4),
    "granite": Family(build=_LLAMA, context=2048),
    "seed_oss": Family(
        build=llama_like(
            inputs_bias="attention_bias",
            inputs_bias_default=True,
            output_bias="attention_out_bias",
            feed_bias="mlp_bias",
        ),
        context=524288,
        kv_heads=8,
        head_dim=128,
    ),
    "gemma": Family(build=_BIASED, context=8192, tied=True, kv_heads=16, head_dim=256, vocab=256000),
    "gemma2": Family(
        build=llama_like(inputs_bias="attention_bias", output_bias="attention_bias", norms=4),
        context=8192,
        tied=True,
        kv_heads=4,
        head_dim=256,
        vocab=256000,
    ),
    "gemma3_text": Family(
        build=llama_like(inputs_bias="attention_bias", output_bias="attention_bias", norms=4, head_norm="shared"),
        context=131072,
        tied=True,
        heads=8,
        kv_heads=4,
        head_dim=256,
        vocab=262208,
    ),
    "olmo": Family(build=llama_like(inputs_bias="attention_bias", output_bias="attention_bias", norms=0), context=2048),
    "olmo2": Family(build=_NORMED_WHOLE, context=2048),
    "olmo3": Family(build=_NORMED_WHOLE, context=2048),
    "phi3": Family(build=blocks.phi3, context=4096),
    "phi": Family(build=blocks.phi, context=2048),
    "stablelm": Family(build=blocks.stablelm, context=4096, kv_heads=32, own_head_dim=False),
    "cohere": Family(build=blocks.cohere, context=8192, tied=True),
    "cohere2": Family(build=blocks.cohere, context=8192, tied=True, own_head_dim=False),
    "starcoder2": Family(build=blocks.starcoder2, context=4096, tied=True, kv_heads=2),
    "gpt2": Family(build=blocks.gpt2, context=1024, tied=True, own_head_dim=False, inner_key="n_inner", inner_factor=4),
    "gpt_neox": Family(build=blocks.gpt_neox, context=2048, own_head_dim=False),
    "falcon": Family(
        build=blocks.falcon, context=2048, tied=True, own_head_dim=False, inner_key="ffn_hidden_size", inner_factor=4
    ),
    "mixtral": Family(build=blocks.experts("intermediate_size", like=_PLAIN), context=131072, kv_heads=8),
    "qwen2_moe": Family(
        build=blocks.experts(
            "moe_intermediate_size",
            shared_key="shared_expert_intermediate_size",
            like=llama_like(inputs_bias="qkv_bias", inputs_bias_default=True),
        ),
        context=32768,
        kv_heads=16,
    ),
    "qwen3_moe": Family(build=blocks.experts("moe_intermediate_size", like=_NORMED), context=32768, kv_heads=4),
}
"""Architectures by `model_type`."""

_TEXT_OF = {"qwen2_vl": "qwen2_vl_text", "qwen2_5_vl": "qwen2_5_vl_text"}
"""Models with a vision tower whose older config.json has the text model's values at its top level."""
_NO_DECODER = "not a known decoder-only language model"
_NO_FORMULA = {
    "state_size": "only state-space layers",
    "rwkv": "recurrent layers",
    "lru_width": "recurrent layers",
}
"""Part of a key, and the blocks without a formula."""
_COUNTED = {
    "ssm": ("state-space layers", 0.40),
    "mamba": ("state-space layers", 0.40),
    "conv_": ("convolutions", 0.30),
    "per_layer_input": ("embeddings in every block", 0.40),
    "linear_num": ("linear attention", 0.08),
    "linear_attn": ("linear attention", 0.08),
    "kv_lora_rank": ("low-rank attention", 0.04),
    "num_local_experts": ("a mixture of experts", 0.03),
    "num_experts": ("a mixture of experts", 0.03),
    "n_routed_experts": ("a mixture of experts", 0.03),
    "moe_": ("a mixture of experts", 0.03),
}
"""Part of a key -> the blocks that are counted by the keys that they share with known ones, and the error of the count.
Compared with transformers 5.23's own modules with the default sizes of its configuration classes: mixtures of
experts alone 0.1 % off (OLMoE, gpt-oss, PhiMoE, ERNIE 4.5), DeepSeek-V3 +5 %, Qwen3.5 -8 %, Falcon-H1 -6 %, Bamba
-20 %, LFM2 +37 %, Gemma 4 -42 %, Jamba +79 %."""
_INNER_KEYS = ("moe_intermediate_size", "shared_expert_intermediate_size", "block_ff_dim", "ffn_hidden_size")
_UNKNOWN_ERROR = 0.10
"""Count error of an unknown architecture with Llama's keys: seven of eight in transformers 5.23 are exact."""
_UNGATED_ACTIVATIONS = frozenset({"relu2", "xielu"})
"""Activations of ungated feed-forward parts (Nemotron, Arcee, Apertus)."""
_OTHER_LAYERS = ("unknown layers", 0.25)
_EQUAL_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


def family_of(
    model_type: str, values: ModelConfigReader, keys: Mapping[str, object], *, is_part: bool = False
) -> Family:
    """Return the architecture of a config.json. An unknown one is counted by keys shared with known ones, and
    marked.

    Args:
        keys: the same, to look for keys of other kinds of blocks.
        is_part: whether it is the text part of a larger model, whose architecture stands outside.

    Raises:
        ModelConfigError: its blocks are of another kind, or it is no decoder.
    """
    layers = set(values.texts("layer_types")) - _EQUAL_LAYERS
    model_type = _TEXT_OF.get(model_type, model_type)
    if model_type in FAMILIES and not layers:
        return FAMILIES[model_type]
    for part, words in _NO_FORMULA.items():
        if any(part == key or key.startswith(part) for key in keys if key in values):
            raise ModelConfigError(f"{named(model_type)} has {words}, for which touchline has no formula")
    if "auto_map" in values:
        raise ModelConfigError(f"{named(model_type)} has custom code (auto_map), so its blocks are unknown")
    names = values.texts("architectures")
    if names and not any(name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for name in names):
        raise ModelConfigError(f"{named(model_type)} is {_NO_DECODER}")
    if not names and not is_part:
        raise ModelConfigError(f"{named(model_type)} is {_NO_DECODER}")
    found = [kind for part, kind in _COUNTED.items() if any(part in key and key in values for key in keys)]
    if layers:
        found.append((f"{_OTHER_LAYERS[0]} ({', '.join(sorted(layers)[:3])})", _OTHER_LAYERS[1]))
    if found:
        words = " and ".join(dict.fromkeys(kind for kind, _ in found))
        reason = f"{named(model_type)} has {words}, and its other layers are counted as Llama layers"
        error = max(error for _, error in found)
        return Family(
            build=blocks.counted_from_keys(reason, error),
            context=131072,
            tied=True,
            inner_keys=_INNER_KEYS,
            any_head_dim=True,
        )
    if "tie_word_embeddings" not in values and not is_part:
        raise ModelConfigError("config.json: tie_word_embeddings is missing")
    return Family(
        build=llama_like(
            inputs_bias="attention_bias",
            output_bias="attention_bias",
            feed_bias="mlp_bias",
            gated=values.text("hidden_act") not in _UNGATED_ACTIVATIONS,
            extrapolated=f"{named(model_type)} is unknown, and is counted with Llama blocks",
            count_error=_UNKNOWN_ERROR,
        ),
        context=0,
    )


def widths_of(values: ModelConfigReader, family: Family) -> Widths:
    """Return the sizes in a config.json, by any of their usual names.

    Raises:
        ModelConfigError: one is missing or cannot be; names the key.
    """
    hidden = values.count("hidden_size", "n_embd", "n_embed", "d_model")
    heads = values.count("num_attention_heads", "n_head", default=family.heads)
    head_dim = _head_dim(values, family, hidden, heads)
    kv_heads = _kv_heads(values, family, heads)
    if heads % kv_heads:
        raise ModelConfigError(
            f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    inner = values.count(
        family.inner_key,
        *family.inner_keys,
        default=family.inner_factor * hidden if family.inner_factor else None,
    )
    vocab = values.count("vocab_size", default=family.vocab, limit=LARGEST_VOCABULARY)
    return Widths(hidden=hidden, inner=inner, heads=heads, kv_heads=kv_heads, head_dim=head_dim, vocab=vocab)


def context_of(values: ModelConfigReader, family: Family) -> int:
    """Return the context length of a config.json, in tokens.

    Raises:
        ModelConfigError: it is missing, or cannot be.
    """
    return values.count(
        "max_position_embeddings",
        "n_positions",
        "max_sequence_length",
        "seq_length",
        default=family.context or None,
        limit=LARGEST_CONTEXT,
    )


def named(model_type: str) -> str:
    """Return a model_type as shown in messages."""
    return f"model_type {model_type[:40]!r}" if model_type else "a config.json without model_type"


def _head_dim(values: ModelConfigReader, family: Family, hidden: int, heads: int) -> int:
    if family.own_head_dim and "head_dim" in values:
        return values.count("head_dim")
    if family.head_dim is not None:
        return family.head_dim
    if family.any_head_dim:
        return values.count("v_head_dim", default=max(1, hidden // heads))
    if hidden % heads:
        raise ModelConfigError(f"config.json: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    return hidden // heads


def _kv_heads(values: ModelConfigReader, family: Family, heads: int) -> int:
    if family.build is blocks.falcon:
        if values.flag("new_decoder_architecture", False):
            return values.count("num_kv_heads", "n_head_kv", default=heads)
        return 1 if values.flag("multi_query", True) else heads
    if family.build in (blocks.gpt2, blocks.gpt_neox):
        return heads
    return values.count("num_key_value_heads", default=family.kv_heads or heads)
