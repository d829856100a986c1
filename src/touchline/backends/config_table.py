"""One reader of a trainer's table of keys: a field of the common vocabulary, the trainer's keys for it, its default.

Each trainer's keys, defaults and words are in one table in its folder. Values that are no copy of one key are read by
the other functions here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, cast

from touchline.backends.config_reading import ConfigReader, subject_of
from touchline.core.finding import Location
from touchline.experiment.partial import Cadence, Stated, StatedTraining

Kind = Literal["text", "number", "whole", "count", "flag", "words"]
"""Kind of a value, named as the reader's method for it."""
Keys = Mapping[str, tuple[Kind, str, object]]
"""Field of a `StatedTraining` -> kind of value, the trainer's keys with blanks between them, and its default.

The first key that has a value counts. A default of None is not known, or there is none.
"""


class Defaults(Protocol):
    """Reader of one file, which has a method for each `Kind`."""

    def default(self, name: str, value: object, /) -> Stated[Any]:
        """Return the trainer's default of a key."""
        ...


def read_table(settings: Defaults, table: Keys) -> dict[str, Any]:
    """Return the fields of a table that a file states, with the trainer's default for the others."""
    found: dict[str, Any] = {}
    for field, (kind, keys, default) in table.items():
        names = keys.split()
        stated = getattr(settings, kind)(*names)
        found[field] = settings.default(names[0], default) if stated is None and default is not None else stated
    return found


def first_on(settings: ConfigReader, words: Mapping[str, object], *also: object) -> Stated[Any] | None:
    """Return the word of the first key that is switched on, or has one of some other values.

    Args:
        settings: the file.
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
        settings: the file.
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
        backend: the trainer.
        settings: the file.
        fields: what it states, by the fields of a `StatedTraining`.
    """
    path = settings.document.path
    return StatedTraining(backend=backend, where=Location(path=path), subject=subject_of(path), **fields)
