"""Factors of imported runs and the settings confounded with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from touchline.core.finding import Severity
from touchline.core.levels import Level
from touchline.results.imported.settings import ImportedSettings
from touchline.results.report_inputs import Issue

MODELS = "models"
_FACTORS = (
    ("lora_rank", "train.lora.rank", "rank"),
    ("learning_rate", "train.learning_rate", "learning rate"),
    ("epochs", "train.epochs", "epochs"),
    ("packed", "train.packed", "packing"),
    ("max_seq_len", "train.max_seq_len", "context length"),
    ("lora_alpha", "train.lora.alpha", "alpha"),
    ("effective_batch_size", "train.global_batch_size", "batch size"),
    ("batch_size", "train.micro_batch_size", "micro-batch size"),
    ("gradient_accumulation_steps", "train.gradient_accumulation_steps", "gradient accumulation"),
    ("gpus", "compute.gpus_per_run", "number of GPUs"),
)
"""Settings that may be factors: key in run_metrics.yaml, key in experiment.yaml, label."""
_WORDS = {MODELS: "base model", "data.path": "dataset"} | {dotted: words for _, dotted, words in _FACTORS}
_AS_USUAL = "train.lora.alpha"
_PART_OF = {"train.micro_batch_size": "train.global_batch_size"}
_COSTS = frozenset(
    {"train.global_batch_size", "train.micro_batch_size", "train.gradient_accumulation_steps", "compute.gpus_per_run"}
    | {"train.max_seq_len", "train.packed"}
)
"""Settings that affect training speed."""


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
    for key, dotted, _ in _FACTORS:
        columns[dotted] = {run: _text(each.values.get(key)) for run, each in settings.items()}
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
            " For the same reason times and rates are not comparable between them." if each.setting in _COSTS else ""
        )
        usual = each.setting == _AS_USUAL
        issues.append(
            Issue(
                weight=Severity.INFO if usual else Severity.WARNING,
                subject="experiment",
                title=f"{setting} changes with the {factor}",
                text=f"The {setting} is {pairs}. Whatever differs between levels of the {factor} may be due to the "
                f"{setting}; these runs cannot separate the two.{costs}",
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
