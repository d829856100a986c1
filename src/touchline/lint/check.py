"""Report of `touchline check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from touchline.core.model_size import size_label, size_of_name
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.lint.arithmetic import arithmetic
from touchline.lint.checked import FindingRow
from touchline.lint.views import TrainingView
from touchline.spec.partial import Stated, T

CHECK_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedConfig:
    """One training that a config states, and whether it passed."""

    path: str
    """The config."""
    subject: str
    """The run's folder or name."""
    backend: str
    """The format it was read by."""
    model: str | None
    """The base model, as the config names it."""
    size: str | None
    """Its size, `1B`; null where nothing tells."""
    micro_batch_size: int | None
    """Rows per forward pass."""
    packed: bool | None
    """Whether several examples share a row."""
    max_seq_len: int | None
    """Tokens of a row at most."""
    gradient_accumulation_steps: int | None
    """Micro-batches per optimizer step."""
    gradient_checkpointing: bool | None
    """Whether activations are computed again."""
    effective_batch_examples: Measured
    """Examples per optimizer step; of packed rows with an interval where the density is not known."""
    passed: bool
    """Whether no error was found in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """Findings under some paths."""

    schema_version: int = CHECK_SCHEMA_VERSION
    """Version of this form."""
    findings: tuple[FindingRow, ...]
    """Findings by file and line."""
    configs: tuple[CheckedConfig, ...]
    """Every training that was read."""
    files: int
    """Files that were checked."""
    errors: int
    """Findings that stop a launch."""
    warnings: int
    """Findings that very probably are mistakes."""


_NEAR: Final = 0.3
"""Tolerance between a name's size and the real one: models sold as 1B have 1.24 billion parameters."""


def summary_of(view: TrainingView) -> CheckedConfig:
    """Summarize a training. `passed` is set by the caller, who has all findings."""
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
    """Examples of an optimizer step; packed without known lengths at least its rows, and nobody knows how many more."""
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
            method=f"packed rows{devices}; a sequence holds several examples, the data's lengths are not known",
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
