"""Settings of an axolotl file, with axolotl's defaults. Source: axolotl.utils.schemas, axolotl.core.builders.base
(0.19).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

from touchline.backends.config_reading import ConfigReader, source_kind, subject_of
from touchline.core.finding import Location
from touchline.spec.partial import Cadence, Stated, StatedSource, StatedTraining

ATTENTION: tuple[tuple[str, str], ...] = (
    ("xformers_attention", "xformers"),
    ("sage_attention", "sage"),
    ("flex_attention", "flex_attention"),
    ("flash_attention", "flash_attention_2"),
    ("sdp_attention", "sdpa"),
    ("eager_attention", "eager"),
)
"""Older switches, with their newer values."""
_LIMIT = 4
_LENGTH = 512
_WARMUP = 0.03
Method = Literal["lora", "qlora", "full"]


def state_training(settings: ConfigReader) -> StatedTraining:
    """Build the stated training."""
    adapter = settings.text("adapter")
    four, eight = settings.on("load_in_4bit"), settings.on("load_in_8bit")
    packed = settings.flag("sample_packing") or settings.default("sample_packing", False)
    checkpointing = settings.flag("gradient_checkpointing")
    if checkpointing is None and settings.text("gradient_checkpointing"):
        # `offload` and `unsloth` are ways of it.
        checkpointing = Stated(True, "gradient_checkpointing", settings.where("gradient_checkpointing"))
    steps = settings.whole("max_steps")
    return StatedTraining(
        backend="axolotl",
        where=Location(path=settings.document.path),
        subject=subject_of(settings.document.path),
        model=settings.text("base_model"),
        parent=settings.text("lora_model_dir"),
        method=_method(settings, adapter, four or eight),
        rank=settings.whole("lora_r") if adapter else None,
        alpha=settings.number("lora_alpha") if adapter else None,
        dropout=settings.number("lora_dropout") or settings.default("lora_dropout", 0.0) if adapter else None,
        target_modules=_targets(settings) if adapter else None,
        quantization_bits=Stated(4, "load_in_4bit", settings.where("load_in_4bit"))
        if four
        else Stated(8, "load_in_8bit", settings.where("load_in_8bit"))
        if eight
        else None,
        epochs=settings.number("num_epochs") or settings.default("num_epochs", 1.0),
        max_steps=steps if steps is not None and steps.value > 0 else None,
        micro_batch_size=settings.whole("micro_batch_size") or settings.default("micro_batch_size", 1),
        gradient_accumulation_steps=settings.whole("gradient_accumulation_steps")
        or (None if settings.given("batch_size") else settings.default("gradient_accumulation_steps", 1)),
        global_batch_size=settings.whole("batch_size"),
        eval_batch_size=settings.whole("eval_batch_size", "micro_batch_size") or settings.default("eval_batch_size", 1),
        learning_rate=settings.number("learning_rate"),
        schedule=settings.text("lr_scheduler") or settings.default("lr_scheduler", "cosine"),
        warmup_steps=settings.whole("warmup_steps"),
        warmup_fraction=_warmup(settings),
        weight_decay=settings.number("weight_decay") or settings.default("weight_decay", 0.0),
        optimizer=settings.text("optimizer") or settings.default("optimizer", "adamw_torch_fused"),
        max_grad_norm=settings.number("max_grad_norm"),
        seed=settings.whole("seed") or settings.default("seed", 42),
        shuffle=settings.flag("shuffle_merged_datasets") or settings.default("shuffle_merged_datasets", True),
        max_seq_len=settings.whole("sequence_len") or settings.default("sequence_len", _LENGTH),
        packed=packed,
        eval_packed=settings.flag("eval_sample_packing") or packed,
        template=settings.text("chat_template"),
        trains_on_prompt=settings.flag("train_on_inputs") or settings.default("train_on_inputs", False),
        dtype=_dtype(settings),
        tf32=settings.flag("tf32"),
        gradient_checkpointing=checkpointing or settings.default("gradient_checkpointing", False),
        attention=_attention(settings),
        compiled=settings.flag("torch_compile"),
        distributed=_distributed(settings),
        offloads=_offloads(settings),
        data_workers=settings.whole("dataloader_num_workers"),
        sources=tuple(_sources(settings)),
        output_dir=settings.text("output_dir") or settings.default("output_dir", "./model-out"),
        overwrites_output=settings.flag("overwrite_output_dir"),
        resume=settings.text("resume_from_checkpoint"),
        save_only_model=settings.flag("save_only_model") or settings.default("save_only_model", False),
        save_limit=settings.whole("save_total_limit") or settings.default("save_total_limit", _LIMIT),
        load_best=settings.flag("load_best_model_at_end"),
        logging_steps=settings.number("logging_steps"),
        trust_remote_code=settings.flag("trust_remote_code"),
        **_cadences(settings),
    )


def _method(settings: ConfigReader, adapter: Stated[str] | None, quantized: bool) -> Stated[Method] | None:
    if adapter is None:
        full: Method = "full"
        return settings.default("adapter", full)
    if adapter.value not in ("lora", "qlora"):
        return None
    word: Method = "qlora" if adapter.value == "qlora" or quantized else "lora"
    return Stated(word, adapter.key, adapter.where)


def _targets(settings: ConfigReader) -> Stated[tuple[str, ...]] | None:
    listed = settings.words("lora_target_modules")
    if listed is None and settings.on("lora_target_linear"):
        return Stated(("all-linear",), "lora_target_linear", settings.where("lora_target_linear"))
    return listed


def _warmup(settings: ConfigReader) -> Stated[float] | None:
    if settings.given("warmup_steps"):
        return None
    return settings.number("warmup_ratio") or settings.default("warmup_ratio", _WARMUP)


def _dtype(settings: ConfigReader) -> Stated[Any] | None:
    """Return the compute dtype. The GPU decides for `auto`."""
    for key, word in (("bf16", "bfloat16"), ("bfloat16", "bfloat16"), ("fp16", "float16"), ("float16", "float16")):
        if settings.on(key) or settings.values.get(key) == "full":
            return Stated(word, key, settings.where(key))
    if settings.flag("bf16") is not None and settings.flag("fp16") is not None:
        return Stated("float32", "bf16", settings.where("bf16"))
    return None


def _attention(settings: ConfigReader) -> Stated[str] | None:
    attention = settings.text("attn_implementation")
    if attention is not None:
        return attention
    for key, word in ATTENTION:
        if settings.on(key):
            return Stated(word, key, settings.where(key))
    return None


def _offloads(settings: ConfigReader) -> Stated[str] | None:
    """Return the tensors offloaded to host memory, by offloading checkpointing or by the switch for activations."""
    kind = settings.text("gradient_checkpointing")
    if kind is not None and kind.value.startswith("offload"):
        return kind
    key = "activation_offloading"
    return Stated("activations", key, settings.where(key)) if settings.values.get(key) else None


def _distributed(settings: ConfigReader) -> Stated[str] | None:
    for key, word in (("deepspeed", "deepspeed"), ("fsdp", "fsdp"), ("fsdp_config", "fsdp")):
        value = settings.values.get(key)
        if value:
            shown = f"{word} {value}" if isinstance(value, str) else word
            return Stated(shown, key, settings.where(key))
    return None


def validates(settings: ConfigReader) -> bool:
    """Return True if there is validation data."""
    held = settings.number("val_set_size")
    return bool(settings.values.get("test_datasets")) or (held is not None and held.value > 0)


def _cadences(settings: ConfigReader) -> dict[str, Any]:
    """Return the cadences of saving and validation. `saves_per_epoch` becomes a share of all steps, as in axolotl."""
    epochs = settings.number("num_epochs") or settings.default("num_epochs", 1.0)

    def every(per_epoch: str, steps: str) -> Stated[float] | None:
        times = settings.number(per_epoch)
        if times is not None and times.value > 0 and epochs.value > 0:
            share = 1.0 / (times.value * epochs.value)
            return Stated(share, times.key, times.where) if share < 1 else None
        return settings.number(steps)

    def cadence(strategy: str, steps: Stated[float] | None, otherwise: Cadence) -> Stated[Cadence]:
        if steps is not None and steps.value > 0:
            return Stated("steps", steps.key, steps.where)
        stated = settings.text(strategy, strategy.replace("eval_", "evaluation_"))
        if stated is not None and stated.value in ("no", "steps", "epoch"):
            return Stated(cast(Cadence, stated.value), stated.key, stated.where)
        return settings.default(strategy, otherwise)

    saves, evaluates = every("saves_per_epoch", "save_steps"), every("evals_per_epoch", "eval_steps")
    none: Stated[Cadence] = settings.default("val_set_size", "no")
    return {
        "save_steps": saves,
        "save_cadence": cadence("save_strategy", saves, "epoch"),
        "eval_steps": evaluates if validates(settings) else None,
        "eval_cadence": cadence("eval_strategy", evaluates, "no") if validates(settings) else none,
        "validation_fraction": settings.number("val_set_size") or settings.default("val_set_size", 0.0),
    }


def _sources(settings: ConfigReader) -> Iterator[StatedSource]:
    roles: tuple[tuple[str, Literal["train", "validation"]], ...] = (
        ("datasets", "train"),
        ("pretraining_dataset", "train"),
        ("test_datasets", "validation"),
    )
    for top, role in roles:
        rows = settings.values.get(top)
        if isinstance(rows, str):
            yield StatedSource(name=Stated(rows, top, settings.where(top)), kind=source_kind(rows), role=role)
        for index, row in enumerate(rows if isinstance(rows, list) else []):
            if not isinstance(row, dict) or not isinstance(row.get("path"), str):
                continue
            files = row.get("data_files")
            key = "data_files" if isinstance(files, str) and row["path"] in ("json", "csv", "parquet") else "path"
            name = str(row[key])
            yield StatedSource(
                name=Stated(name, f"{top}.{index}.{key}", settings.where(top, index, key)),
                kind=source_kind(name),
                role=role,
                split=_part(settings, top, index, "split"),
                field=_part(settings, top, index, "field"),
                format=_part(settings, top, index, "type"),
            )


def _part(settings: ConfigReader, top: str, index: int, key: str) -> Stated[str] | None:
    value = settings.document.get(top, index, key)
    return Stated(value, f"{top}.{index}.{key}", settings.where(top, index, key)) if isinstance(value, str) else None
