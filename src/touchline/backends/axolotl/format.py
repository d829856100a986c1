"""axolotl's files: what they state, with axolotl's defaults, findings about them, its words for `touchline import`.

They are read by PyYAML. Axolotl leaves out a key that it does not know without a message. Its own validators refuse
conflicting settings when it starts. The rules here are on what it accepts.
Source: axolotl.cli.config, axolotl.utils.schemas, axolotl.core.builders.base (0.19).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from touchline.backends.config_reading import (
    ConfigFormat,
    ConfigReader,
    ConfigReading,
    SettingRule,
    argument_table,
    source_kind,
)
from touchline.backends.config_table import (
    ATTENTION,
    HF_AUTOMATIC,
    HF_OPTIMIZER_WORDS,
    HF_SAME,
    HF_SCHEDULES,
    DataColumns,
    ImportTable,
    Keys,
    cadence,
    first_on,
    first_set,
    method_of,
    observations,
    read_table,
    reader_of,
    training_of,
)
from touchline.backends.logtext.events import Row
from touchline.backends.logtext.parts import to_count
from touchline.core.finding import Severity
from touchline.core.observation import Event, Observation
from touchline.experiment.foreign import Dialect, ForeignDocument
from touchline.experiment.partial import Cadence, Stated, StatedSource, StatedTraining

KEYS: Keys = {
    "model": ("text", "base_model", None),
    "parent": ("text", "lora_model_dir", None),
    "epochs": ("number", "num_epochs", 1.0),
    "max_steps": ("whole", "max_steps", None),
    "micro_batch_size": ("whole", "micro_batch_size", 1),
    "gradient_accumulation_steps": ("whole", "gradient_accumulation_steps", 1),
    "global_batch_size": ("whole", "batch_size", None),
    "learning_rate": ("number", "learning_rate", None),
    "schedule": ("text", "lr_scheduler", "cosine"),
    "warmup_steps": ("whole", "warmup_steps", None),
    "warmup_fraction": ("number", "warmup_ratio", 0.03),
    "weight_decay": ("number", "weight_decay", 0.0),
    "optimizer": ("text", "optimizer", "adamw_torch_fused"),
    "max_grad_norm": ("number", "max_grad_norm", None),
    "seed": ("whole", "seed", 42),
    "shuffle": ("flag", "shuffle_merged_datasets", True),
    "max_seq_len": ("whole", "sequence_len", 512),
    "packed": ("flag", "sample_packing", False),
    "template": ("text", "chat_template", None),
    "trains_on_prompt": ("flag", "train_on_inputs", False),
    "gradient_checkpointing": ("flag", "gradient_checkpointing", None),
    "attention": ("text", "attn_implementation", None),
    "compiled": ("flag", "torch_compile", None),
    "data_workers": ("whole", "dataloader_num_workers", None),
    "validation_fraction": ("number", "val_set_size", 0.0),
    "output_dir": ("text", "output_dir", "./model-out"),
    "resume": ("text", "resume_from_checkpoint", None),
    "save_only_model": ("flag", "save_only_model", False),
    "save_limit": ("whole", "save_total_limit", 4),
    "load_best": ("flag", "load_best_model_at_end", None),
}
ADAPTER_KEYS: Keys = {
    "rank": ("whole", "lora_r", None),
    "alpha": ("number", "lora_alpha", None),
    "dropout": ("number", "lora_dropout", 0.0),
    "target_modules": ("words", "lora_target_modules", None),
}
_SWITCHES: Mapping[str, str] = {
    "xformers_attention": "xformers",
    "sage_attention": "sage",
    "flex_attention": "flex_attention",
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
}
"""Older switches, with their newer values."""
BITS = {"load_in_4bit": 4, "load_in_8bit": 8}
DTYPES = {"bf16": "bfloat16", "bfloat16": "bfloat16", "fp16": "float16", "float16": "float16"}
_SHARDING = {"deepspeed": "deepspeed", "fsdp": "fsdp", "fsdp_config": "fsdp"}
_ROLES: Mapping[str, Literal["train", "validation"]] = {
    "datasets": "train",
    "pretraining_dataset": "train",
    "test_datasets": "validation",
}


def state_training(settings: ConfigReader) -> StatedTraining:
    """Build the stated training."""
    adapter = settings.text("adapter")
    found = read_table(settings, {**KEYS, **ADAPTER_KEYS} if adapter else KEYS)
    found["quantization_bits"] = first_on(settings, BITS)
    found["method"] = settings.default("adapter", "full")
    if adapter is not None:
        bits = found["quantization_bits"]
        word = "qlora" if adapter.value == "qlora" else method_of(adapter=True, bits=bits)
        found["method"] = Stated(word, "adapter", adapter.where) if adapter.value in ("lora", "qlora") else None
        found["target_modules"] = found["target_modules"] or first_on(settings, {"lora_target_linear": ("all-linear",)})
    found["devices"] = devices = _devices(settings)
    if found["global_batch_size"] is not None:
        found["global_batch_size"] = _rows_of_a_step(found["global_batch_size"], found["micro_batch_size"], devices)
    if settings.given("batch_size") and not settings.given("gradient_accumulation_steps"):
        found["gradient_accumulation_steps"] = None
    if settings.given("warmup_steps"):
        found["warmup_fraction"] = None
    if found["max_steps"] is not None and found["max_steps"].value <= 0:
        found["max_steps"] = None
    # `offload` and `unsloth` are ways of checkpointing.
    way = settings.text("gradient_checkpointing")
    offloads = way is not None and way.value.startswith("offload")
    found["offloads"] = way if offloads else first_set(settings, {"activation_offloading": "activations"})
    found["gradient_checkpointing"] = (
        found["gradient_checkpointing"]
        or first_set(settings, {"gradient_checkpointing": True})
        or settings.default("gradient_checkpointing", False)
    )
    found["dtype"] = first_on(settings, DTYPES, "full")
    if found["dtype"] is None and settings.flag("bf16") is not None and settings.flag("fp16") is not None:
        found["dtype"] = Stated("float32", "bf16", settings.where("bf16"))
    found["attention"] = found["attention"] or first_on(settings, _SWITCHES)
    found["distributed"] = first_set(settings, _SHARDING, shown=True)
    found["save_steps"], found["save_cadence"] = _every(settings, "save", "epoch", found["epochs"])
    found["eval_steps"], found["eval_cadence"] = _every(settings, "eval", "no", found["epochs"])
    if not validates(settings):
        found["eval_steps"], found["eval_cadence"] = None, settings.default("val_set_size", "no")
    found["sources"] = tuple(_sources(settings))
    return training_of("axolotl", settings, found)


def _devices(settings: ConfigReader) -> Stated[int] | None:
    shard, copies = settings.whole("dp_shard_size"), settings.whole("dp_replicate_size")
    count = (1 if shard is None else shard.value) * (1 if copies is None else copies.value)
    named = shard or copies
    return None if named is None or count <= 1 else Stated(count, named.key, named.where)


def _rows_of_a_step(whole: Stated[int], micro: Stated[int], devices: Stated[int] | None) -> Stated[int]:
    """Return the rows of a step: `batch_size` counts those of one device, in whole micro-batches (rounded down)."""
    rows = whole.value // micro.value * micro.value if 0 < micro.value <= whole.value else whole.value
    return Stated(rows * (1 if devices is None else devices.value), whole.key, whole.where)


def validates(settings: ConfigReader) -> bool:
    """Return True if there is validation data."""
    held = settings.number("val_set_size")
    return bool(settings.values.get("test_datasets")) or (held is not None and held.value > 0)


def _every(
    settings: ConfigReader, action: str, otherwise: Cadence, epochs: Stated[float]
) -> tuple[Stated[float] | None, Stated[Cadence]]:
    """Return every how many steps an action is done, and its cadence. `saves_per_epoch` becomes a share of all steps,
    as in axolotl.
    """
    every, times = settings.number(f"{action}_steps"), settings.number(f"{action}s_per_epoch")
    count = 0.0 if times is None else times.value * epochs.value
    if times is not None and count > 0:
        share = 1.0 / count
        every = Stated(share, times.key, times.where) if share < 1 else None
    if every is not None and every.value > 0:
        return every, Stated("steps", every.key, every.where)
    names = ("eval_strategy", "evaluation_strategy") if action == "eval" else ("save_strategy",)
    return every, cadence(settings, *names, default=otherwise)


def _sources(settings: ConfigReader) -> Iterator[StatedSource]:
    for top, role in _ROLES.items():
        rows = settings.values.get(top)
        if isinstance(rows, str):
            yield StatedSource(name=Stated(rows, top, settings.where(top)), kind=source_kind(rows), role=role)
        for index, row in enumerate(rows if isinstance(rows, list) else []):
            if not isinstance(row, dict) or not isinstance(row.get("path"), str):
                continue
            parts: dict[str, Any] = {
                key: Stated(row[key], f"{top}.{index}.{key}", settings.where(top, index, key))
                for key in ("path", "data_files", "split", "field", "type")
                if isinstance(row.get(key), str)
            }
            name = parts[
                "data_files" if "data_files" in parts and row["path"] in ("json", "csv", "parquet") else "path"
            ]
            yield StatedSource(
                name=name,
                kind=source_kind(name.value),
                role=role,
                split=parts.get("split"),
                field=parts.get("field"),
                format=parts.get("type"),
            )


_COMPANIONS = frozenset({"micro_batch_size", "sequence_len", "sample_packing", "num_epochs", "val_set_size"})
"""Next to `base_model` they make a mapping axolotl's: tools that merge models have that key as well."""
READ_KEYS: frozenset[str] = frozenset(
    {
        *(key for _, keys, _ in {**KEYS, **ADAPTER_KEYS}.values() for key in keys.split()),
        *("adapter", "peft_use_dora", "lora_target_linear", "world_size", *BITS, *DTYPES, *_SWITCHES),
    }
)


