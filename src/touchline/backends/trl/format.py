"""Files of TRL's and the Trainer's arguments: `trl sft --config x.yaml`, HfArgumentParser's YAML and JSON, recipes.

TRL puts a config's values through argparse, which makes numbers of texts; HfArgumentParser takes JSON's values as
they are. Both refuse conflicting settings when they start. The rules here are on what they accept.
Source: trl.TrlParser (1.16), transformers.HfArgumentParser and TrainingArguments (5.23).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from touchline.backends.config_reading import (
    ConfigFormat,
    ConfigReader,
    ConfigReading,
    SettingRule,
    argument_table,
    source_kind,
)
from touchline.backends.config_table import (
    ALL_ROWS,
    ATTENTION,
    HF_AUTOMATIC,
    HF_KEYS,
    HF_OPTIMIZER_WORDS,
    HF_SAME,
    HF_SCHEDULES,
    OBSERVED,
    DataColumns,
    ImportTable,
    Keys,
    Method,
    cadence,
    first_on,
    first_set,
    inverted,
    method_of,
    names_of,
    observations,
    read_table,
    reader_of,
    training_of,
)
from touchline.core.finding import Severity
from touchline.core.observation import Observation
from touchline.experiment.foreign import Dialect, ForeignDocument
from touchline.experiment.partial import Stated, StatedSource, StatedTraining

TRAINER_KEYS: Keys = {
    "epochs": ("number", "num_train_epochs", 3.0),
    "max_steps": ("whole", "max_steps", None),
    "micro_batch_size": ("whole", "per_device_train_batch_size per_gpu_train_batch_size", 8),
    "gradient_accumulation_steps": ("whole", "gradient_accumulation_steps", 1),
    "learning_rate": ("number", "learning_rate", None),
    "schedule": ("text", "lr_scheduler_type", "linear"),
    "warmup_fraction": ("number", "warmup_ratio", None),
    "weight_decay": ("number", "weight_decay", 0.0),
    "optimizer": ("text", "optim", None),
    "max_grad_norm": ("number", "max_grad_norm", 1.0),
    "seed": ("whole", "seed", 42),
    "compiled": ("flag", "torch_compile", None),
    "data_workers": ("whole", "dataloader_num_workers", 0),
    "output_dir": ("text", "output_dir", None),
    "resume": ("text", "resume_from_checkpoint", None),
    "save_steps": ("number", "save_steps", 500.0),
    "save_limit": ("whole", "save_total_limit", None),
    "save_only_model": ("flag", "save_only_model", False),
    "load_best": ("flag", "load_best_model_at_end", False),
    "logging_steps": ("number", "logging_steps", 500.0),
}
"""The Trainer's keys and defaults."""
_DTYPES = {"bf16": "bfloat16", "pure_bf16": "bfloat16", "fp16": "float16"}


def trainer_fields(settings: ConfigReader, keys: Keys = TRAINER_KEYS) -> dict[str, Any]:
    """Return the fields of a StatedTraining from the Trainer's arguments and defaults.

    Args:
        keys: the table of a class that is built on the Trainer's.
    """
    found = read_table(settings, keys)
    if found["max_steps"] is not None and found["max_steps"].value <= 0:
        found["max_steps"] = None
    warmup = settings.number("warmup_steps")
    found["warmup_steps"] = None
    if warmup is not None and 0 < warmup.value < 1:
        found["warmup_fraction"] = warmup
    elif warmup is not None and warmup.value == int(warmup.value):
        found["warmup_steps"] = Stated(int(warmup.value), warmup.key, warmup.where)
        found["warmup_fraction"] = None if warmup.value > 0 else found["warmup_fraction"]
    found["dtype"] = first_on(settings, _DTYPES)
    if found["dtype"] is None and settings.flag("bf16") is not None and settings.flag("fp16") is not None:
        found["dtype"] = Stated("float32", "bf16", settings.where("bf16"))
    found["device"] = first_on(settings, {"use_cpu": "cpu", "no_cuda": "cpu"})
    found["distributed"] = first_set(settings, {"deepspeed": "deepspeed", "fsdp": "fsdp"}, shown=True)
    if settings.values.get("resume_from_checkpoint") is True:
        found["resume"] = Stated("true", "resume_from_checkpoint", settings.where("resume_from_checkpoint"))
    found["save_cadence"] = cadence(settings, "save_strategy", default="steps")
    found["eval_cadence"] = cadence(settings, "eval_strategy", "evaluation_strategy", default="no")
    found["eval_steps"], logged = settings.number("eval_steps"), found.pop("logging_steps")
    if found["eval_steps"] is None and found["eval_cadence"].value == "steps":
        found["eval_steps"] = settings.default("eval_steps", logged.value)
    return found


