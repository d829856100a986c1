"""What the self-test of a scorer answers, and what kinds of fault a task file can have."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path

from touchline.lint.scoring import Probe
from touchline.lint.task_files import TaskFault

_UNREACHABLE = ("offline", "couldn't reach", "connection", "max retries", "name resolution", "hub")


@dataclass(slots=True)
class ScorerAnswer:
    """What one scorer said."""

    task: str
    scorer: str
    items: int
    probes: list[Probe] = field(default_factory=list)
    missing: str | None = None
    samples: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class SelfTestResult:
    """What the program writes."""

    kind: str
    scorers: list[ScorerAnswer] = field(default_factory=list)
    failed: tuple[TaskFault, str] | None = None
    line: int | None = None


class TaskFailedError(Exception):
    """The file, or a task in it, that cannot be tried; ends up in the answer."""

    def __init__(self, kind: TaskFault, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.line = line


def failure(error: Exception, path: Path, otherwise: TaskFault) -> TaskFailedError:
    """What kind of fault an exception of a task file is."""
    kind: TaskFault = otherwise
    if isinstance(error, KeyError):
        kind = "columns"
    elif isinstance(error, FileNotFoundError) or (isinstance(error, ValueError) and "split" in str(error).lower()):
        kind = "data"
    return TaskFailedError(kind, said(error), line_of(error, path))


def unreachable(error: Exception) -> bool:
    """Whether an exception says that something on a hub was not reached."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, ConnectionError) or any(word in text for word in _UNREACHABLE)


def said(error: BaseException) -> str:
    """An exception in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]


def line_of(error: BaseException, path: Path) -> int | None:
    """The last line of the file that an exception came through."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if Path(frame.filename) == path.resolve()), None)
