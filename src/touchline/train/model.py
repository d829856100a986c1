"""Model that is trained, a base with its adapter or the whole; checkpoints as PEFT and transformers read them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import save
from torch import Tensor, nn
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
from touchline.backends.run_config import RunConfig
from touchline.core.errors import InputError
from touchline.core.files import read_bytes, sha256_file
from touchline.core.json_text import parse_json
from touchline.data.worker import keep_trainable_layout, require_bitsandbytes
from touchline.experiment.training import VISION_TOWERS
from touchline.experiment.value_types import bitsandbytes_settings
from touchline.train.folders import ADAPTER_CONFIG_FILE, ADAPTER_FILE, GENERATION_CONFIG_FILE, STAGE_FILE, write_bytes
from touchline.train.inherit import CHANGES_BASE, Inheritance, adapter_tensors, combine, combined_settings, scale_of
from touchline.train.machine import Machine, torch_dtype

if TYPE_CHECKING:
    from touchline.history.probe import ProbeRequest

    Recipe: TypeAlias = RunConfig | ProbeRequest

DEFAULT_ADAPTER = "default"  # Name of the adapter in a model that has one


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
    """Load the base on its device: frozen, or with all its weights trained."""
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
    """
    if not config.train.trains_all:
        adapted: nn.Module = attach_adapter(base, config, inherits=inherits)
        return adapted
    _set_checkpointing(base, config)
    return base


def _set_checkpointing(model: Any, config: Recipe) -> None:
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def base_of(model: nn.Module) -> PreTrainedModel:
    """Return the base below an adapter, or the model itself if it has none."""
    found: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    return found


def attach_adapter(
    base: nn.Module, config: Recipe, *, inherits: bool = False, name: str = DEFAULT_ADAPTER
) -> PeftModel:
    """Attach a new adapter to the base; equal seeds give equal adapters."""
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
        message = f"the adapter does not fit the model {config.model.name}: {str(error).splitlines()[0][:300]}"
        raise InputError(message, expected="train.lora.target_modules that name linear layers of the model") from error
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


def write_weights(
    model: nn.Module,
    config: RunConfig,
    folder: Path,
    inheritance: Inheritance | None,
    adapter: str = DEFAULT_ADAPTER,
    *,
    whole: dict[str, Tensor] | None = None,
) -> str:
    """Write the adapter, or the whole model if all weights were trained. Return the hash of its weights.

    If an adapter was merged into the base before the training, the saved adapter contains it too, so it loads on the
    original base.
    """
    if not isinstance(model, PeftModel):
        assert isinstance(model, PreTrainedModel)
        return _write_model(model, Path(config.model.path), folder, whole)
    saved = _write_adapter(model, folder, inheritance, adapter, whole)
    if config.train.saves == "merged":
        merge(config, folder)
    return saved


def _write_model(model: PreTrainedModel, base: Path, folder: Path, whole: dict[str, Tensor] | None) -> str:
    """Write the whole model in its trained dtype, with its base's configuration. Return the hash of the weights."""
    before = model.config.use_cache
    model.config.use_cache = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False).use_cache
    try:
        with torch.no_grad():
            model.save_pretrained(folder, state_dict=whole)
    finally:
        model.config.use_cache = before
    # What generation starts from stays that of the base, which is copied.
    (folder / GENERATION_CONFIG_FILE).unlink(missing_ok=True)
    shards = sorted(folder.glob("*.safetensors"))
    if len(shards) == 1:
        return sha256_file(shards[0])
    return hashlib.sha256("".join(map(sha256_file, shards)).encode()).hexdigest()


def _write_adapter(
    model: PeftModel, folder: Path, inheritance: Inheritance | None, name: str, whole: dict[str, Tensor] | None
) -> str:
    adapter = model.peft_config[name]
    was_inference = adapter.inference_mode
    adapter.inference_mode = True
    adapter.save_pretrained(str(folder))
    adapter.inference_mode = was_inference
    path = folder / ADAPTER_CONFIG_FILE
    content = parse_json(read_bytes(path))
    found = sorted(adapter_tensors(model, name, whole).items())
    tensors = {key: value.detach().cpu().contiguous() for key, value in found}
    if inheritance is not None and inheritance.merged:
        write_bytes(folder / STAGE_FILE, save(tensors, metadata={"format": "pt"}))
        tensors, ranks = combine(tensors, scale_of(content), inheritance.merged)
        content = combined_settings(content, ranks, inheritance.targets)
    saved = write_bytes(folder / ADAPTER_FILE, save(tensors, metadata={"format": "pt"}))
    # PEFT holds the names as a set: sorted, so that equal runs give equal files.
    content["target_modules"] = sorted(content["target_modules"])
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return saved.sha256


def merge(config: RunConfig, folder: Path) -> None:
    """Replace the adapter in `folder` by the whole merged model.

    The adapter is merged into a second copy of the base, because merging and unmerging the training model would leave
    rounding errors in it.
    """
    shape = AutoConfig.from_pretrained(config.model.path, local_files_only=True, trust_remote_code=False)
    base = class_of(shape).from_pretrained(config.model.path, dtype="auto", local_files_only=True)
    merged = PeftModel.from_pretrained(base, str(folder), torch_device="cpu").merge_and_unload()
    for name in (ADAPTER_FILE, ADAPTER_CONFIG_FILE, STAGE_FILE):
        (folder / name).unlink(missing_ok=True)
    with torch.no_grad():
        merged.save_pretrained(folder)
