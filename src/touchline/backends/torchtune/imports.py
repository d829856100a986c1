"""Words and keys of torchtune's configs for `touchline import`, with its meaning of rows and batches (0.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from touchline.backends.imports import DataColumns, ImportTable, Note, Reason, Refusal
from touchline.backends.interpolation import resolve
from touchline.backends.torchtune.components import component, recipe_keys
from touchline.backends.torchtune.config import COMPONENT
from touchline.backends.torchtune.keys import NEEDED, REINFORCEMENT
from touchline.backends.torchtune.reading import Config
from touchline.backends.torchtune.stated import DATASETS, SHARDING_KEYS
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
_PAIRS = re.compile(r"\.rlhf\.|preference_|stack_exchange_paired|hh_rlhf")
_PLAIN_TEXT = ("text_completion_dataset", "wikitext_dataset", "cnn_dailymail_articles_dataset")
_STARTS = re.compile(r"^\s*#.*\btune run\b.*--nproc[-_]per[-_]node[= ](\d+)")
_REFERENCE = re.compile(r"\$\{(\w+)\}")
_ROWS = Note(Reason.NO_COUNTERPART, "rows are read by their columns", "name the columns: data.input, data.output")
_OWN_TURNS = Note(
    Reason.CHANGED,
    "the model's own chat template puts the marks around turns, not torchtune's tokenizer",
    "`touchline plan` shows the first example",
)
_OTHER_FAMILIES = re.compile(r"gemma|mistral|(?<![a-z])phi|qwen_?3|llama_?4|vision|deepseek|flamingo", re.IGNORECASE)
_OTHER_TRAINER = Note(
    Reason.CHANGED, "with torchtune touchline trains Llama and Qwen 2 models; train.backend is another trainer"
)
_MODELS_OWN = Note(Reason.AUTOMATIC, "the model's own tokenizer is used")


def plans(training: StatedTraining) -> bool:
    """Return whether the backend builds models of this family: Llama and Qwen 2, and those of unknown names."""
    return training.model is None or _OTHER_FAMILIES.search(training.model.value) is None


def other_family(training: StatedTraining, document: ForeignDocument) -> Iterator[tuple[str, object, Note]]:
    """Yield the model of another family, which another trainer trains."""
    if training.model is not None and not plans(training):
        path = training.model.key.split(".")
        yield training.model.key, document.get(*path), _OTHER_TRAINER


def _refuses(document: ForeignDocument) -> Refusal | None:
    """Return the kind of training of a config that is not supervised fine-tuning."""
    config = Config(document, resolve(document).data)
    for part in ("loss", "dataset", "dataset_val"):
        if _PAIRS.search(config.component(part) or ""):
            return Refusal(f"{part}.{COMPONENT}", "on preferences")
    named = config.component("dataset") or ""
    if named.startswith("torchtune.") and named.rpartition(".")[2] in _PLAIN_TEXT:
        return Refusal(f"dataset.{COMPONENT}", "on plain text")
    rewards = sorted((REINFORCEMENT | {"reward_functions"}) & config.data.keys())
    if rewards:
        return Refusal(rewards[0], "on rewards of generated rows")
    if config.has("teacher_model"):
        return Refusal("teacher_model", "on a teacher's probabilities (distillation)")
    return Refusal("quantizer", "weights for quantization (QAT)") if config.component("quantizer") else None


def _columns(document: ForeignDocument, source: StatedSource, registry: Mapping[str, object] | None) -> DataColumns:
    """Return the columns that a builder of datasets reads."""
    del registry
    config = Config(document, resolve(document).data)
    section = "dataset_val" if source.role == "validation" else "dataset"
    found, builder = DataColumns(), config.last(section)
    mapped = config.get(section, "column_map")
    names = mapped if isinstance(mapped, dict) else {}
    if builder in ("alpaca_dataset", "alpaca_cleaned_dataset"):
        pair = [str(names.get(each, each)) for each in ("instruction", "input")]
        found.settings = {"data.input": pair, "data.output": str(names.get("output", "output"))}
        why = f"rows of {DATASETS[builder][0]}, without the words that Alpaca's prompt puts around them"
        found.notes[f"{section}.{COMPONENT}"] = Note(Reason.CHANGED, why, "data.prompt: the words of the user's turn")
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
    """Add the columns of cruijff_kit's datasets, which name prompt and columns themselves."""
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
        why = "a row is put into the model's chat template if it has one, not joined as plain text"
        hint = "models: a base model without a chat template"
        found.notes[f"{section}.{COMPONENT}"] = Note(Reason.CHANGED, why, hint)


def _same_keys(config: Config) -> Iterator[str]:
    """Yield the keys of `dataset_val` that equal those of `dataset`, and its split if both read one file."""
    train, held = config.get("dataset"), config.get("dataset_val")
    if isinstance(train, dict) and isinstance(held, dict):
        one_file = "data_files" in held and held["data_files"] == train.get("data_files")
        for key, value in held.items():
            if train.get(key) == value or (one_file and key in ("split", "field")):
                yield f"dataset_val.{key}"


def _differs(stated: StatedTraining, document: ForeignDocument) -> Iterator[tuple[str, object, Note]]:
    """Yield the values whose meaning the rest of the file decides."""
    yield from other_family(stated, document)
    config = Config(document, resolve(document).data)
    for key, note in _whole_file(config):
        yield key, document.get(*key.split(".")), note