def read_config(name: str, document: Row) -> tuple[Event, ...] | None:
    """Read the training from axolotl's YAML file. Return None for any other mapping."""
    del name
    if not isinstance(document.get("base_model"), str) or _COMPANIONS.isdisjoint(document):
        return None
    return (Observation(name="trainer", value="axolotl", line=0), *evidence(document, {}))


def evidence(values: Row, lines: Mapping[str, int]) -> Iterator[Observation]:
    """Yield the observations of a mapping of settings."""
    reader = reader_of(values)
    stated = state_training(reader)
    method, optimizer = stated.method, stated.optimizer
    if method is not None and method.is_default and stated.model is not None:
        method = replace(method, key="base_model", is_default=False)
    if optimizer is not None and not optimizer.is_default:
        optimizer = Stated(optimizer.value.removeprefix("OptimizerNames."), optimizer.key, optimizer.where)
    stated = replace(stated, method=method, optimizer=optimizer)
    yield from observations(stated, lines, exact=False, dora=reader.on("peft_use_dora"))
    devices = to_count(values.get("world_size"))
    if devices:
        yield Observation(name="gpus", value=devices, line=lines.get("world_size", 0))


_OURS = frozenset(
    {
        *("micro_batch_size", "sequence_len", "sample_packing", "num_epochs", "val_set_size", "adapter", "lora_r"),
        *("dataset_prepared_path", "saves_per_epoch", "evals_per_epoch", "lr_scheduler", "lora_target_linear"),
        *("gradient_accumulation_steps", "datasets", "pretraining_dataset", "flash_attention", "special_tokens"),
        *("strict", "load_in_8bit", "load_in_4bit", "tokenizer_type", "lora_model_dir", "wandb_entity", "plugins"),
    }
)
_OWN = frozenset({"micro_batch_size", "sequence_len", "sample_packing", "val_set_size", "dataset_prepared_path"})
"""Names that hardly any other tool has."""
_FOREIGN = frozenset(
    {"_component_", "finetuning_type", "compute_environment", "zero_optimization", "slices", "merge_method_name"}
)
ENOUGH, PLENTY = 3, 5


