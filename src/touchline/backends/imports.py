"""Settings of other tools' configs as settings of experiment.yaml, and the list of those that it has no place for.

A config is read by its format (`format.py`) into a `StatedTraining`; `carry_training` maps that to experiment.yaml, the
same way for every trainer. A trainer's own words, and keys that a `StatedTraining` lacks, are its `IMPORTS`
(`imports.py` of its folder). Every value of the config is either carried over or in the list.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol

from ruamel.yaml.comments import CommentedMap

from touchline.backends.formats import ConfigReading
from touchline.backends.hf_loop import HF_OPTIMIZERS
from touchline.core.errors import InputError
from touchline.core.finding import Location
from touchline.spec import defaults
from touchline.spec.document import Key, YamlDocument, parse_value
from touchline.spec.experiment import DataConfig, Experiment
from touchline.spec.foreign import ForeignDocument
from touchline.spec.overlay import with_settings
from touchline.spec.partial import Stated, StatedSource, StatedTraining
from touchline.spec.validate import adapter

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


class Note(NamedTuple):
    """Reason for a key, known beforehand."""

    reason: Reason
    """The reason."""
    why: str
    """The reason in words."""
    instead: str = ""
    """What the user can do."""


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
_PARALLEL = Note(Reason.NO_COUNTERPART, "devices are used as compute.gpus_per_run says", "train.sharding: full shards")
_CACHE = Note(Reason.AUTOMATIC, "data is tokenized once and cached")
HF_NOTES: Mapping[str, Note] = {
    **dict.fromkeys(("output_dir", "overwrite_output_dir", "logging_dir", "run_name"), _OWN),
    **dict.fromkeys(("wandb_*", "mlflow_*", "comet_*", "swanlab_*", "use_swanlab", "report_to", "logging_*"), _METRICS),
    **dict.fromkeys(("hub_*", "push_to_hub*"), Note(Reason.AUTOMATIC, "nothing is uploaded")),
    **dict.fromkeys(("deepspeed*", "fsdp*", "ddp_*"), _PARALLEL),
    **dict.fromkeys(
        ("preprocessing_num_workers", "overwrite_cache", "dataset_prepared_path", "dataset_num_proc"), _CACHE
    ),
    "trust_remote_code": Note(Reason.NO_COUNTERPART, "code that comes with a model is never run"),
    "special_tokens*": Note(Reason.NO_COUNTERPART, "the tokenizer's own special tokens are used", "save them in it"),
    "plot_loss": Note(Reason.AUTOMATIC, "the report draws the curves"),
    "per_device_eval_batch_size": Note(Reason.AUTOMATIC, "validation uses the micro-batch size"),
    "eval_batch_size": Note(Reason.AUTOMATIC, "validation uses the micro-batch size"),
    "tokenizer_type": Note(Reason.AUTOMATIC, "the model's own tokenizer is used"),
    "model_type": Note(Reason.AUTOMATIC, "the model's own class is used"),
}
"""Reasons that hold for every trainer that is built on transformers."""
_ALL_LAYERS = (("all-linear",), ("all",))
_NO_VALUE: tuple[object, ...] = (None, "", [], {})
STAND_IN = adapter(Experiment).validate_python({"name": "x", "models": ("x",), "data": DataConfig(path="x")})
"""Experiment with touchline's defaults."""
NOWHERE = YamlDocument(path="", root=CommentedMap(), data={})
"""Document of settings that are in no file."""


def setting_problem(key: str, value: object) -> str | None:
    """Return the error that experiment.yaml gives for a value. None if it takes it."""
    if key == SEED:
        value = [value]
    elif key == MODEL and not (isinstance(value, str) and value):
        return "expected the name of a model"
    try:
        return _problem(key, json.dumps(value))
    except (TypeError, ValueError):
        return "expected a plain value"


@functools.lru_cache(maxsize=4096)
def _problem(key: str, text: str) -> str | None:
    try:
        value = parse_value(text, key, "")
    except InputError as error:
        return error.findings[0].message
    if key == MODEL:
        return None
    _, findings = with_settings(STAND_IN, {key: value}, NOWHERE)
    return findings[0].message if findings else None