_TRL_ONLY = frozenset(
    {
        *("packing", "max_length", "dataset_text_field", "use_peft", "max_prompt_length", "max_completion_length"),
        *("num_generations", "dataset_train_split", "dataset_test_split", "assistant_only_loss", "padding_free"),
        *("completion_only_loss", "eval_packing", "packing_strategy", "dataset_num_proc", "reward_funcs"),
        "max_seq_length",
    }
)
KEYS: Keys = {
    **TRAINER_KEYS,
    "model": ("text", "model_name_or_path model_name model_id model base_model_name_or_path", None),
    "max_seq_len": ("whole", "max_length max_seq_length max_seq_len model_max_length", None),
    "packed": ("flag", "packing", None),
    "template": ("text", "chat_template chat_template_path", None),
    "attention": ("text", "attn_implementation", None),
    "devices": ("whole", "num_processes", None),
    "validation_fraction": ("number", "dataset_mixture.test_split_size test_split_size", None),
    "gradient_checkpointing": ("flag", "gradient_checkpointing activation_checkpointing", False),
}
TRL_KEYS: Keys = {
    "logging_steps": ("number", "logging_steps", 10.0),
    "gradient_checkpointing": ("flag", "gradient_checkpointing activation_checkpointing", True),
}
"""Those of TRL's classes that differ."""
ADAPTER_KEYS: Keys = {
    "rank": ("whole", "lora_r lora_rank", None),
    "alpha": ("number", "lora_alpha", None),
    "dropout": ("number", "lora_dropout", None),
    "target_modules": ("words", "lora_target_modules target_modules", None),
}
_FILES = ("train_file", "train_data_file", "data_path", "dataset_path", "train_data_path", "train_dataset")


def uses_trl(settings: ConfigReader) -> bool:
    """Return True if the file is for TRL's classes, not the bare Trainer's."""
    return not _TRL_ONLY.isdisjoint(settings.values)


def state_training(settings: ConfigReader, *, partial: bool = False) -> StatedTraining:
    """Build the stated training.

    Args:
        partial: whether these are some of the settings, so that an adapter's count without `use_peft` too.
    """
    trl, adapter = uses_trl(settings), settings.flag("use_peft")
    ranked = (partial or settings.given("lora_r") is not None) if adapter is None else adapter.value
    found = trainer_fields(settings, {**KEYS, **(TRL_KEYS if trl else {}), **(ADAPTER_KEYS if ranked else {})})
    loaded = settings.text("dtype", "torch_dtype")
    if found["dtype"] is None and loaded is not None and loaded.value in ("bfloat16", "float16", "float32"):
        found["dtype"] = loaded
    found["quantization_bits"] = first_on(settings, {"load_in_4bit": 4, "load_in_8bit": 8})
    found["method"] = _method(settings, found["quantization_bits"])
    supervised = trl and settings.given("num_generations", "beta", "max_prompt_length", "reward_funcs") is None
    found["packed"] = found["packed"] or (settings.default("packing", False) if supervised else None)
    found["trains_on_prompt"] = inverted(settings.flag("completion_only_loss", "assistant_only_loss"))
    found["sources"] = tuple(_sources(settings))
    return training_of("trl", settings, found)


def _method(settings: ConfigReader, bits: Stated[int] | None) -> Stated[Method] | None:
    """Return low-rank or full. Without `use_peft` the script decides: None."""
    adapter = settings.flag("use_peft")
    if adapter is not None:
        return Stated(method_of(adapter=adapter.value, bits=bits), adapter.key, adapter.where)
    if uses_trl(settings) and settings.given("lora_r", "lora_rank", "lora_alpha", "load_in_4bit") is None:
        return settings.default("use_peft", method_of(adapter=False, bits=None))
    return None


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
            split=Stated(split, ".".join((*at, str(index), "split")), settings.where(*at, index, "split"))
            if isinstance(split, str)
            else None,
        )


