"""Settings imported from other tools' configs, those that experiment.yaml has no place for, and trainers' words.

A config is read by its format (`format.py`) into a `StatedTraining`, which is mapped to experiment.yaml the same way
for every trainer. A trainer's own words, and keys that a `StatedTraining` lacks, are its `IMPORTS` (`imports.py` of its
folder). Every value of the config is either carried over or in the list.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from touchline.backends.hf_loop import HF_OPTIMIZERS
from touchline.core.finding import Location
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import StatedSource, StatedTraining

MODEL, SEED = "models", "seeds"
"""Keys of a run's settings next to those of `data`, `train` and `evaluate`: its model and its seed."""


class Reason(StrEnum):
    """Reason why a value is not in experiment.yaml as it was, gravest first."""

    UNKNOWN = "unknown"
    """The source's own tool does not know the key."""
    CHANGED = "changed"
    """It is carried over, with another value or meaning."""
    NOT_TAKEN = "not-taken"
    """experiment.yaml has no such setting, or does not take this value."""
    AUTOMATIC = "automatic"
    """It changes no training, or touchline decides it without a setting."""
    SAME = "same"
    """touchline does so too: in any case, or by a setting that is named after another key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NotCarried:
    """Value of a source that is not in experiment.yaml as it was."""

    key: str
    """Its dotted key in the source."""
    value: object
    """The value."""
    where: tuple[Location, ...]
    """Its places, one per file."""
    reason: Reason
    """Why it is not carried over."""
    why: str
    """The reason in words, and what to do about it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Carried:
    """Setting of experiment.yaml with its source."""

    value: object
    """The value, as experiment.yaml has it."""
    source: str
    """Dotted key in the source."""
    where: Location
    """Place in the source."""
    is_default: bool = False
    """Whether the source leaves it to its tool's default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedTraining:
    """Training of another tool as settings of experiment.yaml."""

    name: str
    """Its name in the source."""
    settings: Mapping[str, Carried]
    """Settings by dotted key; `models` and `seeds` hold one value."""
    left: tuple[NotCarried, ...]
    """Values that are not carried over."""
    backend: str | None = None
    """The trainer that its config is for, if touchline plans and trains with it."""
    stated: StatedTraining | None = None
    """The training as its config states it, if it has one."""
    seen: frozenset[str] = frozenset()
    """Dotted keys of the source that are carried over or in `left`."""


@dataclass(kw_only=True, slots=True)
class DataColumns:
    """Columns of a dataset, as its config understands rows."""

    path: str | None = None
    """The file, if a registry names it; as the source writes it."""
    settings: dict[str, object] = field(default_factory=dict)
    """Settings under `data` by dotted key."""
    sources: dict[str, str] = field(default_factory=dict)
    """Keys of the source that are carried over in full -> the setting."""
    changed: dict[str, str] = field(default_factory=dict)
    """Keys of the source that mean something else here, with the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportTable:
    """Words of a trainer's configs, and its keys that a `StatedTraining` lacks."""

    schedules: Mapping[str, str] = field(default_factory=dict)
    """Its words for `train.schedule`."""
    optimizers: Mapping[str, str] = field(default_factory=dict)
    """Its words for `train.optimizer`."""
    attention: Mapping[str, str] = field(default_factory=dict)
    """Its words for `train.attention`."""
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Its words for layers with an adapter, as far as they differ from the model's own."""
    one_dtype: bool = False
    """Whether everything that is trained has the config's dtype."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Further keys with the same values as a key of experiment.yaml."""
    words: Mapping[str, tuple[str, Mapping[str, object]]] = field(default_factory=dict)
    """Further keys with other values: the key of experiment.yaml, and its values by theirs in JSON."""
    same: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Values that state what touchline does in any case."""
    automatic: tuple[str, ...] = ()
    """Keys that change no training, or that touchline decides; `*` stands for any characters."""
    changed: Mapping[str, str] = field(default_factory=dict)
    """Reasons of keys that mean something else here; `*` stands for any characters."""
    unset: Mapping[str, object] = field(default_factory=dict)
    """Settings of experiment.yaml where the config has none and its default is another than touchline's."""
    adapter_unset: Mapping[str, object] = field(default_factory=dict)
    """The same of settings of an adapter, if it trains one."""
    bfloat16_weights: frozenset[str] = frozenset()
    """Keys by which all weights are trained in bfloat16 themselves, not only computed in it."""
    plans: Callable[[StatedTraining], bool] = lambda training: True
    """Whether touchline trains a model of this kind with the trainer itself."""
    refuses: Callable[[ForeignDocument], str | None] = lambda document: None
    """Function that returns the key by which a config trains in another way than supervised, or other parameters."""
    differs: Callable[[StatedTraining, ForeignDocument], Iterable[tuple[str, object, str]]] = lambda *_: ()
    """Values, defaults too, that mean another training here: key, value and reason."""
    has_stages: bool = False
    """Whether its configs are stages of a chain, whose parents `stages` links."""
    carries_defaults: frozenset[str] = frozenset()
    """Fields about checkpoints whose default is carried over too."""
    knows: Callable[[str], bool] = lambda key: False
    """Test for a dotted key that the trainer knows."""
    images: str = "images"
    """Column of the images where no registry names it."""
    columns: Callable[[ForeignDocument, StatedSource, Mapping[str, object] | None], DataColumns] | None = None
    """Columns of a dataset."""


