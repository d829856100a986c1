"""Programs that torch.compile needs on this machine, next to torch."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingCompiler:
    """Program or package that torch.compile lacks."""

    what: str
    """It, in words."""
    hint: str
    """How it is installed."""


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
