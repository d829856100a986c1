"""Torchtune config with resolved references: settings with their locations, and its components."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from touchline.backends.fields import TEXT, TRUTH, ValueType, dotted, number, typed, whole
from touchline.backends.interpolation import is_known
from touchline.backends.torchtune.config import COMPONENT
from touchline.core.finding import Edit, Finding, Location, Severity
from touchline.experiment.document import Key
from touchline.experiment.foreign import ForeignDocument, value_at
from touchline.experiment.partial import Stated

T = TypeVar("T")
Path = tuple[Key, ...]
_NUMBER, _WHOLE, _COUNT = number(), whole(0), whole(1)


@dataclass(frozen=True, slots=True)
class Config:
    """A config as the recipe sees it."""

    document: ForeignDocument
    """The file."""
    data: dict[str, object]
    """Its values, references followed."""

    def get(self, *path: Key) -> object:
        """Return the value at a path. Return None if it is missing, null or unknown."""
        node = value_at(self.data, path)
        return node if is_known(node) else None

    def has(self, *path: Key) -> bool:
        """Return True if the file has a key, with any value."""
        parent = self.get(*path[:-1]) if len(path) > 1 else self.data
        return isinstance(parent, dict) and path[-1] in parent

    def is_open(self, *path: Key) -> bool:
        """Return True if a key's value is unknown here: an environment variable or `???`."""
        parent = self.get(*path[:-1]) if len(path) > 1 else self.data
        return isinstance(parent, dict) and path[-1] in parent and not is_known(parent[path[-1]])

    def stated(self, *path: Key) -> Stated[object] | None:
        """Return the value at a path with its location, or None."""
        value = self.get(*path)
        return None if value is None else Stated(value, dotted(path), self.where(*path))

    def default(self, name: str, value: T) -> Stated[T]:
        """Return torchtune's default of a missing key, dotted."""
        return Stated(value, name, Location(path=self.document.path), is_default=True)

    def text(self, *names: str) -> Stated[str] | None:
        """Return the text of the first of these dotted keys that has one."""
        return self._first(names, TEXT, str)

    def number(self, *names: str) -> Stated[float] | None:
        """Return a finite number."""
        return self._first(names, _NUMBER, lambda value: float(cast(float, value)))

    def whole(self, *names: str) -> Stated[int] | None:
        """Return an integer of at least 0."""
        return self._first(names, _WHOLE, lambda value: cast(int, value))

    def count(self, *names: str) -> Stated[int] | None:
        """Return an integer of at least 1."""
        return self._first(names, _COUNT, lambda value: cast(int, value))

    def flag(self, *names: str) -> Stated[bool] | None:
        """Return a truth value."""
        return self._first(names, TRUTH, bool)

    def _first(self, names: tuple[str, ...], kind: ValueType, convert: Callable[[object], T]) -> Stated[T] | None:
        stated = (typed(self.stated(*name.split(".")), kind, convert) for name in names)
        return next((each for each in stated if each is not None), None)

    def where(self, *path: Key) -> Location:
        """Return the location of a key."""
        return self.document.where(*path)

    def component(self, *path: Key) -> str | None:
        """Return the dotted name of a section's component, or None."""
        found = self.get(*path, COMPONENT)
        return found if isinstance(found, str) else None

    def last(self, *path: Key) -> str:
        """Return the last part of that name, or an empty text."""
        return (self.component(*path) or "").rpartition(".")[2]

    def sections(self, *names: str) -> Iterator[tuple[Path, Mapping[str, object]]]:
        """Yield the sections with these names, each entry of a list by itself."""
        for name in names:
            found = self.get(name)
            if isinstance(found, dict):
                yield (name,), found
            elif isinstance(found, list):
                yield from (((name, index), item) for index, item in enumerate(found) if isinstance(item, dict))

    def components(self) -> Iterator[tuple[Path, Mapping[str, object]]]:
        """Yield every mapping of the file that names a component, with its path."""
        yield from _components(self.data, ())

    def finding(
        self,
        code: str,
        path: Path,
        message: str,
        hint: str | None = None,
        severity: Severity = Severity.ERROR,
        edits: tuple[Edit, ...] = (),
    ) -> Finding:
        """Build a finding about the key at a path."""
        return Finding(
            code=code,
            severity=severity,
            subject=dotted(path),
            message=message,
            where=self.where(*path),
            hint=hint,
            edits=edits,
        )


def _components(node: object, path: Path) -> Iterator[tuple[Path, Mapping[str, object]]]:
    if isinstance(node, dict):
        if COMPONENT in node:
            yield path, node
        for key, value in node.items():
            yield from _components(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _components(value, (*path, index))
