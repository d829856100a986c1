"""Words and keys of cruijff_kit's setup_finetune.yaml for `touchline import`; torchtune's words are torchtune's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from touchline.backends.imports import DataColumns, Note, Reason
from touchline.backends.torchtune.imports import IMPORTS as TORCHTUNE
from touchline.backends.torchtune.imports import other_family
from touchline.backends.torchtune_setup.format import DATA_KEYS, KNOWN
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import StatedSource

_JOB = Note(Reason.AUTOMATIC, "time and memory of jobs come from the estimate", "compute.time_limit")
_SETUP = Note(Reason.AUTOMATIC, "how jobs find Python is in your config file", "slurm.modules, slurm.setup")
_TRACKER = Note(Reason.AUTOMATIC, "runs are named after their factors", "`touchline export` sends metrics to a tracker")
_PATHS = Note(Reason.AUTOMATIC, "each run has a folder of its own under the experiment")
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
            if key in document.data:
                found.notes[key] = Note(Reason.OFF, f"not used with dataset_type {kind}")
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
    notes={
        **dict.fromkeys(
            ("input_dir_base", "input_formatting", "dataset_ext"), Note(Reason.AUTOMATIC, "data.path names it")
        ),
        "dataset_type": Note(
            Reason.CHANGED,
            "a row is put into the model's chat template if it has one, not joined as plain text",
            "models: a base model without a chat template",
        ),
        **dict.fromkeys(("project_dir", "output_dir_base", "experiment_name"), _PATHS),
        "models_dir": Note(Reason.AUTOMATIC, "models are found in models_dir of your config file, or by their path"),
        "torchtune_model_name": Note(Reason.AUTOMATIC, "model_checkpoint names the model"),
        "custom_recipe": Note(
            Reason.AUTOMATIC, "touchline's own recipe validates too", "train.recipe: PATH of a recipe of your own"
        ),
        "base_recipe": Note(
            Reason.REFUSED, "values that this file leaves out are that recipe's, not read here", "`tune cp` shows them"
        ),
        **dict.fromkeys(("my_wandb_project", "my_wandb_run_name"), _TRACKER),
        "run_val_every_n_steps": Note(Reason.OFF, "validation is at each epoch's end"),
        "log_every_n_steps": Note(Reason.AUTOMATIC, "every step is logged to metrics.jsonl"),
        "batch_size_val": Note(Reason.AUTOMATIC, "validation uses the micro-batch size"),
        **dict.fromkeys(("time", "mem"), _JOB),
        **dict.fromkeys(("conda_env", "venv", "modules"), _SETUP),
    },
    knows=KNOWN.__contains__,
    columns=_columns,
    differs=other_family,
    refuses=lambda document: None,
)
"""What `touchline import` needs to know about its files."""
