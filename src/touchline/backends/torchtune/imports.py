"""Words and keys of torchtune's configs for `touchline import`, with its meaning of rows and batches (0.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from touchline.backends.config_table import DataColumns, ImportTable
from touchline.backends.torchtune.checks import NEEDED, REINFORCEMENT
from touchline.backends.torchtune.format import DATASETS
from touchline.backends.torchtune.reading import COMPONENT, Config, component, config_of, recipe_keys
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import StatedSource, StatedTraining

NO_CLIPPING = 1e6
"""Norm that no gradient reaches: recipes clip nothing without `clip_grad_norm`."""
_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
_CROSS_ENTROPY = (
    "torchtune.modules.loss.CEWithChunkedOutputLoss",
    "torchtune.modules.loss.LinearCrossEntropyLoss",
    "torch.nn.CrossEntropyLoss",
)
_OTHERS = re.compile(
    r"\.rlhf\.|preference_|stack_exchange_paired|hh_rlhf|torchtune\..*(text_completion|wikitext|cnn_dailymail_articles)_data"
)
"""Losses and datasets of preferences, and datasets of plain text."""
PLAIN_TEXT = "rows are put into the model's chat template if it has one, not joined as plain text"
_STARTS = re.compile(r"^\s*#.*\btune run\b.*--nproc[-_]per[-_]node[= ](\d+)")
_REFERENCE = re.compile(r"\$\{(\w+)\}")
_OTHER_FAMILIES = re.compile(r"gemma|mistral|(?<![a-z])phi|qwen_?3|llama_?4|vision|deepseek|flamingo", re.IGNORECASE)
_OTHER_TRAINER = "torchtune runs are limited to Llama and Qwen 2 models, so train.backend is another trainer"


def plans(training: StatedTraining) -> bool:
    """Return whether the backend builds models of this family: Llama and Qwen 2, and those of unknown names."""
    return training.model is None or _OTHER_FAMILIES.search(training.model.value) is None


def other_family(training: StatedTraining, document: ForeignDocument) -> Iterator[tuple[str, object, str]]:
    """Yield the model of another family, which another trainer trains."""
    if training.model is not None and not plans(training):
        path = training.model.key.split(".")
        yield training.model.key, document.get(*path), _OTHER_TRAINER


def _refuses(document: ForeignDocument) -> str | None:
    config = config_of(document)
    for part in ("loss", "dataset", "dataset_val"):
        if _OTHERS.search(config.component(part) or ""):
            return f"{part}.{COMPONENT}"
    others = sorted((REINFORCEMENT | {"reward_functions", "teacher_model"}) & config.data.keys())
    return others[0] if others else "quantizer" if config.component("quantizer") else None


def _columns(document: ForeignDocument, source: StatedSource, registry: Mapping[str, object] | None) -> DataColumns:
    del registry
    config = config_of(document)
    section = "dataset_val" if source.role == "validation" else "dataset"
    found, builder = DataColumns(), config.last(section)
    mapped = config.get(section, "column_map")
    names = mapped if isinstance(mapped, dict) else {}
    if builder in ("alpaca_dataset", "alpaca_cleaned_dataset"):
        pair = [str(names.get(each, each)) for each in ("instruction", "input")]
        found.settings = {"data.input": pair, "data.output": str(names.get("output", "output"))}
        why = f"rows of {DATASETS[builder][0]}, without Alpaca's prompt text (data.prompt)"
        found.changed[f"{section}.{COMPONENT}"] = why
    elif builder in ("instruct_dataset", "grammar_dataset", "samsum_dataset"):
        usual = ("dialogue", "summary") if builder == "samsum_dataset" else ("input", "output")
        pair = [str(names.get(each, other)) for each, other in zip(("input", "output"), usual, strict=True)]
        found.settings = {"data.input": pair[0], "data.output": pair[1]}
        found.sources[f"{section}.{COMPONENT}"] = "data.input"
    elif builder in ("chat_dataset", "slimorca_dataset"):
        column = config.get(section, "conversation_column") or names.get("conversations", "conversations")
        found.settings = {"data.messages": str(column)}
        keys = [key for key in (COMPONENT, "conversation_column", "conversation_style") if config.has(section, key)]
        found.sources = {f"{section}.{key}": "data.messages" for key in keys}
    elif builder in ("chat_completion_dataset", "text_completion_dataset") and config.has(section, "output_key"):
        _keyed_columns(config, section, found, chats=builder == "chat_completion_dataset")
    for role, value in names.items():
        if value in (found.settings.get("data.output"), *_list(found.settings.get("data.input"))):
            found.sources[f"{section}.column_map.{role}"] = "data.input"
    system = config.get(section, "new_system_prompt")
    if isinstance(system, str):
        found.settings["data.system"] = system
        found.sources[f"{section}.new_system_prompt"] = "data.system"
    if source.kind == "file":
        found.sources[f"{section}.source"] = "data.path"
    if section == "dataset":
        found.sources |= dict.fromkeys(_same_keys(config), "data.path")
    return found


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _keyed_columns(config: Config, section: str, found: DataColumns, *, chats: bool) -> None:
    keys = {"input_key": "data.input", "output_key": "data.output", "prompt": "data.prompt"}
    for key, to in {**keys, "system_prompt": "data.system"}.items():
        value = config.get(section, key)
        if isinstance(value, str) and (value or key != "system_prompt"):
            found.settings[to] = value
            found.sources[f"{section}.{key}"] = to
    if config.has(section, "model_path"):
        found.sources[f"{section}.model_path"] = "models"
    if chats:
        found.sources[f"{section}.{COMPONENT}"] = "data.input"
    else:
        found.changed[f"{section}.{COMPONENT}"] = PLAIN_TEXT


def _same_keys(config: Config) -> Iterator[str]:
    """Yield the keys of `dataset_val` that equal those of `dataset`, and its split if both read one file."""
    train, held = config.get("dataset"), config.get("dataset_val")
    if isinstance(train, dict) and isinstance(held, dict):
        one_file = "data_files" in held and held["data_files"] == train.get("data_files")
        for key, value in held.items():
            if train.get(key) == value or (one_file and key in ("split", "field")):
                yield f"dataset_val.{key}"


def _differs(stated: StatedTraining, document: ForeignDocument) -> Iterator[tuple[str, object, str]]:
    yield from other_family(stated, document)
    config = config_of(document)
    used = {name for line in document.lines for name in _REFERENCE.findall(line)}
    for key in sorted(used & config.data.keys()):
        if not _knows(key) and not isinstance(config.data[key], dict | list):
            yield key, document.get(key), f"used in place of ${{{key}}}"
    if config.has("tokenizer", COMPONENT) and config.last("dataset") != "chat_completion_dataset":
        why = "turns are marked by the model's chat template, not by torchtune's tokenizer"
        yield f"tokenizer.{COMPONENT}", config.component("tokenizer"), why
    named = config.component("model")
    if named is not None and component(named) is None and not config.has("model", "lora_rank"):
        why = "your builder may train an adapter or all weights, and an adapter is written (train.method)"
        yield f"model.{COMPONENT}", named, why
    # A command in a comment of the file may start several devices.
    started = next((match for line in document.lines if (match := _STARTS.match(line)) is not None), None)
    micro, passes = stated.micro_batch_size, stated.gradient_accumulation_steps
    if started is not None and int(started[1]) > 1 and micro is not None and stated.distributed is None:
        whole = micro.value * (1 if passes is None else passes.value) * int(started[1])
        instead = f"compute.gpus_per_run: {started[1]} and train.global_batch_size: {whole}"
        yield "batch_size", micro.value, f"rows per device, and a command in the file starts {started[1]}: {instead}"


def _knows(key: str) -> bool:
    name = key.partition(".")[0]
    return name in recipe_keys() or name in NEEDED


IMPORTS = ImportTable(
    schedules={
        "constant": "constant",
        **{f"get_{word}_schedule_with_warmup": word for word in ("cosine", "linear", "constant")},
    },
    optimizers={
        **dict.fromkeys(("AdamW", "PagedAdamW"), "adamw"),
        "AdamW8bit": "adamw_8bit",
        "PagedAdamW8bit": "paged_adamw_8bit",
    },
    layers={
        "output_proj": ("o_proj",),
        "mlp": _FEED_FORWARD,
        "output": (),
        "w1": ("gate_proj",),
        "w2": ("down_proj",),
        "w3": ("up_proj",),
    },
    one_dtype=True,
    words={"model.use_dora": ("train.lora.dora", {"true": True, "false": False})},
    same={
        f"loss.{COMPONENT}": _CROSS_ENTROPY,
        "lr_scheduler.num_cycles": (0.5,),
        "optimizer.fused": (True, False),
        "optimizer.betas": ([0.9, 0.999],),
        "optimizer.eps": (1e-8,),
        "device": ("cuda",),
        "model.apply_lora_to_mlp": (True, False),
        "model.apply_lora_to_output": (False,),
    },
    unset={"train.max_grad_norm": NO_CLIPPING},
    changed={
        "seed": "each start draws a new seed there, here `seeds: [1]`",
        "tokenizer.max_seq_len": "rows have no length limit there: set train.max_seq_len to at least the longest",
        "clip_grad_norm": f"no clipping, written as a norm that no gradient reaches, {NO_CLIPPING:g}",
        "loss*": "the loss is cross-entropy over the answer tokens",
        "model.apply_lora_to_output": "an adapter on the output layer is not exported",
        "lr_scheduler.*": "the schedule has no such setting",
    },
    automatic=(
        *("output_dir", "checkpointer.*", "resume_from_checkpoint", "model.*", "tokenizer.*", "metric_logger*"),
        *("log_*", "my_wandb_*", "optimizer_in_bwd", "low_cpu_ram", "ac_mode", "ac_option", "batch_size_val"),
        *("enable_async_checkpointing", "dataset_val*", "input_formatting", "hf_token", "config_file", "venv"),
        *("modules", "custom_recipe", "collate_fn", "profiler"),
    ),
    knows=_knows,
    columns=_columns,
    plans=plans,
    differs=_differs,
    refuses=_refuses,
)
