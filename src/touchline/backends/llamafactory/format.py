"""LLaMA-Factory's files: what they state, with its defaults, findings about them, its words for `touchline import`.

Others merge, infer, serve or score, and train nothing. They are read by OmegaConf and handed as they are to
dataclasses, which refuse every name that they do not know. Its parser refuses conflicting settings when it starts.
The rules here are on what it accepts. Source: llamafactory.hparams (0.9.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from touchline.backends.config_reading import (
    ConfigFormat,
    ConfigReader,
    ConfigReading,
    SettingRule,
    argument_table,
    source_kind,
)
from touchline.backends.config_table import (
    HF_AUTOMATIC,
    HF_KEYS,
    HF_OPTIMIZER_WORDS,
    HF_SAME,
    HF_SCHEDULES,
    DataColumns,
    ImportTable,
    Keys,
    Method,
    first_on,
    inverted,
    method_of,
    observations,
    reader_of,
    training_of,
)
from touchline.backends.logtext.events import Row
from touchline.backends.trl.format import TRAINER_KEYS, trainer_fields
from touchline.core.finding import Severity
from touchline.core.observation import Event, Observation
from touchline.experiment.foreign import Dialect, ForeignDocument
from touchline.experiment.partial import Stated, StatedSource, StatedTraining

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
ADAPTER_KEYS: Keys = {
    "rank": ("whole", "lora_rank", 8),
    "alpha": ("number", "lora_alpha", None),
    "dropout": ("number", "lora_dropout", 0.0),
    "target_modules": ("words", "lora_target", ("all",)),
}


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
    word = method_of(adapter=kind == "lora", bits=bits)
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
    """Yield the observations of a mapping of settings."""
    reader = reader_of(values)
    stated = state_training(reader)
    attention = stated.attention
    word = None if attention is None else _ATTENTION.get(attention.value)
    stated = replace(
        stated, attention=None if word is None or attention is None else Stated(word, attention.key, attention.where)
    )
    other = str(values.get("quantization_method") or "bnb") not in ("bnb", "bitsandbytes")
    bits, kind = stated.quantization_bits, values.get("quantization_type")
    if bits is not None and (other or (kind and bits.value == 4)):
        value = f"{bits.value}-bit" if other else str(kind)
        yield Observation(name="quantization", value=value, line=lines.get(bits.key, 0))
        stated = replace(stated, quantization_bits=None)
    yield from observations(stated, lines, dora=reader.on("use_dora"))


_STAGES = frozenset({"pt", "sft", "rm", "ppo", "dpo", "kto", "orpo"})
_OURS = frozenset(
    {
        *("finetuning_type", "stage", "cutoff_len", "lora_target", "template", "dataset_dir", "infer_backend"),
        *("export_dir", "quantization_method", "adapter_name_or_path", "do_train", "preprocessing_num_workers"),
        *("overwrite_cache", "plot_loss", "visual_inputs", "flash_attn", "max_samples", "export_size"),
    }
)
_OURS_ALONE = frozenset(
    {
        *("finetuning_type", "stage", "lora_target", "template", "infer_backend", "export_dir", "plot_loss"),
        *("quantization_method", "visual_inputs", "flash_attn", "export_size"),
    }
)
"""Of these one must be there: scripts of one's own have `do_train`, `cutoff_len` and `max_samples` too."""
_FOREIGN = frozenset(
    {
        *("_component_", "base_model", "micro_batch_size", "sequence_len", "compute_environment", "zero_optimization"),
        *("train_type", "tuner_type", "sft_type", "log_history", "architectures", "defaults"),
    }
)


def _checkpoints_regardless(settings: ConfigReader) -> bool:
    asked = settings.flag("gradient_checkpointing")
    return asked is not None and not asked.value and not settings.on("disable_gradient_checkpointing")


_RULES = (
    SettingRule(
        "BK013",
        Severity.WARNING,
        "do_train",
        lambda settings: settings.flag("do_train") is None,
        "missing: without it `llamafactory-cli train` loads everything and trains nothing",
        "do_train: true",
    ),
    SettingRule(
        "BK019",
        Severity.WARNING,
        "gradient_checkpointing",
        _checkpoints_regardless,
        "has no effect: LLaMA-Factory checkpoints unless disable_gradient_checkpointing is true",
        "disable_gradient_checkpointing: true",
    ),
    SettingRule(
        "BK021",
        Severity.ERROR,
        "packing",
        lambda settings: stage(settings) == "sft" and settings.on("packing") and not settings.on("neat_packing"),
        "packed examples attend to earlier ones in the sequence (only neat_packing isolates them)",
        "neat_packing: true",
    ),
)


