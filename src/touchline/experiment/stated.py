"""Our own settings in the words of all trainers, with the place in the file that gives each its value.

A run's value comes from a factor's level, from a pair, from the file's own key, or is touchline's default; a finding
must point at that place, not at the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

from touchline.core.finding import Location
from touchline.core.levels import STAGE, level_text
from touchline.experiment.data_config import DataConfig
from touchline.experiment.document import Path, YamlDocument
from touchline.experiment.partial import Stated, StatedSource, StatedTraining
from touchline.experiment.runs import RunSpec
from touchline.experiment.settings import SETTINGS, value_of
from touchline.experiment.stages import stage_places
from touchline.experiment.training import CheckpointInterval, TrainConfig, accumulation_steps

T = TypeVar("T")
_BITS = {"nf4": 4, "int8": 8}
_FIELDS = {field.name for field in fields(StatedTraining)} - {"attention", "backend", "gradient_accumulation_steps"}
STATED_KEYS = {
    **{setting.field: setting.key for setting in SETTINGS if setting.group == "train" and setting.field in _FIELDS},
    "dtype": "train.base_dtype",
}
"""Fields of `StatedTraining` that a key of experiment.yaml states, with that key."""


@dataclass(frozen=True, slots=True)
class SettingSource:
    """Source of a setting's value."""

    where: Location
    is_default: bool = False
    """Whether it is not set in the file."""


def stated_of_run(
    spec: RunSpec, document: YamlDocument, known: dict[Path, SettingSource] | None = None, devices: int = 1
) -> StatedTraining:
    """Return the training settings of a run, each with its place in experiment.yaml.

    Args:
        document: the experiment's file.
        known: places that were found for other runs of the same file; what is found is put there.
        devices: data-parallel size of the run.
    """
    place = places_of_run(spec, document, known)
    stated = stated_settings(
        backend=spec.train.backend,
        subject=spec.name,
        where=Location(path=document.path),
        model=spec.model,
        data=spec.data,
        train=spec.train,
        seed=spec.seed,
        place=lambda key: place("models" if key == "model" else key),
        devices=devices,
    )
    rate = stated.learning_rate
    if rate is not None and spec.learning_rate_reason is not None:
        rate = replace(rate, is_default=True)
    varies = any(level.factor == "train.learning_rate" for level in spec.levels)
    return replace(stated, learning_rate=rate, rule_rate=None if varies else spec.rule_rate)


def places_of_run(
    spec: RunSpec, document: YamlDocument, known: dict[Path, SettingSource] | None = None
) -> Callable[[str], SettingSource]:
    """Return the places where a dotted key gets a run's value: a level's, a stage's, or the key's own.

    Args:
        known: places that were found for other runs of the same file; what is found is put there.
    """
    places = {level.factor: path for level in spec.levels for path in _level_path(document, level.factor, spec)[:1]}
    for level in spec.levels:
        if level.factor == STAGE:
            # A stage's own settings win over the levels of factors.
            places |= stage_places(document, level.value)
    found = {} if known is None else known
    return lambda key: _place(document, places, key, found)


def document_places(document: YamlDocument) -> Callable[[str], SettingSource]:
    """Return the places of the keys in a file with the settings of one run."""
    return lambda key: _place(document, {}, key, {})