def _whole_file(config: Config) -> Iterator[tuple[str, Note]]:
    used = {name for line in config.document.lines for name in _REFERENCE.findall(line)}
    for key in sorted(used & config.data.keys() - _known_keys()):
        if isinstance(config.data[key], str | int | float):
            yield key, Note(Reason.AUTOMATIC, f"used where ${{{key}}} stands")
    if config.has("tokenizer", COMPONENT):
        own = config.last("dataset") != "chat_completion_dataset"
        yield f"tokenizer.{COMPONENT}", _OWN_TURNS if own else _MODELS_OWN
    if config.has("model", "apply_lora_to_mlp"):
        yield "model.apply_lora_to_mlp", Note(Reason.SAME, "in train.lora.target_modules")
    named = config.component("model")
    if named is not None and component(named) is None and not config.has("model", "lora_rank"):
        why = "whether your builder trains an adapter or all weights is not known, and an adapter is written"
        yield f"model.{COMPONENT}", Note(Reason.CHANGED, why, "train.method: full, if it is all weights")
    if config.get("profiler", "enabled") is False:
        yield "profiler", Note(Reason.OFF, "switched off")
    yield from _devices(config)


def _devices(config: Config) -> Iterator[tuple[str, Note]]:
    """Yield the rows of a step where a command in a comment of the file starts several devices."""
    micro, passes = config.count("batch_size"), config.count("gradient_accumulation_steps")
    if micro is None or any(config.has(key) for key in SHARDING_KEYS):
        return
    for number, line in enumerate(config.document.lines, 1):
        started = _STARTS.match(line)
        if started is not None and int(started[1]) > 1:
            whole = micro.value * (1 if passes is None else passes.value) * int(started[1])
            why = f"rows of one device; the command on line {number} starts {started[1]}"
            instead = f"compute.gpus_per_run: {started[1]} and train.global_batch_size: {whole}"
            yield "batch_size", Note(Reason.CHANGED, why, instead)
            return


def _known_keys() -> frozenset[str]:
    return recipe_keys() | frozenset(NEEDED)


_SCRIPTS = Note(Reason.AUTOMATIC, "written by setup_finetune.py, and read by no recipe")
_FOLDERS = Note(Reason.AUTOMATIC, "each run has a folder of its own under the experiment")
_FILES = Note(Reason.AUTOMATIC, "read from the model's own folder")
_METRICS = Note(
    Reason.AUTOMATIC, "every step is logged to metrics.jsonl", "`touchline export` sends metrics to a tracker"
)
_MEMORY = Note(Reason.AUTOMATIC, "it saves memory, and the training is the same")
_SHARDED = Note(
    Reason.NO_COUNTERPART,
    "devices are used as compute.gpus_per_run says",
    "with N devices train.global_batch_size counts the rows of all N",
)
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
    },
    unset={"train.max_grad_norm": NO_CLIPPING},
    notes={
        "seed": Note(Reason.CHANGED, "each start draws another seed; here it is `seeds: [1]`", "seeds: [1, 2, 3]"),
        "tokenizer.max_seq_len": Note(
            Reason.CHANGED, "rows are as long as they are; here the longest is an error", "set train.max_seq_len"
        ),
        "clip_grad_norm": Note(
            Reason.CHANGED, f"nothing is clipped; written as a norm that no gradient reaches, {NO_CLIPPING:g}"
        ),
        **dict.fromkeys(("output_dir", "checkpointer.output_dir"), _FOLDERS),
        "loss*": Note(Reason.CHANGED, "the loss is cross-entropy over the tokens of the answers"),
        "lr_scheduler.*": Note(Reason.CHANGED, "the schedule has no such setting"),
        "model.apply_lora_to_output": Note(Reason.REFUSED, "an adapter on the output layer is not exported"),
        "resume_from_checkpoint": Note(Reason.AUTOMATIC, "`touchline resume` finds it"),
        **dict.fromkeys(("checkpointer.*", "model.*"), _FILES),
        "tokenizer.*": _MODELS_OWN,
        **dict.fromkeys(("metric_logger*", "log_*", "my_wandb_*"), _METRICS),
        "profiler*": Note(Reason.NO_COUNTERPART, "steps are not profiled", "`touchline probe` measures a few"),
        **dict.fromkeys(
            ("optimizer_in_bwd", "low_cpu_ram", "ac_mode", "ac_option", "enable_async_checkpointing"), _MEMORY
        ),
        **dict.fromkeys((*SHARDING_KEYS, "tensor_parallel_plan.*", "context_parallel_rotate_method"), _SHARDED),
        "batch_size_val": Note(Reason.AUTOMATIC, "validation uses the micro-batch size"),
        "dataset_val*": Note(Reason.AUTOMATIC, "validation is on the dataset's own split"),
        "dataset*": _ROWS,
        "input_formatting": Note(Reason.AUTOMATIC, "data.path names the file itself"),
        "hf_token": Note(Reason.AUTOMATIC, "models are read from this machine"),
        **dict.fromkeys(("config_file", "venv", "modules", "custom_recipe"), _SCRIPTS),
        "collate_fn": Note(Reason.AUTOMATIC, "rows are padded to the longest of their forward pass"),
    },
    knows=lambda key: key.partition(".")[0] in _known_keys(),
    columns=_columns,
    plans=plans,
    differs=_differs,
    refuses=_refuses,
)
"""What `touchline import` needs to know about its configs."""
