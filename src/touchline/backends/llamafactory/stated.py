"""Settings of a LLaMA-Factory file, with its defaults. Source: llamafactory.hparams (0.9.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from touchline.backends.config_reading import ConfigReader, source_kind
from touchline.backends.config_table import Keys, first_on, inverted, observations, reader_of, training_of
from touchline.backends.logtext.reader import Row
from touchline.backends.trl.trainer import TRAINER_KEYS, trainer_fields
from touchline.core.observation import Event, Observation
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


_ATTENTION = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "sdpa": "sdpa", "disabled": "eager"}
READ_KEYS: frozenset[str] = frozenset(
    {
        *(key for _, keys, _ in {**KEYS, **ADAPTER_KEYS}.values() for key in keys.split()),
        *("finetuning_type", "use_dora", "quantization_method", "quantization_type", "packing", "neat_packing"),
        *("bf16", "fp16", "pure_bf16", "disable_gradient_checkpointing"),
    }
)
"""The settings that are read."""


def read_config(name: str, document: Row) -> tuple[Event, ...] | None:
    """Read the training of LLaMA-Factory's file. Return None for any other mapping, and for files that only export or
    serve.
    """
    del name
    ours = "finetuning_type" in document or "stage" in document or ("template" in document and "dataset" in document)
    if not isinstance(document.get("model_name_or_path"), str) or not ours:
        return None
    trains = reader_of(document).on("do_train") or ("dataset" in document and "output_dir" in document)
    if not trains or "export_dir" in document:
        return None
    return (Observation(name="trainer", value="llamafactory", line=0), *evidence(document, {}))


def evidence(values: Row, lines: Mapping[str, int]) -> Iterator[Observation]:
    """Yield the observations of a mapping of settings.

    Args:
        values: the settings by LLaMA-Factory's names.
        lines: line of each; 0 for those that are not there.
    """
    reader = reader_of(values)
    stated = state_training(reader)
    attention = stated.attention
    word = None if attention is None else _ATTENTION.get(attention.value)
    stated = replace(
        stated, attention=None if word is None or attention is None else Stated(word, attention.key, attention.where)
    )
    if stated.method is not None and not stated.method.is_default and reader.on("use_dora"):
        yield Observation(name="method", value="dora", line=lines.get("finetuning_type", 0))
        stated = replace(stated, method=None)
    other = str(values.get("quantization_method") or "bnb") not in ("bnb", "bitsandbytes")
    bits, kind = stated.quantization_bits, values.get("quantization_type")
    if bits is not None and (other or (kind and bits.value == 4)):
        value = f"{bits.value}-bit" if other else str(kind)
        yield Observation(name="quantization", value=value, line=lines.get(bits.key, 0))
        stated = replace(stated, quantization_bits=None)
    yield from observations(stated, lines)
