"""Model that is trained: a base with its adapter, or as a whole."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from touchline.backends.peft.layout import plain_attention
from touchline.core.errors import InputError
from touchline.data.worker import keep_trainable_layout, require_bitsandbytes
from touchline.experiment.training import VISION_TOWERS, TrainConfig
from touchline.experiment.value_types import bitsandbytes_settings
from touchline.train.inherit import CHANGES_BASE
from touchline.train.machine import Machine, torch_dtype

DEFAULT_ADAPTER = "default"
"""Name of the adapter in a model that has one."""


class BaseModelSpec(Protocol):
    """Name and folder of a model."""

    @property
    def name(self) -> str:
        """Model name."""
        ...

    @property
    def path(self) -> str:
        """Model folder."""
        ...


class Recipe(Protocol):
    """Settings of the model and its adapter: a run's finetune.yaml, or a probe request."""

    @property
    def model(self) -> BaseModelSpec:
        """Frozen base."""
        ...

    @property
    def train(self) -> TrainConfig:
        """Training settings."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the initial adapter."""
        ...


def attention_for(machine: Machine, widest_row: int, wanted: str = "auto") -> str:
    """Return the attention implementation that is asked for, or the faster one for this machine and width."""
    if wanted != "auto":
        return wanted
    return "eager" if plain_attention(machine.kind, widest_row) else "sdpa"


def class_of(config: PretrainedConfig) -> Any:
    """Return the loader of a model: that of causal language models, or of vision-language models."""
    plain = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return AutoModelForCausalLM if plain else AutoModelForImageTextToText


def load_base(config: Recipe, machine: Machine, attention: str) -> nn.Module:
    """Load the base on its device: frozen, or with all its weights trained.

    Raises:
        HostError: it is to be quantized, and bitsandbytes is not installed.
    """
    dtype = str(machine.base_dtype).removeprefix("torch.")
    settings = bitsandbytes_settings(config.train.quantization, dtype)
    if settings is not None:
        require_bitsandbytes(f"train.quantization: {config.train.quantization}")
    shape = AutoConfig.from_pretrained(config.model.path, local_files_only=True, trust_remote_code=False)
    model = class_of(shape).from_pretrained(
        config.model.path,
        dtype=dtype_of_base(config, machine),
        attn_implementation=attention,
        quantization_config=None if settings is None else BitsAndBytesConfig(**settings),
        # Weights are quantized where they are placed, and are not moved afterwards.
        device_map=None if settings is None else {"": machine.device},
        local_files_only=True,
    )
    keep_trainable_layout(model)
    model.config.use_cache = False
    model.requires_grad_(config.train.trains_all)
    quantized = bool(getattr(model, "is_quantized", False))
    base: nn.Module = model if quantized else model.to(machine.device)
    return base


def dtype_of_base(config: Recipe, machine: Machine) -> torch.dtype:
    """Return the dtype of the base's weights: what it computes in, or what is trained."""
    return torch_dtype(config.train.trained_dtype) if config.train.trains_all else machine.base_dtype


def to_trained(base: nn.Module, config: Recipe, *, inherits: bool = False) -> nn.Module:
    """Return the model that is trained: the base itself, or with a new adapter.

    Args:
        inherits: whether a parent's adapter will replace the new one, so that its initial weights do not count.

    Raises:
        InputError: the base has no layer of the given names.
    """
    if not config.train.trains_all:
        adapted: nn.Module = attach_adapter(base, config, inherits=inherits)
        return adapted
    _set_checkpointing(base, config)
    return base


def _set_checkpointing(model: Any, config: Recipe) -> None:
    """Turn gradient checkpointing on as the settings say."""
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def base_of(model: nn.Module) -> PreTrainedModel:
    """Return the base below an adapter, or the model itself if it has none."""
    found: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    return found


def attach_adapter(
    base: nn.Module, config: Recipe, *, inherits: bool = False, name: str = DEFAULT_ADAPTER
) -> PeftModel:
    """Attach a new adapter to the base; equal seeds give equal adapters.

    Args:
        base: the base, or a model with other adapters.
        inherits: whether a parent's adapter will replace it, so that its initial weights do not count.

    Raises:
        InputError: the base has no layer of the given names.
    """
    lora = config.train.lora
    init = "default" if inherits else lora.init
    threads = torch.get_num_threads()
    if init not in CHANGES_BASE:
        # Hundreds of small tensors are made here: waking threads for each costs more than the work.
        torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    settings = PeftLoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.resolved_alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        exclude_modules=VISION_TOWERS if hasattr(base.config, "vision_config") else None,
        bias="none",
        init_lora_weights=True if init == "default" else init,
        use_dora=lora.dora,
        use_rslora=lora.rslora,
    )
    try:
        if isinstance(base, PeftModel):
            model = base
            settings.base_model_name_or_path = base.peft_config[DEFAULT_ADAPTER].base_model_name_or_path
            model.add_adapter(name, settings)
        else:
            model = get_peft_model(base, settings, adapter_name=name)
    except ValueError as error:
        raise InputError(
            f"the adapter does not fit the model {config.model.name}: {str(error).splitlines()[0][:300]}",
            expected="train.lora.target_modules that name linear layers of the model",
        ) from error
    finally:
        torch.set_num_threads(threads)
    dtype = torch_dtype(lora.resolved_dtype)
    for parameter_name, parameter in model.named_parameters():
        if f".{name}." in parameter_name:
            parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(True)
    _set_checkpointing(model, config)
    return model


def trainable(model: nn.Module, adapter: str | None = None) -> dict[str, nn.Parameter]:
    """Return the trained parameters by name, in model order.

    Args:
        adapter: one of several adapters, whose parameters get the names that they have in a model of their own; None
            for all trained parameters.
    """
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if adapter is None:
        return found
    own = f".{adapter}."
    return {name.replace(own, f".{DEFAULT_ADAPTER}."): found[name] for name in found if own in name}


def dropout_in(model: nn.Module) -> float:
    """Return the largest dropout active in training."""
    return max((module.p for module in model.modules() if isinstance(module, nn.Dropout)), default=0.0)
