"""Lines about the end of a run that no trainer prints: exceptions, memory, disk, nan, signals, failed commands.

A scheduler's lines are read in `slurm_lines`. Whether an error was survived is not known here: training steps
that follow show it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar

from touchline.backends.logtext.prefixes import strip_prefix
from touchline.backends.logtext.reader import Row
from touchline.core.observation import During, Event, Observation, Sign, SignKind
from touchline.history.failures.milestones import WORDS as MILESTONE_WORDS
from touchline.history.failures.milestones import milestone
from touchline.history.failures.patterns import (
    COMMANDS,
    ELASTIC,
    ELASTIC_CODE,
    ELASTIC_KILLED,
    KILLED,
    LAUNCHER_CODE,
    LAUNCHER_DONE,
    RETURNED,
    SIGNALS,
    TERMINATED,
    causes_of,
    fatal,
    is_gpu_alone,
    step_of,
)
from touchline.history.failures.tracebacks import TracebackEnd, Tracebacks, is_launcher

_TEXT_LIMIT = 300
_READ_LIMIT = 8192
_ECHO_LINES = 60
"""Lines after an error within which `Training complete` proves nothing: a job's script prints it whatever happened."""
_GUESS_LINES = 300
"""A process that was killed so soon after an exception was killed for it, and not for want of memory."""
_NOT_SAID = ("{", '"', "raise ", "# ", "print(", "logger.", "logging.", "assert ", "except ", "if ", "elif ")
"""Beginnings of data, and of a program's text."""
_HARMLESS = re.compile(r"\b(?:WARN|WARNING|INFO|DEBUG)\b")
"""Levels of messages that end nothing, whatever exception they name."""
_BAR_WITH_NAN = re.compile(r"\bloss\W{1,3}nan\b", re.IGNORECASE)

_SCHEDULERS = re.compile(r"\bslurm(?:step)?d(?:-[\w.-]+)?: |\bs(?:run|batch|alloc): |^=>> PBS|^TERM_[A-Z]+: ")

_WORDS = """
    traceback ctraceback file handling cause ignored atexit logging packages ipython ipykernel cell │
    cuda hip xpu npu rocm resource_exhausted oom gib mib requested allocated unallocated cublas_status_alloc_failed
    cudnn_status_alloc_failed defaultcpuallocator bad_alloc allocate killed kill shm session notebook
    space quota filesystemquotaexceeded errno pytorchstreamwriter inline_container
    nan inf infinite finite diverged
    c interrupted sigterm sigint signal signals terminated aborted exitcode sigkill exits
    terminating metal insufficient
    segmentation segfault fatal bus illegal terminate corruption corrupted watchdog
    unrecognized arguments argument option found open module such
    same cannot denied permitted exists omitting rsync recoverable curl unbound lmod modulefile failed directory
    execute make missing commandnotfounderror environmentnamenotfound environmentlocationnotfound
"""
# Below a traceback's first line every line is read (`inside`): these are of exceptions whose first line is cut off.
_EXCEPTIONS = """
    accelerator assertion attribute calledprocess childfailed connection distbackend eof filenotfound floatingpoint
    import index io key memory modulenotfound name notimplemented os outofmemory permission repositorynotfound runtime
    syntax type unboundlocal unicodedecode value zerodivision
"""
_OTHER_EXCEPTIONS = "exception keyboardinterrupt systemexit signalexception processraisedexception"


