"""Pure packages compute: what they give depends on their arguments alone, so every number of a plan can be made again.

The checker walks the syntax trees. import-linter sees detours that a tree does not show; this sees calls and attributes
that import-linter does not: `open`, `datetime.now`, the global `numpy.random`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "touchline"

PURE_ROOMS = ("core", "statistics", "experiment", "slurm", "backends", "estimate", "strategy", "plan", "lint", "report")
"""Rooms whose modules touch nothing but their arguments, those in `LOCAL` excepted."""
PURE_PACKAGES = ("data/packing", "data/rendering", "run/scripts")
"""Packages of other rooms of which the same holds."""
LOCAL = (
    *("core.clock", "core.files", "data", "backends.local", "history", "lint.local", "plan.local", "estimate.local"),
    "slurm.local",
)
LOCAL += ("report.local", "report.trackers", "run", "tools", "results", "api", "cli", "train", "evaluate")
"""Rooms and packages that may touch this machine."""

FORBIDDEN_MODULES = frozenset(
    {
        *("subprocess", "os", "posix", "shutil", "tempfile", "glob", "io", "fileinput", "mmap"),  # files, programs
        *("socket", "ssl", "http", "urllib", "asyncio"),  # other machines
        *(
            "time",
            "sched",
            "signal",
            "threading",
            "multiprocessing",
            "concurrent",
            "psutil",
            "platform",
        ),  # this machine
        *("random", "secrets", "uuid"),  # numbers that differ from call to call
        *("torch", "transformers", "peft", "accelerate", "trl", "datasets", "inspect_ai"),  # frameworks
        *("pickle", "builtins"),  # ways round this list
    }
)
FORBIDDEN_CALLS = frozenset({"open", "input", "print", "eval", "exec", "__import__", "breakpoint"})
CLOCKS = frozenset({"now", "today", "utcnow"})
SEEDED = frozenset({"default_rng", "PCG64", "Philox", "SeedSequence", "SFC64", "MT19937"})
"""Of numpy.random, besides the type Generator: what takes a seed, and only where one is given."""
DISK_LOADERS = frozenset({"FileSystemLoader", "ChoiceLoader", "FileSystemBytecodeCache"})


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    else:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted name of what was imported under it."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _dotted(node: ast.AST, aliases: dict[str, str]) -> str:
    """`np.random.rand` -> `numpy.random.rand`; empty when it is no chain of names."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value, aliases)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def _import_fault(name: str) -> str | None:
    if name.split(".")[0] in FORBIDDEN_MODULES:
        return f"imports {name}"
    if name.startswith("pathlib.") and not name.startswith("pathlib.Pure"):
        return f"imports {name}; PurePath is fine"
    if name.startswith("importlib.resources"):
        return "reads the package's files"
    return None


def _call_fault(node: ast.Call, name: str) -> str | None:
    last = name.rsplit(".", 1)[-1]
    if name in FORBIDDEN_CALLS:
        return f"calls {name}"
    if name.startswith("numpy.random.") and last in SEEDED and not (node.args or node.keywords):
        return f"{name} without a seed"
    if last in DISK_LOADERS:
        return f"templates come from the package, not by {last}"
    return None


def _name_fault(name: str) -> str | None:
    """A fault of a name that stands anywhere, called or not."""
    if name.startswith("datetime.") and name.rsplit(".", 1)[-1] in CLOCKS:
        return f"reads the clock by {name}"
    if name.startswith("pathlib.") and not name.startswith("pathlib.Pure"):
        return f"uses {name}"
    parts = name.split(".")
    if parts[:2] == ["numpy", "random"] and len(parts) == 3 and parts[2] not in SEEDED | {"Generator"}:
        return f"uses the global {name}"
    if parts[0] == "sys" and parts[-1] in {"stdin", "stdout", "stderr", "argv"}:
        return f"uses {name}"
    return None


def faults(source: str) -> list[str]:
    """Everything impure in a module's text, as `line: what`."""
    tree = ast.parse(source)
    aliases = _aliases(tree)
    found: set[tuple[int, str]] = set()
    for node in ast.walk(tree):
        reasons: list[str | None] = []
        if isinstance(node, ast.Import | ast.ImportFrom):
            if isinstance(node, ast.ImportFrom) and node.level:
                reasons.append("imports relatively; write the package's name")
            names = list(_imported(node))
            reasons += [_import_fault(name) for name in names]
            # A clock is a method of a class that is fine to import; anything else is judged where it is imported.
            reasons += [_name_fault(name) for name in names if not name.startswith("datetime.")]
        if isinstance(node, ast.Call):
            reasons.append(_call_fault(node, _dotted(node.func, aliases)))
        if isinstance(node, ast.Attribute):
            reasons.append(_name_fault(_dotted(node, aliases)))
        found |= {(node.lineno, reason) for reason in reasons if reason}  # type: ignore[attr-defined]
    return [f"{line}: {reason}" for line, reason in sorted(found)]


def _name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_local(name: str) -> bool:
    pure = tuple(package.replace("/", ".") for package in PURE_PACKAGES)
    return _is_in(name, LOCAL) and not _is_in(name, pure)