def leaves(node: object, path: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], object]]:
    """Yield every value of a document with its path. A list without mappings is one value."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, list) and any(isinstance(item, dict) for item in node):
        for index, item in enumerate(node):
            yield from leaves(item, (*path, index))
    elif path:
        yield path, node


def dotted(path: Iterable[Key]) -> str:
    """Return a path as a dotted key."""
    return ".".join(str(part) for part in path)


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


def find_note(notes: Mapping[str, Note], key: str) -> Note | None:
    """Return the reason for a key: its own, or that of a pattern."""
    return notes.get(key) or next((note for pattern, note in notes.items() if fnmatchcase(key, pattern)), None)


class Carrier:
    """Collector of the settings of one training, and of the values that are left.

    Args:
        document: the source.
    """

    def __init__(self, document: ForeignDocument) -> None:
        self.document = document
        self.settings: dict[str, Carried] = {}
        self.left: list[NotCarried] = []
        self.seen: set[str] = set()
        """Dotted keys that are carried over or left."""

    def carry(self, key: str, stated: Stated[Any] | None, *value: object) -> bool:
        """Take a setting over, with another value if one is given. Return False if experiment.yaml refuses it."""
        if stated is None:
            return False
        new = value[0] if value else stated.value
        new = list(new) if isinstance(new, tuple) else new
        problem = setting_problem(key, new)
        if problem is not None:
            self.leave(stated, Note(Reason.REFUSED, problem, f"set {key} in experiment.yaml"))
            return False
        self.settings[key] = Carried(value=new, source=stated.key, where=stated.where, is_default=stated.is_default)
        self.same(stated)
        return True

    def same(self, stated: Stated[Any] | None) -> None:
        """Take a value as done: touchline does that in any case, or another key carries it."""
        if stated is not None and not stated.is_default:
            self.seen.add(stated.key)

    def leave(self, stated: Stated[Any] | None, note: Note | None) -> None:
        """List a value as not carried over. A trainer's default is listed only where it would matter."""
        if stated is None or note is None:
            return
        if stated.is_default and note.reason not in (Reason.CHANGED, Reason.REFUSED):
            return
        written = None if stated.is_default else self.document.get(*_path(self.document, stated.key))
        value = stated.value if written is None else written
        self.left.append(
            NotCarried(
                key=stated.key,
                value=list(value) if isinstance(value, tuple) else value,
                where=(stated.where,),
                reason=note.reason,
                why=note.why,
                instead=note.instead,
            )
        )
        self.same(stated)


def _not_carried(key: str, value: object, where: Location, note: Note) -> NotCarried:
    return NotCarried(key=key, value=value, where=(where,), reason=note.reason, why=note.why, instead=note.instead)


def _path(document: ForeignDocument, key: str) -> tuple[Key, ...]:
    """Return the path of a dotted key; numbers are entries of lists."""
    path: list[Key] = []
    node: object = document.data
    for part in key.split("."):
        index: Key = int(part) if isinstance(node, list) and part.isdigit() else part
        path.append(index)
        node = document.get(*path)
    return tuple(path)


def carry_training(
    name: str, document: ForeignDocument, reading: ConfigReading, table: ImportTable, places: Places
) -> ImportedTraining:
    """Return a config's training as settings of experiment.yaml; `left_over` lists what it does not look at.

    Args:
        name: name of the training.
        document: the config.
        reading: its reading by its format, with a training.
        table: words and keys of its trainer.
        places: resolves models and paths.
    """
    stated = reading.trainings[0]
    carrier = Carrier(document)
    carrier.carry(MODEL, stated.model, None if stated.model is None else places.model(stated.model.value))
    _carry_adapter(carrier, stated, table)
    _carry_batch(carrier, stated)
    _carry_optimizer(carrier, stated, table)
    _carry_machine(carrier, stated, table)
    _carry_checkpoints(carrier, stated, table)
    _carry_data(carrier, stated, table, places)
    _carry_further(carrier, table)
    for key, value in table.unset.items():
        if key not in carrier.settings:
            default = Stated(value, key, Location(path=document.path), is_default=True)
            carrier.carry(key, default)
    undone = {each.subject: each.message for each in reading.findings if each.code == "BK019"}
    for key in sorted(carrier.seen & undone.keys()):
        if any(carried.source == key for carried in carrier.settings.values()):
            where = document.where(*_path(document, key))
            note = Note(Reason.CHANGED, undone[key])
            carrier.left.append(_not_carried(key, document.get(*_path(document, key)), where, note))
    return ImportedTraining(
        name=name,
        settings=carrier.settings,
        left=tuple(carrier.left),
        backend=stated.backend,
        stated=stated,
        seen=frozenset(carrier.seen),
    )