def _names_no_kernel(settings: ConfigReader) -> bool:
    return settings.on("sample_packing") and state_training(settings).attention is None


_RULES = (
    SettingRule(
        "BK019",
        Severity.WARNING,
        "lora_r",
        lambda settings: settings.given("lora_r") is not None and settings.given("adapter") is None,
        "has no effect without `adapter`: the whole model is trained",
        "adapter: lora",
    ),
    SettingRule(
        "BK021",
        Severity.INFO,
        "sample_packing",
        _names_no_kernel,
        "no attention kernel is named, and most do not isolate packed examples",
        "attn_implementation: flash_attention_2",
    ),
)


class AxolotlFormat:
    """axolotl's file."""

    name = "axolotl"
    title = "axolotl config"
    dialect: Dialect = "pyyaml"

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True if a base model and some of axolotl's own names are present. Without a base model, require many
        of them.
        """
        del file_name
        if not _FOREIGN.isdisjoint(data):
            return False
        ours = len(_OURS & data.keys())
        known = argument_table("axolotl").arguments
        if 2 * sum(key in known for key in data) < len(data) or (_OWN.isdisjoint(data) and ours < PLENTY):
            return False
        return ours >= (ENOUGH if isinstance(data.get("base_model"), str) else PLENTY)

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Read the stated training and the file's findings."""
        settings = ConfigReader(document)
        settings.check_doubled(None)
        settings.check_names(argument_table("axolotl"), "axolotl ignores it silently")
        settings.check_rules(_RULES)
        return ConfigReading(trainings=(state_training(settings),), findings=tuple(settings.findings))