READ_KEYS: frozenset[str] = frozenset(
    {
        *(names_of({**KEYS, **ADAPTER_KEYS}, OBSERVED) - {"model"}),
        *("bf16", "fp16", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_peft", "use_dora"),
    }
)


def evidence(values: Mapping[str, object], line: int = 0, *, certain: bool = True) -> Iterator[Observation]:
    """Yield the observations of arguments.

    Args:
        values: arguments by name; as text, or as YAML and JSON hold them.
        certain: whether they are beyond doubt those of the run.
    """
    given = {key: each for key, each in values.items() if key in READ_KEYS and each != "None" and "$" not in str(each)}
    reader = reader_of(given)
    stated = state_training(reader, partial=True)
    if stated.method is not None and stated.method.value == "full":
        # A script may add an adapter by itself.
        stated = replace(stated, method=None)
    for each in observations(stated, dict.fromkeys(given, line), dora=reader.on("use_dora")):
        value = each.value
        if each.name == "optimizer":
            value = str(value).rpartition(".")[2].lower()
        elif value == "nf4":
            value = str(given.get("bnb_4bit_quant_type") or "4-bit")
        yield replace(each, value=value, line=line, certain=certain)


_OURS = frozenset(
    {
        *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
        *("num_train_epochs", "lr_scheduler_type", "per_gpu_train_batch_size", "save_total_limit"),
    }
)
"""Names that nothing but the Trainer's family uses."""
_FOREIGN = frozenset(
    {
        *("_component_", "tokenizer_config", "micro_batch_size", "sequence_len", "sample_packing", "adapter"),
        *("stage", "finetuning_type", "cutoff_len", "lora_rank_pattern", "export_dir", "model_name_or_path_list"),
        *("compute_environment", "zero_optimization", "train_micro_batch_size_per_gpu", "log_history", "best_metric"),
        *("train_type", "tuner_type", "sft_type", "defaults", "architectures", "global_step", "peft_type", "_n_gpu"),
        *("experiment", "config_groups", "hydra", "trial_name", "kt_optimize_rule", "swanlab_project_config"),
    }
)
"""Names that only files of other tools, or dumps of finished runs, have."""
MANY_CLEARLY_OURS = 3


def _trains_the_whole_model(settings: ConfigReader) -> bool:
    ranked = settings.given("lora_r", "lora_alpha", "lora_target_modules") is not None
    own_script = settings.given("model_name_or_path") and settings.given("attn_implementation", "dataset_name", "dtype")
    return ranked and bool(own_script) and settings.flag("use_peft") is None


_RULES = (
    SettingRule(
        "BK019",
        Severity.WARNING,
        "lora_r",
        _trains_the_whole_model,
        "has no effect unless use_peft is true: TRL's own scripts then train the whole model",
        "use_peft: true",
    ),
    SettingRule(
        "BK021",
        Severity.WARNING,
        "packing_strategy",
        lambda settings: settings.on("packing") and settings.values.get("packing_strategy") == "wrapped",
        "examples are split and attend to earlier ones in the sequence (bfd keeps them whole and isolated)",
        "packing_strategy: bfd",
    ),
)


class TrlFormat:
    """A file of arguments."""

    name = "trl"
    title = "TRL or Trainer arguments"
    # TRL and HfArgumentParser call yaml.safe_load.
    dialect: Dialect = "pyyaml"

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True for at least three known names, one of them unique to TRL, no other tool's, and no nested
        sections.
        """
        del file_name
        if not _FOREIGN.isdisjoint(data) or _OURS.isdisjoint(data):
            return False
        known = argument_table("trl").arguments
        named = [key for key in data if key in known]
        return len(named) >= MANY_CLEARLY_OURS and 2 * len(named) >= len(data)

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Read the stated training and the file's findings."""
        settings = ConfigReader(document)
        settings.check_doubled(None)
        if document.path.lower().endswith(".json"):
            settings.check_texts(argument_table("trl"))
        settings.check_rules(_RULES)
        return ConfigReading(trainings=(state_training(settings),), findings=tuple(settings.findings))


FORMATS: tuple[ConfigFormat, ...] = (TrlFormat(),)


_OTHERS = frozenset(
    {
        *("num_generations", "reward_funcs", "reward_weights", "reward_model_path", "scale_rewards", "num_iterations"),
        *("num_ppo_epochs", "kl_coef", "vf_coef", "cliprange", "total_episodes", "response_length", "rloo_k", "beta"),
        *("epsilon_high", "steps_per_generation", "missing_eos_penalty", "teacher_model_name_or_path", "lmbda"),
        *("seq_kd", "center_rewards_coefficient", "step_separator", "max_prompt_length", "max_completion_length"),
        *("precompute_ref_log_probs", "reference_free", "rpo_alpha", "ref_model_sync_steps", "ref_model_mixup_alpha"),
        *("sync_ref_model", "f_divergence_type", "desirable_weight", "undesirable_weight", "cpo_alpha", "simpo_gamma"),
        *("label_pad_token_id", "use_weighting", "loss_weights"),
    }
)
"""Arguments that SFTConfig does not have: of preferences, rewards and teachers (trl 1.16)."""
_ONE_CHAT_COLUMN = ["messages"]
_LOSS = "TRL uses all tokens as labels unless rows are prompt and completion, here only the answer"


def _differs(stated: StatedTraining, document: ForeignDocument) -> Iterator[tuple[str, object, str]]:
    data = document.data
    if not data.get("assistant_only_loss") and data.get("completion_only_loss") is None:
        yield "assistant_only_loss", False, _LOSS
    if stated.quantization_bits is not None and stated.quantization_bits.value == 4 and not data.get(_NESTED):
        yield _NESTED, False, "the scales of 4-bit blocks are also quantized here"
    if stated.validation_fraction is None and not any(source.role == "validation" for source in stated.sources):
        yield "dataset_train_split", data.get("dataset_train_split"), ALL_ROWS


_NESTED = "use_bnb_nested_quant"


def _columns(document: ForeignDocument, source: StatedSource, registry: Mapping[str, object] | None) -> DataColumns:
    del registry
    found = DataColumns()
    *above, _ = source.name.key.split(".")
    columns = document.get(*(int(part) if part.isdigit() else part for part in above), "columns") if above else None
    if columns == _ONE_CHAT_COLUMN:
        found.settings = {"data.messages": "messages"}
        found.sources = {".".join((*above, "columns")): "data.messages"}
    return found


IMPORTS = ImportTable(
    schedules=HF_SCHEDULES,
    optimizers=HF_OPTIMIZER_WORDS,
    attention=ATTENTION,
    keys=HF_KEYS,
    words={
        "use_liger_kernel": ("train.kernels", {"true": "liger", "false": "none"}),
        "use_liger": ("train.kernels", {"true": "liger", "false": "none"}),
    },
    same={
        **HF_SAME,
        "bnb_4bit_quant_type": ("nf4",),
        _NESTED: (True,),
        "use_peft": (True, False),
        "train_sampling_strategy": ("random",),
        "truncation_mode": ("keep_start",),
        "lora_task_type": ("CAUSAL_LM",),
        "load_in_4bit": (False,),
        "load_in_8bit": (False,),
        "use_cpu": (False,),
        "do_train": (True,),
        "packing_strategy": ("bfd",),
        "padding_free": (False,),
        "loss_type": ("nll", "chunked_nll"),
        "dtype": ("auto", "bfloat16"),
        "torch_dtype": ("auto", "bfloat16"),
    },
    automatic=(
        *(*HF_AUTOMATIC, "dataset_test_split", "log_*", "project", "trackio_*", "remove_unused_columns", "local_rank"),
        *("skip_memory_metrics", "dataloader_*", "eval_do_concat_batches", "eval_delay", "length_column_name"),
    ),
    unset={
        "train.method": "full",
        "train.warmup_fraction": 0.0,
        "train.max_seq_len": 1024,
        "train.learning_rate": 2e-5,
        "train.packed": False,
    },
    adapter_unset={
        "train.lora.rank": 16,
        "train.lora.alpha": 32,
        "train.lora.dropout": 0.05,
        "train.lora.target_modules": ["q_proj", "v_proj"],
    },
    bfloat16_weights=frozenset({"dtype", "torch_dtype"}),
    refuses=lambda document: next(
        (key for key in document.data if key in _OTHERS and document.data[key] is not None), None
    ),
    differs=_differs,
    knows=lambda key: key.startswith("dataset_mix") or key.partition(".")[0] in argument_table("trl").arguments,
    columns=_columns,
)