def left_over(
    document: ForeignDocument, reading: ConfigReading, table: ImportTable, seen: Iterable[str]
) -> Iterator[NotCarried]:
    """Yield every value of a document that no training of it looked at.

    Args:
        document: the source.
        reading: its reading, whose findings explain misspelt keys.
        table: its keys.
        seen: dotted keys that are carried over or listed already.
    """
    misspelt = {each.subject: each.message for each in reading.findings if each.code in ("BK011", "BK017")}
    seen = frozenset(seen)
    for path, value in leaves(document.data):
        key = dotted(path)
        # A dot within a name makes a key look like that of another value, which it is not.
        plain = not any("." in str(part) for part in path)
        if plain and any(dotted(path[:end]) in seen for end in range(1, len(path) + 1)):
            continue
        yield _not_carried(key, value, document.where(*path), _note_of(key, value, table, misspelt))
    for doubled in document.doubled:
        note = Note(Reason.REFUSED, "given twice; the last one counts", "keep one of the two")
        yield _not_carried(doubled.key, None, doubled.first, note)


def _note_of(key: str, value: object, table: ImportTable, misspelt: Mapping[str, str]) -> Note:
    """Return the reason for a value that nothing carried over."""
    if key in misspelt:
        return Note(Reason.UNKNOWN, misspelt[key], "correct the name in the source, and import again")
    note = find_note(table.notes, key)
    known = note is not None or table.knows(key)
    if not known:
        return Note(Reason.UNKNOWN, "the source's own tool does not know this key")
    if any(value == empty and type(value) is type(empty) for empty in _NO_VALUE):
        return Note(Reason.OFF, "no value")
    if value is False or str(value).casefold() in ("false", "no", "off", "none"):
        return Note(Reason.OFF, "switched off, and touchline does not do it")
    return note or Note(Reason.NO_COUNTERPART, "touchline has no such setting")


def _carry_adapter(carrier: Carrier, stated: StatedTraining, table: ImportTable) -> None:
    method = stated.method
    if method is not None:
        carrier.carry("train.method", method, "full" if method.value == "full" else "lora")
    bits = stated.quantization_bits
    if bits is not None:
        words = {4: "nf4", 8: "int8"}
        carrier.carry("train.quantization", bits, words.get(bits.value, bits.value))
    carrier.carry("train.lora.rank", stated.rank)
    if stated.alpha is not None:
        carrier.carry("train.lora.alpha", stated.alpha, _whole(stated.alpha.value))
    carrier.carry("train.lora.dropout", stated.dropout)
    modules = stated.target_modules
    if modules is not None and modules.value in _ALL_LAYERS:
        carrier.carry("train.lora.target_modules", modules, list(defaults.LORA_TARGET_MODULES))
        why = "all linear layers; written as those of a Llama-like block"
        carrier.leave(modules, Note(Reason.CHANGED, why, "name the model's own layers, if they are others"))
    else:
        carrier.carry("train.lora.target_modules", modules)
    if table.has_stages:
        carrier.same(stated.parent)
        return
    why = "an adapter of an earlier training to continue from"
    carrier.leave(stated.parent, Note(Reason.NO_COUNTERPART, why, "stages: with parent and continue: adapter"))


def _whole(value: float) -> float | int:
    """Return a whole number as an integer."""
    return int(value) if math.isfinite(value) and value == int(value) else value


def _carry_batch(carrier: Carrier, stated: StatedTraining) -> None:
    """Carry the micro-batch size over, and the global batch size: micro-batch size x accumulation x devices."""
    micro, passes, devices = stated.micro_batch_size, stated.gradient_accumulation_steps, stated.devices
    carrier.carry("train.micro_batch_size", micro)
    whole = stated.global_batch_size
    if whole is not None:
        carrier.carry("train.global_batch_size", whole)
        carrier.same(passes)
        return
    if micro is None:
        carrier.leave(
            passes, Note(Reason.REFUSED, "there is no micro-batch size to multiply", "train.global_batch_size")
        )
        return
    count = micro.value * (1 if passes is None else passes.value) * (1 if devices is None else devices.value)
    named = [each.key for each in (micro, passes, devices) if each is not None]
    default = micro.is_default and (passes is None or passes.is_default)
    if carrier.carry("train.global_batch_size", Stated(count, " x ".join(named), micro.where, is_default=default)):
        carrier.same(passes)
        carrier.same(devices)


