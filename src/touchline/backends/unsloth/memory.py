"""Memory coefficients of Unsloth."""

from __future__ import annotations

from touchline.backends.memory import MemoryCoefficients

MEMORY = MemoryCoefficients(
    vocab_bytes=0.5,
    vocab_bytes_low=0.0,
    vocab_bytes_high=8.0,
    logits_of="padded",
    expands_kv=False,
    adapter_dtype="float32",
    master_weights=False,
    float32_adapters="autocast_shared",
    fused_layers=True,
    offloads_checkpoints=True,
    relative_error=0.20,
    source=(
        "its published design, not read here: fast_lora keeps gate and up alone, the loss is computed in chunks, and "
        "checkpoints wait in host memory. No row with settings and batch was found, so the interval is wide"
    ),
)
"""Its own kernels and a loss that is computed in chunks; smart checkpointing waits in host memory."""
