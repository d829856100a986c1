"""Memory coefficients of our own trainer."""

from __future__ import annotations

from touchline.backends.memory import MemoryCoefficients
from touchline.backends.peft.layout import LOGITS_AT_ONCE

MEMORY = MemoryCoefficients(
    vocab_bytes=12.0,
    vocab_bytes_low=12.0,
    vocab_bytes_high=12.0,
    logits_of="label",
    logits_at_once=LOGITS_AT_ONCE,
    expands_kv=False,
    adapter_dtype="float32",
    master_weights=False,
    float32_adapters="autocast_shared",
    nf4_double_quant=True,
    relative_error=0.03,
    source=(
        "read: touchline.train.target_loss (logits of target tokens, float32 loss, autocast without PEFT's cast); "
        "simulated on torch 2.13: 12.00 bytes per target and vocabulary entry"
    ),
)
"""Read and simulated: the head's input is cut to the positions that predict a target; only these have logits, and of
these one chunk at a time if the head is frozen."""
