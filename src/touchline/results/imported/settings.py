"""Settings of an imported run: from its log first, then its configs, then its name; and the factors of several runs.

A name counts only if nothing else states the value. Nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from touchline.backends.registry import all_traits
from touchline.core.finding import Severity
from touchline.core.levels import Level, factor_words
from touchline.core.quantity import Quantity
from touchline.core.shape import size_text
from touchline.experiment.settings import COLLECTED, COLLECTED_AS, FACTORS, SETTING
from touchline.history.facts import fact_of
from touchline.history.reading import OptionalText, SourcedText
from touchline.history.record import RunRecord
from touchline.results.imported.folders import clean_text
from touchline.results.imported.logs import SideFile
from touchline.results.report_inputs import Issue
from touchline.results.run_result import Setting

NAMED = "the run's name"
_MODEL_KEYS = tuple(key for traits in all_traits() for key in traits.model_keys)
"""Source of a model name known only from the run's name."""
_RANK = re.compile(r"(?<![A-Za-z])(?:lora[_-]?)?(?:rank|r)[_-]?(\d{1,5})(?![A-Za-z0-9.])", re.IGNORECASE)
_SEED = re.compile(r"(?<![A-Za-z])seed[_-]?(\d{1,9})(?![A-Za-z0-9])", re.IGNORECASE)
_BASE = re.compile(r"(?:^|[/_.-])(?:base|control|baseline|untrained)(?:$|[_.-])", re.IGNORECASE)
_WHOLE = frozenset(
    {
        *("batch_size", "gradient_accumulation_steps", "effective_batch_size", "max_seq_len"),
        *("lora_rank", "epochs", "seed", "gpus", "steps", "validate_every_steps"),
    }
)
_NOT_IN_CONFIGS = frozenset({"model", "packed", "effective_batch_size", "gpus"})
_SAME: Mapping[str, str] = {
    **{
        each: name
        for key, name in COLLECTED_AS.items()
        if name not in _NOT_IN_CONFIGS
        for each in (name, *SETTING[key].also)
    },
    **{"run_val_every_n_steps": "validate_every_steps", "task": "task"},
}
"""Top-level config keys of any trainer, and their names here."""
_IN_SECTIONS = frozenset({"lora_rank", "lora_alpha", "lr"})
_MEASURED = {
    **{"batch_size": "micro_batch_size", "gradient_accumulation_steps": "gradient_accumulation_steps"},
    **{"effective_batch_size": "global_batch_size"},
    **{key: key for key in COLLECTED if key not in ("model", "seed", "packed", "batch_size", "effective_batch_size")},
    **{"steps": "steps_total", "gpus": "gpus"},
}
"""Settings that a log states, and their fields of a reading."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedSettings:
    """Settings of a run, as far as its files state them."""

    model: str | None
    """Base model name."""
    model_where: str | None
    """Source of the model name."""
    dataset: str | None
    """Dataset as written."""
    is_control: bool
    """Whether its name says base model and no file shows a training."""
    values: dict[str, Setting]
    """Settings under the keys of run_metrics.yaml, plus `gpus`."""


def settings_of(name: str, readings: Sequence[RunRecord], documents: Sequence[SideFile]) -> ImportedSettings:
    """Return the settings of one run.

    Args:
        readings: readings of its logs, the decisive one first.
    """
    configs = [(document.path, document.data) for document in documents if document.data]
    values: dict[str, Setting] = {}
    for reading in readings[:1]:
        values |= dict(_of_reading(reading))
    stated: dict[str, Setting] = {}
    for _, data in configs:
        for key, value in _of_config(data):
            stated.setdefault(key, value)
    named = dict(_of_name(name))
    known = {**stated, **values}
    model, where = _model(name, readings, configs)
    trained = bool(readings) or any(key in known for key in ("lora_rank", "epochs"))
    return ImportedSettings(
        model=model,
        model_where=where,
        dataset=next((text for _, data in configs if (text := _dataset(data)) is not None), None),
        is_control=not trained and _BASE.search(name) is not None,
        values=_completed({**named, **known}),
    )


def _of_reading(reading: RunRecord) -> Iterator[tuple[str, Setting]]:
    for key, field in _MEASURED.items():
        measured = fact_of(reading, field)
        if isinstance(measured, Quantity):
            yield key, _plain(key, measured.value)
    if isinstance(reading.packing.packed, SourcedText):
        yield "packed", reading.packing.packed.value == "true"


def _of_config(data: Mapping[str, object]) -> Iterator[tuple[str, Setting]]:
    """Yield top-level settings, those of the sections `model` and `optimizer`, and PEFT's `r`."""
    sections = [data, *(each for key in ("model", "optimizer") if isinstance(each := data.get(key), Mapping))]
    for section in sections:
        for key, ours in _SAME.items():
            if (section is data or key in _IN_SECTIONS) and (found := _scalar(ours, section.get(key))) is not None:
                yield ours, found
    if "peft_type" in data and (rank := _scalar("lora_rank", data.get("r"))) is not None:
        yield "lora_rank", rank