def _is_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _pure_modules() -> list[Path]:
    folders = (*PURE_ROOMS, *PURE_PACKAGES)
    found = [path for folder in folders for path in sorted((SOURCE / folder).rglob("*.py"))]
    return [path for path in found if not _is_local(_name(path))]


def _own_imports(path: Path, known: set[str]) -> set[str]:
    """Modules of touchline that a module imports, wherever the statement stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            dotted = {name.removeprefix("touchline.") for name in _imported(node) if name.startswith("touchline.")}
            names |= {name if name in known else name.rpartition(".")[0] for name in dotted}
    return names & known


def test_a_pure_module_touches_nothing_but_its_arguments() -> None:
    """No file, process, clock, global randomness or framework, in any module of a pure room."""
    modules = _pure_modules()
    assert {path.relative_to(SOURCE).parts[0] for path in modules} >= {*PURE_ROOMS, "data", "run"}
    found = {_name(path): wrong for path in modules if (wrong := faults(path.read_text(encoding="utf-8")))}
    assert found == {}


def test_a_pure_module_reaches_no_module_that_is_not() -> None:
    """Nor by a detour: whatever a pure module imports, directly or through others, is pure itself."""
    paths = {_name(path): path for path in SOURCE.rglob("*.py")}
    known = set(paths)
    imports = {name: _own_imports(path, known) for name, path in paths.items()}
    impure = {name for name, path in paths.items() if faults(path.read_text(encoding="utf-8"))}
    assert "core.files" in impure
    while more := {name for name, wanted in imports.items() if wanted & impure} - impure:
        impure |= more
    pure = {_name(path) for path in _pure_modules()}
    assert {name: sorted(imports[name] & impure) for name in pure & impure} == {}


def test_the_checker_catches(subtests: pytest.Subtests) -> None:
    """Each forbidden thing, in each way of writing it, is found."""
    for source in [
        *("import subprocess", "import os", "import os.path", "import os as system", "from os import environ"),
        *("from os.path import join", "import io", "import shutil", "import tempfile", "import socket"),
        *("import time", "from time import monotonic as clock", "import random", "from random import shuffle"),
        *("import secrets", "import torch", "import torch.nn as nn", "from transformers import AutoModel"),
        *("def f():\n    import torch", "if True:\n    from subprocess import run", "from pathlib import Path"),
        *("from pathlib import PurePath, Path", "import pathlib\nx = pathlib.Path('a')"),
        *("import pathlib as p\nx = p.PosixPath('a')", "x = open('a')"),
        "def f(path):\n    with open(path) as handle:\n        return handle.read()",
        *("import datetime\nx = datetime.datetime.now()", "import datetime as dt\nx = dt.date.today()"),
        *("from datetime import datetime\nx = datetime.utcnow()", "from datetime import date\nx = date.today"),
        *("from datetime import datetime, UTC\nx = datetime.now(UTC)", "import numpy as np\nx = np.random.rand(3)"),
        *("import numpy\nnumpy.random.seed(1)", "from numpy import random\nx = random.normal()"),
        *("from numpy.random import shuffle", "import numpy.random as npr\nx = npr.permutation(3)"),
        "import numpy as np\nx = np.random.default_rng()",
        "import numpy as np\nx = np.random.Generator(np.random.PCG64())",
        *("from numpy.random import default_rng\nx = default_rng()", "from . import models"),
        *("from ..files import sha256_file", "import importlib.resources", "from importlib import resources"),
        "from jinja2 import FileSystemLoader\nx = FileSystemLoader('a')",
        *("import jinja2\nx = jinja2.FileSystemLoader('a')", "import sys\nsys.stdout.write('a')", "print('a')"),
        *("eval('1')", "x = __import__('torch')", "import pickle", "import builtins\nbuiltins.open('a')"),
    ]:
        with subtests.test(source=source):
            assert faults(source) != []


def test_the_checker_lets_pass(subtests: pytest.Subtests) -> None:
    """What is allowed is not found."""
    for source in [
        "from pathlib import PurePath\nx = PurePath('a') / 'b'",
        "import pathlib\nx = pathlib.PurePosixPath('a').name",
        "import datetime\nx = datetime.date.fromisoformat('2026-01-01')",
        "from datetime import date\ndef f(today: date) -> str:\n    return today.isoformat()",
        "import numpy as np\ndef f(generator: np.random.Generator) -> float:\n    return generator.random()",
        "import numpy as np\nx = np.random.Generator(np.random.PCG64(1))",
        "import numpy as np\nx = np.random.default_rng(seed=1)",
        "from touchline.experiment.plan import Plan\nfrom touchline.core.errors import InputError",
        "from jinja2 import Environment, PackageLoader\nx = Environment(loader=PackageLoader('touchline.run.scripts'))",
        "def f(door):\n    return door.open()",
        "import json\nx = json.dumps({'time': 1, 'os': 'a'})",
        "def now(): ...\nx = now()",
    ]:
        with subtests.test(source=source):
            assert faults(source) == []