def _carry_optimizer(carrier: Carrier, stated: StatedTraining, table: ImportTable) -> None:
    epochs = stated.epochs
    if stated.max_steps is not None:
        why = "trainings are counted in epochs"
        carrier.leave(stated.max_steps, Note(Reason.NO_COUNTERPART, why, "train.epochs: steps x batch / rows"))
    if epochs is not None:
        whole = max(math.ceil(epochs.value), 1)
        carrier.carry("train.epochs", epochs, whole)
        if whole != epochs.value:
            carrier.leave(epochs, Note(Reason.CHANGED, f"epochs are whole; written as {whole}"))
    carrier.carry("train.learning_rate", stated.learning_rate)
    _carry_word(carrier, "train.schedule", stated.schedule, table.schedules)
    _carry_word(carrier, "train.optimizer", stated.optimizer, table.optimizers)
    steps, share = stated.warmup_steps, stated.warmup_fraction
    if (
        stated.schedule is not None
        and stated.schedule.value == "constant"
        and "constant_with_warmup" in table.schedules
    ):
        default = Stated(0.0, stated.schedule.key, stated.schedule.where, is_default=True)
        carrier.carry("train.warmup_fraction", default)
        for each in (steps, share):
            carrier.leave(each, Note(Reason.OFF, "the schedule `constant` has no warmup"))
    elif steps is not None and steps.value == 0:
        carrier.carry("train.warmup_fraction", steps, 0.0)
    elif steps is not None and stated.max_steps is not None and steps.value < stated.max_steps.value:
        carrier.carry("train.warmup_fraction", steps, round(steps.value / stated.max_steps.value, 6))
    elif steps is not None:
        why = "warmup is a share of all steps, whose number is known once planned"
        carrier.leave(steps, Note(Reason.REFUSED, why, f"train.warmup_fraction: {steps.value} / steps of the run"))
    else:
        carrier.carry("train.warmup_fraction", share)
    carrier.carry("train.weight_decay", stated.weight_decay)
    carrier.carry("train.max_grad_norm", stated.max_grad_norm)
    carrier.carry(SEED, stated.seed)
    if stated.shuffle is not None:
        if stated.shuffle.value:
            carrier.same(stated.shuffle)
        else:
            carrier.leave(stated.shuffle, Note(Reason.NO_COUNTERPART, "examples are shuffled by the run's seed"))


def _carry_word(carrier: Carrier, key: str, stated: Stated[str] | None, words: Mapping[str, str]) -> None:
    """Carry a setting over whose values have other names."""
    if stated is None:
        return
    word = words.get(stated.value)
    if word is not None:
        carrier.carry(key, stated, word)
        return
    known = ", ".join(dict.fromkeys(words.values()))
    carrier.leave(stated, Note(Reason.REFUSED, f"not one of touchline's: {known}", f"choose {key}"))


def _carry_machine(carrier: Carrier, stated: StatedTraining, table: ImportTable) -> None:
    carrier.carry("train.max_seq_len", stated.max_seq_len)
    carrier.carry("train.packed", stated.packed)
    if stated.eval_packed is not None and stated.packed is not None:
        if stated.eval_packed.value == stated.packed.value:
            carrier.same(stated.eval_packed)
        else:
            carrier.leave(stated.eval_packed, Note(Reason.AUTOMATIC, "validation is never packed"))
    if stated.trains_on_prompt is not None and stated.trains_on_prompt.value:
        carrier.leave(stated.trains_on_prompt, Note(Reason.NO_COUNTERPART, "the loss is taken on the answer alone"))
    else:
        carrier.same(stated.trains_on_prompt)
    carrier.leave(
        stated.template,
        Note(Reason.CHANGED, "the model's own chat template is used", "put another one into its tokenizer_config.json"),
    )
    full = stated.method is not None and stated.method.value == "full"
    if stated.dtype is not None and full:
        carrier.leave(stated.dtype, Note(Reason.CHANGED, "weights are trained in float32", "train.base_dtype"))
    else:
        carrier.carry("train.base_dtype", stated.dtype)
    if stated.tf32 is not None:
        carrier.leave(stated.tf32, Note(Reason.AUTOMATIC, "float32 products are computed in float32"))
    carrier.carry("train.gradient_checkpointing", stated.gradient_checkpointing)
    _carry_word(carrier, "train.attention", stated.attention, table.attention)
    carrier.carry("train.compile", stated.compiled)
    carrier.leave(stated.distributed, _PARALLEL)
    carrier.leave(stated.offloads, Note(Reason.NO_COUNTERPART, "nothing is moved to host memory while training"))
    if stated.data_workers is not None and not stated.data_workers.is_default:
        carrier.carry("train.dataloader_workers", stated.data_workers)
    if stated.device is not None and stated.device.value == "cpu":
        carrier.leave(stated.device, Note(Reason.AUTOMATIC, "a machine without GPUs trains on its CPU"))


