"""Memory coefficients of LLaMA-Factory."""

from __future__ import annotations

from dataclasses import replace

from touchline.backends.hf_loop import HF_LOOP_MEMORY

MEMORY = replace(
    HF_LOOP_MEMORY,
    nf4_double_quant=True,
    source=(
        "transformers' Trainer, which its own inherits from: that one's figure. Read in hparams/model_args.py: "
        "double_quantization is on, upcast_layernorm and upcast_lmhead_output are off, and enable_liger_kernel, which "
        "holds no logits, too"
    ),
)
"""transformers' Trainer; float32 adapters unless pure_bf16, norms and head cast up only where asked for."""
