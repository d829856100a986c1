"""cruijff_kit's setup_finetune.yaml: flat settings that its script setup_finetune.py makes torchtune's config of.

touchline's own file of this name has groups of settings, and none of these keys. The script takes a key that it does
not know without an error. For `touchline import`, words are torchtune's.
Source: setup_finetune.py, templates/finetune_template.yaml and model_configs.py (0.3.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from touchline.backends.config_reading import ConfigFormat, ConfigReader, ConfigReading
from touchline.backends.config_table import DataColumns, Keys, read_table, training_of
from touchline.backends.torchtune.imports import IMPORTS as TORCHTUNE
from touchline.backends.torchtune.imports import PLAIN_TEXT, other_family
from touchline.core.finding import Severity
from touchline.core.near import misspelled
from touchline.experiment.foreign import Dialect, ForeignDocument
from touchline.experiment.partial import Stated, StatedSource, StatedTraining

KEYS: Keys = {
    "model": ("text", "model_checkpoint torchtune_model_name", "Llama-3.2-1B-Instruct"),
    "rank": ("whole", "lora_rank", 64),
    "dropout": ("number", "lora_dropout", 0.0),
    "epochs": ("number", "epochs", 1.0),
    "micro_batch_size": ("whole", "batch_size", 4),
    "gradient_accumulation_steps": ("whole", "gradient_accumulation_steps", 1),
    "devices": ("whole", "gpus", 1),
    "learning_rate": ("number", "lr", 1e-4),
    "schedule": ("text", "lr_scheduler", "get_cosine_schedule_with_warmup"),
    "warmup_steps": ("whole", "num_warmup_steps", 100),
    "weight_decay": ("number", "weight_decay", 0.01),
    "seed": ("whole", "seed", 14),
    "max_seq_len": ("whole", "max_seq_len", 2048),
    "packed": ("flag", "packed", False),
    "trains_on_prompt": ("flag", "train_on_input", False),
    "max_examples": ("whole", "training_samples", None),
    "save_adapter_only": ("flag", "save_adapter_weights_only", True),
    "eval_steps": ("number", "run_val_every_n_steps", None),
}
FIXED: Mapping[str, object] = {
    "method": "lora",
    "target_modules": ("q_proj", "v_proj", "output_proj", "mlp"),
    "optimizer": "AdamW",
    "shuffle": True,
    "dtype": "bfloat16",
    "gradient_checkpointing": False,
    "compiled": False,
    "save_cadence": "epoch",
}
"""Values of its template that no key changes."""
DATA_KEYS: Mapping[str, tuple[str, str]] = {
    "prompt": ("data.prompt", "{input}\n"),
    "system_prompt": ("data.system", ""),
    "input_key": ("data.input", "input"),
    "output_key": ("data.output", "output"),
}
"""Its keys about rows: the setting of experiment.yaml, and the script's default."""
FROM_RECIPE = (
    *("rank", "dropout", "learning_rate", "weight_decay", "micro_batch_size", "epochs", "gradient_accumulation_steps"),
    *("warmup_steps", "max_seq_len"),
)
"""Fields whose default is that of the recipe that `base_recipe` names."""
_OTHER_KEYS = frozenset(
    {
        *("my_wandb_project", "my_wandb_run_name", "input_formatting", "dataset_label", "dataset_ext", "dataset_type"),
        *("experiment_name", "input_dir_base", "models_dir", "max_steps_per_epoch", "custom_recipe", "base_recipe"),
        *("time", "conda_env", "venv", "modules", "account", "partition", "mem", "cpus_per_task", "constraint"),
        *("batch_size_val", "log_every_n_steps"),
        *("config_file", "torchtune_model_name", "model_checkpoint", "project_dir", "output_dir_base"),
    }
)
KNOWN = frozenset(name for _, names, _ in KEYS.values() for name in names.split()) | _OTHER_KEYS | DATA_KEYS.keys()
"""Every key that the script reads."""
_TELLING = frozenset(
    {
        *("my_wandb_project", "my_wandb_run_name", "input_formatting", "dataset_label", "dataset_ext", "conda_env"),
        *("input_dir_base", "torchtune_model_name", "model_checkpoint", "custom_recipe", "project_dir"),
        *("output_dir_base", "base_recipe"),
    }
)
_ENOUGH = 3
_SEVERAL_GPUS: Mapping[str, int] = {"Llama-3.3-70B-Instruct": 4}
"""Models that the script gives several GPUs where one is asked for."""


class SetupFormat:
    """Settings of a run."""

    name = "torchtune_setup"
    title = "cruijff_kit setup_finetune.yaml"
    dialect: Dialect = "pyyaml"

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True if several keys are the script's alone, and none is a group, as torchtune's config has them."""
        del file_name
        return len(_TELLING & data.keys()) >= _ENOUGH and not any(isinstance(each, dict) for each in data.values())

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Return the training, and keys that the script does not know."""
        settings = ConfigReader(document)
        for key in document.data.keys() - KNOWN:
            near = misspelled(key, KNOWN, document.data.keys())
            if near is not None:
                settings.misspelt(key, (near,), "the script ignores it", Severity.WARNING)
        settings.check_doubled(None)
        return ConfigReading(trainings=(_training(settings),), findings=tuple(settings.findings))


