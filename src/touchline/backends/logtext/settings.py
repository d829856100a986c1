"""Settings under the keys that trainers and scripts give them: `per_device_train_batch_size`, `lora_r`, `bf16`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from touchline.backends.logtext.emitter import EventEmitter
from touchline.backends.logtext.numbers import to_number
from touchline.core.observation import Event, ObservationName

_KEYS: Mapping[ObservationName, str] = {
    "micro_batch_size": (
        "micro_batch_size per_device_train_batch_size train_micro_batch_size_per_gpu micro_batch_size_per_gpu"
        " batch_size per_device_batch_size device_batch_size per_gpu_train_batch_size ppo_micro_batch_size_per_gpu"
        " micro_train_batch_size"
    ),
    "global_batch_size": "global_batch_size effective_batch_size total_batch_size global_train_batch_size",
    "gradient_accumulation_steps": (
        "gradient_accumulation_steps grad_accum_steps grad_accumulation_steps accumulation_steps"
        " accumulate_grad_batches gradient_accumulation grad_accum gradient_accumulation_iters"
    ),
    "epochs": "epochs num_epochs num_train_epochs max_epochs total_epochs n_epochs train_epochs",
    "steps_total": (
        "max_steps train_iters train_steps num_iterations iterations max_iters total_steps total_training_steps"
        " num_training_steps max_train_steps max_step max_iter total_step num_train_steps"
    ),
    "learning_rate": "learning_rate lr actor_learning_rate",
    "max_seq_len": (
        "seq_length max_seq_length max_seq_len sequence_length block_size context_length model_max_length cutoff_len"
        " max_sequence_length seq_len train_seq_len max_len"
    ),
    "lora_rank": "lora_r lora_rank lora_dim",
    "lora_alpha": "lora_alpha",
    "gpus": "world_size num_gpus n_gpus ngpus",
    "trainable_parameters": "trainable_params trainable_parameters",
    "total_parameters": "model_params num_params total_params n_params",
}
_NUMBERS: dict[str, ObservationName] = {key: name for name, keys in _KEYS.items() for key in keys.split()}
_WORD_KEYS: Mapping[str, ObservationName] = {
    **dict.fromkeys(("model_name_or_path", "model_name", "base_model", "pretrained_model_name_or_path"), "model"),
    **dict.fromkeys(("model_path", "model_id", "base_model_name", "pretrain"), "model"),
    **dict.fromkeys(("optimizer", "optim", "optimizer_name"), "optimizer"),
    **dict.fromkeys(("params_dtype", "torch_dtype", "dtype", "mixed_precision", "precision"), "dtype"),
}
_SWITCHES: Mapping[str, tuple[ObservationName, str]] = {
    "bf16": ("dtype", "bfloat16"),
    "fp16": ("dtype", "float16"),
    "bfloat16_enabled": ("dtype", "bfloat16"),
    "fp16_enabled": ("dtype", "float16"),
    "gradient_checkpointing": ("gradient_checkpointing", "true"),
    "enable_gradient_checkpointing": ("gradient_checkpointing", "true"),
}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "half": "float16", "bf16-true": "bfloat16"}
_DTYPES |= {"bf16-mixed": "bfloat16", "16-mixed": "float16", "amp_bf16": "bfloat16"}
_MODEL_ID = re.compile(r"[\w.~-]*(?:/[\w.-]+)+|[A-Za-z][\w.]*(?:-[\w.]+)+|gpt2|distilgpt2")
_NOT_MODELS = (
    *("ForCausalLM", "LMHeadModel", "Model", ".py", ".json", ".yaml", ".yml", ".txt", ".csv", ".pt", ".pth", ".bin"),
    *(".ckpt", ".safetensors", ".npz"),
)
_NAMED = re.compile(r"[A-Za-z][\w-]{1,40}")

SETTING_KEYS: frozenset[str] = frozenset({*_NUMBERS, *_WORD_KEYS, *_SWITCHES})
"""Every key that is known, in lower case."""


def setting_name(key: str) -> ObservationName | None:
    """Return what a key sets, or None if it is not known."""
    key = key.lower()
    switch = _SWITCHES.get(key)
    return switch[0] if switch is not None else _NUMBERS.get(key) or _WORD_KEYS.get(key)


def setting_events(
    emitter: EventEmitter, key: str, value: str, number: int, *, certain: bool = False
) -> Iterator[Event]:
    """Yield the setting of a key and its value, if the key is known and the value is plausible."""
    key = key.lower()
    found = _switch(key, value) if key in _SWITCHES else _count(key, value) if key in _NUMBERS else _word(key, value)
    if found is not None:
        yield from emitter.once(found[0], found[1], number, certain=certain)


def _switch(key: str, value: str) -> tuple[ObservationName, str] | None:
    return _SWITCHES[key] if value.strip().rstrip(",").lower() == "true" else None


def _count(key: str, value: str) -> tuple[ObservationName, float] | None:
    name, count = _NUMBERS[key], to_number(value.rstrip("."))
    return (name, count) if count is not None and _is_plausible(name, count) else None


def _word(key: str, value: str) -> tuple[ObservationName, str] | None:
    name = _WORD_KEYS.get(key)
    if name == "model" and _MODEL_ID.fullmatch(value) and is_model_name(value):
        return name, value
    if name == "dtype":
        dtype = value.removeprefix("torch.").lower()
        dtype = _DTYPES.get(dtype, dtype)
        return (name, dtype) if dtype in _DTYPES.values() else None
    if name == "optimizer" and _NAMED.fullmatch(value) and value.lower() not in ("none", "null", "auto"):
        return name, value.lower()
    return None


def _is_plausible(name: ObservationName, count: float) -> bool:
    if name == "learning_rate":
        return 0 < count < 1
    return count >= 1 and (count == int(count) or name == "epochs")


def is_model_name(text: str) -> bool:
    """Return True if a text looks like a model's id or path, and not like a class, a file or a phrase with hyphens."""
    if text.endswith(_NOT_MODELS):
        return False
    return "/" in text or text in ("gpt2", "distilgpt2") or any(character.isdigit() for character in text)