class LlamaFactoryFormat:
    """Format of LLaMA-Factory's files."""

    name = "llamafactory"
    title = "LLaMA-Factory config"
    dialect: Dialect = "omegaconf"

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True for several of its own names; `stage` counts if it is one of its stages."""
        del file_name
        if not _FOREIGN.isdisjoint(data) and "finetuning_type" not in data:
            return False
        ours = _OURS & data.keys()
        if "stage" in data and str(data["stage"]) not in _STAGES and "finetuning_type" not in data:
            ours -= {"stage"}
        named = "model_name_or_path" in data or "finetuning_type" in data or "adapter_name_or_path" in data
        known = argument_table("llamafactory").arguments
        enough = 2 * sum(key in known for key in data) >= len(data)
        alone = not _OURS_ALONE.isdisjoint(ours)
        return named and enough and alone and (len(ours) >= 2 or "finetuning_type" in data)

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Read the stated training, or None, with the file's findings."""
        settings = ConfigReader(document)
        settings.check_doubled("OmegaConf")
        settings.check_names(argument_table("llamafactory"), "LLaMA-Factory rejects it")
        settings.check_texts(argument_table("llamafactory"))
        if not is_training(settings):
            return ConfigReading(trainings=(), findings=tuple(settings.findings))
        settings.check_rules(_RULES)
        return ConfigReading(trainings=(state_training(settings),), findings=tuple(settings.findings))


def is_training(settings: ConfigReader) -> bool:
    """Return True if the file trains: `do_train`, or settings that only a training has. Scoring and merging do not."""
    train = settings.flag("do_train")
    if train is not None:
        return train.value
    if settings.given("export_dir", "task", "infer_backend") and not settings.given("num_train_epochs"):
        return False
    if settings.on("do_predict") or settings.on("do_eval"):
        return False
    return settings.given("dataset") is not None and settings.given("output_dir", "num_train_epochs") is not None


FORMATS: tuple[ConfigFormat, ...] = (LlamaFactoryFormat(),)


def _refuses(document: ForeignDocument) -> str | None:
    if document.get("stage") not in (None, "sft"):
        return "stage"
    return None if document.get("finetuning_type") in (None, "lora", "full") else "finetuning_type"


def _columns(document: ForeignDocument, source: StatedSource, registry: Mapping[str, object] | None) -> DataColumns:
    found = DataColumns()
    entry = None if registry is None else registry.get(source.name.value)
    if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
        folder = str(document.data.get("dataset_dir", "data"))
        found.path = f"{folder.rstrip('/')}/{entry['file_name']}"
        columns = entry.get("columns")
        named = {str(key): str(value) for key, value in columns.items()} if isinstance(columns, dict) else {}
        if entry.get("formatting") == "sharegpt":
            found.settings = {"data.messages": named.get("messages", "conversations")}
        else:
            query = named.get("query", None if named else "input")
            prompt = named.get("prompt", "instruction")
            found.settings = {
                "data.input": prompt if query is None else [prompt, query],
                "data.output": named.get("response", "output"),
            }
        found.settings |= {"data.images": named["images"]} if "images" in named else {}
        if "dataset_dir" in document.data:
            found.sources["dataset_dir"] = "data.path"
    return found


IMPORTS = ImportTable(
    schedules=HF_SCHEDULES,
    optimizers=HF_OPTIMIZER_WORDS,
    attention={"auto": "auto", "sdpa": "sdpa", "disabled": "eager", "fa2": "flash_attention_2"},
    keys=HF_KEYS,
    words={
        "enable_liger_kernel": ("train.kernels", {"true": "liger", "false": "none"}),
        "pissa_init": ("train.lora.init", {"true": "pissa", "false": "default"}),
    },
    same={
        **HF_SAME,
        "stage": ("sft",),
        "do_train": (True,),
        "finetuning_type": ("lora", "full"),
        "quantization_method": ("bnb", "bitsandbytes"),
        "double_quantization": (True,),
        "packing": (True, False),
        "use_cpu": (False,),
        "predict_with_generate": (True,),
    },
    automatic=(*HF_AUTOMATIC, "tokenized_path", "do_predict"),
    unset={"train.warmup_fraction": 0.0},
    bfloat16_weights=frozenset({"pure_bf16"}),
    refuses=_refuses,
    knows=lambda key: key.partition(".")[0] in argument_table("llamafactory").arguments,
    columns=_columns,
)
