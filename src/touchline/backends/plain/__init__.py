"""A hand-written training loop on transformers and PEFT."""

from __future__ import annotations

from dataclasses import replace

from touchline.backends.hf_loop import HF_LOOP_MEMORY

MEMORY = replace(
    HF_LOOP_MEMORY,
    vocab_bytes=14.0,
    vocab_bytes_low=12.0,
    vocab_bytes_high=14.0,
    float32_adapters="promoted",
    nf4_upcasts=None,
    relative_error=0.06,
    reserves=(1.08, 1.04, 1.22),
    source=(
        "simulated on torch 2.13 and transformers 5.23: 14.00 where the loop holds on to `outputs` through the "
        "backward pass, 12.00 where it does not. Read: PEFT 0.21 makes adapters float32 (autocast_adapter_dtype). "
        "Without autocast it casts each adapted input up. In transformers 5.23, integrations/sdpa_attention.py repeats "
        "keys and values wherever there is a mask. Measured on a T4: 16 rows within 1 % (Anassbzdd/fitcheck). "
        "`reserves` is the median and the ends of its ten rows with fused attention of half of the models"
    ),
)
"""`outputs = model(**batch)`; `outputs.loss.backward()`; no autocast."""