class Faults:
    """Signs of errors, ends and failed commands."""

    words: ClassVar[frozenset[str]] = (
        frozenset(_WORDS.split())
        | frozenset(f"{name}error" for name in _EXCEPTIONS.split())
        | frozenset(_OTHER_EXCEPTIONS.split())
        | MILESTONE_WORDS
    )

    def __init__(self) -> None:
        """Begin a file."""
        self._tracebacks = Tracebacks()
        self._fault_line = -_GUESS_LINES

    @property
    def inside(self) -> bool:
        """Return True if the next lines all matter: a traceback whose exception is still to come."""
        return self._tracebacks.inside

    def row(self, row: Row, text: str, number: int) -> Iterable[Event]:
        """Return no events: dictionaries belong to the trainers' readers."""
        return ()

    def line(self, text: str, number: int) -> Iterable[Event]:
        """Return the events of a line."""
        if _SCHEDULERS.search(text):
            return ()
        if "%|" in text and not _BAR_WITH_NAN.search(text):
            # What follows a bar on its line was written by somebody else.
            text = text.rpartition("]")[2]
            if not text.strip():
                return ()
        fault = self._tracebacks.line(text[:_READ_LIMIT], number)
        if fault is not None:
            return tuple(self._of_traceback(fault, text))
        return tuple(self._alone(text[:_READ_LIMIT], number))

    # ------------------------------------------------------------------------------------------------- with a traceback

    def _of_traceback(self, fault: TracebackEnd, text: str) -> Iterator[Event]:
        line, during = fault.line, fault.during
        name = fault.name.rpartition(".")[2]
        causes = causes_of(fault.text, name)
        if name == "SystemExit" and fault.text.rpartition(":")[2].strip() in ("SystemExit", "0", "None"):
            return
        fault_line = self._fault_line if fault.survived else line
        if name in ("KeyboardInterrupt", "SignalException"):
            self._fault_line = fault_line
            if not fault.survived:
                yield _sign(SignKind.INTERRUPTED, text, line, during=during)
            return
        if name in ("ChildFailedError", "ProcessRaisedException", "ProcessExitedException") or (
            name == "CalledProcessError" and is_launcher(fault.frames)
        ):
            yield from self._child_failed(fault.text, line)
            self._fault_line = fault_line
            return
        self._fault_line = fault_line
        if fault.root is None:
            if not fault.survived:
                yield _sign(SignKind.EXCEPTION, text, line, during=during, is_uncaught=fault.is_uncaught)
        elif not fault.survived and (
            (fault.is_uncaught and not fault.root.is_uncaught) or (fault.root.during is None and during is not None)
        ):
            # The frames of the last exception of a chain begin further outside, and know where the first was raised.
            fault.root.during = fault.root.during or during
            for kind in (SignKind.EXCEPTION, *causes_of(fault.root.text, fault.root.name.rpartition(".")[2])):
                yield _sign(
                    kind,
                    fault.root.text,
                    fault.root.line,
                    during=fault.root.during,
                    is_uncaught=fault.is_uncaught,
                )
        known = () if fault.root is None else causes_of(fault.root.text, fault.root.name.rpartition(".")[2])
        for kind in causes:
            if kind not in known:
                yield _sign(kind, text, line, during=during, step=step_of(text), is_uncaught=fault.is_uncaught)

    def _child_failed(self, text: str, line: int) -> Iterator[Event]:
        """Yield the events of a launcher's report on a failed child, which raised its own exception before."""
        yield _sign(SignKind.TASK_FAILED, text, line)
        returned = RETURNED.search(text)
        if returned is None:
            return
        if returned.group("code"):
            yield _exit_code(returned.group("code"), line)
        elif returned.group("signal") == "SIGKILL":
            yield from self._killed(text, line)

    # ---------------------------------------------------------------------------------------------- without a traceback

    def _alone(self, text: str, number: int) -> Iterator[Event]:
        _, rest = strip_prefix(text)
        if rest.lstrip().startswith(_NOT_SAID):
            return
        if (kind := milestone(text)) is not None:
            if kind is not SignKind.TRAINED or number - self._fault_line >= _ECHO_LINES:
                yield _sign(kind, text, number)
            return
        causes = [
            kind
            for kind in causes_of(rest, "")
            if kind is not SignKind.GPU_OOM or is_gpu_alone(text[: -len(rest)], rest)
        ]
        is_fatal, during = fatal(rest)
        is_fatal = is_fatal and _HARMLESS.search(text[: -len(rest)]) is None
        if is_fatal:
            yield _sign(SignKind.EXCEPTION, text, number, during=during)
        for kind in causes:
            yield _sign(kind, text, number, step=step_of(text) if kind is SignKind.NOT_A_NUMBER else None)
        if is_fatal or SignKind.GPU_OOM in causes or SignKind.HOST_OOM in causes:
            self._fault_line = number
        if not is_fatal:
            yield from self._signals(text, rest, number)
            if COMMANDS.match(rest) is not None:
                yield _sign(SignKind.FAILED_COMMAND, text, number)

    def _signals(self, text: str, rest: str, number: int) -> Iterator[Event]:
        if KILLED.match(rest) is not None:
            yield from self._killed(text, number)
        elif TERMINATED.match(rest) is not None or SIGNALS.match(rest) is not None:
            self._fault_line = number
            yield _sign(SignKind.INTERRUPTED, text, number)
        elif (failed := ELASTIC.search(rest) or LAUNCHER_CODE.search(rest)) is not None:
            if failed.group("code") == "0":
                return
            yield _exit_code(failed.group("code"), number)
            if failed.group("code") == "-9":
                yield from self._killed(text, number)
            yield _sign(SignKind.TASK_FAILED, text, number)
            self._fault_line = number
        elif LAUNCHER_DONE.search(text) is not None:
            yield _sign(SignKind.DONE, text, number)
        elif (code := ELASTIC_CODE.match(rest)) is not None:
            yield _exit_code(code.group("code"), number)
        elif ELASTIC_KILLED.search(rest) is not None:
            yield from self._killed(text, number)

    def _killed(self, text: str, number: int) -> Iterator[Event]:
        """Yield a guess at SIGKILL: without an earlier failure it usually comes from the kernel, short of memory."""
        guess = number - self._fault_line >= _GUESS_LINES
        self._fault_line = number
        yield _sign(SignKind.HOST_OOM if guess else SignKind.TASK_FAILED, text, number)


def _sign(
    kind: SignKind,
    text: str,
    number: int,
    *,
    during: During | None = None,
    step: int | None = None,
    is_uncaught: bool = False,
) -> Sign:
    return Sign(
        kind=kind, line=number, text=text.strip()[:_TEXT_LIMIT], during=during, step=step, is_uncaught=is_uncaught
    )


def _exit_code(code: str, number: int) -> Observation:
    return Observation(name="exit_code", value=float(code), line=number)
