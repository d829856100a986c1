"""Memory coefficients of torchtune.

Its README and public logs of it are also evidence of the priors in `estimate/coefficients_time.py` (overhead and
launches of a step, gradient checkpointing, saving a merged model) and `estimate/coefficients_memory.py` (resident
memory after init, torch.compile, time with checkpointing and with a chunked loss).
"""

from __future__ import annotations

from touchline.backends.memory import MemoryCoefficients

MEMORY = MemoryCoefficients(
    vocab_bytes=6.5,
    vocab_bytes_low=6.5,
    vocab_bytes_high=6.5,
    logits_of="padded",
    expands_kv=True,
    adapter_dtype="bfloat16",
    master_weights=False,
    nf4_double_quant=True,
    rope_table=True,
    relative_error=0.03,
    source=(
        "simulated with torchtune 0.6.1's own modules: 1B, rank 64, 16 x 2048: 80.45 GiB, with checkpointing 30.26; "
        "after init 2.41 GiB at rank 64 and 2.35 at rank 16, as its logs say"
    ),
)
"""LinearCrossEntropyLoss and CEWithChunkedOutputLoss in eight chunks, keys and values expanded, tables of positions."""