def _of_name(name: str) -> Iterator[tuple[str, Setting]]:
    for key, pattern in (("lora_rank", _RANK), ("seed", _SEED)):
        found = pattern.findall(name)
        if found:
            yield key, int(found[-1])


def _model(
    name: str, readings: Sequence[RunRecord], configs: Sequence[tuple[Path, Mapping[str, object]]]
) -> tuple[str | None, str | None]:
    """Return the base model name and its source; a user-chosen name comes before a model builder."""
    for path, data in configs:
        checkpointer = data.get("checkpointer")
        folder = checkpointer.get("checkpoint_dir") if isinstance(checkpointer, Mapping) else None
        candidates = (
            *(data.get(key) for key in (*_MODEL_KEYS, "model_name", "base_model_name_or_path")),
            *(data.get(key) for key in ("model_name_or_path", "base_model", "model_checkpoint")),
            folder,
            data.get("model") if isinstance(data.get("model"), str) else None,
        )
        for candidate in candidates:
            if isinstance(candidate, str) and "${" not in candidate and (last := _last(candidate)):
                return last, path.name
    for reading in readings:
        said: OptionalText = reading.model.name
        if isinstance(said, SourcedText) and (last := _last(said.value)):
            return last, said.where
    size = size_text(name)
    return (size, NAMED) if size is not None else (None, None)


def _last(path: str) -> str:
    """Return the last part of a model path or id; a checkpoint folder of another run keeps its run name."""
    parts = [part for part in PurePosixPath(path.strip().replace("\\", "/")).parts if part not in ("/", ".", "..")]
    if not parts:
        return ""
    if re.fullmatch(r"(?:epoch|checkpoint|step)[_-]\d+", parts[-1]) and len(parts) > 1:
        return clean_text("/".join(parts[-2:]))
    cached = re.search(r"models--([^/]+?)--([^/]+)", path)
    return clean_text(cached[2] if cached is not None else parts[-1])[:200]


def _dataset(data: Mapping[str, object]) -> str | None:
    section = data.get("dataset")
    if isinstance(section, Mapping):
        for key in ("data_files", "data_dir", "path", "source"):
            value = section.get(key)
            if isinstance(value, list) and len(value) == 1:
                value = value[0]
            if isinstance(value, str) and value and value not in ("json", "csv", "parquet", "text"):
                return clean_text(value)[:400]
    for key in ("dataset_label", "dataset_path", "dataset_name", "dataset", "train_file"):
        value = data.get(key)
        if isinstance(value, str) and value and "${" not in value:
            return clean_text(value)[:400]
    return None


def _completed(values: dict[str, Setting]) -> dict[str, Setting]:
    micro, accumulation, gpus = (values.get(key) for key in ("batch_size", "gradient_accumulation_steps", "gpus"))
    if "effective_batch_size" not in values and isinstance(micro, int) and isinstance(accumulation, int):
        values["effective_batch_size"] = micro * accumulation * (gpus if isinstance(gpus, int) else 1)
    return values


def _scalar(key: str, value: object) -> Setting:
    if isinstance(value, bool):
        return None if key in _WHOLE else value
    if isinstance(value, int | float):
        return _plain(key, float(value))
    if isinstance(value, str):
        try:
            # A loader of another YAML than ours reads 2e-4 as a number.
            return _plain(key, float(value))
        except ValueError:
            return clean_text(value)[:200] if key == "task" and "${" not in value else None
    return None


