"""Sizes of tiny models of several families, made from their configuration."""

from __future__ import annotations

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
"""Arguments of a configuration."""
