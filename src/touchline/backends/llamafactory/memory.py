"""Memory coefficients of LLaMA-Factory."""

from __future__ import annotations

from touchline.backends.memory import MemoryCoefficients

MEMORY = MemoryCoefficients(
    vocab_bytes=12.0,
    vocab_bytes_low=0.0,
    vocab_bytes_high=12.0,
    logits_of="padded",
    expands_kv=False,
    masks_expand_kv=True,
    adapter_dtype="float32",
    master_weights=False,
    float32_adapters="autocast",
    nf4_double_quant=True,
    source=(
        "transformers' Trainer, which its own inherits from: that one's figure. Read in hparams/model_args.py: "
        "double_quantization is on, upcast_layernorm and upcast_lmhead_output are off, and enable_liger_kernel, which "
        "holds no logits, too"
    ),
)
"""transformers' Trainer; float32 adapters unless pure_bf16, norms and head cast up only where asked for."""
