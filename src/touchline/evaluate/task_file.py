"""A user's task file: import, errors, and the result of a self-test."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from touchline.lint.scoring import Probe, TaskFault

_UNREACHABLE = ("offline", "couldn't reach", "connection", "max retries", "name resolution", "hub")
TARGETS = (
    "yes", "no", "none", "12", "two", "Paris", "left kidney", "instrument-shaft", "The robotic arm holds the needle.",
    "kidney parenchyma", "7.5", "suturing",
)  # fmt: skip
"""Targets for a function or a task without data of its own."""


@dataclass(slots=True)
class ScorerAnswer:
    """Result of one scorer."""

    task: str
    scorer: str
    items: int
    probes: list[Probe] = field(default_factory=list)
    missing: str | None = None


@dataclass(slots=True)
class SelfTestResult:
    """Output of the program."""

    kind: str
    scorers: list[ScorerAnswer] = field(default_factory=list)
    failed: tuple[TaskFault, str] | None = None
    line: int | None = None


class TaskFailedError(Exception):
    """Task file that cannot be tested; becomes part of the result."""

    def __init__(self, kind: TaskFault, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.line = line


def unreachable(error: Exception) -> bool:
    """Return True if an exception reports an unreachable hub."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, ConnectionError) or any(word in text for word in _UNREACHABLE)


def said(error: BaseException) -> str:
    """Return an exception as one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]


def line_of(error: BaseException, path: Path) -> int | None:
    """Return the last line of the file in the traceback of an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if Path(frame.filename) == path.resolve()), None)


def load_file(path: Path) -> ModuleType:
    """Import a file with its folder last on the path, so that it cannot shadow other modules.

    Raises:
        TaskFailedError: it cannot be imported.
        ImportError: it needs Inspect, which is not installed.
    """
    path = path.resolve()
    os.chdir(path.parent)
    sys.path.append(str(path.parent))
    name = f"touchline_task_{path.parent.name}_{path.stem}".replace("-", "_").replace(".", "_")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TaskFailedError("import", f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] == "inspect_ai" and _absent("inspect_ai"):
            raise
        raise TaskFailedError("import", said(error), line_of(error, path)) from error
    except SystemExit as error:
        raise TaskFailedError(
            "import", f'it ends the process with {error.code!r}: guard that call with `if __name__ == "__main__"`'
        ) from error
    except Exception as error:
        raise TaskFailedError("import", said(error), line_of(error, path)) from error
    return module


def _absent(package: str) -> bool:
    return importlib.util.find_spec(package) is None
