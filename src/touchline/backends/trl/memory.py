"""Memory coefficients of TRL and transformers' Trainer."""

from __future__ import annotations

from dataclasses import replace

from touchline.backends.hf_loop import HF_LOOP_MEMORY

MEMORY = replace(
    HF_LOOP_MEMORY,
    nf4_upcasts=None,
    relative_error=0.04,
    source=(
        "simulated on torch 2.13 and transformers 5.23: 12.00; measured on an A100: 12.0 with all logits, and "
        "float32 activations where prepare_model_for_kbit_training ran (foundation-model-stack/fms-acceleration, "
        "scripts/benchmarks/refs, Apache-2.0); read: trl 1.16 sft_trainer.py, which computes its loss in chunks "
        "without whole logits, and casts nothing up"
    ),
)
"""TRL up to 0.x and Trainer hold all logits; TRL 1.16 computes `nll` in chunks without them."""
