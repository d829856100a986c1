"""Result of a scorer's self-test, and the errors of a task file."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path

from touchline.lint.scoring import Probe
from touchline.lint.task_files import TaskFault

_UNREACHABLE = ("offline", "couldn't reach", "connection", "max retries", "name resolution", "hub")


@dataclass(slots=True)
class ScorerAnswer:
    """Result of one scorer."""

    task: str
    scorer: str
    items: int
    probes: list[Probe] = field(default_factory=list)
    missing: str | None = None
    samples: list[tuple[str, str]] = field(default_factory=list)


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


def failure(error: Exception, path: Path, otherwise: TaskFault) -> TaskFailedError:
    """Classify an exception of a task file."""
    kind: TaskFault = otherwise
    if isinstance(error, KeyError):
        kind = "columns"
    elif isinstance(error, FileNotFoundError) or (isinstance(error, ValueError) and "split" in str(error).lower()):
        kind = "data"
    return TaskFailedError(kind, said(error), line_of(error, path))


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
