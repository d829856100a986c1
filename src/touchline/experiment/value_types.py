"""Types of values in files that users write, with their bounds; checked when a file is read."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt, MinLen

Quantization = Literal["none", "nf4", "int8"]
"""Stored form: its own dtype, 4-bit NormalFloat, or 8-bit integers (LLM.int8)."""


def bitsandbytes_settings(quantization: Quantization, compute_dtype: str) -> dict[str, object] | None:
    """Return the arguments of transformers' BitsAndBytesConfig; None if the base keeps its dtype.

    Args:
        quantization: stored form.
        compute_dtype: dtype in which 4-bit matrices are multiplied.
    """
    if quantization == "none":
        return None
    if quantization == "int8":
        return {"load_in_8bit": True}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": compute_dtype,
    }


PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
Fraction = Annotated[float, Gt(0), Lt(1)]
Text = Annotated[str, MinLen(1)]
