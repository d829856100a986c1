"""Tables of torchtune: its components with their arguments, and the keys of its recipes, by version.

The table is made by tools/torchtune_tables.py from the released wheels 0.1.0 to 0.6.1, and by hand from the main
branch that was never released; it is read once, and nothing of torchtune is imported.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from touchline.backends.package_files import package_text
from touchline.core.json_text import parse_json
from touchline.core.near import misspelled

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
    """Its dotted name."""
    arguments: frozenset[str]
    """Names of its arguments, of all versions together."""

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
