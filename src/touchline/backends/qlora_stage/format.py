"""QLoRA stage configs: one YAML file for each stage of a curriculum, read with PyYAML by a script of the project's own.

The script reads `config["train"]["lr"]` and the like, so a missing key is a KeyError, an unknown one does nothing, and
`lr: 5e-5`, a text for PyYAML, fails inside the optimizer. It trains an adapter on a base in 4 bits with Hugging Face's
Trainer, linear decay, and keeps three checkpoints. Source: the configs and scripts of Surgical_ChainOfThought (2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from touchline.backends.config_reading import ConfigFormat, ConfigReader, ConfigReading, subject_of
from touchline.backends.fields import TEXT, TRUTH, ValueType, dotted, number, whole, wrong_value
from touchline.backends.imports import ATTENTION, HF_AUTOMATIC, HF_OPTIMIZER_WORDS, HF_SCHEDULES, ImportTable
from touchline.core.finding import Location, Severity
from touchline.core.near import misspelled
from touchline.experiment.document import Key
from touchline.experiment.foreign import Dialect, ForeignDocument
from touchline.experiment.partial import Stated, StatedSource, StatedTraining

Path = tuple[Key, ...]
_COUNT = whole(1)
_NAMES = ValueType(
    "a list of layers' names",
    lambda value: isinstance(value, list) and bool(value) and all(isinstance(each, str) and each for each in value),
)
_POINT = ValueType("a path, or true", lambda value: isinstance(value, bool) or (isinstance(value, str) and bool(value)))
_ANYTHING = ValueType("anything", lambda value: True)

_KEYS: dict[Path, tuple[ValueType, bool, str]] = {
    ("experiment_name",): (TEXT, False, ""),
    ("model_name",): (TEXT, True, "model"),
    ("output_dir",): (TEXT, False, "output_dir"),
    ("prev_checkpoint",): (TEXT, False, "parent"),
    ("resume_from_checkpoint",): (_POINT, False, "resume"),
    ("vision_frozen",): (TRUTH, False, ""),
    ("lora", "r"): (_COUNT, True, "rank"),
    ("lora", "alpha"): (number(above=0), True, "alpha"),
    ("lora", "dropout"): (number(least=0, below=1), True, "dropout"),
    ("lora", "target_modules"): (_NAMES, True, "target_modules"),
    ("train", "seed"): (whole(0), False, "seed"),
    ("train", "max_seq_len"): (_COUNT, True, "max_seq_len"),
    ("train", "train_bs"): (_COUNT, True, "micro_batch_size"),
    ("train", "grad_accum"): (_COUNT, True, "gradient_accumulation_steps"),
    ("train", "eval_bs"): (_COUNT, True, ""),
    ("train", "lr"): (number(above=0), True, "learning_rate"),
    ("train", "weight_decay"): (number(least=0), True, "weight_decay"),
    ("train", "epochs"): (number(above=0), True, "epochs"),
    ("train", "warmup_ratio"): (number(least=0, below=1), True, "warmup_fraction"),
    ("train", "bf16"): (TRUTH, True, "dtype"),
    ("train", "gradient_checkpointing"): (TRUTH, True, "gradient_checkpointing"),
    ("train", "dataloader_num_workers"): (whole(0), False, "data_workers"),
    ("train", "logging_steps"): (_COUNT, True, ""),
    ("train", "save_steps"): (_COUNT, True, "save_steps"),
    ("train", "eval_steps"): (_COUNT, False, "eval_steps"),
    ("data", "train_jsonl"): (TEXT, True, ""),
    ("data", "val_jsonl"): (TEXT, True, ""),
    ("data", "image_root"): (TEXT, True, "image_root"),
    ("data", "instruction_template"): (TEXT, False, ""),
    ("data", "train_json"): (TEXT, False, ""),
    ("data", "val_json"): (TEXT, False, ""),
    ("data", "use_letterbox"): (TRUTH, False, ""),
    ("data", "target_size"): (_COUNT, False, ""),
    ("data", "use_vision_cache"): (TRUTH, False, ""),
    ("eval", "numeric_rel_tol"): (_ANYTHING, False, ""),
    ("eval", "numeric_abs_tol"): (_ANYTHING, False, ""),
}
"""Every key that a script of the project reads: what it takes, whether it is read without a default, and the field of a
`StatedTraining`."""
_FLOATS = frozenset(
    {
        *("alpha", "dropout", "epochs", "learning_rate", "warmup_fraction", "weight_decay"),
        *("save_steps", "eval_steps"),
    }
)
_FIXED: Mapping[str, tuple[object, str]] = {
    "method": ("qlora", "lora"),
    "quantization_bits": (4, "lora"),
    "schedule": ("linear", "train"),
    "shuffle": (True, "train"),
    "packed": (False, "train"),
    "trains_on_prompt": (False, "train"),
    "device": ("cuda", "train"),
    "save_limit": (3, "train"),
}
"""Fields that the script fixes, with the group that they belong to."""
_GROUPS = ("lora", "train", "data", "eval")
_INSTEAD: dict[Path, Path] = {
    ("data", "train_jsonl"): ("data", "train_json"),
    ("data", "val_jsonl"): ("data", "val_json"),
}
"""Keys that an older script of the project reads in place of another."""
_TELLING = frozenset({"train_bs", "grad_accum", "eval_bs"})
_COMMON = frozenset({"max_seq_len", "warmup_ratio", "save_steps", "eval_steps", "logging_steps", "lr", "weight_decay"})
_ENOUGH = 3


def known_key(key: str) -> bool:
    """Return True if a script of the project reads a dotted key."""
    return tuple(key.split(".")) in _KEYS


class QloraStageFormat:
    """Format of a stage's config."""

    name = "qlora_stage"
    title = "QLoRA stage config"
    dialect: Dialect = "pyyaml"

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True if the group `train` has this project's short names, with a base or an adapter beside it."""
        del file_name
        train = data.get("train")
        if not isinstance(train, Mapping) or not {"model_name", "lora", "experiment_name"} & data.keys():
            return False
        keys = {str(key) for key in train}
        return bool(_TELLING & keys) and len((_TELLING | _COMMON) & keys) >= _ENOUGH

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Read the stage's training and the file's findings."""
        settings = ConfigReader(document)
        settings.check_doubled(None)
        _check_keys(settings)
        _check_values(settings)
        return ConfigReading(trainings=(stated_stage(document),), findings=tuple(settings.findings))


def _check_keys(settings: ConfigReader) -> None:
    """Report groups that are none, keys that the script does not read, and those that it needs."""
    document = settings.document
    known: dict[Path, list[str]] = {(): [*_GROUPS]}
    for path in _KEYS:
        known.setdefault(path[:-1], []).append(str(path[-1]))
    for group in _GROUPS:
        if group in document.data and not isinstance(document.data[group], dict):
            settings.find("BK012", group, f"{group}: expected `key: value` lines under it")
    for parent, names in known.items():
        inner = document.get(*parent) if parent else document.data
        found: dict[str, object] = inner if isinstance(inner, dict) else {}
        for name in found.keys() - set(names):
            path = (*parent, name)
            near = misspelled(name, names, found)
            message = f"{dotted(path)}: the training script does not read this key"
            settings.find_unknown(path, message, near, severity=Severity.ERROR if near else Severity.INFO)
    missing: list[Path] = [(group,) for group in _GROUPS[:3] if group not in document.data]
    for path, (_, needed, _) in _KEYS.items():
        # The scripts that take no name write beside themselves; the others read where to write.
        named = path == ("output_dir",) and "experiment_name" in document.data
        inside = len(path) == 1 or isinstance(document.data.get(str(path[0])), dict)
        given = any(settings.has(*each) for each in (path, *([_INSTEAD[path]] if path in _INSTEAD else [])))
        missing += [path] if (needed or named) and inside and not given else []
    for path in missing:
        message = f"{dotted(path)} is missing; the training script reads it without a default"
        settings.find("BK013", path, message, f"write `{path[-1]}: ...`")


def _check_values(settings: ConfigReader) -> None:
    """Report values of another kind, and one that the script undoes."""
    document = settings.document
    for path, (kind, needed, _) in _KEYS.items():
        value = document.get(*path)
        if settings.has(*path) and (value is not None or needed):
            settings.findings.extend(wrong_value(document, path, value, kind))
    if document.get("train", "gradient_checkpointing") is False:
        settings.find(
            "BK019",
            ("train", "gradient_checkpointing"),
            "gradient_checkpointing: false is undone: preparing a base in 4 bits turns it on by default, "
            "so neither time nor memory change",
            "prepare_model_for_kbit_training(model, use_gradient_checkpointing=False) in the script",
            severity=Severity.INFO,
        )


def stated_stage(document: ForeignDocument) -> StatedTraining:
    """Return the training of a stage."""
    file = Location(path=document.path)
    found: dict[str, Any] = {field: Stated(value, key, file, is_default=True) for field, (value, key) in _FIXED.items()}
    for path, (kind, _, field) in _KEYS.items():
        value = document.get(*path)
        if field and kind.takes(value):
            plain: Any = tuple(value) if isinstance(value, list) else value
            plain = float(plain) if field in _FLOATS else plain
            found[field] = Stated(plain, dotted(path), document.where(*path))
    bf16 = found.pop("dtype", None)
    if bf16 is not None and bf16.value:
        found["dtype"] = Stated("bfloat16", bf16.key, bf16.where)
    resume = found.pop("resume", None)
    if resume is not None and resume.value is not False:
        found["resume"] = Stated("true" if resume.value is True else str(resume.value), resume.key, resume.where)
    for action in ("save", "eval"):
        if document.get("train", key := f"{action}_steps") is not None:
            found[f"{action}_cadence"] = Stated("steps", f"train.{key}", document.where("train", key))
    return StatedTraining(
        backend="qlora_stage",
        where=file,
        subject=subject_of(document.path),
        sources=tuple(_sources(document)),
        **found,
    )


def _sources(document: ForeignDocument) -> Iterator[StatedSource]:
    roles: tuple[tuple[str, Literal["train", "validation"]], ...] = (
        ("train_jsonl", "train"),
        ("val_jsonl", "validation"),
    )
    for key, role in roles:
        name, dotted_key, where = document.get("data", key), f"data.{key}", document.where("data", key)
        if isinstance(name, str) and name:
            rows = Stated("json", dotted_key, where, is_default=True)
            yield StatedSource(name=Stated(name, dotted_key, where), kind="file", role=role, format=rows)


FORMATS: tuple[ConfigFormat, ...] = (QloraStageFormat(),)
"""Formats of this backend."""


IMPORTS = ImportTable(
    schedules=HF_SCHEDULES,
    optimizers=HF_OPTIMIZER_WORDS,
    attention=ATTENTION,
    has_stages=True,
    carries_defaults=frozenset({"save_limit"}),
    automatic=(*HF_AUTOMATIC, "vision_frozen", "train.eval_bs", "train.logging_steps"),
    changed={"experiment_name": "a stage is named after its file"},
    knows=known_key,
)
"""What `touchline import` needs to know about its configs."""