def _carry_checkpoints(carrier: Carrier, stated: StatedTraining, table: ImportTable) -> None:
    cadence, every = stated.save_cadence, stated.save_steps
    epochs = None if stated.epochs is None else stated.epochs.value
    if every is not None and not every.is_default and cadence is not None and cadence.value == "steps":
        if every.value >= 1:
            carrier.carry("train.checkpoint.every", every, {"steps": int(every.value)})
        elif epochs is not None and math.isclose(every.value * epochs, 1.0):
            carrier.same(every)
        else:
            why = "a checkpoint is saved at each epoch's end, or every so many steps"
            carrier.leave(every, Note(Reason.CHANGED, why, "train.checkpoint.every: {steps: N}"))
    elif cadence is not None and cadence.value == "no":
        carrier.leave(cadence, Note(Reason.CHANGED, "a checkpoint is saved at each epoch's end, to be evaluated"))
    if cadence is not None and cadence.value == "epoch":
        carrier.same(cadence)
        carrier.leave(every, Note(Reason.OFF, "a checkpoint is saved at each epoch's end"))
    elif cadence is not None and cadence.value == "steps":
        carrier.same(cadence)
    limit = stated.save_limit
    if limit is not None and (not limit.is_default or "save_limit" in table.carries_defaults):
        carrier.carry("train.checkpoint.keep", limit)
    if stated.load_best is not None and stated.load_best.value:
        why = "the last checkpoint is evaluated"
        carrier.leave(stated.load_best, Note(Reason.CHANGED, why, "train.checkpoint.keep: best"))
    if stated.save_only_model is not None:
        carrier.leave(stated.save_only_model, Note(Reason.AUTOMATIC, "a state to resume from is saved apart"))
    every, cadence = stated.eval_steps, stated.eval_cadence
    if every is not None and not every.is_default and cadence is not None and cadence.value == "steps":
        if every.value >= 1:
            carrier.carry("train.validate_every_steps", every, int(every.value))
        else:
            why = "validation is at each epoch's end, or every so many steps"
            carrier.leave(every, Note(Reason.CHANGED, why, "train.validate_every_steps: N"))
    if cadence is not None and cadence.value == "no":
        carrier.leave(
            cadence, None if cadence.is_default else Note(Reason.AUTOMATIC, "validation is at each epoch's end")
        )
    else:
        carrier.same(cadence)


def _carry_data(carrier: Carrier, stated: StatedTraining, table: ImportTable, places: Places) -> None:
    sources = [source for source in stated.sources if source.role == "train"]
    for source in sources[:1]:
        columns = DataColumns()
        if table.columns is not None:
            columns = table.columns(carrier.document, source, places.registry(carrier.document))
        _carry_source(carrier, source, columns, places)
    for source in sources[1:]:
        if source.name.key not in carrier.seen:
            carrier.leave(source.name, Note(Reason.NO_COUNTERPART, "a dataset is one file", "join them in one file"))
        else:
            where = (source.name.where,)
            why = f"a dataset is one file, and {sources[0].name.value} is the first"
            carrier.left.append(
                NotCarried(
                    key=source.name.key,
                    value=source.name.value,
                    where=where,
                    reason=Reason.NO_COUNTERPART,
                    why=why,
                    instead="join them in one file",
                )
            )
    for source in stated.sources:
        if source.role == "validation":
            why = "a dataset is one file"
            instead = "join training and validation rows in one file, with a column `split`"
            carrier.leave(source.name, Note(Reason.NO_COUNTERPART, why, instead))
    held = stated.validation_fraction
    if held is not None and 0 < held.value < 1:
        carrier.carry("data.train_fraction", held, round(1 - held.value, 6))
        why = "of the rows that do not train, a quarter validates and the others test, unless the file has splits"
        carrier.leave(held, Note(Reason.CHANGED, why))
    elif held is not None and held.value >= 1:
        carrier.leave(held, Note(Reason.REFUSED, "rows are split by shares", "data.train_fraction"))
    else:
        carrier.same(held)
    if stated.max_examples is not None:
        why = "all rows of the file are used"
        carrier.leave(stated.max_examples, Note(Reason.NO_COUNTERPART, why, "write the rows to use into a file"))
    if stated.image_root is not None:
        data = sources[0].name.value if sources else "."
        carrier.carry(
            "data.image_root", stated.image_root, relative(places.file(stated.image_root.value), places.file(data))
        )
        carrier.settings["data.images"] = Carried(
            value="image", source=stated.image_root.key, where=stated.image_root.where
        )


