"""One reader of a trainer's table of keys: a field of the common vocabulary, the trainer's keys for it, its default.

Each trainer's keys, defaults and words are in one table in its folder. Values that are no copy of one key are read by
the other functions here. `observations` gives the settings that are written in a file as evidence: a default may differ
from version to version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, cast

from touchline.backends.config_reading import ConfigReader, subject_of
from touchline.backends.logtext.reader import Row
from touchline.core.finding import Location
from touchline.core.observation import Observation, ObservationName
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import QLORA_BITS, Cadence, Stated, StatedTraining

Method = Literal["lora", "qlora", "full"]
Kind = Literal["text", "number", "whole", "count", "flag", "words"]
"""Kind of a value, as the reader names it."""
Keys = Mapping[str, tuple[Kind, str, object]]
"""Field of a `StatedTraining` -> kind of value, the trainer's keys with blanks between them, and its default.

The first key that has a value counts. A default of None is not known, or there is none.
"""


def read_table(settings: ConfigReader, table: Keys) -> dict[str, Any]:
    """Return the fields of a table that a file states, with the trainer's default for the others."""
    found: dict[str, Any] = {}
    for field, (kind, keys, default) in table.items():
        names = keys.split()
        stated = settings.read(kind, *names)
        found[field] = settings.default(names[0], default) if stated is None and default is not None else stated
    return found


def written(table: Keys, values: Mapping[str, object], *parts: str | Mapping[str, object]) -> dict[str, object]:
    """Return the settings of a trainer's config, without those that are None.

    Args:
        values: our values by field; by the trainer's key where the table has no field for it.
        parts: in the file's order, fields or keys with blanks between them, or settings that are no field of ours.
    """
    found: dict[str, object] = {}
    for part in parts:
        if isinstance(part, str):
            found |= {table[name][1].split()[0] if name in table else name: values[name] for name in part.split()}
        else:
            found |= part
    return {key: value for key, value in found.items() if value is not None}


def first_on(settings: ConfigReader, words: Mapping[str, object], *also: object) -> Stated[Any] | None:
    """Return the word of the first key that is switched on, or has one of some other values.

    Args:
        words: words by key, in the trainer's order.
        also: values that switch a key on too.
    """
    for key, word in words.items():
        if settings.on(key) or (also and settings.values.get(key) in also):
            return Stated(word, key, settings.where(key))
    return None


def first_set(settings: ConfigReader, words: Mapping[str, object], *, shown: bool = False) -> Stated[Any] | None:
    """Return the word of the first key with a value that is not empty.

    Args:
        words: words by key, in the trainer's order.
        shown: whether a value that is a text follows the word.
    """
    for key, word in words.items():
        value = settings.values.get(key)
        if value and not (isinstance(value, str) and not value.strip()):
            return Stated(f"{word} {value}" if shown and isinstance(value, str) else word, key, settings.where(key))
    return None


def inverted(stated: Stated[bool] | None) -> Stated[bool] | None:
    """Return the opposite of a switch that is named after what it switches off."""
    return None if stated is None else Stated(not stated.value, stated.key, stated.where, stated.is_default)


def cadence(settings: ConfigReader, *names: str, default: Cadence) -> Stated[Cadence]:
    """Return the cadence of an action. Any other strategy (`best`) counts as steps."""
    stated = settings.text(*names)
    if stated is None:
        value = settings.values.get(names[0])
        # YAML 1.1 reads the word `no` as false, which the Trainer takes for `no` as well.
        word: Cadence = "no" if value is False else default
        return Stated(word, names[0], settings.where(names[0]), is_default=value is None)
    word = cast(Cadence, stated.value) if stated.value in ("no", "steps", "epoch") else "steps"
    return Stated(word, stated.key, stated.where)


def training_of(backend: str, settings: ConfigReader, fields: Mapping[str, Any]) -> StatedTraining:
    """Return the training of a file.

    Args:
        fields: what it states, by the fields of a `StatedTraining`.
    """
    path = settings.document.path
    return StatedTraining(backend=backend, where=Location(path=path), subject=subject_of(path), **fields)


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


OBSERVED = ("max_steps", "epochs", *(field for field, _, _ in _NAMES))
"""Fields of a `StatedTraining` that are evidence."""


def names_of(table: Keys, fields: Iterable[str]) -> frozenset[str]:
    """Return the trainer's keys of some fields."""
    return frozenset(key for field in fields if field in table for key in table[field][1].split())


def reader_of(values: Row) -> ConfigReader:
    """Return the reader of a mapping of settings."""
    return ConfigReader(ForeignDocument(path="", data=dict(values), lines=()))


def method_of(*, adapter: bool, bits: Stated[int] | int | None) -> Method:
    """Return the method of a training: QLoRA is an adapter on a base in four bits; on one in eight bits it is LoRA."""
    count = bits.value if isinstance(bits, Stated) else bits
    return "full" if not adapter else "qlora" if count is not None and count <= QLORA_BITS else "lora"


def observations(
    stated: StatedTraining, lines: Mapping[str, int], *, exact: bool = True, dora: bool = False
) -> Iterator[Observation]:
    """Yield the observations of a config.

    Args:
        lines: line of each key; 0 for those that are not there.
        exact: whether the number of steps is that of the training, not a bound.
        dora: whether the adapter, if there is one, is DoRA's.
    """
    for field, name, unit in _NAMES:
        found: Stated[Any] | None = getattr(stated, field)
        if found is not None and not found.is_default and _is_meant(name, found.value):
            value = "dora" if dora and name == "method" and found.value != "full" else _plain(found.value)
            yield Observation(name=name, value=value, line=lines.get(found.key, 0), unit=unit)
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