def _plain(key: str, number: float) -> Setting:
    if number != number or number in (float("inf"), float("-inf")):
        return None
    return int(number) if key in _WHOLE and number == int(number) else number


MODELS = "models"
_WORDS = {
    **{key: factor_words(key) for key in (MODELS, "data.path", *FACTORS)},
    "train.max_seq_len": "context length",
    "train.global_batch_size": "batch size",
    "train.micro_batch_size": "micro-batch size",
    "train.gradient_accumulation_steps": "gradient accumulation",
    "compute.gpus_per_run": "number of GPUs",
}
_AS_USUAL = "train.lora.alpha"
_PART_OF = {"train.micro_batch_size": "train.global_batch_size"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Together:
    """Setting that always changes together with a factor."""

    setting: str
    """Dotted key of the setting."""
    factor: str
    """Dotted key of the factor."""
    pairs: tuple[tuple[str, str], ...]
    """(level of the factor, value of the setting)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """Factors, levels and confounders of the runs."""

    factors: dict[str, tuple[str, ...]]
    """Dotted keys and their levels."""
    levels: dict[str, tuple[Level, ...]]
    """Levels per run."""
    together: tuple[Together, ...]
    """Settings confounded with a factor."""


def design_of(settings: Mapping[str, ImportedSettings]) -> Design:
    """Return the design: factors are settings that differ between runs and do not follow from an earlier factor.

    Args:
        settings: settings of each fine-tuned run, by name; controls have none.
    """
    columns = {MODELS: {run: each.model for run, each in settings.items()}}
    columns["data.path"] = {run: each.dataset for run, each in settings.items()}
    for key in FACTORS:
        columns[key] = {run: _text(each.values.get(COLLECTED_AS[key])) for run, each in settings.items()}
    factors: dict[str, tuple[str, ...]] = {}
    together: list[Together] = []
    for dotted, column in columns.items():
        known = [value for value in column.values() if value is not None]
        if len(set(known)) < 2:
            continue
        if len(known) == len(column):
            leader = next((name for name in factors if _follows(column, columns[name])), None)
            if leader is not None:
                pairs = sorted({(str(columns[leader][run]), str(column[run])) for run in column}, key=_sorted)
                together.append(Together(setting=dotted, factor=leader, pairs=tuple(pairs)))
                continue
        factors[dotted] = tuple(sorted(set(known), key=_order))
    levels = {
        run: tuple(Level(factor=name, value=value) for name in factors if (value := columns[name][run]) is not None)
        for run in settings
    }
    return Design(factors=factors, levels=levels, together=tuple(together))


def together_issues(design: Design) -> list[Issue]:
    """Return issues about settings confounded with a factor."""
    found = {each.setting for each in design.together}
    issues = []
    for each in design.together:
        if _PART_OF.get(each.setting) in found:
            continue
        setting, factor = _WORDS[each.setting], _WORDS[each.factor]
        named = "" if each.factor in (MODELS, "data.path") else f"{factor} "
        pairs = ", ".join(f"{value} with {named}{level}" for level, value in each.pairs)
        costs = (
            " For the same reason times and rates are not comparable between them."
            if each.setting in SETTING and SETTING[each.setting].changes_speed
            else ""
        )
        usual = each.setting == _AS_USUAL
        issues.append(
            Issue(
                weight=Severity.INFO if usual else Severity.WARNING,
                subject="experiment",
                title=f"{setting} changes with the {factor}",
                text=f"The {setting} is {pairs}. Differences between levels of the {factor} may be due to the "
                f"{setting}. These runs cannot separate the two.{costs}",
            )
        )
    return issues


def _follows(column: Mapping[str, str | None], factor: Mapping[str, str | None]) -> bool:
    """Return True if the factor's level determines the setting's value in all runs."""
    decided: dict[str | None, str | None] = {}
    return all(decided.setdefault(factor[run], value) == value for run, value in column.items())


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _order(level: str) -> tuple[int, float, str]:
    try:
        return 0, float(level), level
    except ValueError:
        return 1, 0.0, level


def _sorted(pair: tuple[str, str]) -> tuple[tuple[int, float, str], str]:
    return _order(pair[0]), pair[1]
