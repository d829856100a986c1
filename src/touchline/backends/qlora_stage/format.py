"""QLoRA stage configs: one YAML file for each stage of a curriculum, read with PyYAML by a script of the project's own.

The script reads `config["train"]["lr"]` and the like, so a missing key is a KeyError, an unknown one does nothing, and
`lr: 5e-5`, a text for PyYAML, fails inside the optimizer. It trains an adapter on a base in 4 bits with Hugging Face's
Trainer, linear decay, and keeps three checkpoints. Source: the configs and scripts of Surgical_ChainOfThought (2025).
A set of them is one experiment with `stages:`: the parent of each is found by its `prev_checkpoint`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

from touchline.backends.config_reading import ConfigFormat, ConfigReader, ConfigReading, subject_of
from touchline.backends.config_table import (
    ATTENTION,
    HF_AUTOMATIC,
    HF_OPTIMIZER_WORDS,
    HF_SCHEDULES,
    MODEL,
    SEED,
    ImportedTraining,
    ImportTable,
    method_of,
    nested,
)
from touchline.backends.fields import TEXT, TRUTH, ValueType, dotted, number, whole, wrong_value
from touchline.core.errors import InputError
from touchline.core.finding import Finding, Location, Severity
from touchline.core.near import misspelled
from touchline.experiment.data_config import DATASET_KEYS
from touchline.experiment.document import Key
from touchline.experiment.foreign import Dialect, ForeignDocument
from touchline.experiment.partial import QLORA_BITS, Stated, StatedSource, StatedTraining

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
    {*("alpha", "dropout", "epochs", "learning_rate", "warmup_fraction", "weight_decay"), *("save_steps", "eval_steps")}
)
_FIXED: Mapping[str, tuple[object, str]] = {
    "method": (method_of(adapter=True, bits=QLORA_BITS), "lora"),
    "quantization_bits": (QLORA_BITS, "lora"),
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
        """Return True if the group `train` has this project's short names, with a base or an adapter next to it."""
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
        # The scripts that take no name write next to themselves; the others read where to write.
        named = path == ("output_dir",) and "experiment_name" in document.data
        inside = len(path) == 1 or isinstance(document.data.get(str(path[0])), dict)
        given = any(settings.has(*each) for each in (path, *([_INSTEAD[path]] if path in _INSTEAD else [])))
        missing += [path] if (needed or named) and inside and not given else []
    for path in missing:
        message = f"{dotted(path)} is missing, and the training script has no default for it"
        settings.find("BK013", path, message, f"write `{path[-1]}: ...`")


def _check_values(settings: ConfigReader) -> None:
    document = settings.document
    for path, (kind, needed, _) in _KEYS.items():
        value = document.get(*path)
        if settings.has(*path) and (value is not None or needed):
            settings.findings.extend(wrong_value(document, path, value, kind))
    if document.get("train", "gradient_checkpointing") is False:
        settings.find(
            "BK019",
            ("train", "gradient_checkpointing"),
            "gradient_checkpointing: false has no effect: prepare_model_for_kbit_training turns it on by default",
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
        backend="qlora_stage", where=file, subject=subject_of(document.path), sources=tuple(_sources(document)), **found
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


IMPORTS = ImportTable(
    schedules=HF_SCHEDULES,
    optimizers=HF_OPTIMIZER_WORDS,
    attention=ATTENTION,
    has_stages=True,
    carries_defaults=frozenset({"save_limit"}),
    automatic=(*HF_AUTOMATIC, "vision_frozen", "train.eval_bs", "train.logging_steps"),
    changed={"experiment_name": "a stage is named after its file"},
    knows=known_key,
    images="image_filename",
)


def experiment_of(configs: Mapping[str, ImportedTraining], left_out: Collection[str] = ()) -> dict[str, object]:
    """Return the experiment of stage configs, common settings once.

    Args:
        configs: training of each config, by the stage's name.
        left_out: stages without rows; what continues one of them continues its parent.

    Raises:
        InputError: configs that are not one experiment; with every reason.
    """
    trainings = {stage: config.stated for stage, config in configs.items() if config.stated is not None}
    findings = [*_different(trainings, "model"), *_different(trainings, "seed")]
    parents = {stage: _parent(stage, trainings) for stage in trainings}
    findings += [
        _fault(
            stage, f"prev_checkpoint {config.parent.value!r} is not in the output_dir of another config", config.parent
        )
        for stage, config in trainings.items()
        if config.parent is not None and parents[stage] is None
    ]
    order = _ordered(parents)
    for stage in order:
        while (above := parents[stage]) in left_out:
            parents[stage] = parents[above] if above is not None else None
    findings += [
        _fault(stage, "its prev_checkpoint leads back to itself", None) for stage in trainings.keys() - set(order)
    ]
    if findings:
        raise InputError("the configs do not form one experiment", findings=findings)
    order = [stage for stage in order if stage not in left_out]
    settings = {stage: {key: each.value for key, each in configs[stage].settings.items()} for stage in order}
    first = settings[order[0]]
    common = {key: value for key, value in first.items() if all(each.get(key) == value for each in settings.values())}
    model, seed = common.pop(MODEL, ""), common.pop(SEED, 1)
    stages: list[object] = []
    for stage in order:
        above = parents[stage]
        entry: dict[str, object] = {"name": stage}
        if above is not None:
            entry |= {"parent": above, "continue": "adapter"}
        own = {key: value for key, value in settings[stage].items() if key not in common and key not in (MODEL, SEED)}
        stages.append({**entry, **nested(own)})
    data: dict[str, object] = {
        "models": [model],
        **nested({key: first[key] for key in DATASET_KEYS if key in first} | common),
        "stages": stages,
        "seeds": [seed],
    }
    if sum(parents[stage] is None for stage in order) > 1:
        # Several chains in one file are meant here.
        data["allow"] = ["EX124"]
    return data


def _parent(stage: str, configs: Mapping[str, StatedTraining]) -> str | None:
    parent = configs[stage].parent
    if parent is None:
        return None
    wanted = PurePosixPath(parent.value)
    for other, config in configs.items():
        folder = None if config.output_dir is None else PurePosixPath(config.output_dir.value)
        if other != stage and folder is not None and (folder == wanted or folder in wanted.parents):
            return other
    return None


def _ordered(parents: Mapping[str, str | None]) -> list[str]:
    """Return the stages, parents first. Stages of a cycle are left out."""
    order: list[str] = []
    left = list(parents)
    while ready := [stage for stage in left if parents[stage] is None or parents[stage] in order]:
        order += ready
        left = [stage for stage in left if stage not in ready]
    return order


def _different(configs: Mapping[str, StatedTraining], field: str) -> list[Finding]:
    values: dict[str, Stated[object] | None] = {stage: getattr(each, field) for stage, each in configs.items()}
    first = _value(next(iter(values.values())), None)
    return [
        _fault(stage, f"{field} {_value(each, None)!r} is not {first!r} as in the first config", each)
        for stage, each in values.items()
        if _value(each, None) != first
    ]


def _fault(stage: str, message: str, at: Stated[object] | None) -> Finding:
    where = None if at is None else at.where
    return Finding(code="BK014", severity=Severity.ERROR, subject=stage, message=f"{stage}: {message}", where=where)


def _value(stated: Stated[Any] | None, default: Any) -> Any:
    return default if stated is None else stated.value
