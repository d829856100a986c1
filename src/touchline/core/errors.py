"""The exceptions of touchline and the exit codes they end a command with.

TouchlineError
├── InputError                      2   a file, an option or a value is wrong; may carry findings
│   └── FindingsError               1   the files are readable, and what they ask for has errors
├── PolicyError                     3   refused: work would be overwritten, doubled or is not allowed
│   ├── PlanDriftError              3   the plan no longer matches its inputs
│   ├── ParentNotReadyError         3   a stage's parent checkpoint is missing (its training ends with 77)
│   └── LineageError                3   a stage's parent is not the one on record (its training ends with 78)
├── HostError                       4   the machine lacks a package, a folder, disk space or a permission
│   ├── FileLocksUnsupportedError   4   the file system supports no locks
│   ├── SubmissionRejectedError     4   the scheduler rejected a job
│   ├── SubmissionLimitError        4   the scheduler takes no more jobs now
│   └── SubmissionUnknownError      4   it is unknown whether the scheduler took a job
└── RunsFailedError                 1   the command worked, some runs failed
    └── TrainingOutOfMemoryError   79   a training did not fit into memory; raised by trainers only

`message` names the subject, its value and the problem; `expected` a valid value; `hint` the next command to type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from touchline.core.finding import Finding


class TouchlineError(Exception):
    """Base of all errors of touchline. The CLI prints it without a traceback."""

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        hint: str | None = None,
        findings: Sequence[Finding] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.hint = hint
        self.findings = tuple(findings)


class StoppedError(BaseException):
    """Work is stopped by its caller: it was cancelled, or its time is over. No handler of errors takes it."""


class RunsFailedError(TouchlineError):
    """Some runs failed; the others are complete."""

    exit_code = 1


class TrainingOutOfMemoryError(RunsFailedError):
    """A training did not fit into memory; a smaller micro-batch may fit."""

    exit_code = 79


class TrainingDivergedError(RunsFailedError):
    """The loss or the gradient norm of a training is not finite; the same training would diverge again."""

    exit_code = 80


class InputError(TouchlineError):
    """A file, an option or a value given by the user is not usable."""

    exit_code = 2


class FindingsError(InputError):
    """What readable files ask for has errors, as `check` reports them."""

    exit_code = 1


class PolicyError(TouchlineError):
    """Refused, because continuing could lose or repeat work."""

    exit_code = 3


class PlanDriftError(PolicyError):
    """The plan no longer matches the inputs it was made from."""


class ParentNotReadyError(PolicyError):
    """A stage's parent is not completely trained, or lacks the checkpoint to continue from."""


class LineageError(PolicyError):
    """A stage's parent is not the one that its records name."""


class HostError(TouchlineError):
    """The machine lacks something that the command needs."""

    exit_code = 4


class FileLocksUnsupportedError(HostError):
    """The file system supports no file locks."""


class SubmissionRejectedError(HostError):
    """The scheduler rejected a job. Nothing was started; a retry gets the same answer."""


class SubmissionLimitError(HostError):
    """The scheduler takes no more jobs now. A retry may succeed when others have ended."""


class SubmissionUnknownError(HostError):
    """It is unknown whether the scheduler took a job. A later look-up by its token decides."""


def error_count(path: str, findings: Sequence[Finding]) -> str:
    """Return `experiment.yaml: 2 errors`, or the one place where all errors are, such as the command line."""
    errors = [finding for finding in findings if finding.severity == "error"]
    places = {path if finding.where is None else finding.where.path for finding in errors}
    noun = "error" if len(errors) == 1 else "errors"
    return f"{places.pop() if len(places) == 1 else path}: {len(errors):,} {noun}"


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """Return a line per finding, with its hint below."""
    lines: list[str] = []
    for finding in findings:
        place = "" if finding.where is None else f"{finding.where}: "
        lines.append(f"{place}{finding.severity.value} {finding.code}: {finding.message}")
        lines += [f"    hint: {finding.hint}"] if finding.hint else []
    return lines


def remedy_lines(error: TouchlineError) -> list[str]:
    """Return what an error expected and its hint, a line each."""
    named = (("expected", error.expected), ("hint", error.hint))
    return [f"  {name}: {text}" for name, text in named if text]


def with_notes(error: TouchlineError) -> TouchlineError:
    """Return the error with its findings, expected value and hint as notes, which Python shows below its message."""
    if not getattr(error, "__notes__", None):
        for line in (*finding_lines(error.findings), *remedy_lines(error)):
            error.add_note(line)
    return error


def install_hint(extra: str) -> str:
    """Return the command that installs an extra in a checkout of touchline."""
    return f"pip install -c constraints.txt -e '.[{extra}]' in the checkout of touchline"


def quoted(path: str) -> str:
    """Return a path quoted for a shell command: never expanded, never read as an option."""
    path = f"./{path}" if path.startswith("-") else path
    return "'" + path.replace("'", "'\"'\"'") + "'"
