"""Memory coefficients of LitGPT."""

from __future__ import annotations

from touchline.backends.memory import MemoryCoefficients

MEMORY = MemoryCoefficients(
    vocab_bytes=4.0,
    vocab_bytes_low=4.0,
    vocab_bytes_high=8.0,
    logits_of="padded",
    expands_kv=False,
    adapter_dtype="bfloat16",
    master_weights=False,
    relative_error=0.10,
    activation_factor=1.17,
    nf4_input_bytes=3.0,
    source=(
        "read: litgpt/utils.py, chunked_cross_entropy: chunks of 128 tokens whose 16-bit logits and log-probabilities "
        "stay, 4 bytes. Measured (Apache-2.0): tutorials/resource-tables.md, Llama 2 7B, micro-batches 1 and 2: "
        "blocks keep 1.17 of the closed form; there and in config_hub/finetune/README.md QLoRA rows keep two to four "
        "bytes of every layer's input more than LoRA rows"
    ),
)
"""Head and loss in chunks of 128 tokens, in the model's own type throughout."""
