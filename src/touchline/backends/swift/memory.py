"""Memory coefficients of ms-swift."""

from __future__ import annotations

from dataclasses import replace

from touchline.backends.hf_loop import HF_LOOP_MEMORY

MEMORY = replace(
    HF_LOOP_MEMORY,
    nf4_upcasts=None,
    source=(
        "transformers' Trainer, which its own inherits from: that one's figure; Liger holds no logits. Its own code "
        "was not read: the interval is wider for it"
    ),
)
"""transformers' Trainer; float32 adapters, Liger where a setting turns it on."""
