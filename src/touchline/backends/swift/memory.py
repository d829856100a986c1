"""Memory coefficients of ms-swift."""

from __future__ import annotations

from touchline.backends.memory import MemoryCoefficients

MEMORY = MemoryCoefficients(
    vocab_bytes=12.0,
    vocab_bytes_low=0.0,
    vocab_bytes_high=12.0,
    logits_of="padded",
    expands_kv=False,
    masks_expand_kv=True,
    adapter_dtype="float32",
    master_weights=False,
    float32_adapters="autocast",
    nf4_upcasts=None,
    source=(
        "transformers' Trainer, which its own inherits from: that one's figure; Liger holds no logits. Its own code "
        "was not read: the interval is wider for it"
    ),
)
"""transformers' Trainer; float32 adapters, Liger where a setting says so."""
