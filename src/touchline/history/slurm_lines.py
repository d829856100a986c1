"""Lines that a scheduler writes into a job's output: that it ended the job, and why.

SLURM's words are those of slurmstepd (`_handle_signal_container`, the cgroup plugins' out-of-memory reports), srun
(`_task_finish`) and salloc; `seff` and epilogs print a job's final state, and scripts echo an exit code at their end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

from touchline.backends.logtext.events import Row
from touchline.core.observation import Event, Observation, Sign, SignKind

_TEXT_LIMIT = 300
_OWN_WORDS = re.compile(r"\bs(?:lurmstepd\S*|run|alloc): |\*\*\* (?:JOB|STEP) ")
_SAME_ENDING_LINES = 100
"""A line this much further down belongs to another ending: files with several attempts are common."""

# The closing stars are asked for: a line that is cut before its reason would read as a plain cancellation.
_CANCELLED = re.compile(
    r"(?:^|error: |\s)\*\*\* (?P<what>JOB|STEP) (?P<id>\d+)\S*(?: ON \S+)? CANCELLED(?: AT [^\s*]+)?"
    r"(?:,? DUE (?:TO|to) (?P<reason>[A-Za-z][^*]*?))? \*\*\*"
)
_REASONS = (
    ("TIME LIMIT", SignKind.TIME_LIMIT),
    ("PREEMPTION", SignKind.PREEMPTED),
    ("NODE FAILURE", SignKind.NODE_FAILED),
    ("JOB REQUEUE", SignKind.REQUEUED),
    ("TASK FAILURE", SignKind.TASK_FAILED),
    ("MEMORY LIMIT", SignKind.HOST_OOM),
)
_TASK = re.compile(
    r"(?:srun: |^\[\S+\] )error: \S+: tasks? [\d,\[\]-]+: "
    r"(?P<how>Exited with exit code (?P<code>\d{1,3})|Out Of Memory|Killed|Terminated|Interrupt|Hangup|Aborted|Quit"
    r"|Segmentation fault|Bus error|Illegal instruction|Floating point exception|Broken pipe|User defined signal)"
)
_STATE = re.compile(
    r"^\W{0,4}(?:job ?)?state\s*[:=]\s*(?P<state>[A-Z_]{6,})(?: by \S+)?"
    r"(?:\s*\(exit code:? (?P<code>\d{1,3})(?::\d+)?\)|\s+Reason=\S+.*)?\W{0,4}$",
    re.IGNORECASE,
)
_STATES = {
    "COMPLETED": SignKind.DONE,
    "FAILED": SignKind.TASK_FAILED,
    "TIMEOUT": SignKind.TIME_LIMIT,
    "DEADLINE": SignKind.TIME_LIMIT,
    "OUT_OF_MEMORY": SignKind.HOST_OOM,
    "CANCELLED": SignKind.CANCELLED,
    "PREEMPTED": SignKind.PREEMPTED,
    "NODE_FAIL": SignKind.NODE_FAILED,
    "BOOT_FAIL": SignKind.NODE_FAILED,
    "REQUEUED": SignKind.REQUEUED,
}
_STATES_WITH_A_CODE = ("COMPLETED", "FAILED")
"""seff prints `exit code 0` for OUT_OF_MEMORY and TIMEOUT too, where no process ended with it."""
# The code ends its line, and the line's subject, where it names one, is the job and not some helper of it.
_EXIT_CODE = re.compile(
    r"""
    ^[^\w\n]{0,6}
    (?:[^\n:]{0,40}\d:\d\d\S*\W{1,4})?                                                # a time stamp
    (?:(?:the\ )?(?:slurm\ |batch\ )?
       (?:job|task|script|training|trainer|train|fine-?tun(?:e|ing)|python|process|program|run|torchrun|command)
       (?:\ (?:script|job|run|process))?(?:\ \S{1,40})?\ )?
    (?:(?:has\ )?(?:finished|completed|ended|exited|failed|terminated|done)[^\w\n]{0,3})?
    (?:(?:with\ )?\(?(?:final\ )?(?:exit|return)[ _-]?(?:code|status)|with\ (?:code|status))\s*(?:is|was|[:=])?\s*
    (?P<code>\d{1,3})(?::\d+)?\)?\W{0,4}$
    """,
    re.IGNORECASE | re.VERBOSE,
)

# Lines that are one fact, in the order in which they are tried.
_LINES: tuple[tuple[re.Pattern[str], SignKind], ...] = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"\*\*\* (?:JOB|STEP) \d+\S*(?: ON \S+)? FAILED \(non-zero exit code", SignKind.TASK_FAILED),
        (r"\*\*\* (?:JOB|STEP) \d+\S*(?: ON \S+)? UNCORRECTABLE MEMORY ERROR", SignKind.NODE_FAILED),
        (r"\bDetected \d+ oom[_-]kill event", SignKind.HOST_OOM),
        (r"may have been killed by the cgroup out-of-memory handler", SignKind.HOST_OOM),
        (r"(?:error|slurmstepd\S*|srun): Exceeded (?:job|step) memory limit", SignKind.HOST_OOM),
        (
            r"\b(?:[Jj]ob|[Ss]tep|StepId=|JobId=)\s*[\d.]+\S* exceeded (?:virtual )?memory limit"
            r" \(\d+ > \d+\), being killed",
            SignKind.HOST_OOM,
        ),
        (r"(?:salloc|srun): (?:error: )?Job \d+ has exceeded its time limit", SignKind.TIME_LIMIT),
        (r"(?:salloc|srun): (?:error: )?Job allocation \d+ has been revoked", SignKind.CANCELLED),
        (r"srun: error: Node failure on \S+", SignKind.NODE_FAILED),
        (r"\berror: Batch JobId=\d+ (?:missing|failed)", SignKind.NODE_FAILED),
        (
            r"slurm(?:step)?d\S*: error: .*(?:No space left on device|Disk quota exceeded)",
            SignKind.DISK_FULL,
        ),
        (r"slurmstepd\S*: error: execve\(\): ", SignKind.TASK_FAILED),
        (r"srun: error: (?:task \S+ launch failed|Task launch for )", SignKind.TASK_FAILED),
        (r"srun: error: Unable to (?:create step|allocate resources|confirm allocation)", SignKind.TASK_FAILED),
        (r"^s(?:batch|run): fatal: ", SignKind.TASK_FAILED),
        (r"^sbatch: error: ", SignKind.FAILED_COMMAND),
    )
)
# srun says that it ends a step, and not why. Where something else has said it, that is enough.
_ABORTED = re.compile(
    r"srun: (?:Job step aborted: |Force Terminated |forcing job termination|interrupt \(|sending Ctrl-C)"
)
_TERMINATING = re.compile(r"srun: (?:\S+: _step_signal: )?Terminating (?:StepId=|[Jj]ob step )(?P<id>\d+)")


class SlurmLines:
    """Signs of the scheduler's lines, and exit codes."""

    words: ClassVar[frozenset[str]] = frozenset(
        {
            *("slurmstepd", "srun", "salloc", "sbatch", "slurmd", "cancelled", "oom_kill", "out_of_memory"),
            *("exceeded", "batch", "state", "jobstate", "exited"),
            *("exitcode", "exit_code", "exit_status", "exit", "uncorrectable"),
            "return",
        }
    )

    def __init__(self) -> None:
        self._reason_line = -_SAME_ENDING_LINES
        self._failed_line = -_SAME_ENDING_LINES
        self._failed_job: str | None = None

    def row(self, row: Row, text: str, number: int) -> Iterable[Event]:
        """Return no events: a scheduler does not print dictionaries."""
        return ()

    def line(self, text: str, number: int) -> Iterable[Event]:
        """Yield the events of a line."""
        if "CANCELLED" in text and (cancelled := _CANCELLED.search(text)):
            return self._cancelled(cancelled, text, number)
        if "task" in text and (task := _TASK.search(text)):
            return self._task(task, text, number)
        for pattern, kind in _LINES:
            if pattern.search(text):
                self._reason_line = number
                code = _code(text, number) if kind in (SignKind.TASK_FAILED, SignKind.DONE) else ()
                return (_sign(kind, text, number), *code)
        if (terminating := _TERMINATING.search(text)) is not None:
            # srun says so of a step whose task failed; the step's own line below follows from it.
            self._failed_line, self._failed_job = number, terminating.group("id")
            self._reason_line = number
            return ()
        if _ABORTED.search(text):
            known = number - self._reason_line < _SAME_ENDING_LINES
            self._reason_line = number
            return () if known else (_sign(SignKind.INTERRUPTED, text, number),)
        if (state := _STATE.match(text)) is not None:
            return _state(state, text, number)
        return _code(text, number)

    def _cancelled(self, match: re.Match[str], text: str, number: int) -> tuple[Event, ...]:
        self._reason_line = number
        reason = (match.group("reason") or "").upper()
        for words, kind in _REASONS:
            if reason.startswith(words):
                return (_sign(kind, text, number),)
        if reason.startswith("SIGNAL"):
            return (_sign(SignKind.CANCELLED, text, number),)
        follows = number - self._failed_line < _SAME_ENDING_LINES and self._failed_job in (None, match.group("id"))
        # srun ends the other tasks of a step after one has failed, and slurmstepd then reports a cancelled step.
        kind = SignKind.TASK_FAILED if match.group("what") == "STEP" and follows else SignKind.CANCELLED
        return (_sign(kind, text, number),)

    def _task(self, match: re.Match[str], text: str, number: int) -> tuple[Event, ...]:
        how = match.group("how")
        known = number - self._reason_line < _SAME_ENDING_LINES
        if how == "Out Of Memory":
            self._reason_line = number
            return (_sign(SignKind.HOST_OOM, text, number),)
        if how.startswith("Killed"):
            # Nobody says who killed it. Without a reason before it, it was the kernel, short of memory, as a rule.
            kinds = (SignKind.TASK_FAILED,) if known else (SignKind.TASK_FAILED, SignKind.HOST_OOM)
            return tuple(_sign(kind, text, number) for kind in kinds)
        if how.startswith(("Terminated", "Interrupt", "Hangup")):
            return () if known else (_sign(SignKind.INTERRUPTED, text, number),)
        self._reason_line = self._failed_line = number
        self._failed_job = None
        code = match.group("code")
        return (
            _sign(SignKind.TASK_FAILED, text, number),
            *(() if code is None else (exit_code(code, number),)),
        )


def _sign(kind: SignKind, text: str, number: int) -> Sign:
    if (len(text) > _TEXT_LIMIT or "%|" in text) and (start := _OWN_WORDS.search(text)) is not None:
        text = text[start.start() :]  # a program that was interrupted while it drew bars has ended no line
    return Sign(kind=kind, line=number, text=text.strip()[:_TEXT_LIMIT])


def exit_code(code: str, number: int) -> Observation:
    """Return the observation of an exit code."""
    return Observation(name="exit_code", value=float(code), line=number)


def _code(text: str, number: int) -> tuple[Event, ...]:
    if len(text) > _TEXT_LIMIT:
        return ()
    match = _EXIT_CODE.match(text)
    return () if match is None else (exit_code(match.group("code"), number),)


def _state(match: re.Match[str], text: str, number: int) -> tuple[Event, ...]:
    """Return a job's final state; the states of a running job show nothing of its end."""
    state, code = match.group("state"), match.group("code")
    kind = _STATES.get(state)
    if kind is None:
        return ()
    with_code = code is not None and state in _STATES_WITH_A_CODE
    return (_sign(kind, text, number), *((exit_code(code, number),) if with_code else ()))
