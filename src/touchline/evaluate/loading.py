"""Base of an evaluation on its devices: in its own dtype or quantized, on one device or its layers among several GPUs.

Layers on several devices are computed one after the other: the limits of each device decide on the map (accelerate),
and answers are those of one device. Shown over the memory of a CPU and a disk; never run on several GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.logging import disable_progress_bar

from touchline.core.errors import HostError, install_hint
from touchline.core.units import plural
from touchline.data.machine import DtypeChoice, absent_packages
from touchline.data.worker import keep_trainable_layout, require_bitsandbytes
from touchline.experiment.value_types import Quantization, bitsandbytes_settings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_WEIGHTS_SHARE = 0.9
"""Share of a GPU's free memory that layers may take where several GPUs hold a base."""
_OFFLOADED = frozenset({"cpu", "disk"})

Limits = dict[int | str, int]
"""Bytes of weights by device: a GPU's number, or `cpu`; what is left over stays on disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseForm:
    """Form of a base in memory."""

    quantization: Quantization = "none"
    gpus: int = 1


def class_of(config: PretrainedConfig) -> Any:
    """Return the loader of a model: that of causal language models, or of vision-language models."""
    plain = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return AutoModelForCausalLM if plain else AutoModelForImageTextToText


def load_base(path: str, dtype: DtypeChoice, device: torch.device, form: BaseForm) -> PreTrainedModel:
    """Load a frozen base.

    Args:
        dtype: dtype with its reason.
        device: compute device, or the first one.
        form: form in memory.

    Raises:
        HostError: bitsandbytes, accelerate or a GPU is missing, or the base does not fit the GPUs.
    """
    # Whatever loads draws no bar: lines of a log are for the evaluation.
    disable_progress_bar()
    quantized = bitsandbytes_settings(form.quantization, dtype.dtype)
    if quantized is not None:
        require_bitsandbytes(f"evaluate.quantization: {form.quantization}")
    limits = device_limits(device, form)
    where: dict[str, object] = {}
    if limits is not None:
        where = {"device_map": "auto", "max_memory": limits}
    elif quantized is not None:
        # Weights are quantized where they are placed, and are not moved afterwards.
        where = {"device_map": {"": device}}
    config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    model: PreTrainedModel = class_of(config).from_pretrained(
        path,
        dtype=DTYPES[dtype.dtype],
        local_files_only=True,
        attn_implementation="sdpa",
        quantization_config=None if quantized is None else BitsAndBytesConfig(**quantized),
        **where,
    )
    keep_trainable_layout(model)
    if device.type == "cuda" and is_offloaded(model):
        raise HostError(
            f"the base {path!r} does not fit {plural(form.gpus, 'GPU')}",
            hint="a larger compute.evaluation.gpus, or evaluate.quantization: nf4",
        )
    if not where:
        model.to(device)
    return model.eval().requires_grad_(False)


def device_limits(device: torch.device, form: BaseForm) -> Limits | None:
    """Return the memory limits by device; None for one device.

    Raises:
        HostError: fewer GPUs are visible than planned, or accelerate is not installed.
    """
    if device.type != "cuda" or form.gpus < 2:
        return None
    visible = torch.cuda.device_count()
    if visible < form.gpus:
        raise HostError(
            f"the evaluation is planned for {form.gpus} GPUs, but {plural(visible, 'GPU')} can be seen here",
            expected=f"a job with {form.gpus} GPUs",
            hint="compute.evaluation.gpus",
        )
    if absent_packages(("accelerate",)):
        raise HostError("compute.evaluation.gpus needs accelerate, not installed here", hint=install_hint("quantized"))
    return {number: int(_WEIGHTS_SHARE * torch.cuda.mem_get_info(number)[0]) for number in range(form.gpus)}


def places_of(model: PreTrainedModel) -> set[int | str]:
    """Return the devices among which a model's layers are divided; empty if one device holds all."""
    places = set(getattr(model, "hf_device_map", {}).values())
    return places if len(places) > 1 else set()


def is_offloaded(model: PreTrainedModel) -> bool:
    """Return True if layers of a divided model are not in the memory of GPUs."""
    return bool(_OFFLOADED & places_of(model))


@contextmanager
def keeping_places(model: PreTrainedModel) -> Iterator[bool]:
    """Yield whether layers are on disk. If so, hide the device map while PEFT attaches an adapter.

    PEFT would place those layers once more, and fail. It makes their adapters without memory, like the layers.
    """
    if not is_offloaded(model):
        yield False
        return
    places = model.hf_device_map
    del model.hf_device_map
    try:
        yield True
    finally:
        model.hf_device_map = places
