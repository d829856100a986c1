"""Report of `touchline check`, and what a config and its experiment state alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.shape import size_label, size_of_name
from touchline.experiment.partial import Stated, StatedTraining, T
from touchline.lint.checked import FindingRow
from touchline.lint.training import TrainingView, arithmetic

CHECK_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedConfig:
    """Training stated by a config, with the result of its check."""

    path: str
    """Config file."""
    subject: str
    """Folder or name of the run."""
    backend: str
    """Format of the config."""
    model: str | None
    """Base model, as the config names it."""
    size: str | None
    """Size of the model, such as `1B`; null if unknown."""
    micro_batch_size: int | None
    """Rows per forward pass."""
    packed: bool | None
    """Whether several examples share a row."""
    max_seq_len: int | None
    """Maximum number of tokens per row."""
    gradient_accumulation_steps: int | None
    """Micro-batches per optimizer step."""
    gradient_checkpointing: bool | None
    """Whether activations are recomputed."""
    effective_batch_examples: Measured
    """Examples per optimizer step; an interval for packed rows of unknown density."""
    passed: bool | None
    """Whether no error was found in it; null if its experiment has errors of its own, so that not all was checked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """Findings for the checked paths."""

    schema_version: int = CHECK_SCHEMA_VERSION
    """Version of this format."""
    findings: tuple[FindingRow, ...]
    """Findings by file and line."""
    configs: tuple[CheckedConfig, ...]
    """Trainings that were read."""
    files: int
    """Number of checked files."""
    errors: int
    """Findings that stop a launch."""
    warnings: int
    """Findings that are very probably mistakes."""


_NEAR: Final = 0.3
"""Tolerance between a name's size and the real one. Models named 1B have 1.24 billion parameters."""


def summary_of(view: TrainingView) -> CheckedConfig:
    """Summarize a training. The caller sets `passed` from the findings."""
    stated = view.stated
    return CheckedConfig(
        path=stated.where.path,
        subject=stated.subject,
        backend=stated.backend,
        model=_value(stated.model),
        size=_size(view),
        micro_batch_size=_value(stated.micro_batch_size),
        packed=_value(stated.packed),
        max_seq_len=_value(stated.max_seq_len),
        gradient_accumulation_steps=_value(stated.gradient_accumulation_steps),
        gradient_checkpointing=_value(stated.gradient_checkpointing),
        effective_batch_examples=effective_batch(view),
        passed=True,
    )


def effective_batch(view: TrainingView) -> Measured:
    """Return the examples per optimizer step. For packed rows of unknown length, return the number of rows as a lower
    bound.
    """
    numbers = arithmetic(view)
    rows = numbers.rows_per_step
    if isinstance(rows, Missing):
        return rows
    one = numbers.devices.high is None
    devices = ", on one device" if one else ""
    density = numbers.density
    if density is None:
        return Quantity(
            value=rows.low,
            unit="examples",
            low=rows.low,
            method=f"packed sequences{devices}, each with several examples of unknown length",
        )
    packed = view.stated.packed is not None and view.stated.packed.value and density != 1.0
    method = (
        f"{rows.low} packed sequences × {density:.3g} examples per sequence" if packed else "micro-batch × accumulation"
    )
    return Quantity(
        value=rows.low * density, unit="examples", method=f"{method} × devices" if not one else method + devices
    )


def _size(view: TrainingView) -> str | None:
    if isinstance(view.model, Missing) or view.model.num_parameters is None:
        return None
    real = view.model.num_parameters
    names = (view.model.name, "" if view.stated.model is None else view.stated.model.value)
    sold = next((size for name in names if (size := size_of_name(name)) is not None), None)
    return size_label(sold if sold is not None and abs(sold - real) <= _NEAR * real else real)


def _value(stated: Stated[T] | None) -> T | None:
    return None if stated is None else stated.value


_STATED_ALIKE = (
    *("rank", "alpha", "dropout", "target_modules", "epochs", "global_batch_size", "learning_rate", "schedule"),
    *("warmup_fraction", "weight_decay", "max_grad_norm", "max_seq_len", "gradient_checkpointing", "eval_steps"),
)
_NAMED_BY_TRAINERS = frozenset({"target_modules", "schedule"})
"""Settings among them whose values each trainer names itself."""


def stated_alike(training: StatedTraining) -> tuple[object, ...]:
    """Return the settings that an experiment and its runs' configs state alike; `auto` is resolved by the config."""
    settings = (getattr(training, name) for name in _STATED_ALIKE)
    return tuple(None if setting is None else setting.value for setting in settings)


def agrees(training: StatedTraining, asked: tuple[object, ...]) -> bool:
    """Return True if another trainer's config states nothing else than an experiment, as far as it states it."""
    pairs = zip(_STATED_ALIKE, stated_alike(training), asked, strict=True)
    return all(found in (None, wanted) for name, found, wanted in pairs if name not in _NAMED_BY_TRAINERS)
