"""Settings of a file of TRL's or the Trainer's arguments.

Source: trl.SFTConfig, DPOConfig, GRPOConfig, RewardConfig, KTOConfig, ModelConfig and ScriptArguments (1.16);
recipes of alignment-handbook and open-r1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from touchline.backends.config_reading import ConfigReader, source_kind, subject_of
from touchline.backends.trl.trainer import trainer_fields
from touchline.core.finding import Location
from touchline.spec.partial import Stated, StatedSource, StatedTraining

_TRL_ONLY = frozenset(
    {
        *("packing", "max_length", "dataset_text_field", "use_peft", "max_prompt_length", "max_completion_length"),
        *("num_generations", "dataset_train_split", "dataset_test_split", "assistant_only_loss", "padding_free"),
        *(
            "completion_only_loss",
            "eval_packing",
            "packing_strategy",
            "dataset_num_proc",
            "reward_funcs",
            "max_seq_length",
        ),
    }
)
Method = Literal["lora", "qlora", "full"]
_FULL: Method = "full"
_MODELS = ("model_name_or_path", "model_name", "model_id", "model", "base_model_name_or_path")
_LENGTHS = ("max_length", "max_seq_length", "max_seq_len", "model_max_length")
_FILES = ("train_file", "train_data_file", "data_path", "dataset_path", "train_data_path", "train_dataset")


def uses_trl(settings: ConfigReader) -> bool:
    """Return True if the file is for TRL's classes, not the bare Trainer's."""
    return not _TRL_ONLY.isdisjoint(settings.values)


def state_training(settings: ConfigReader) -> StatedTraining:
    """Build the stated training."""
    trl = uses_trl(settings)
    fields = trainer_fields(settings, logging_steps=10.0 if trl else 500.0)
    adapter = settings.on("use_peft")
    four, eight = settings.on("load_in_4bit"), settings.on("load_in_8bit")
    ranked = adapter or (settings.given("lora_r") is not None and settings.flag("use_peft") is None)
    packed = settings.flag("packing")
    supervised = trl and settings.given("num_generations", "beta", "max_prompt_length", "reward_funcs") is None
    if packed is None and supervised:
        packed = settings.default("packing", False)
    checkpointing = settings.flag("activation_checkpointing", "gradient_checkpointing")
    return StatedTraining(
        backend="trl",
        where=Location(path=settings.document.path),
        subject=subject_of(settings.document.path),
        model=settings.text(*_MODELS),
        method=_method(settings, adapter, four or eight),
        rank=settings.whole("lora_r", "lora_rank") if ranked else None,
        alpha=settings.number("lora_alpha") if ranked else None,
        dropout=settings.number("lora_dropout") if ranked else None,
        target_modules=settings.words("lora_target_modules") if ranked else None,
        quantization_bits=Stated(4, "load_in_4bit", settings.where("load_in_4bit"))
        if four
        else Stated(8, "load_in_8bit", settings.where("load_in_8bit"))
        if eight
        else None,
        max_seq_len=settings.whole(*_LENGTHS),
        packed=packed,
        eval_packed=settings.flag("eval_packing") or (packed if packed is not None and packed.value else None),
        template=settings.text("chat_template", "chat_template_path"),
        trains_on_prompt=_prompt(settings),
        gradient_checkpointing=checkpointing
        or (
            settings.default("gradient_checkpointing", True)
            if trl
            else settings.default("gradient_checkpointing", False)
        ),
        attention=settings.text("attn_implementation"),
        sources=tuple(_sources(settings)),
        **fields,
    )


def _method(settings: ConfigReader, adapter: bool, quantized: bool) -> Stated[Method] | None:
    """Return low-rank or full. Without `use_peft` the script decides: None."""
    if adapter:
        return Stated("qlora" if quantized else "lora", "use_peft", settings.where("use_peft"))
    if settings.flag("use_peft") is not None:
        return Stated("full", "use_peft", settings.where("use_peft"))
    if uses_trl(settings) and settings.given("lora_r", "lora_rank", "lora_alpha", "load_in_4bit") is None:
        return settings.default("use_peft", _FULL)
    return None


def _prompt(settings: ConfigReader) -> Stated[bool] | None:
    only = settings.flag("completion_only_loss", "assistant_only_loss")
    return None if only is None else Stated(not only.value, only.key, only.where)


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
            split=Stated(split, "split", settings.where(*at, index, "split")) if isinstance(split, str) else None,
        )