def stated_settings(
    *,
    backend: str,
    subject: str,
    where: Location,
    model: str | None,
    data: DataConfig | None,
    train: TrainConfig,
    seed: int | None,
    place: Callable[[str], SettingSource],
    devices: int | None = None,
) -> StatedTraining:
    """Return touchline's settings in the vocabulary of all trainers.

    Args:
        model: the base, where the file says it.
        data: the dataset, where the file says it.
        seed: the seed, where the file says it.
        place: where a dotted key, `train.epochs`, gets its value; `model`, `seed` and the like as well.
        devices: data-parallel size; None where the file does not say it.
    """
    every, micro, validates = train.checkpoint.every, train.micro_batch_size, train.validate_every_steps
    keep, is_qlora = train.checkpoint.keep, train.quantization == "nf4"
    interval = every if isinstance(every, CheckpointInterval) else None
    in_steps = None if interval is None else interval.steps
    passes = None if micro == "auto" else accumulation_steps(train.global_batch_size, micro, devices or 1)
    # Field of StatedTraining: value, None where there is none, and the key that states it.
    rows: dict[str, tuple[object, str]] = {
        **{field: (_plain(value_of(train, key.removeprefix("train."))), key) for field, key in STATED_KEYS.items()},
        "epochs": (float(train.epochs), "train.epochs"),
        "alpha": (None if train.lora.alpha is None else float(train.lora.alpha), "train.lora.alpha"),
        "model": (model, "model"),
        "seed": (seed, "seed"),
        "devices": (devices, "compute.gpus_per_run"),
        "method": ("qlora", "train.quantization") if is_qlora else (train.method, "train.method"),
        "optimizer": (train.optimizer, "train.optimizer"),
        "quantization_bits": (_BITS.get(train.quantization), "train.quantization"),
        "gradient_accumulation_steps": (passes, "train.micro_batch_size"),
        "distributed": ("fsdp" if train.is_sharded else None, "train.sharding"),
        "save_cadence": ("epoch" if interval is None else in_steps and "steps", "train.checkpoint.every"),
        "save_steps": (in_steps and float(in_steps), "train.checkpoint.every"),
        "save_limit": (keep if isinstance(keep, int) else None, "train.checkpoint.keep"),
        "save_adapter_only": (train.saves == "adapter", "train.checkpoint.save"),
        "eval_cadence": ("epoch" if validates is None else "steps", "train.validate_every_steps"),
        "eval_steps": (validates and float(validates), "train.validate_every_steps"),
    }
    fixed: dict[str, tuple[object, str]] = {"shuffle": (True, "train"), "trains_on_prompt": (False, "train")}
    if not is_qlora and train.method == "lora":
        fixed["method"] = ("lora", "train.lora")
    if train.optimizer == "adamw":
        fixed["optimizer"] = ("AdamW", "train")
    if train.warmup_steps is not None:
        del rows["warmup_fraction"]
    if train.trains_all:
        # The optimizer's state is in the training state alone, which goes when the training is complete.
        fixed["save_only_model"] = (True, "train.checkpoint")

    def stated(value: T, key: str) -> Stated[T]:
        source = place(key)
        return Stated(value, key, source.where, source.is_default)

    found: dict[str, Any] = {
        name: stated(value, key) for name, (value, key) in rows.items() if value is not None and name not in fixed
    }
    found |= {name: Stated(value, key, where, is_default=True) for name, (value, key) in fixed.items()}
    sources = () if data is None else tuple(_sources(data, stated))
    return StatedTraining(backend=backend, where=where, subject=subject, sources=sources, **found)


def _plain(value: object) -> object:
    """Return None for `auto`, which states nothing."""
    return None if value == "auto" else value


def _sources(data: DataConfig, stated: Callable[[str, str], Stated[str]]) -> Iterator[StatedSource]:
    """Yield the files that a training reads."""
    for key, file in data.files.items():
        if not key.startswith("data.test"):
            yield _source(stated(file, key), "validation" if key == "data.validation" else "train")


def _source(path: Stated[str], role: Literal["train", "validation"]) -> StatedSource:
    suffix = path.value.lower().rpartition(".")[2]
    known = {"json": "json", "jsonl": "json", "csv": "csv", "parquet": "parquet"}.get(suffix)
    return StatedSource(
        name=path,
        kind="file",
        role=role,
        format=None if known is None else Stated(known, path.key, path.where, path.is_default),
    )


def _place(
    document: YamlDocument, levels: dict[str, Path], key: str, known: dict[Path, SettingSource]
) -> SettingSource:
    """Return the source of a key's value: a level, the key itself, or nothing in the file."""
    if key == "seed" and "seed" not in document.data:
        key = "seeds"
    path: Path = levels.get(key) or tuple(key.split("."))
    if path not in known:
        known[path] = (
            SettingSource(document.where(path))
            if document.states(path)
            else SettingSource(Location(path=document.path), is_default=True)
        )
    return known[path]


def _level_path(document: YamlDocument, factor: str, spec: RunSpec) -> list[Path]:
    """Return the paths in the file that set a run's level of a factor."""
    texts = {level.factor: level.value for level in spec.levels}
    if factor == "seeds":
        return _matching(document, ("seeds",), texts[factor])
    found = _matching(document, ("factors", factor), texts[factor])
    pairs = document.data.get("pairs")
    for index, pair in enumerate(pairs if isinstance(pairs, list) else []):
        if isinstance(pair, dict) and factor in pair and all(_is_level(pair[key], texts.get(key)) for key in pair):
            # A pair wins over a factor of the same key, as in the expansion.
            found.insert(0, ("pairs", index, factor))
    if factor == "models":
        found += _matching(document, ("models",), texts[factor])
    return found


def _matching(document: YamlDocument, path: Path, text: str) -> list[Path]:
    node: object = document.data
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    levels: Sequence[object] = node if isinstance(node, list) else []
    return [(*path, index) for index, level in enumerate(levels) if level_text(level) == text]


def _is_level(value: object, text: str | None) -> bool:
    """Return True if a pair's value is the run's level; a pair names its model alone or in a list."""
    each = [value, *value] if isinstance(value, list) else [value]
    return text in [level_text(one) for one in each]
