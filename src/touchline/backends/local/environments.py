"""Environments of trainers on this machine, what is installed in them, and programs that torch.compile needs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal

import platformdirs

from touchline.backends.external import Environment
from touchline.core.errors import HostError
from touchline.core.quantity import Missing
from touchline.data.user_config import load_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingCompiler:
    """Program or package that torch.compile lacks."""

    what: str
    hint: str


def missing_compiler(kind: Literal["gpu", "cpu"]) -> MissingCompiler | None:
    """Return what torch.compile lacks for a kind of device, None if nothing: triton, a compiler, headers of Python."""
    if kind == "gpu" and importlib.util.find_spec("triton") is None:
        return MissingCompiler(what="the package triton, not installed here", hint="pip install triton")
    variable, language, package = ("CC", "C", "gcc") if kind == "gpu" else ("CXX", "C++", "g++")
    named = os.environ.get(variable)
    usual = ("clang++",) if kind == "cpu" and sys.platform == "darwin" else (package,)
    programs = (named,) if named else ("gcc", "clang", "cc") if kind == "gpu" else usual
    if not any(shutil.which(program) for program in programs):
        return MissingCompiler(
            what=f"a {language} compiler, not found here",
            hint=f"install one (Debian: apt install {package}), or name it in the environment variable {variable}",
        )
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return MissingCompiler(
            what="the headers of Python (Python.h), not found here",
            hint="install them (Debian: apt install python3-dev)",
        )
    return None


COMPLETE = ".complete"
"""File of a complete environment that touchline made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundEnvironment:
    """Complete environment of a trainer."""

    python: str
    program: str
    python_version: str
    versions: dict[str, str]


def environment_folder(environment: Environment) -> Path:
    """Return the folder that `touchline backend install` makes."""
    folder = load_settings().backends.folder or platformdirs.user_data_path("touchline") / "backends"
    return folder / environment.name


@dataclass(frozen=True, slots=True)
class NamedPython:
    """Interpreter of an environment of the user's own."""

    path: Path
    source: str
    """What names it: `backends.torchtune.python=...` or the variable."""


def named_python(name: str, variable: str) -> NamedPython | None:
    """Return the interpreter that the environment variable names, else the user's config file; None without one."""
    if text := os.environ.get(variable):
        return NamedPython(Path(text).expanduser(), f"{variable}={text}")
    path = load_settings().backends.python.get(name)
    return None if path is None else NamedPython(path, f"backends.{name}.python: {path}")


def find_environment(environment: Environment) -> FoundEnvironment | Missing:
    """Return the environment of a trainer if it is complete, with the pinned versions; nothing is started."""
    named = named_python(environment.name, environment.python_variable)
    folder = environment_folder(environment) / "bin" if named is None else named.path.parent
    source = str(folder.parent) if named is None else named.source
    python, program = folder / "python" if named is None else named.path, folder / environment.program
    if not os.access(python, os.X_OK):
        return Missing(missing="not installed" if named is None else f"not installed ({source} has no Python)")
    if named is None and not (folder.parent / COMPLETE).exists():
        return Missing(missing="incomplete: its installation was interrupted")
    packages = next(iter(sorted((folder.parent / "lib").glob("python3.*/site-packages"))), None)
    if packages is None:
        return Missing(missing=f"incomplete: {source} has no site-packages")
    wanted = environment.versions
    here = {found.name: found.version for found in distributions(path=[str(packages)]) if found.name in wanted}
    absent = [name for name in wanted if name not in here]
    if not absent and not os.access(program, os.X_OK):
        absent = [environment.program]
    # Without the build: `2.13.0` of `2.13.0+cpu`.
    differs = [name for name, version in here.items() if version.partition("+")[0] != wanted[name]]
    if named is not None:
        # Which torch a machine can have follows from its driver.
        differs = [name for name in differs if name != "torch"]
    other = [f"{name} {here[name]}" for name in differs]
    lacks = f"incomplete: {', '.join(absent)} is not installed in {source}" if absent else ""
    if other:
        has = f"{'it' if absent else source} has {', '.join(other)}, expected {', '.join(environment.packages)}"
        lacks = f"{lacks}, and {has}" if absent else has
    if lacks:
        return Missing(missing=lacks)
    return FoundEnvironment(
        python=str(python),
        program=str(program),
        python_version=packages.parent.name.removeprefix("python"),
        versions=here,
    )


def require_environment(environment: Environment) -> FoundEnvironment:
    """Return the environment of a trainer.

    Raises:
        HostError: it is not there, or not as pinned.
    """
    found = find_environment(environment)
    if isinstance(found, Missing):
        raise HostError(
            f"the environment of the backend {environment.name}: {found.missing}",
            expected=", ".join(environment.packages),
            hint=environment.install_command,
        )
    return found
