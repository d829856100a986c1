"""Settings of a torchtune config in the common terms of all trainers, with torchtune 0.6.1's defaults.

Source: recipes/lora_finetune_single_device.py and full_finetune_single_device.py of 0.6.1; `max_steps_per_epoch` counts
optimizer steps of one epoch; a checkpoint is written at each epoch's end.
"""

from __future__ import annotations

import math
import re
from typing import Literal, cast

from touchline.backends.config_reading import subject_of
from touchline.backends.fields import TEXT, TRUTH, ValueType, is_number, number, typed, whole
from touchline.backends.torchtune.components import component
from touchline.backends.torchtune.config import COMPONENT
from touchline.backends.torchtune.keys import is_reinforcement
from touchline.backends.torchtune.reading import Config
from touchline.backends.torchtune.sources import sources
from touchline.core.finding import Location
from touchline.core.model_size import states_size
from touchline.spec.document import Key
from touchline.spec.partial import Cadence, Stated, StatedTraining

Method = Literal["lora", "qlora", "full"]
Dtype = Literal["bfloat16", "float16", "float32"]
_DTYPES: dict[object, Dtype] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_BUILDER = re.compile(r"(q?lora)_")
_COUNT, _ANY_NUMBER, _POSITIVE = whole(1), number(), number(above=0)
_CLIP = ValueType("", lambda value: value == "inf" or is_number(value))
_QUANTIZED_BITS = 4
_SERVICES = {
    "WandBLogger": "wandb",
    "TensorBoardLogger": "tensorboard",
    "CometLogger": "comet_ml",
    "MLFlowLogger": "mlflow",
}


def stated_training(config: Config) -> StatedTraining:
    """Build the training of a config."""
    method = _method(config)
    rolls_out = is_reinforcement(config.data)
    adapted = method is not None and method.value != "full"
    return StatedTraining(
        backend="torchtune",
        where=Location(path=config.document.path),
        subject=subject_of(config.document.path),
        model=_model(config),
        model_path=_text(config, "checkpointer", "checkpoint_dir"),
        method=method,
        rank=_count(config, "model", "lora_rank") if adapted else None,
        alpha=_number(config, "model", "lora_alpha") if adapted else None,
        dropout=(_number(config, "model", "lora_dropout") or config.default(0.0, "model", "lora_dropout"))
        if adapted
        else None,
        target_modules=_targets(config) if adapted else None,
        quantization_bits=Stated(_QUANTIZED_BITS, method.key, method.where)
        if method is not None and method.value == "qlora"
        else None,
        # Batches of generated rows are counted otherwise: nothing of another trainer's arithmetic holds.
        epochs=None if rolls_out else _number(config, "epochs"),
        max_steps=None if rolls_out else _max_steps(config),
        micro_batch_size=None if rolls_out else _count(config, "batch_size"),
        gradient_accumulation_steps=None if rolls_out else _count(config, "gradient_accumulation_steps"),
        eval_batch_size=None if rolls_out else _count(config, "batch_size_val"),
        learning_rate=typed(config.stated("optimizer", "lr"), _POSITIVE, _float),
        schedule=_last(config, "lr_scheduler"),
        warmup_steps=typed(config.stated("lr_scheduler", "num_warmup_steps"), whole(0), _int),
        weight_decay=_number(config, "optimizer", "weight_decay"),
        optimizer=_last(config, "optimizer"),
        max_grad_norm=_clip(config),
        seed=typed(config.stated("seed"), whole(0), _int),
        shuffle=_flag(config, "shuffle"),
        max_seq_len=_count(config, "tokenizer", "max_seq_len") or _count(config, "dataset", "max_seq_len"),
        packed=_packed(config, "dataset"),
        eval_packed=_packed(config, "dataset_val") if config.has("dataset_val") else None,
        template=_text(config, "tokenizer", "prompt_template"),
        trains_on_prompt=_flag(config, "dataset", "train_on_input"),
        dtype=_dtype(config),
        gradient_checkpointing=_flag(config, "enable_activation_checkpointing", default=False),
        compiled=_flag(config, "compile"),
        device=_text(config, "device"),
        distributed=_distributed(config),
        offloads=_offloads(config),
        sources=tuple(sources(config)),
        output_dir=_text(config, "checkpointer", "output_dir") or _text(config, "output_dir"),
        resume=_resume(config),
        save_cadence=_cadence(config, "save_every_n_steps", otherwise="epoch"),
        save_steps=_number(config, "save_every_n_steps"),
        save_limit=_count(config, "checkpointer", "keep_last_n_checkpoints"),
        save_adapter_only=_flag(config, "save_adapter_weights_only", default=False) if adapted else None,
        eval_cadence=_cadence(config, "run_val_every_n_steps", otherwise="no"),
        eval_steps=_number(config, "run_val_every_n_steps"),
        logging_steps=_number(config, "log_every_n_steps") or config.default(1.0, "log_every_n_steps"),
        report_to=_services(config),
    )


def _int(value: object) -> int:
    return cast(int, value)


