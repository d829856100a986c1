"""What a config states as evidence: the settings that are written in it, from the reading that checks and imports it.

Only what is written is given: a default may differ from version to version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from touchline.backends.config_reading import ConfigReader
from touchline.backends.logtext.reader import Row
from touchline.core.observation import Observation, ObservationName
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import Stated, StatedTraining

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


def reader_of(values: Row) -> ConfigReader:
    """Return the reader of a mapping of settings."""
    return ConfigReader(ForeignDocument(path="", data=dict(values), lines=()))


def observations(stated: StatedTraining, lines: Mapping[str, int], *, exact: bool = True) -> Iterator[Observation]:
    """Yield the observations of a config.

    Args:
        stated: its training.
        lines: line of each key; 0 for those that are not there.
        exact: whether the number of steps is that of the training, not a bound.
    """
    for field, name, unit in _NAMES:
        found: Stated[Any] | None = getattr(stated, field)
        if found is not None and not found.is_default and _is_meant(name, found.value):
            yield Observation(name=name, value=_plain(found.value), line=lines.get(found.key, 0), unit=unit)
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
