"""Torchtune config with resolved references: settings with their locations, and its components."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from touchline.backends.config_reading import ConfigReader
from touchline.backends.fields import TEXT, TRUTH, ValueType, number, whole
from touchline.backends.interpolation import is_known, resolve
from touchline.backends.torchtune.config import COMPONENT
from touchline.experiment.document import Key
from touchline.experiment.foreign import ForeignDocument, value_at
from touchline.experiment.partial import Stated

Path = tuple[Key, ...]


def _typed(kind: ValueType, convert: Callable[[Any], object] = lambda value: value) -> Callable[[object], Any]:
    return lambda value: convert(value) if kind.takes(value) else None


@dataclass(frozen=True, slots=True)
class Config(ConfigReader):
    """A config as the recipe sees it."""

    data: Mapping[str, object] = field(default_factory=dict)
    """Its values, references followed."""
    kinds: ClassVar[Mapping[str, Callable[[object], Any]]] = {
        "text": _typed(TEXT),
        "number": _typed(number(), float),
        "whole": _typed(whole(0)),
        "count": _typed(whole(1)),
        "flag": _typed(TRUTH),
        "any": lambda value: value,
    }

    @property
    def values(self) -> Mapping[str, object]:
        """Settings by name."""
        return self.data

    def get(self, *path: Key) -> object:
        """Return the value at a path. Return None if it is missing, null or unknown."""
        node = value_at(self.data, path)
        return node if is_known(node) else None

    def is_open(self, *path: Key) -> bool:
        """Return True if a key's value is unknown here: an environment variable or `???`."""
        return self.has(*path) and not is_known(value_at(self.data, path))

    def count(self, *names: str) -> Stated[int] | None:
        """Return an integer of at least 1."""
        return self.read("count", *names)

    def component(self, *path: Key) -> str | None:
        """Return the component that a section names."""
        named = self.get(*path, COMPONENT)
        return named if isinstance(named, str) else None

    def last(self, *path: Key) -> str:
        """Return the last part of the name of a section's component, or an empty text."""
        return (self.component(*path) or "").rpartition(".")[2]

    def sections(self, *names: str) -> Iterator[tuple[Path, Mapping[str, object]]]:
        """Yield the sections of these names; each may be a list of sections."""
        for name in names:
            found = self.get(name)
            if isinstance(found, dict):
                yield (name,), found
            elif isinstance(found, list):
                yield from (((name, index), item) for index, item in enumerate(found) if isinstance(item, dict))

    def components(self) -> Iterator[tuple[Path, Mapping[str, object]]]:
        """Yield every mapping of the file that names a component, with its path."""
        yield from _components(self.data, ())


def config_of(document: ForeignDocument) -> Config:
    """Return a config with the findings about its references."""
    resolved = resolve(document)
    return Config(document, list(resolved.findings), resolved.data)


def _components(node: object, path: Path) -> Iterator[tuple[Path, Mapping[str, object]]]:
    if isinstance(node, dict):
        if COMPONENT in node:
            yield path, node
        for key, value in node.items():
            yield from _components(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _components(value, (*path, index))
