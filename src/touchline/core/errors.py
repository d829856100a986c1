"""Every exception that touchline raises on purpose, and the exit code it ends a command with.

TouchlineError
├── InputFault            2   a file or an option is wrong; may carry findings
├── PolicyFault           3   refused: something would be overwritten, doubled or is not allowed
│   ├── DriftFault        3   what was planned is no longer what is there
│   ├── ParentMissing     3   what a stage goes on from is not there (its training ends with 77)
│   └── LineageFault      3   a stage's parent is not what its records say (its training ends with 78)
├── EnvironmentFault      4   the machine lacks something: a package, a folder, disk, permission
│   ├── Refused           4   a scheduler refused a job
│   ├── LimitReached      4   not now: too many jobs
│   └── Unclear           4   nobody knows whether a job was taken
└── RunsFailed            1   the command worked, the runs did not
    └── OutOfMemory      79   a training did not fit; only a trainer ends with it

`message` says what and where; `expected` what would have been right; `hint` what to type next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from touchline.core.finding import Finding


class TouchlineError(Exception):
    """A fault with words for its reader; `cli` prints it without a traceback."""

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


class RunsFailed(TouchlineError):
    """Some runs did not end well; the others did, and nothing is lost."""

    exit_code = 1


class OutOfMemory(RunsFailed):
    """A training that did not fit; a smaller micro-batch may."""

    exit_code = 79


class InputFault(TouchlineError):
    """A file, an option or a value that the user gave is not usable."""

    exit_code = 2


class PolicyFault(TouchlineError):
    """Refused on purpose, because going on could lose or double work."""

    exit_code = 3


class DriftFault(PolicyFault):
    """The plan and the things it was made from no longer agree."""


class ParentMissing(PolicyFault):
    """A stage's parent has no complete training, or not the checkpoint that the stage goes on from."""


class LineageFault(PolicyFault):
    """What a stage would go on from is not what its parent's records say; the chain stops there."""


class EnvironmentFault(TouchlineError):
    """The machine lacks what the command needs."""

    exit_code = 4


class NoFileLocks(EnvironmentFault):
    """The file system supports no file locks."""


class Refused(EnvironmentFault):
    """The scheduler refused a job, in words: nothing was started, and trying again gives the same answer."""


class LimitReached(EnvironmentFault):
    """The scheduler takes no more jobs now; it may when others have ended."""


class Unclear(EnvironmentFault):
    """It cannot be told whether the scheduler took a job; it is found by its token, now or later."""


def install_hint(extra: str) -> str:
    """Return the command that installs an extra. touchline is installed from a checkout: no index has it."""
    return f"pip install -c constraints.txt -e '.[{extra}]' in the checkout of touchline"


def quoted(path: str) -> str:
    """Return a path as a word of a command that is offered: nothing in it is expanded, and it is no option."""
    path = f"./{path}" if path.startswith("-") else path
    return "'" + path.replace("'", "'\"'\"'") + "'"
