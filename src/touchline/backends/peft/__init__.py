"""The default backend: touchline's own small loop on transformers and PEFT."""

from __future__ import annotations

from touchline.backends.facts import MemoryCoefficients, TrainerTraits
from touchline.backends.peft.layout import LOGITS_AT_ONCE

TRAITS = TrainerTraits(
    is_ours=True,
    packing_ways={"block mask": "touchline's trainer"},
    long_rows="refuses to start",
    refuses_long_rows=True,
    neutral={
        "train.packed": "how examples are packed; the steps and their loss are the same",
        "train.micro_batch_size": "how a step is cut into forward passes; the step's gradient is the same",
        "train.gradient_checkpointing": "memory and time; activations are computed again, to the same values",
        "train.max_seq_len": "which examples are refused as too long; none is cut",
        "train.validate_every_steps": "how often the validation loss is measured",
        "train.checkpoint.": "what is saved and when",
    },
    shuffles=True,
)
"""Examples are divided into optimizer steps first and laid out in rows afterwards, and the loss of a step is the mean
over its target tokens whatever the rows are: docs/decisions/0003-rows-are-layout-not-science.md.
"""


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
