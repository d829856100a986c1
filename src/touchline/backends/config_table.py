"""A trainer's table of keys: fields of the common vocabulary, its keys for them, its defaults; its words for imports.

Each trainer's keys, defaults and words are in one table in its folder. Values that are no copy of one key are read by
the other functions here. `observations` gives the settings that are written in a file as evidence: a default may differ
from version to version. `written` gives our settings in the trainer's keys.
For `touchline import`, every value of a config is carried over or listed; `IMPORTS` of a folder's `format.py` (or
`imports.py`) holds the trainer's own words, and keys that a `StatedTraining` lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, cast

from touchline.backends.config_reading import ConfigReader, subject_of
from touchline.backends.hf_loop import HF_OPTIMIZERS
from touchline.backends.logtext.events import Row
from touchline.core.finding import Location
from touchline.core.observation import Observation, ObservationName
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import QLORA_BITS, Cadence, Stated, StatedSource, StatedTraining

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
    source: str
    where: Location
    is_default: bool = False
    """Whether the source leaves it to its tool's default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedTraining:
    """Training of another tool as settings of experiment.yaml."""

    name: str
    settings: Mapping[str, Carried]
    """Settings by dotted key; `models` and `seeds` hold one value."""
    left: tuple[NotCarried, ...]
    """Values that are not carried over."""
    backend: str | None = None
    """The trainer that its config is for, if touchline plans and trains with it."""
    stated: StatedTraining | None = None
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
    optimizers: Mapping[str, str] = field(default_factory=dict)
    attention: Mapping[str, str] = field(default_factory=dict)
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
    carries_defaults: frozenset[str] = frozenset()
    """Fields about checkpoints whose default is carried over too."""
    knows: Callable[[str], bool] = lambda key: False
    """Test for a dotted key that the trainer knows."""
    images: str = "images"
    """Column of the images where no registry names it."""
    columns: Callable[[ForeignDocument, StatedSource, Mapping[str, object] | None], DataColumns] | None = None


HF_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}
HF_OPTIMIZER_WORDS = {
    **{word: key for key, word in HF_OPTIMIZERS.items()},
    **dict.fromkeys(("adamw_torch", "adamw_hf", "adamw_apex_fused"), "adamw"),
    **{"adamw_8bit": "adamw_8bit", "paged_adamw_bnb_8bit": "paged_adamw_8bit", "muon": "muon"},
}
ATTENTION = {"sdpa": "sdpa", "eager": "eager", "flash_attention_2": "flash_attention_2"}

ALL_ROWS = (
    "all rows are training rows: add test rows as data.test, or use data.path instead of data.train to split the file"
)
"""Reason of a config that holds no rows back. `touchline import` names its file in `data.train`."""
PARALLEL_GROUPS = ("deepspeed", "fsdp", "fsdp_config")
"""Groups of settings of which only the number of GPUs and sharding are set here."""
SHARDED = "train.sharding: full with train.backend: trl"
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


Method = Literal["lora", "qlora", "full"]
Kind = Literal["text", "number", "whole", "count", "flag", "words"]
"""Kind of a value, as the reader names it."""
Keys = Mapping[str, tuple[Kind, str, object]]
"""Field of a `StatedTraining` -> kind of value, the trainer's keys with blanks between them, and its default.

The first key that has a value counts. A default of None is not known, or there is none.
"""


def read_table(settings: ConfigReader, table: Keys) -> dict[str, Any]:
    """Return the fields of a table that a file states, with the trainer's default for the others."""
    found: dict[str, Any] = {}
    for name, (kind, keys, default) in table.items():
        names = keys.split()
        stated = settings.read(kind, *names)
        found[name] = settings.default(names[0], default) if stated is None and default is not None else stated
    return found


def written(table: Keys, values: Mapping[str, object], *parts: str | Mapping[str, object]) -> dict[str, object]:
    """Return the settings of a trainer's config, without those that are None.

    Args:
        values: our values by field; by the trainer's key where the table has no field for it.
        parts: in the file's order, fields or keys with blanks between them, or settings that are no field of ours.
    """
    found: dict[str, object] = {}
    for part in parts:
        if isinstance(part, str):
            found |= {table[name][1].split()[0] if name in table else name: values[name] for name in part.split()}
        else:
            found |= part
    return {key: value for key, value in found.items() if value is not None}


def first_on(settings: ConfigReader, words: Mapping[str, object], *also: object) -> Stated[Any] | None:
    """Return the word of the first key that is switched on, or has one of some other values."""
    for key, word in words.items():
        if settings.on(key) or (also and settings.values.get(key) in also):
            return Stated(word, key, settings.where(key))
    return None


