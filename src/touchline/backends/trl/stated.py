"""Settings of a file of TRL's or the Trainer's arguments.

Source: trl.SFTConfig, DPOConfig, GRPOConfig, RewardConfig, KTOConfig, ModelConfig and ScriptArguments (1.16);
recipes of alignment-handbook and open-r1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from touchline.backends.config_reading import ConfigReader, source_kind
from touchline.backends.config_table import Keys, first_on, inverted, training_of
from touchline.backends.trl.trainer import TRAINER_KEYS, trainer_fields
from touchline.experiment.partial import Stated, StatedSource, StatedTraining

_TRL_ONLY = frozenset(
    {
        *("packing", "max_length", "dataset_text_field", "use_peft", "max_prompt_length", "max_completion_length"),
        *("num_generations", "dataset_train_split", "dataset_test_split", "assistant_only_loss", "padding_free"),
        *("completion_only_loss", "eval_packing", "packing_strategy", "dataset_num_proc", "reward_funcs"),
        "max_seq_length",
    }
)
KEYS: Keys = {
    **TRAINER_KEYS,
    "model": ("text", "model_name_or_path model_name model_id model base_model_name_or_path", None),
    "max_seq_len": ("whole", "max_length max_seq_length max_seq_len model_max_length", None),
    "packed": ("flag", "packing", None),
    "template": ("text", "chat_template chat_template_path", None),
    "attention": ("text", "attn_implementation", None),
    "devices": ("whole", "num_processes", None),
    "validation_fraction": ("number", "test_split_size", None),
    "gradient_checkpointing": ("flag", "gradient_checkpointing activation_checkpointing", False),
}
"""Keys and defaults of the bare Trainer's files; scripts name models, lengths and files in their own ways."""
TRL_KEYS: Keys = {
    "logging_steps": ("number", "logging_steps", 10.0),
    "gradient_checkpointing": ("flag", "gradient_checkpointing activation_checkpointing", True),
}
"""Those of TRL's classes that differ."""
ADAPTER_KEYS: Keys = {
    "rank": ("whole", "lora_r lora_rank", None),
    "alpha": ("number", "lora_alpha", None),
    "dropout": ("number", "lora_dropout", None),
    "target_modules": ("words", "lora_target_modules", None),
}
"""The same of an adapter."""
Method = Literal["lora", "qlora", "full"]
_FULL: Method = "full"
_FILES = ("train_file", "train_data_file", "data_path", "dataset_path", "train_data_path", "train_dataset")


def uses_trl(settings: ConfigReader) -> bool:
    """Return True if the file is for TRL's classes, not the bare Trainer's."""
    return not _TRL_ONLY.isdisjoint(settings.values)


def state_training(settings: ConfigReader) -> StatedTraining:
    """Build the stated training."""
    trl, adapter = uses_trl(settings), settings.on("use_peft")
    ranked = adapter or (settings.given("lora_r") is not None and settings.flag("use_peft") is None)
    found = trainer_fields(settings, {**KEYS, **(TRL_KEYS if trl else {}), **(ADAPTER_KEYS if ranked else {})})
    loaded = settings.text("dtype", "torch_dtype")
    if found["dtype"] is None and loaded is not None and loaded.value in ("bfloat16", "float16", "float32"):
        found["dtype"] = loaded
    found["quantization_bits"] = first_on(settings, {"load_in_4bit": 4, "load_in_8bit": 8})
    found["method"] = _method(settings, adapter, settings.on("load_in_4bit"))
    supervised = trl and settings.given("num_generations", "beta", "max_prompt_length", "reward_funcs") is None
    found["packed"] = found["packed"] or (settings.default("packing", False) if supervised else None)
    found["trains_on_prompt"] = inverted(settings.flag("completion_only_loss", "assistant_only_loss"))
    held = settings.document.stated("dataset_mixture", "test_split_size")
    if held is not None and isinstance(held.value, int | float) and not isinstance(held.value, bool):
        found["validation_fraction"] = Stated(float(held.value), held.key, held.where)
    found["sources"] = tuple(_sources(settings))
    return training_of("trl", settings, found)


def _method(settings: ConfigReader, adapter: bool, quantized: bool) -> Stated[Method] | None:
    """Return low-rank or full. Without `use_peft` the script decides: None."""
    if adapter:
        return Stated("qlora" if quantized else "lora", "use_peft", settings.where("use_peft"))
    if settings.flag("use_peft") is not None:
        return Stated("full", "use_peft", settings.where("use_peft"))
    if uses_trl(settings) and settings.given("lora_r", "lora_rank", "lora_alpha", "load_in_4bit") is None:
        return settings.default("use_peft", _FULL)
    return None


def _sources(settings: ConfigReader) -> Iterator[StatedSource]:
    name = settings.text("dataset_name", "dataset_id_or_path", "dataset")
    if name is not None:
        yield StatedSource(
            name=name,
            kind=source_kind(name.value),
            split=settings.text("dataset_train_split", "dataset_split"),
            format=settings.text("dataset_format"),
        )
    for key in _FILES:
        path = settings.text(key)
        if path is not None:
            yield StatedSource(name=path, kind=source_kind(path.value))
    for key in ("validation_file", "eval_file", "eval_data_path", "eval_dataset_path"):
        path = settings.text(key)
        if path is not None:
            yield StatedSource(name=path, kind=source_kind(path.value), role="validation")
    mixer = settings.values.get("dataset_mixer")
    if isinstance(mixer, dict):
        for key in mixer:
            yield StatedSource(name=Stated(str(key), "dataset_mixer", settings.where("dataset_mixer", key)), kind="hub")
    yield from _mixture(settings, ("dataset_mixture", "datasets"))
    yield from _mixture(settings, ("datasets",))


def _mixture(settings: ConfigReader, at: tuple[str, ...]) -> Iterator[StatedSource]:
    rows = settings.document.get(*at)
    for index, row in enumerate(rows if isinstance(rows, list) else []):
        if not isinstance(row, dict):
            continue
        key = next((key for key in ("id", "path", "name") if isinstance(row.get(key), str)), None)
        if key is None:
            continue
        split = row.get("split")
        yield StatedSource(
            name=Stated(str(row[key]), ".".join((*at, str(index), key)), settings.where(*at, index, key)),
            kind=source_kind(str(row[key])),
            split=Stated(split, ".".join((*at, str(index), "split")), settings.where(*at, index, "split"))
            if isinstance(split, str)
            else None,
        )