def _float(value: object) -> float:
    return float(cast(float, value))


def _count(config: Config, *path: Key) -> Stated[int] | None:
    return typed(config.stated(*path), _COUNT, _int)


def _number(config: Config, *path: Key) -> Stated[float] | None:
    return typed(config.stated(*path), _ANY_NUMBER, _float)


def _text(config: Config, *path: Key) -> Stated[str] | None:
    return typed(config.stated(*path), TEXT, str)


def _flag(config: Config, *path: Key, default: bool | None = None) -> Stated[bool] | None:
    found = typed(config.stated(*path), TRUTH, bool)
    return config.default(default, *path) if found is None and default is not None and not config.has(*path) else found


def _offloads(config: Config) -> Stated[str] | None:
    """Return the tensors offloaded to host memory."""
    for key, what in (("enable_activation_offloading", "activations"), ("fsdp_cpu_offload", "parameters")):
        asked = _flag(config, key)
        if asked is not None and asked.value:
            return Stated(what, asked.key, asked.where)
    return None


def _last(config: Config, section: str) -> Stated[str] | None:
    """Return the last part of the section's component."""
    name = config.last(section)
    return Stated(name, section, config.where(section, COMPONENT)) if name else None


def _section_of_model(config: Config) -> str:
    return "policy_model" if config.has("policy_model") else "model"


def _model(config: Config) -> Stated[str] | None:
    """Return the builder if its name states the size. Otherwise return the folder of the base."""
    section = _section_of_model(config)
    name = config.last(section)
    known = (config.component(section) or "").startswith("torchtune.models.")
    folder = _text(config, "checkpointer", "checkpoint_dir")
    if name and known and (states_size(name) or "mini" in name or folder is None):
        return Stated(name, f"{section}.{COMPONENT}", config.where(section, COMPONENT))
    return folder


def _method(config: Config) -> Stated[Method] | None:
    section = _section_of_model(config)
    path = config.component(section)
    if path is None:
        return None
    where, key = config.where(section, COMPONENT), f"{section}.{COMPONENT}"
    if config.get(section, "quantize_base") is True:
        return Stated("qlora", f"{section}.quantize_base", config.where(section, "quantize_base"))
    match = _BUILDER.match(path.rpartition(".")[2])
    if match is not None:
        return Stated(cast(Method, match.group(1)), key, where)
    if config.has(section, "lora_rank"):
        return Stated("lora", f"{section}.lora_rank", config.where(section, "lora_rank"))
    return Stated("full", key, where) if component(path) is not None else None


def _targets(config: Config) -> Stated[tuple[str, ...]] | None:
    path = ("model", "lora_attn_modules")
    modules = config.get(*path)
    if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        return None
    more = [part for part in ("mlp", "output") if config.get("model", f"apply_lora_to_{part}") is True]
    return Stated((*modules, *more), ".".join(path), config.where(*path))


def _max_steps(config: Config) -> Stated[int] | None:
    each, epochs = _count(config, "max_steps_per_epoch"), _count(config, "epochs")
    return None if each is None or epochs is None else Stated(each.value * epochs.value, each.key, each.where)


def _clip(config: Config) -> Stated[float] | None:
    found = typed(config.stated("clip_grad_norm"), _CLIP, _float)
    # The norm is only logged with 'inf'.
    return None if found is None or math.isinf(found.value) else found


def _packed(config: Config, name: str) -> Stated[bool] | None:
    found = [
        Stated(section["packed"] is True, ".".join(map(str, (*path, "packed"))), config.where(*path, "packed"))
        for path, section in config.sections(name)
        if isinstance(section.get("packed"), bool)
    ]
    if found:
        return next((each for each in found if each.value), found[0])
    return config.default(False, name, "packed") if config.has(name) else None


def _dtype(config: Config) -> Stated[Dtype] | None:
    found = config.stated("dtype")
    dtype = None if found is None or not isinstance(found.value, str) else _DTYPES.get(found.value)
    return None if found is None or dtype is None else Stated(dtype, found.key, found.where)


def _distributed(config: Config) -> Stated[str] | None:
    """Return a key that only the distributed recipes read."""
    for key in ("fsdp_cpu_offload", "fsdp_sharding_strategy", "fsdp_reshard_after_forward", "fsdp"):
        if config.has(key):
            return Stated("fsdp", key, config.where(key))
    return None


def _resume(config: Config) -> Stated[str] | None:
    found = _flag(config, "resume_from_checkpoint")
    return Stated("true", found.key, found.where) if found is not None and found.value else None


def _cadence(config: Config, key: str, *, otherwise: Cadence) -> Stated[Cadence] | None:
    if config.is_open(key):
        return None
    found = config.stated(key)
    return config.default(otherwise, key) if found is None else Stated("steps", key, found.where)


def _services(config: Config) -> Stated[tuple[str, ...]] | None:
    name = config.last("metric_logger")
    service = _SERVICES.get(name)
    where = config.where("metric_logger", COMPONENT)
    return Stated((service,) if service else (), "metric_logger", where) if name else None
