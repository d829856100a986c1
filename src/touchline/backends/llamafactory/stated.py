"""Settings of a LLaMA-Factory file, with its defaults. Source: llamafactory.hparams (0.9.5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from touchline.backends.config_reading import ConfigReader, source_kind, subject_of
from touchline.backends.trl.trainer import trainer_fields
from touchline.core.finding import Location
from touchline.spec.partial import Stated, StatedSource, StatedTraining

_RANK = 8
_LENGTH = 2048
_RATE = 5e-5
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
    adapted = kind == "lora"
    rank = settings.whole("lora_rank") or settings.default("lora_rank", _RANK)
    fields = trainer_fields(settings)
    fields["learning_rate"] = fields["learning_rate"] or settings.default("learning_rate", _RATE)
    disabled = settings.flag("disable_gradient_checkpointing")
    shuffled = settings.flag("disable_shuffling")
    return StatedTraining(
        backend="llamafactory",
        where=Location(path=settings.document.path),
        subject=subject_of(settings.document.path),
        model=settings.text("model_name_or_path"),
        parent=settings.text("adapter_name_or_path"),
        method=_method(settings, kind),
        rank=rank if adapted else None,
        alpha=settings.number("lora_alpha") or settings.default("lora_alpha", 2.0 * rank.value) if adapted else None,
        dropout=settings.number("lora_dropout") or settings.default("lora_dropout", 0.0) if adapted else None,
        target_modules=settings.words("lora_target") or settings.default("lora_target", ("all",)) if adapted else None,
        quantization_bits=settings.whole("quantization_bit"),
        shuffle=settings.default("disable_shuffling", True)
        if shuffled is None
        else Stated(not shuffled.value, shuffled.key, shuffled.where),
        max_seq_len=settings.whole("cutoff_len") or settings.default("cutoff_len", _LENGTH),
        packed=_packed(settings),
        eval_packed=_packed(settings),
        template=settings.text("template"),
        trains_on_prompt=settings.flag("train_on_prompt")
        or settings.default("train_on_prompt", stage(settings) == "pt"),
        gradient_checkpointing=settings.default("disable_gradient_checkpointing", True)
        if disabled is None
        else Stated(not disabled.value, disabled.key, disabled.where),
        attention=settings.text("flash_attn"),
        sources=tuple(_sources(settings)),
        validation_fraction=settings.number("val_size") or settings.default("val_size", 0.0),
        max_examples=settings.whole("max_samples"),
        image_root=settings.text("media_dir", "image_dir"),
        **fields,
    )


def _method(settings: ConfigReader, kind: str) -> Stated[Method] | None:
    if kind not in ("lora", "full"):
        return None
    word: Method = "full" if kind == "full" else "qlora" if settings.given("quantization_bit") else "lora"
    if settings.given("finetuning_type"):
        return Stated(word, "finetuning_type", settings.where("finetuning_type"))
    return settings.default("finetuning_type", word)


def _packed(settings: ConfigReader) -> Stated[bool]:
    """Return whether packing is on. Neat packing counts, and pre-training packs by default."""
    neat = settings.flag("neat_packing")
    if neat is not None and neat.value:
        return neat
    return settings.flag("packing") or settings.default("packing", stage(settings) == "pt")


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