FORMATS: tuple[ConfigFormat, ...] = (AxolotlFormat(),)


LIGER = "axolotl.integrations.liger.LigerPlugin"
LIGER_PARTS = ("liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_fused_linear_cross_entropy")
_COLUMNS: Mapping[str, dict[str, object]] = {
    "alpaca": {"data.input": ["instruction", "input"], "data.output": "output"},
    "alpaca_chat": {"data.input": ["instruction", "input"], "data.output": "output"},
    "context_qa": {"data.input": ["context", "question"], "data.output": "answer"},
}


def _columns(document: ForeignDocument, source: StatedSource, registry: Mapping[str, object] | None) -> DataColumns:
    del registry
    place = source.name.key.rpartition(".")[0]
    top, _, index = place.partition(".")
    entry = document.get(top, int(index)) if index.isdigit() else None
    found = DataColumns()
    if not isinstance(entry, dict):
        return found
    kind = entry.get("type")
    if isinstance(kind, str) and kind in _COLUMNS:
        found.settings = dict(_COLUMNS[kind])
        found.changed[f"{place}.type"] = "columns are put into the model's chat template, without axolotl's prompt text"
    elif kind == "chat_template":
        messages = entry.get("field_messages")
        found.settings = {"data.messages": messages if isinstance(messages, str) else "messages"}
        found.sources = {f"{place}.type": "data.messages"}
        if isinstance(messages, str):
            found.sources[f"{place}.field_messages"] = "data.messages"
    if entry.get("ds_type") in ("json", "csv", "parquet"):
        found.sources[f"{place}.ds_type"] = "data.path"
    if source.name.key.endswith(".data_files"):
        found.sources[f"{place}.path"] = "data.path"
    return found


def _refuses(document: ForeignDocument) -> str | None:
    data = document.data
    if data.get("adapter") and data["adapter"] not in ("lora", "qlora"):
        return "adapter"
    others = ("rl", "reward_model", "process_reward_model", "pretraining_dataset", "unfrozen_parameters")
    return next((key for key in others if data.get(key)), None)


def _differs(stated: StatedTraining, document: ForeignDocument) -> Iterator[tuple[str, object, str]]:
    """Yield `bf16: auto` where all weights are trained, by which they are bfloat16 on GPUs that have it."""
    full = stated.method is not None and stated.method.value == "full"
    if full and stated.distributed is None and document.get("bf16") == "auto":
        yield "bf16", "auto", "weights are float32 (train.base_dtype: bfloat16 keeps them in bfloat16)"


IMPORTS = ImportTable(
    schedules=HF_SCHEDULES,
    optimizers=HF_OPTIMIZER_WORDS,
    attention=ATTENTION,
    keys={
        "peft_use_dora": "train.lora.dora",
        "peft_use_rslora": "train.lora.rslora",
        "neftune_noise_alpha": "train.neftune_alpha",
        "label_smoothing_factor": "train.label_smoothing",
    },
    words={"plugins": ("train.kernels", {json.dumps([LIGER]): "liger"})},
    same={
        **HF_SAME,
        "bf16": ("auto",),
        "tf32": (False,),
        "adapter": ("lora", "qlora"),
        "load_in_4bit": (False,),
        "load_in_8bit": (False,),
        "chat_template": ("tokenizer_default",),
        **dict.fromkeys(LIGER_PARTS, (True,)),
    },
    automatic=(*HF_AUTOMATIC, "evals_per_epoch", "saves_per_epoch", "dp_replicate_size", "loss_watchdog_*"),
    bfloat16_weights=frozenset({"bf16", "bfloat16"}),
    refuses=_refuses,
    differs=_differs,
    knows=lambda key: key.partition(".")[0] in argument_table("axolotl").arguments,
    columns=_columns,
)
