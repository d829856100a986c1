"""Words and keys of cruijff_kit's setup_finetune.yaml for `touchline import`; torchtune's words are torchtune's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from touchline.backends.imports import DataColumns
from touchline.backends.torchtune.imports import IMPORTS as TORCHTUNE
from touchline.backends.torchtune.imports import PLAIN_TEXT, other_family
from touchline.backends.torchtune_setup.format import DATA_KEYS, KNOWN
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import StatedSource

_UNUSED = {"text_completion": ("system_prompt",), "instruct_dataset": ("prompt", "input_key", "output_key")}
"""Keys about rows that a type of dataset does not use."""
_TYPES = ("chat_completion", "instruct_dataset")


def _columns(document: ForeignDocument, source: StatedSource, registry: Mapping[str, object] | None) -> DataColumns:
    """Return prompt and columns, with the script's defaults."""
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
        "base_recipe": "values that this file leaves out are that recipe's, not read here; `tune cp` shows them",
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
"""What `touchline import` needs to know about its files."""