def first_set(settings: ConfigReader, words: Mapping[str, object], *, shown: bool = False) -> Stated[Any] | None:
    """Return the word of the first key with a value that is not empty; with `shown`, a text follows the word."""
    for key, word in words.items():
        value = settings.values.get(key)
        if value and not (isinstance(value, str) and not value.strip()):
            return Stated(f"{word} {value}" if shown and isinstance(value, str) else word, key, settings.where(key))
    return None


def inverted(stated: Stated[bool] | None) -> Stated[bool] | None:
    """Return the opposite of a switch that is named after what it switches off."""
    return None if stated is None else Stated(not stated.value, stated.key, stated.where, stated.is_default)


def cadence(settings: ConfigReader, *names: str, default: Cadence) -> Stated[Cadence]:
    """Return the cadence of an action. Any other strategy (`best`) counts as steps."""
    stated = settings.text(*names)
    if stated is None:
        value = settings.values.get(names[0])
        # YAML 1.1 reads the word `no` as false, which the Trainer takes for `no` as well.
        word: Cadence = "no" if value is False else default
        return Stated(word, names[0], settings.where(names[0]), is_default=value is None)
    word = cast(Cadence, stated.value) if stated.value in ("no", "steps", "epoch") else "steps"
    return Stated(word, stated.key, stated.where)


def training_of(backend: str, settings: ConfigReader, fields: Mapping[str, Any]) -> StatedTraining:
    """Return the training of a file."""
    path = settings.document.path
    return StatedTraining(backend=backend, where=Location(path=path), subject=subject_of(path), **fields)


_NAMES: tuple[tuple[str, ObservationName, str], ...] = (
    ("model", "model", "1"),
    ("method", "method", "1"),
    ("rank", "lora_rank", "1"),
    ("alpha", "lora_alpha", "1"),
    ("dropout", "dropout", "1"),
    ("target_modules", "target_modules", "1"),
    ("learning_rate", "learning_rate", "1"),
    ("max_seq_len", "max_seq_len", "tokens"),
    ("micro_batch_size", "micro_batch_size", "1"),
    ("gradient_accumulation_steps", "gradient_accumulation_steps", "1"),
    ("optimizer", "optimizer", "1"),
    ("dtype", "dtype", "1"),
    ("packed", "packed", "1"),
    ("gradient_checkpointing", "gradient_checkpointing", "1"),
    ("compiled", "compiled", "1"),
    ("attention", "attention", "1"),
)
"""Field of a `StatedTraining`, name of the observation, its unit."""


OBSERVED = ("max_steps", "epochs", *(field for field, _, _ in _NAMES))
"""Fields of a `StatedTraining` that are evidence."""


def names_of(table: Keys, fields: Iterable[str]) -> frozenset[str]:
    """Return the trainer's keys of some fields."""
    return frozenset(key for field in fields if field in table for key in table[field][1].split())


def reader_of(values: Row) -> ConfigReader:
    """Return the reader of a mapping of settings."""
    return ConfigReader(ForeignDocument(path="", data=dict(values), lines=()))


def method_of(*, adapter: bool, bits: Stated[int] | int | None) -> Method:
    """Return the method of a training: QLoRA is an adapter on a base in four bits; on one in eight bits it is LoRA."""
    count = bits.value if isinstance(bits, Stated) else bits
    return "full" if not adapter else "qlora" if count is not None and count <= QLORA_BITS else "lora"


def observations(
    stated: StatedTraining, lines: Mapping[str, int], *, exact: bool = True, dora: bool = False
) -> Iterator[Observation]:
    """Yield the observations of a config.

    Args:
        exact: whether the number of steps is that of the training, not a bound.
        dora: whether the adapter, if there is one, is DoRA's.
    """
    for attribute, name, unit in _NAMES:
        found: Stated[Any] | None = getattr(stated, attribute)
        if found is not None and not found.is_default and _is_meant(name, found.value):
            value = "dora" if dora and name == "method" and found.value != "full" else _plain(found.value)
            yield Observation(name=name, value=value, line=lines.get(found.key, 0), unit=unit)
    bits, steps, epochs = stated.quantization_bits, stated.max_steps, stated.epochs
    if bits is not None:
        yield Observation(
            name="quantization", value="nf4" if bits.value == 4 else f"int{bits.value}", line=lines.get(bits.key, 0)
        )
    if steps is not None:
        line = lines.get(steps.key, 0)
        yield Observation(name="steps_total", value=steps.value, line=line, unit="steps", certain=exact)
    elif epochs is not None and not epochs.is_default and epochs.value > 0:
        yield Observation(name="epochs", value=epochs.value, line=lines.get(epochs.key, 0), unit="epochs")


def _is_meant(name: ObservationName, value: object) -> bool:
    """Return False for a number that no training has, and for float32, which the absence of smaller types means."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value > 0 or (value == 0 and name == "dropout")
    return value != "float32"


def _plain(value: object) -> str | float:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value if isinstance(value, int | float) else str(value).strip()