def relative(path: str, file: str) -> str:
    """Return a path relative to the folder of a file; both are relative to one folder."""
    one, folder = PurePosixPath(path), PurePosixPath(file).parent
    if one.is_absolute() or folder.is_absolute():
        return path
    parts, above = list(one.parts), list(folder.parts)
    while parts and above and parts[0] == above[0]:
        parts, above = parts[1:], above[1:]
    return "/".join([*[".."] * len(above), *parts]) or "."


def _carry_source(carrier: Carrier, source: StatedSource, columns: DataColumns, places: Places) -> None:
    name = source.name
    if columns.path is not None:
        carrier.carry("data.path", name, places.file(columns.path))
    elif source.kind in ("file", "folder"):
        carrier.carry("data.path", name, places.file(name.value))
        if source.kind == "folder":
            carrier.leave(name, Note(Reason.CHANGED, "a dataset is one file", "name the file in data.path"))
    else:
        file = f"data/{_file_name(name.value)}.jsonl"
        carrier.carry("data.path", name, file)
        kind = {"hub": "a dataset of a hub", "registered": "a registered name", "builder": "a builder"}[source.kind]
        why = f"{kind}, not a file on this machine"
        carrier.leave(name, Note(Reason.CHANGED, why, f"save its rows as {file} beside experiment.yaml"))
    for key, value in columns.settings.items():
        carrier.carry(key, source.format or name, value)
    for key in columns.sources:
        carrier.seen.add(key)
    for key, note in columns.notes.items():
        path = _path(carrier.document, key)
        carrier.left.append(_not_carried(key, carrier.document.get(*path), carrier.document.where(*path), note))
        carrier.seen.add(key)
    if source.split is not None:
        if source.split.value == "train":
            carrier.same(source.split)
        else:
            why = "the split is the file's column `split`, or made by data.train_fraction"
            carrier.leave(source.split, Note(Reason.CHANGED, why))
    carrier.leave(source.field, Note(Reason.CHANGED, "rows are found by the form of the file"))


def _file_name(name: str) -> str:
    last = name.rstrip("/").rpartition("/")[2]
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in last) or "data"


def _carry_further(carrier: Carrier, table: ImportTable) -> None:
    """Carry the keys over that a `StatedTraining` lacks, and pass those that state what touchline does anyway."""
    document = carrier.document
    for key, to in table.keys.items():
        stated = document.stated(*_path(document, key))
        if stated is not None and key not in carrier.seen:
            carrier.carry(to, stated)
    for key, (to, words) in table.words.items():
        stated = document.stated(*_path(document, key))
        word = None if stated is None else words.get(json.dumps(stated.value))
        if stated is not None and word is not None and key not in carrier.seen:
            carrier.carry(to, stated, word)
    for key, values in table.same.items():
        stated = document.stated(*_path(document, key))
        if stated is not None and any(stated.value == each and type(stated.value) is type(each) for each in values):
            carrier.same(stated)


class ExperimentOfStages(Protocol):
    """Conversion of a trainer's stage configs to one experiment."""

    def __call__(self, configs: Mapping[str, ImportedTraining]) -> dict[str, object]:
        """Return `train`, `data`, `models`, `stages`, `seeds` and `allow` of the experiment, by the stages' names.

        Raises:
            InputError: configs that are not one experiment; with every reason.
        """
        ...