def _training(settings: ConfigReader) -> StatedTraining:
    found: dict[str, Any] = read_table(settings, KEYS)
    found |= {field: settings.default(field, value) for field, value in FIXED.items()}
    if settings.given("base_recipe"):
        found |= {field: None for field in FROM_RECIPE if found[field] is not None and found[field].is_default}
    rank, model = found["rank"], found["model"]
    if rank is not None:
        found["alpha"] = Stated(2.0 * rank.value, rank.key, rank.where, rank.is_default)
    named, folder = settings.text("torchtune_model_name"), settings.text("models_dir")
    several = 1 if named is None else _SEVERAL_GPUS.get(named.value, 1)
    if found["devices"].value < several:
        found["devices"] = settings.default("gpus", several)
    last = PurePosixPath(model.value).name
    found["model"] = replace(model, value=last)
    found["model_path"] = None if folder is None else replace(model, value=str(PurePosixPath(folder.value) / last))
    steps = settings.whole("max_steps_per_epoch")
    if steps is not None and found["epochs"] is not None:
        found["max_steps"] = replace(steps, value=int(steps.value * found["epochs"].value))
    every = found["eval_steps"]
    if every is not None and every.value > 0:
        found["eval_cadence"] = Stated("steps", every.key, every.where)
    else:
        found["eval_steps"] = None
        found["eval_cadence"] = settings.default("run_val_every_n_steps", "no")
        found["validation_fraction"] = settings.default("run_val_every_n_steps", 0.0)
    found["output_dir"] = _output_folder(settings)
    found["sources"] = tuple(_sources(settings))
    return training_of("torchtune", settings, found)


def _output_folder(settings: ConfigReader) -> Stated[str] | None:
    """Return the folder of the run's outputs. None without a name of the run: the script makes one up."""
    folder, run = settings.text("project_dir", "output_dir_base"), settings.text("my_wandb_run_name")
    experiment = settings.text("experiment_name")
    if folder is None or run is None:
        return None
    return replace(folder, value=str(PurePosixPath(folder.value, experiment.value if experiment else "", run.value)))


def _sources(settings: ConfigReader) -> list[StatedSource]:
    base, label = settings.text("input_dir_base"), settings.text("dataset_label")
    if base is None or label is None:
        return []
    part = settings.document.data.get("input_formatting", "raw")
    folder = PurePosixPath(f"{base.value}{part}" if isinstance(part, str) else base.value)
    path = replace(label, value=f"{folder / label.value}.json")
    return [StatedSource(name=path, kind="file")]


FORMATS: tuple[ConfigFormat, ...] = (SetupFormat(),)


_UNUSED = {"text_completion": ("system_prompt",), "instruct_dataset": ("prompt", "input_key", "output_key")}
"""Keys about rows that a type of dataset does not use."""
_TYPES = ("chat_completion", "instruct_dataset")


def _columns(document: ForeignDocument, source: StatedSource, registry: Mapping[str, object] | None) -> DataColumns:
    del source, registry
    found = DataColumns()
    kind = document.get("dataset_type")
    if kind == "chat_dataset":
        found.settings = {"data.messages": "messages"}
        found.sources["dataset_type"] = "data.messages"
        return found
    unused = _UNUSED.get(str(kind), ())
    for key, (to, default) in DATA_KEYS.items():
        if key in unused:
            continue
        value = document.get(key)
        value = value if isinstance(value, str) else default
        if value or key != "system_prompt":
            found.settings[to] = value
        if key in document.data:
            found.sources[key] = to
    if kind in _TYPES:
        found.sources["dataset_type"] = "data.input"
    return found


IMPORTS = replace(
    TORCHTUNE,
    keys={
        **{key: f"compute.{key}" for key in ("account", "partition", "constraint")},
        "cpus_per_task": "compute.cpus_per_run",
    },
    words={},
    same={"dataset_ext": (".json",), "input_formatting": ("",)},
    changed={
        "dataset_type": PLAIN_TEXT,
        "base_recipe": "values not in this file are the recipe's and were not read (see `tune cp`)",
    },
    automatic=(
        *("input_dir_base", "input_formatting", "dataset_ext", "project_dir", "output_dir_base", "experiment_name"),
        *("models_dir", "torchtune_model_name", "custom_recipe", "my_wandb_project", "my_wandb_run_name", "modules"),
        *("run_val_every_n_steps", "log_every_n_steps", "batch_size_val", "time", "mem", "conda_env", "venv"),
        *DATA_KEYS,
    ),
    knows=KNOWN.__contains__,
    columns=_columns,
    differs=other_family,
    refuses=lambda document: None,
)
