"""Torchtune config with resolved references, and the tables of components and recipe keys by version.

Of OmegaConf's `${a.b}` plain references from the top are followed, everything else stays unknown. Source: OmegaConf
2.3, interpolations. The tables are made by tools/torchtune_tables.py from the released wheels 0.1.0 to 0.6.1, and by
hand from the main branch that was never released; nothing of torchtune is imported.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from touchline.backends.config_reading import ConfigReader
from touchline.backends.external import package_text
from touchline.backends.fields import TEXT, TRUTH, ValueType, dotted, number, whole
from touchline.core.finding import Finding, Severity
from touchline.core.json_text import parse_json
from touchline.core.near import misspelled
from touchline.experiment.document import Key
from touchline.experiment.foreign import ForeignDocument, value_at
from touchline.experiment.partial import Stated

RELEASED = "0.6.1"
"""The last release."""
OTHERS = "**"
"""Among a component's arguments: it takes any others as well."""
_ANY = "*"
_TABLE = "components.json"


@dataclass(frozen=True, slots=True)
class Component:
    """Function or class that a config can name."""

    path: str
    arguments: frozenset[str]

    @property
    def takes_others(self) -> bool:
        """Return True if it accepts arbitrary keyword arguments."""
        return OTHERS in self.arguments


@functools.cache
def _table() -> dict[str, object]:
    table: dict[str, object] = parse_json(package_text("torchtune", _TABLE))
    return table


def _listed(name: str) -> list[object]:
    found = _table()[name]
    assert isinstance(found, list)
    return found


@functools.cache
def recipe_keys() -> frozenset[str]:
    """Return the top-level keys that any recipe or its config has."""
    return frozenset(str(key) for key in _listed("keys"))


@functools.cache
def _modules() -> dict[str, dict[str, list[int]]]:
    found = _table()["modules"]
    assert isinstance(found, dict)
    return found


@functools.cache
def component(path: str) -> Component | None:
    """Return the component with a dotted name, or None if no version has it."""
    module, _, name = path.rpartition(".")
    names = _modules().get(module, {})
    if name in names:
        words = _listed("arguments")
        return Component(path, frozenset(str(words[number]) for number in names[name][2:]))
    while module:
        if _ANY in _modules().get(module, {}):
            return Component(path, frozenset({OTHERS}))
        module = module.rpartition(".")[0]
    return None


def is_family(path: str) -> bool:
    """Return True if a dotted name is in a model folder of a release. It is then hardly a user's own."""
    module = path.rpartition(".")[0]
    return module.startswith("torchtune.models.") and module in _modules()


def nearest_component(path: str) -> str | None:
    """Return the intended component of a misspelled dotted name."""
    module, _, name = path.rpartition(".")
    if module not in _modules():
        near = misspelled(module, _modules())
        return f"{near}.{name}" if near is not None and name in _modules()[near] else None
    near = misspelled(name, _modules()[module])
    return None if near is None else f"{module}.{near}"


COMPONENT = "_component_"
"""Key of the dotted path of a section's component."""
_REFERENCE = re.compile(r"(?<!\\)\$\{\s*([\w\-]+(?:\.[\w\-]+)*)\s*\}")
_SHELLS_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_DEEPEST = 10
UNKNOWN = "${"
"""A value with this in it is not known here."""
MANDATORY = "???"
"""OmegaConf's word for a value that must come from elsewhere, the command line."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A config with its references followed."""

    data: dict[str, object]
    findings: tuple[Finding, ...]


def resolve(document: ForeignDocument) -> Resolved:
    """Follow every plain reference of a config."""
    findings: list[Finding] = []

    def walk(node: object, path: tuple[Key, ...]) -> object:
        if isinstance(node, dict):
            return {key: walk(value, (*path, key)) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(value, (*path, index)) for index, value in enumerate(node)]
        try:
            return _value(document, node)
        except LookupError as fault:
            findings.append(_fault(document, path, str(fault.args[0])))
            return node

    data = walk(document.data, ())
    assert isinstance(data, dict)
    return Resolved(data, tuple(findings))


def is_known(value: object) -> bool:
    """Return True if a value can be judged: it exists, and holds no reference that only its own tool can resolve."""
    return not (isinstance(value, str) and (UNKNOWN in value or value == MANDATORY))


def _value(document: ForeignDocument, value: object, depth: int = 0) -> object:
    """Resolve the references in a text. A text that is one reference becomes its value.

    Raises:
        LookupError: with a reference that leads to nothing, or back to itself.
    """
    while isinstance(value, str) and (match := _REFERENCE.search(value)) is not None:
        *above, last = match[1].split(".")
        parent = document.get(*above) if above else document.data
        if depth > _DEEPEST or not isinstance(parent, dict) or last not in parent:
            raise LookupError(match[1])
        found = _value(document, parent[last], depth + 1)
        if match[0] == value or isinstance(found, dict | list) or not is_known(found):
            return found if match[0] == value else value
        value = value[: match.start()] + ("null" if found is None else str(found)) + value[match.end() :]
    return value


def _fault(document: ForeignDocument, path: tuple[Key, ...], reference: str) -> Finding:
    near = misspelled(reference, {dotted(place) for place in document.places})
    # A script fills such a file in, or gives `OUTPUT_DIR=...` on the command line, which is merged first.
    from_shell = _SHELLS_NAME.fullmatch(reference) is not None and (near is None or not near.isupper())
    return Finding(
        code="BK018",
        severity=Severity.INFO if from_shell else Severity.ERROR,
        subject=dotted(path),
        message=f"{dotted(path)}: {reference!r} is not in this file, or leads back to itself",
        where=document.where(*path),
        hint=f"did you mean ${{{near}}}?" if near else f"write `{reference}: ...`, or give it on the command line",
    )


Path = tuple[Key, ...]


def _typed(kind: ValueType, convert: Callable[[Any], object] = lambda value: value) -> Callable[[object], Any]:
    return lambda value: convert(value) if kind.takes(value) else None


@dataclass(frozen=True, slots=True)
class Config(ConfigReader):
    """A config as the recipe sees it."""

    data: Mapping[str, object] = field(default_factory=dict)
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
