"""A short module with one importer joins it, and imports make no circles."""

import ast
import functools
import graphlib
from collections import defaultdict
from pathlib import Path

import pytest

pytestmark = pytest.mark.planning

SOURCE = Path(__file__).resolve().parents[2] / "src"
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}
SHORT, LONG = 150, 400
"""Lines below which a module with one importer joins it, and lines of a module that takes no more."""
ALONE = {
    "touchline.backends.trl.data": "the registry finds it by its name",
    "touchline.cli.agents": "the main program lists one module for each group of `--help`",
    "touchline.estimate.coefficients_gpus": "plan.json names it as the source of a GPU's figures",
    "touchline.train.probe": "it is a program",
}
PUBLIC_CLASS = "touchline.experiment.experiment"
"""Methods of `Experiment` read, check and write it, with modules that name the class."""


@functools.cache
def _imports() -> dict[str, dict[str, bool]]:
    """Return the modules that each module imports, and whether it does so at its top."""
    found: dict[str, dict[str, bool]] = {name: {} for name in FILES}
    for name, path in FILES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{each.name}" for each in node.names] + [node.module]
            elif isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            for other in {each for each in names if each in FILES} - {name}:
                found[name][other] = found[name].get(other, False) or node in tree.body
    return found


def _lines(name: str) -> int:
    return len(FILES[name].read_text(encoding="utf-8").splitlines())


def test_a_short_module_with_one_importer_joins_it() -> None:
    importers = defaultdict[str, dict[str, bool]](dict)
    for name, others in _imports().items():
        for other, at_top in others.items():
            importers[other][name] = at_top
    found = set()
    for name, users in importers.items():
        (user, at_top), *more = users.items()
        is_package = "__init__.py" in (FILES[name].name, FILES[user].name)
        if more or not at_top or is_package or FILES[user].parent != FILES[name].parent:
            continue
        if _lines(name) < SHORT and _lines(name) + _lines(user) <= LONG:
            found.add(name)
    assert found == ALONE.keys()


def test_imports_make_no_circle() -> None:
    """Imports inside functions and for type checking count."""
    graph = {
        name: {
            other
            for other, at_top in others.items()
            if FILES[other].name != "__init__.py" and (at_top or name != PUBLIC_CLASS)
        }
        for name, others in _imports().items()
    }
    graphlib.TopologicalSorter(graph).prepare()
