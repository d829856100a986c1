"""Settings of a LLaMA-Factory file, with its defaults. Source: llamafactory.hparams (0.9.5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from touchline.backends.config_reading import ConfigReader, source_kind
from touchline.backends.config_table import Keys, first_on, inverted, training_of
from touchline.backends.trl.trainer import TRAINER_KEYS, trainer_fields
from touchline.experiment.partial import QLORA_BITS, Stated, StatedSource, StatedTraining

KEYS: Keys = {
    **TRAINER_KEYS,
    "model": ("text", "model_name_or_path", None),
    "parent": ("text", "adapter_name_or_path", None),
    "learning_rate": ("number", "learning_rate", 5e-5),
    "quantization_bits": ("whole", "quantization_bit", None),
    "max_seq_len": ("whole", "cutoff_len", 2048),
    "template": ("text", "template", None),
    "attention": ("text", "flash_attn", None),
    "validation_fraction": ("number", "val_size", 0.0),
    "max_examples": ("whole", "max_samples", None),
    "devices": ("whole", "ray_num_workers", None),
    "image_root": ("text", "media_dir image_dir", None),
}
"""Its keys and defaults."""
ADAPTER_KEYS: Keys = {
    "rank": ("whole", "lora_rank", 8),
    "alpha": ("number", "lora_alpha", None),
    "dropout": ("number", "lora_dropout", 0.0),
    "target_modules": ("words", "lora_target", ("all",)),
}
"""The same of an adapter."""
Method = Literal["lora", "qlora", "full"]


def finetuning_type(settings: ConfigReader) -> str:
    """Return `lora`, `full`, `freeze` or `oft`. The default is LoRA."""
    stated = settings.text("finetuning_type")
    return "lora" if stated is None else stated.value


def stage(settings: ConfigReader) -> str:
    """Return the training stage. The default is supervised."""
    stated = settings.text("stage")
    return "sft" if stated is None else stated.value


def state_training(settings: ConfigReader) -> StatedTraining:
    """Build the stated training."""
    kind = finetuning_type(settings)
    found = trainer_fields(settings, {**KEYS, **ADAPTER_KEYS} if kind == "lora" else KEYS)
    if kind == "lora":
        found["alpha"] = found["alpha"] or settings.default("lora_alpha", 2.0 * found["rank"].value)
    found["method"] = _method(settings, kind)
    pretrains = stage(settings) == "pt"
    for field, switch in (
        ("shuffle", "disable_shuffling"),
        ("gradient_checkpointing", "disable_gradient_checkpointing"),
    ):
        found[field] = inverted(settings.flag(switch)) or settings.default(switch, True)
    found["trains_on_prompt"] = settings.flag("train_on_prompt") or settings.default("train_on_prompt", pretrains)
    # Neat packing counts, and pre-training packs by default.
    packed = first_on(settings, {"neat_packing": True}) or settings.flag("packing")
    found["packed"] = packed or settings.default("packing", pretrains)
    found["sources"] = tuple(_sources(settings))
    return training_of("llamafactory", settings, found)


def _method(settings: ConfigReader, kind: str) -> Stated[Method] | None:
    if kind not in ("lora", "full"):
        return None
    bits = settings.whole("quantization_bit")
    quantized = bits is not None and bits.value <= QLORA_BITS
    word: Method = "full" if kind == "full" else "qlora" if quantized else "lora"
    if settings.given("finetuning_type"):
        return Stated(word, "finetuning_type", settings.where("finetuning_type"))
    return settings.default("finetuning_type", word)


def _sources(settings: ConfigReader) -> Iterator[StatedSource]:
    roles: tuple[tuple[str, Literal["train", "validation"]], ...] = (
        ("dataset", "train"),
        ("eval_dataset", "validation"),
    )
    for key, role in roles:
        names = settings.words(key)
        for name in names.value if names is not None else ():
            # A bare name is one of dataset_info.json; a path is a file of its own.
            path = name.endswith((".json", ".jsonl", ".csv", ".parquet", ".txt", ".arrow"))
            kind: Literal["file", "registered", "hub"] = "file" if path else "hub" if "/" in name else "registered"
            yield StatedSource(
                name=Stated(name, key, settings.where(key)),
                kind=source_kind(name) if kind == "hub" else kind,
                role=role,
                format=settings.text("template"),
            )
