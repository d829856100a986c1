"""LitGPT (Lightning AI)."""

from __future__ import annotations

from touchline.backends.facts import MemoryCoefficients
from touchline.slurm.script import LaunchCommand

COMMANDS = (LaunchCommand(name="litgpt"),)


MEMORY = MemoryCoefficients(
    vocab_bytes=10.5,
    vocab_bytes_low=4.0,
    vocab_bytes_high=12.0,
    logits_of="padded",
    expands_kv=True,
    fused_qkv=True,
    eager_families=("gemma2",),
    unties=True,
    quantises_head=True,
    dropout=0.05,
    adapter_dtype="bfloat16",
    master_weights=False,
    relative_error=0.05,
    nf4_input_bytes=4.0,
    source=(
        "read: litgpt 0.5.13. If a model ties the embedding, scripts/convert_hf_checkpoint.py copies it into lm_head. "
        "Its model.py repeats keys and values (repeat_interleave) and computes capped scores whole. Its lora.py has "
        "one adapter for queries, keys and values, and pads its result with zeros. Its dropout is 0.05 by default. "
        "Its finetune/lora.py computes the head in chunks of 128 tokens, and its validation holds whole logits. "
        "Simulated with its own modules for Llama 2 7B, rank 32: 181 kB per token and block. The head keeps 4 to 5 "
        "bytes per token and vocabulary entry. Fitted to half of the models in config_hub/finetune/README.md "
        "(benchmarks/held_out.py): 10.5 bytes, eight LoRA rows; 4 bytes of every layer's input, ten QLoRA rows"
    ),
)
"""Head and loss in chunks of 128 tokens, in the model's own type throughout."""