HF_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}
"""transformers' words for `train.schedule`."""
HF_OPTIMIZER_WORDS = {
    **{word: key for key, word in HF_OPTIMIZERS.items()},
    **dict.fromkeys(("adamw_torch", "adamw_hf", "adamw_apex_fused"), "adamw"),
    **{"adamw_8bit": "adamw_8bit", "paged_adamw_bnb_8bit": "paged_adamw_8bit", "muon": "muon"},
}
"""transformers' words for `train.optimizer`."""
ATTENTION = {"sdpa": "sdpa", "eager": "eager", "flash_attention_2": "flash_attention_2"}
"""transformers' words for `train.attention`."""

ALL_ROWS = (
    "all rows are training rows: add test rows as data.test, or use data.path instead of data.train to split the file"
)
"""Reason of a config that holds no rows back. `touchline import` names its file in `data.train`."""
PARALLEL_GROUPS = ("deepspeed", "fsdp", "fsdp_config")
"""Groups of settings of which only the number of GPUs and sharding are set here."""
SHARDED = "train.sharding: full with train.backend: trl"
"""Settings by which weights are sharded here."""
HF_KEYS: Mapping[str, str] = {
    "use_dora": "train.lora.dora",
    "use_rslora": "train.lora.rslora",
    "neftune_noise_alpha": "train.neftune_alpha",
    "label_smoothing_factor": "train.label_smoothing",
}
"""transformers' and PEFT's keys with the values of a key of experiment.yaml."""
HF_AUTOMATIC = (
    *("output_dir", "overwrite_output_dir", "logging_*", "run_name", "report_to", "wandb_*", "mlflow_*", "comet_*"),
    *("swanlab_*", "use_swanlab", "hub_*", "push_to_hub*", "preprocessing_num_workers", "overwrite_cache"),
    *("dataset_prepared_path", "dataset_num_proc", "tf32", "save_only_model", "gradient_checkpointing_kwargs*"),
    *("plot_loss", "do_eval", "per_device_eval_batch_size", "eval_batch_size", "tokenizer_type", "model_type"),
    *("resume_from_checkpoint", "eval_packing", "eval_sample_packing"),
)
"""Keys of trainers that are built on transformers and change no training here."""


HF_SAME: Mapping[str, tuple[object, ...]] = {
    "adam_beta1": (0.9,),
    "adam_beta2": (0.999,),
    "adam_epsilon": (1e-8, "1e-8", "1e-08"),
    "average_tokens_across_devices": (True,),
    "fp16": (False,),
    "max_steps": (-1,),
}
"""Values of transformers' Trainer that state what touchline does in any case."""


ExperimentOfStages = Callable[[Mapping[str, ImportedTraining], Collection[str]], dict[str, object]]
"""Conversion of a trainer's stage configs, by the stages' names, to one experiment. What continues a stage that is
left out continues its parent.
"""


def nested(settings: Mapping[str, object]) -> dict[str, object]:
    """Return dotted keys as groups."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        *groups, last = key.split(".")
        inner: dict[str, object] = found
        for group in groups:
            inner = inner.setdefault(group, {})  # type: ignore[assignment]
        inner[last] = value
    return found
