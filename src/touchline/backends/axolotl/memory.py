"""Memory coefficients of axolotl."""

from __future__ import annotations

from dataclasses import replace

from touchline.backends.hf_loop import HF_LOOP_MEMORY

MEMORY = replace(
    HF_LOOP_MEMORY,
    nf4_upcasts=None,
    source=(
        "transformers' Trainer, which its own inherits from: that one's figure; with cut cross entropy or Liger no "
        "logits are held, which a config says. Its own patches were not read: the interval is wider for it"
    ),
)
"""transformers' Trainer with its own patches; cut cross entropy or Liger where a config sets it."""
