"""Settings imported from other tools' configs, those that experiment.yaml has no place for, and trainers' words.

A config is read by its format (`format.py`) into a `StatedTraining`; `import_training.carry_training` maps that to
experiment.yaml, the same way for every trainer. A trainer's own words, and keys that a `StatedTraining` lacks, are its
`IMPORTS` (`imports.py` of its folder). Every value of the config is either carried over or in the list.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from touchline.backends.hf_loop import HF_OPTIMIZERS
from touchline.core.finding import Location
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import StatedSource, StatedTraining

MODEL, SEED = "models", "seeds"
"""Keys of a run's settings beside those of `data`, `train` and `evaluate`: its model and its seed."""


class Reason(StrEnum):
    """Reason why a value is not in experiment.yaml as it was, gravest first."""

    UNKNOWN = "unknown"
    """The source's own tool does not know the key."""
    REFUSED = "refused"
    """experiment.yaml has the setting, and does not take this value."""
    CHANGED = "changed"
    """It is carried over, with another value or meaning."""
    NO_COUNTERPART = "no-counterpart"
    """touchline has no such setting."""
    AUTOMATIC = "automatic"
    """It is decided without a setting, or another command does it."""
    OFF = "off"
    """It has no value, or it switches off what touchline does not have."""
    SAME = "same"
    """touchline does so too: in any case, or by a setting that is named after another key."""


class Note(NamedTuple):
    """Reason for a key, known beforehand."""

    reason: Reason
    """The reason."""
    why: str
    """The reason in words."""
    instead: str = ""
    """What the user can do."""


class Refusal(NamedTuple):
    """Reason why a config is no training that touchline has."""

    key: str
    """The key of the config that says so."""
    why: str
    """What it trains, in words."""


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
    """The reason in words."""
    instead: str = ""
    """What to do about it; empty if there is nothing to do."""


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


class Places(Protocol):
    """Resolution of names and paths of a source on this machine."""

    def file(self, name: str) -> str:
        """Return a path of the source relative to the new experiment's folder."""
        ...

    def model(self, name: str) -> str:
        """Return a model as experiment.yaml names it."""
        ...

    def registry(self, document: ForeignDocument) -> Mapping[str, object] | None:
        """Return the content of the trainer's registry of datasets. None if it is not on this machine."""
        ...


@dataclass(kw_only=True, slots=True)
class DataColumns:
    """Columns of a dataset, as its config understands rows."""

    path: str | None = None
    """The file, if a registry names it; as the source writes it."""
    settings: dict[str, object] = field(default_factory=dict)
    """Settings under `data` by dotted key."""
    sources: dict[str, str] = field(default_factory=dict)
    """Keys of the source that are carried over in full -> the setting."""
    notes: dict[str, Note] = field(default_factory=dict)
    """Keys of the source that are not, with the reason."""


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
    notes: Mapping[str, Note] = field(default_factory=dict)
    """Reasons by key; `*` stands for any characters."""
    unset: Mapping[str, object] = field(default_factory=dict)
    """Settings of experiment.yaml where the config has none and its default is another than touchline's."""
    adapter_unset: Mapping[str, object] = field(default_factory=dict)
    """The same of settings of an adapter, if it trains one."""
    bfloat16_weights: frozenset[str] = frozenset()
    """Keys by which all weights are trained in bfloat16 themselves, not only computed in it."""
    plans: Callable[[StatedTraining], bool] = lambda training: True
    """Whether touchline trains a model of this kind with the trainer itself."""
    refuses: Callable[[ForeignDocument], Refusal | None] = lambda document: None
    """Test for a config of another kind of training, which is not imported."""
    differs: Callable[[StatedTraining, ForeignDocument], Iterable[tuple[str, object, Note]]] = lambda *_: ()
    """Values, defaults too, that mean another training here: key, value and reason."""
    has_stages: bool = False
    """Whether its configs are stages of a chain, whose parents `stages` links."""
    carries_defaults: frozenset[str] = frozenset()
    """Fields about checkpoints whose default is carried over too."""
    knows: Callable[[str], bool] = lambda key: False
    """Test for a dotted key that the trainer knows."""
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

