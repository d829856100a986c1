"""Quantized base by bitsandbytes: 4-bit NormalFloat (QLoRA) and 8-bit integers (LLM.int8)."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from touchline.core.errors import HostError, install_hint
from touchline.data.machine import absent_packages


def require_bitsandbytes(setting: str) -> None:
    """Require bitsandbytes, and accelerate, by which transformers places a quantized base.

    Args:
        setting: the setting that needs them.

    Raises:
        HostError: one is not installed.
    """
    absent = absent_packages(("accelerate", "bitsandbytes"))
    if absent:
        raise HostError(f"{setting} needs {' and '.join(absent)}, not installed here", hint=install_hint("quantized"))


def quantization_config(
    quantization: Literal["none", "nf4", "int8"], compute_dtype: torch.dtype
) -> BitsAndBytesConfig | None:
    """Return the form of the base's matrices as transformers loads them; None if they keep their dtype.

    Raises:
        HostError: bitsandbytes is not installed.
    """
    if quantization == "none":
        return None
    require_bitsandbytes(f"train.quantization: {quantization}")
    if quantization == "int8":
        # Its products round activations to float16 and say so for every layer of every step.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def is_quantized(model: nn.Module) -> bool:
    """Return True if bitsandbytes holds the matrices of a model."""
    return bool(getattr(model, "is_quantized", False))


def keep_trainable_layout(model: nn.Module) -> None:
    """Keep the 4-bit layers of bitsandbytes in the layout that has a backward pass.

    On some CPUs a layer repacks its weights for inference at its first forward pass in evaluation mode, in place; the
    repacked form has no gradient and needs output sizes that are multiples of 32 (bitsandbytes 0.50, `Linear4bit`).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 (an attribute of bitsandbytes' layers)
