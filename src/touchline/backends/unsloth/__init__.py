"""Unsloth, which patches TRL: what it and its notebooks print next to the Trainer's own output, read only."""

from __future__ import annotations

from touchline.backends.facts import MemoryCoefficients, ReleaseLoss

MEMORY = MemoryCoefficients(
    vocab_bytes=3.75,
    vocab_bytes_low=0.0,
    vocab_bytes_high=8.0,
    releases=(
        ReleaseLoss(before=(2024, 12), typical=6.0, low=2.0, high=10.0),
        ReleaseLoss(before=(2025, 9), typical=0.0, low=0.0, high=8.0),
        ReleaseLoss(before=(), typical=3.75, low=0.3, high=6.0),
    ),
    logits_of="padded",
    expands_kv=False,
    adapter_dtype="float32",
    master_weights=False,
    float32_adapters="autocast_shared",
    fused_layers=True,
    offloads_checkpoints=True,
    whole_ends=True,
    nf4_double_quant=True,
    dynamic_extra=(0.12, 0.0, 0.20),
    reserves=(1.18, 1.0, 1.42),
    keeps_dequantised=True,
    relative_error=0.20,
    source=(
        "read: unsloth and unsloth_zoo 2026.10.9. fast_lora keeps gate and up alone. One buffer of the largest 4-bit "
        "matrix in 16 bits stays. Checkpoints wait in host memory. The loss is computed in at least four chunks, as "
        "many as free memory asks for, at 14 to 16 bytes each. Up to 2024.11 all logits are held and turned to "
        "float32 by accelerate: 2 and 4 bytes. Since 2024.12 cut cross entropy holds none if the model's forward is "
        "patched. Fitted to half of the models in 27 public notebooks (unslothai/notebooks, benchmarks/held_out.py). "
        "Fitted are the extra of dynamic 4-bit bases (three rows before training) and reserved over allocated memory "
        "(17 rows)"
    ),
)
"""Its own kernels and a loss that is computed in chunks; smart checkpointing waits in host memory."""