_EXPORT = "`touchline export` sends metrics to a tracker"
_OWN = Note(Reason.AUTOMATIC, "each run has a folder of its own under the experiment")
_METRICS = Note(Reason.AUTOMATIC, "every step is logged to metrics.jsonl", _EXPORT)
PARALLEL = Note(Reason.NO_COUNTERPART, "compute.gpus_per_run and train.sharding are all that is set of this")
WHOLE_LAYERS = Note(Reason.NO_COUNTERPART, "each GPU computes whole layers of whole rows")
_CACHE = Note(Reason.AUTOMATIC, "data is tokenized once and cached")
_MORE_WEIGHTS = Note(Reason.NO_COUNTERPART, "layers trained besides the adapter there; here they stay as they are")
ALL_ROWS = Note(
    Reason.CHANGED,
    "all rows train there, and an experiment needs others to test",
    "data.test: a file of such rows; or data.path instead of data.train, to split the file",
)
"""Of a config that holds no rows back. `touchline import` names its file in `data.train`."""
HF_KEYS: Mapping[str, str] = {
    "use_dora": "train.lora.dora",
    "use_rslora": "train.lora.rslora",
    "neftune_noise_alpha": "train.neftune_alpha",
    "label_smoothing_factor": "train.label_smoothing",
}
HF_NOTES: Mapping[str, Note] = {
    **dict.fromkeys(("output_dir", "overwrite_output_dir", "logging_dir", "run_name"), _OWN),
    **dict.fromkeys(("wandb_*", "mlflow_*", "comet_*", "swanlab_*", "use_swanlab", "report_to", "logging_*"), _METRICS),
    **dict.fromkeys(("hub_*", "push_to_hub*"), Note(Reason.AUTOMATIC, "nothing is uploaded")),
    **dict.fromkeys(("deepspeed*", "fsdp*", "ddp_*", "accelerat*_config*"), PARALLEL),
    **dict.fromkeys(("tensor_parallel_size", "context_parallel_size"), WHOLE_LAYERS),
    **dict.fromkeys(
        ("preprocessing_num_workers", "overwrite_cache", "dataset_prepared_path", "dataset_num_proc"), _CACHE
    ),
    **dict.fromkeys(("lora_modules_to_save", "additional_target"), _MORE_WEIGHTS),
    "gradient_checkpointing_kwargs*": Note(Reason.AUTOMATIC, "how activations are recomputed changes no number"),
    "adam_*": Note(Reason.NO_COUNTERPART, "AdamW has betas of 0.9 and 0.999, and an epsilon of 1e-8"),
    "trust_remote_code": Note(Reason.NO_COUNTERPART, "code that comes with a model is never run"),
    "special_tokens*": Note(Reason.NO_COUNTERPART, "the tokenizer's own special tokens are used", "save them in it"),
    "plot_loss": Note(Reason.AUTOMATIC, "the report draws the curves"),
    "per_device_eval_batch_size": Note(Reason.AUTOMATIC, "validation uses the micro-batch size"),
    "eval_batch_size": Note(Reason.AUTOMATIC, "validation uses the micro-batch size"),
    "tokenizer_type": Note(Reason.AUTOMATIC, "the model's own tokenizer is used"),
    "model_type": Note(Reason.AUTOMATIC, "the model's own class is used"),
}
"""Reasons that hold for every trainer that is built on transformers."""


HF_SAME: Mapping[str, tuple[object, ...]] = {
    "adam_beta1": (0.9,),
    "adam_beta2": (0.999,),
    "adam_epsilon": (1e-8, "1e-8", "1e-08"),
    "average_tokens_across_devices": (True,),
    "fp16": (False,),
    "max_steps": (-1,),
}
"""Values of transformers' Trainer that state what touchline does in any case."""


class ExperimentOfStages(Protocol):
    """Conversion of a trainer's stage configs to one experiment."""

    def __call__(self, configs: Mapping[str, ImportedTraining], left_out: Collection[str] = ()) -> dict[str, object]:
        """Return `train`, `data`, `models`, `stages`, `seeds` and `allow` of the experiment, by the stages' names.

        Stages that are `left_out` train nothing: what continues one of them continues its parent.

        Raises:
            InputError: configs that are not one experiment; with every reason.
        """
        ...
