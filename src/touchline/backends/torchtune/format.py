"""torchtune's configs: what `tune run RECIPE --config FILE` takes, read as OmegaConf reads it.

`tune validate` finds components that do not import and arguments that they do not take. The rules here are on what it
does not look at: missing keys, values of another kind, references to nothing. Nothing is imported. Defaults are those
of 0.6.1; `max_steps_per_epoch` counts optimizer steps of one epoch; a checkpoint is written at each epoch's end.
Source: recipes/lora_finetune_single_device.py and full_finetune_single_device.py of 0.6.1.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, cast

from touchline.backends.config_reading import ConfigFormat, ConfigReading, source_kind
from touchline.backends.config_table import Keys, Method, first_on, method_of, observations, read_table, training_of
from touchline.backends.fields import dotted, parsed
from touchline.backends.logtext.events import Row
from touchline.backends.torchtune.checks import (
    check_components,
    check_keys,
    check_values,
    is_reinforcement,
    is_training,
)
from touchline.backends.torchtune.reading import COMPONENT, Config, Path, component, config_of, is_known
from touchline.core.finding import Finding
from touchline.core.observation import Event, Observation, ObservationName
from touchline.core.shape import states_size
from touchline.experiment.foreign import Dialect, ForeignDocument
from touchline.experiment.partial import QLORA_BITS, Cadence, Stated, StatedSource, StatedTraining

KEYS: Keys = {
    "model_path": ("text", "checkpointer.checkpoint_dir", None),
    "learning_rate": ("number", "optimizer.lr", None),
    "warmup_steps": ("whole", "lr_scheduler.num_warmup_steps", None),
    "weight_decay": ("number", "optimizer.weight_decay", None),
    "max_grad_norm": ("number", "clip_grad_norm", None),
    "seed": ("whole", "seed", None),
    "shuffle": ("flag", "shuffle", None),
    "max_seq_len": ("count", "tokenizer.max_seq_len dataset.max_seq_len", None),
    "template": ("text", "tokenizer.prompt_template", None),
    "trains_on_prompt": ("flag", "dataset.train_on_input", None),
    "max_examples": ("count", "dataset.max_samples", None),
    "gradient_checkpointing": ("flag", "enable_activation_checkpointing", False),
    "compiled": ("flag", "compile", None),
    "device": ("text", "device", None),
    "output_dir": ("text", "checkpointer.output_dir output_dir", None),
    "save_steps": ("number", "save_every_n_steps", None),
    "save_limit": ("count", "checkpointer.keep_last_n_checkpoints", None),
    "eval_steps": ("number", "run_val_every_n_steps", None),
}
BATCH_KEYS: Keys = {
    "epochs": ("number", "epochs", None),
    "micro_batch_size": ("count", "batch_size", None),
    "gradient_accumulation_steps": ("count", "gradient_accumulation_steps", None),
}
"""The same of recipes that do not generate rows: batches of generated rows are counted otherwise."""
ADAPTER_KEYS: Keys = {
    "rank": ("count", "model.lora_rank", None),
    "alpha": ("number", "model.lora_alpha", None),
    "dropout": ("number", "model.lora_dropout", 0.0),
    "save_adapter_only": ("flag", "save_adapter_weights_only", False),
}
DATASETS: Mapping[str, tuple[str | None, bool]] = {
    "alpaca_dataset": ("tatsu-lab/alpaca", True),
    "alpaca_cleaned_dataset": ("yahma/alpaca-cleaned", True),
    "grammar_dataset": ("liweili/c4_200m", False),
    "samsum_dataset": ("Samsung/samsum", False),
    "slimorca_dataset": ("Open-Orca/SlimOrca-Dedup", False),
    "instruct_dataset": (None, False),
    "chat_dataset": (None, False),
    "chat_completion_dataset": (None, False),
    "text_completion_dataset": (None, True),
}
"""Builders of datasets: their default `source`, and whether the prompt has a loss by default."""
Role = Literal["train", "validation"]
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_OFFLOADS = {"enable_activation_offloading": "activations", "fsdp_cpu_offload": "parameters"}
FILE_FORMATS = frozenset({"json", "csv", "parquet", "text", "arrow", "pandas", "imagefolder", "webdataset"})
"""Sources that are formats of local files."""
BUILDER = re.compile(r"^(q?lora)_")
"""Beginning of the name of a builder with an adapter."""
_SLICE = re.compile(r"train\[:(\d{1,2})%\]")
_ADAMW_DECAY = 0.01
SHARDING_KEYS = (
    *("fsdp_cpu_offload", "fsdp_sharding_strategy", "fsdp_reshard_after_forward", "fsdp", "custom_sharded_layers"),
    *("tensor_parallel_dim", "tensor_parallel_plan", "data_parallel_shard_dim", "data_parallel_replicate_dim"),
    *("context_parallel_dim", "expert_parallel_dim"),
)
"""Keys that only the recipes for several devices read."""


def stated_training(config: Config) -> StatedTraining:
    """Build the training of a config."""
    method = _method(config)
    rolls_out = is_reinforcement(config.data)
    adapted = method is not None and method.value != "full"
    table = {**KEYS, **({} if rolls_out else BATCH_KEYS), **(ADAPTER_KEYS if adapted else {})}
    # A value that is not known here is no default.
    found: dict[str, Any] = {
        field: None if each is not None and each.is_default and config.is_open(*each.key.split(".")) else each
        for field, each in read_table(config, table).items()
    }
    rate, clip = found["learning_rate"], found["max_grad_norm"]
    found["learning_rate"] = None if rate is None or rate.value <= 0 else rate
    # With 'inf' the norm is only logged.
    found["max_grad_norm"] = None if clip is None or math.isinf(clip.value) else clip
    optimizer = _last(config, "optimizer")
    if optimizer is not None and "AdamW" in optimizer.value and not config.has("optimizer", "weight_decay"):
        found["weight_decay"] = config.default("optimizer.weight_decay", _ADAMW_DECAY)
    schedule = _last(config, "lr_scheduler")
    if schedule is None and config.get("lr_scheduler") is None and not config.is_open("lr_scheduler"):
        schedule = config.default("lr_scheduler", "constant")
        found["warmup_steps"] = config.default("lr_scheduler", 0)
    if found["trains_on_prompt"] is None and not config.has("dataset", "train_on_input"):
        _, on_prompt = DATASETS.get(config.last("dataset"), (None, None))
        found["trains_on_prompt"] = None if on_prompt is None else config.default("dataset.train_on_input", on_prompt)
    dtype, sharded = config.text("dtype"), next((key for key in SHARDING_KEYS if config.has(key)), None)
    found |= {
        "model": _model(config),
        "method": method,
        "target_modules": _targets(config) if adapted else None,
        "max_steps": None if rolls_out else _max_steps(config),
        "schedule": schedule,
        "optimizer": optimizer,
        "packed": _packed(config),
        "dtype": None if dtype is None or dtype.value not in _DTYPES else replace(dtype, value=_DTYPES[dtype.value]),
        "distributed": None if sharded is None else Stated("fsdp", sharded, config.where(sharded)),
        "offloads": first_on(config, _OFFLOADS),
        "sources": tuple(_sources(config)),
        "validation_fraction": _validation_fraction(config),
        "resume": first_on(config, {"resume_from_checkpoint": "true"}),
        "save_cadence": _cadence(config, "save_every_n_steps", otherwise="epoch"),
        "eval_cadence": _cadence(config, "run_val_every_n_steps", otherwise="no"),
    }
    if method is not None and method.value == "qlora":
        found["quantization_bits"] = Stated(QLORA_BITS, method.key, method.where)
    return training_of("torchtune", config, found)


def _validation_fraction(config: Config) -> Stated[float] | None:
    """Return the share that `train[:95%]` leaves to the validation; without a validation all rows train."""
    split = config.text("dataset.split")
    part = None if split is None or not config.has("dataset_val") else _SLICE.fullmatch(split.value)
    if split is not None and part is not None and int(part[1]):
        return Stated(round(1 - int(part[1]) / 100, 2), split.key, split.where)
    whole = (split is None or split.value == "train") and not config.has("dataset", "field")
    return config.default("dataset_val", 0.0) if whole and not config.has("dataset_val") else None


def _last(config: Config, section: str) -> Stated[str] | None:
    name = config.last(section)
    return Stated(name, f"{section}.{COMPONENT}", config.where(section, COMPONENT)) if name else None


def _section_of_model(config: Config) -> str:
    return "policy_model" if config.has("policy_model") else "model"


def _model(config: Config) -> Stated[str] | None:
    """Return the builder if its name states the size. Otherwise return the folder of the base."""
    section = _section_of_model(config)
    name = config.last(section)
    known = (config.component(section) or "").startswith("torchtune.models.")
    folder = config.text("checkpointer.checkpoint_dir")
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
        quantized = method_of(adapter=True, bits=QLORA_BITS)
        return Stated(quantized, f"{section}.quantize_base", config.where(section, "quantize_base"))
    match = BUILDER.match(path.rpartition(".")[2])
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
    each, epochs = config.count("max_steps_per_epoch"), config.count("epochs")
    return None if each is None or epochs is None else Stated(each.value * epochs.value, each.key, each.where)


def _packed(config: Config) -> Stated[bool] | None:
    found = [
        Stated(section["packed"] is True, ".".join(map(str, (*path, "packed"))), config.where(*path, "packed"))
        for path, section in config.sections("dataset")
        if isinstance(section.get("packed"), bool)
    ]
    if found:
        return next((each for each in found if each.value), found[0])
    return config.default("dataset.packed", False) if config.has("dataset") else None


def _cadence(config: Config, key: str, *, otherwise: Cadence) -> Stated[Cadence] | None:
    if config.is_open(key):
        return None
    found = config.at("any", key)
    return config.default(key, otherwise) if found is None else Stated("steps", key, found.where)


def _sources(config: Config) -> Iterator[StatedSource]:
    """Yield the datasets, including those of validation.

    A builder hands `source`, `data_files`, `data_dir`, `split` and `field` to `load_dataset`: local files are read by
    naming their format as the source. Files given without the names of splits are all `train`; `field` is the key of a
    JSON object under which the rows are.
    """
    roles: tuple[tuple[str, Role], ...] = (("dataset", "train"), ("datasets", "train"), ("dataset_val", "validation"))
    for name, role in roles:
        for path, section in config.sections(name):
            yield from _sources_of(config, path, section, role)


def _sources_of(config: Config, path: Path, section: Mapping[str, object], role: Role) -> Iterator[StatedSource]:
    split, field, source, folder = (config.at("text", *path, key) for key in ("split", "field", "source", "data_dir"))
    stated = functools.partial(
        StatedSource, role=role, split=split or config.default(dotted((*path, "split")), "train"), field=field
    )
    if source is None:
        named = config.component(*path)
        if named is not None:
            name = Stated(named.rpartition(".")[2], dotted((*path, COMPONENT)), config.where(*path))
            yield stated(name=name, kind="builder")
    elif source.value not in FILE_FORMATS:
        yield stated(name=source, kind=source_kind(source.value))
    else:
        given = section.get("data_files")
        given = given.get(role, given.get("train")) if isinstance(given, dict) else given
        files = [
            Stated(file, dotted((*path, "data_files")), config.where(*path, "data_files"))
            for file in (given if isinstance(given, list) else [given])
            if isinstance(file, str) and is_known(file)
        ]
        for file in files:
            yield stated(name=file, kind="file", format=source)
        if not files and folder is not None:
            yield stated(name=folder, kind="folder", format=source)


def read_config(name: str, document: Row) -> tuple[Event, ...] | None:
    """Read a config. Return None for any other mapping, and for configs of generation and evaluation."""
    del name
    components = [part[COMPONENT] for part in document.values() if isinstance(part, Mapping) and COMPONENT in part]
    ours = any(isinstance(path, str) and path.startswith("torchtune.") for path in components)
    if not ours or "optimizer" not in document or "epochs" not in document:
        return None
    return (Observation(name="trainer", value="torchtune", line=0), *evidence(document, {}))


_WORDS: Mapping[str, object] = {"true": True, "false": False, **dict.fromkeys(("", "null", "~", "none"))}
_PRECISE = ("lora_rank", "max_seq_len")
_DORA = "model.use_dora"


def _typed(node: object) -> object:
    """Return values with the types that OmegaConf gives them; other loaders read `2e-5` as text, and lines are text."""
    if isinstance(node, Mapping):
        return {str(key): _typed(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_typed(value) for value in node]
    if not isinstance(node, str):
        return node
    text = node.strip("'\" ")
    value = parsed(text)
    return _WORDS.get(text.lower(), text) if value is None else value


def evidence(values: Row, lines: Mapping[str, int]) -> Iterator[Observation]:
    """Yield the observations of a config.

    Args:
        values: the config, or what is printed of it so far.
        lines: line of each dotted key; 0 for those that are not there.
    """
    config = config_of(ForeignDocument(path="", data=cast(dict[str, object], _typed(values)), lines=()))
    stated = stated_training(config)
    folder, builder, dtype = stated.model_path, config.last("model"), stated.dtype
    if folder is not None and folder.value.rstrip("/"):
        # It names the model, but it may be an earlier run's checkpoint.
        line = lines.get(folder.key, 0)
        yield Observation(name="model", value=folder.value.rstrip("/"), line=line, certain=False)
    if builder:
        # A builder without a size is filled with the dimensions of any model.
        name, line = BUILDER.sub("", builder), lines.get(f"model.{COMPONENT}", 0)
        yield Observation(name="model", value=name, line=line, certain=states_size(name))
    dora = config.get(*_DORA.split(".")) is True
    if stated.method is not None and dora:
        stated = replace(stated, method=replace(stated.method, key=_DORA))
    # `max_steps_per_epoch` is a bound.
    for each in observations(replace(stated, model=None, dtype=None, max_steps=None), lines, dora=dora):
        value = each.value
        if not isinstance(value, str):
            whole = each.name == "epochs" and value == int(value)
            value = int(value) if whole else float(value) if each.name in _PRECISE else value
        yield replace(each, value=value)
    if dtype is not None:
        # The recipes have one dtype for the base and the adapter.
        names: tuple[ObservationName, ...] = ("dtype", "adapter_dtype")
        for part in names:
            yield Observation(name=part, value=dtype.value, line=lines.get(dtype.key, 0))
    files, source = config.text("dataset.data_files"), config.text("dataset.source")
    if files is not None:
        yield Observation(name="dataset", value=files.value, line=lines.get(files.key, 0))
    if source is not None and source.value not in FILE_FORMATS:
        yield Observation(name="dataset", value=source.value, line=lines.get(source.key, 0), certain=False)


_PARTS = frozenset({"model", "tokenizer", "checkpointer", "optimizer", "dataset", "loss"})
_ENOUGH = 3
"""Minimum number of parts with components in a torchtune config with custom components."""


class TorchtuneFormat:
    """A recipe's config."""

    name = "torchtune"
    title = "torchtune config"
    dialect: Dialect = "omegaconf"

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True if a part names a torchtune component, or if several parts name any component."""
        del file_name
        sections = {key: part for key, part in data.items() if isinstance(part, Mapping) and COMPONENT in part}
        if any(str(part[COMPONENT]).startswith("torchtune.") for part in sections.values()):
            return True
        return len(_PARTS & sections.keys()) >= _ENOUGH

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Read the stated training. Configs of generation, evaluation or quantization have none."""
        config = config_of(document)
        config.check_doubled("OmegaConf")
        check_keys(config)
        check_components(config)
        if is_training(config.data):
            check_values(config)
        trainings = (stated_training(config),) if is_training(config.data) else ()
        return ConfigReading(trainings=trainings, findings=tuple(sorted(config.findings, key=_place)))


def _place(finding: Finding) -> tuple[int, int, str]:
    where = finding.where
    return (0, 0, finding.code) if where is None else (where.line or 0, where.column or 0, finding.code)


FORMATS: tuple[ConfigFormat, ...] = (TorchtuneFormat(),)
