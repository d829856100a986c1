"""Capabilities of backends: what each can do, and the refusal of settings that it cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from touchline.core.finding import Finding, Severity
from touchline.experiment.experiment import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """Features of a backend. A setting that it lacks is an error, never dropped."""

    devices: int = 1
    """Most devices that one run uses."""
    stages: bool = False
    """Whether a run can continue from another run's adapter."""
    shuffled_labels: bool = False
    """Whether it can train on shuffled answers, as a shuffled control does."""
    vision: bool = False
    """Whether it trains vision-language models, on images and on text."""
    cohorts: bool = False
    """Whether several runs train side by side on one base, in one process."""
    pauses: bool = False
    """Whether a training pauses at the step that pause.json names, and continues as if it had not paused."""
    shares_validation: bool = False
    """Whether a run takes the validation before its first step over from another run on the same base and items."""
    recipes: bool = False
    """Whether `train.recipe` chooses its program."""
    one_dtype: bool = False
    """Whether base and adapter have one dtype."""
    packing_keeps_steps: bool = True
    """Whether a step holds as many examples packed as unpacked. If not, `packed: auto` does not pack."""
    values: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Supported values by dotted key under `train`. A key that is not listed takes every value."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why other values are not supported, by the same key, where that is no matter of course."""


def setting_value(train: TrainConfig, key: str) -> object:
    """Return the value of a dotted key under `train`, such as `lora.dora`."""
    value: object = train
    for name in key.split("."):
        value = getattr(value, name)
    return value


def unsupported_settings(name: str, train: TrainConfig, capabilities: Mapping[str, Capabilities]) -> Iterator[Finding]:
    """Yield an error for each setting that a backend does not support, with the backends that do.

    Args:
        capabilities: of every backend, by name.
    """
    for key, supported in capabilities[name].values.items():
        value = setting_value(train, key)
        if _supports(value, supported):
            continue
        able = [
            other
            for other, features in capabilities.items()
            if key not in features.values or _supports(value, features.values[key])
        ]
        expected = " or ".join(map(_text, supported))
        reason = f" ({capabilities[name].reasons[key]})" if key in capabilities[name].reasons else ""
        hint = f"backend: {able[0]}" if able else f"{key.rpartition('.')[2]}: {_text(supported[0])}"
        yield unsupported(name, key, f"{key}: {_text(value)}{reason}, expected {expected}", hint)


def unsupported(backend: str, key: str, combination: str, hint: str | None) -> Finding:
    """Build the error for a setting that a backend does not support.

    Args:
        key: dotted key under `train`.
        combination: the value, or the values that exclude each other.
        hint: the change that helps, if there is one.
    """
    return Finding(
        code="BK001",
        severity=Severity.ERROR,
        subject=f"train.{key}",
        message=f"the backend {backend} does not support {combination}",
        hint=hint,
    )


def _supports(value: object, supported: tuple[object, ...]) -> bool:
    if value == "auto":
        # It becomes a supported value.
        return True
    return any(value == able and isinstance(value, bool) == isinstance(able, bool) for able in supported)


def _text(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
