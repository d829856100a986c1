"""Outcome of a run, from signs, steps and losses, and the lines that prove it.

A cause counts only where no training step follows it in its file: an error that was survived is none. Failures after
the training was complete do not make it less complete: they are the exit's, a fact of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from touchline.backends.logtext.parts import redact
from touchline.core.observation import OVER, Sign, SignKind
from touchline.core.quantity import Missing
from touchline.core.status import Outcome
from touchline.history.faults import LAUNCHER_KILLS
from touchline.history.file_segment import FileSegment
from touchline.history.reading import EvidenceLine, OptionalText, SourcedText, exit_by_cause, exit_code
from touchline.history.run_view import RunSegment

_CAUSES = (
    (SignKind.GPU_OOM, Outcome.GPU_OOM),
    (SignKind.DISK_FULL, Outcome.DISK_QUOTA),
    (SignKind.TIME_LIMIT, Outcome.TIMEOUT),
    (SignKind.PREEMPTED, Outcome.PREEMPTED),
    (SignKind.HOST_OOM, Outcome.HOST_OOM),
    (SignKind.REQUEUED, Outcome.PREEMPTED),
    (SignKind.NODE_FAILED, Outcome.CRASH_MID),
)
"""Causes that name themselves, the most specific first: a job that hangs after a GPU error runs into its time limit."""
_LATE = ("evaluate", "export")
"""Parts of a run after the training."""
_CONSEQUENCE = re.compile(
    r"\b(?:BrokenPipeError|ConnectionResetError|ConnectionRefusedError|ConnectionAbortedError|EOFError|DistBackendError"
    r"|DistNetworkError|DistStoreError|ActorDiedError|ActorUnavailableError|WorkerCrashedError|EngineDeadError"
    r"|ChildProcessError|SignalException)\b|\bNCCL (?:error|communicator)|[Cc]onnection (?:closed|reset) by peer"
    r"|Watchdog caught|watchdog thread|ProcessGroupNCCL|Rank \d+ detected|Socket Timeout|\bwandb\b"
)
"""Errors that other processes raise when one has failed."""
_BY_SIGNAL = 128
"""Exit codes from here on are those of a process that a signal ended: they do not say who sent it."""
_STOPS = (SignKind.CANCELLED, SignKind.INTERRUPTED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """End of a segment."""

    outcome: Outcome
    exit: OptionalText
    proofs: tuple[EvidenceLine, ...]


def ending_of(segment: RunSegment, *, steps_done: float | None, steps_total: float | None, is_document: bool) -> Ending:
    """Return the end of one segment.

    Args:
        steps_done: optimizer steps done; None where nothing says so.
        steps_total: optimizer steps planned; None where nothing says so.
        is_document: whether a state file says that the training ended in order.
    """
    fatal = [each for part in segment.parts for each in _fatal(part)]
    trained = [(sign, part) for sign, part in segment.signs() if sign.kind in OVER]
    reached = steps_done is not None and steps_total is not None and steps_total > 0 and steps_done >= steps_total
    # Scripts echo "training complete" whatever happened; steps that are missing and an exception say otherwise.
    short = steps_done is not None and steps_total is not None and steps_done < 0.98 * steps_total
    failed = any(sign.kind in (SignKind.EXCEPTION, SignKind.GPU_OOM, SignKind.DISK_FULL) for sign, _ in fatal)
    complete = (bool(trained) and not (short and failed)) or reached or is_document
    nan = _diverged(segment)
    if nan is not None:
        exit_word = _exit(segment, fatal, None)
        return Ending(outcome=Outcome.DIVERGED_NAN, exit=exit_word, proofs=(_proof(*nan, "the loss is not a number"),))
    if not complete:
        return _incomplete(segment, fatal, steps_done)
    late = _after_training(fatal, trained)
    if late is not None:
        outcome, sign, part = late
        exit_word = _exit(segment, fatal, (sign, part))
        return Ending(outcome=outcome, exit=exit_word, proofs=(_proof(sign, part, outcome.value),))
    proofs = [_proof(sign, part, "training ended") for sign, part in trained[-1:]]
    return Ending(outcome=Outcome.COMPLETED, exit=_exit(segment, fatal, None), proofs=tuple(proofs))


def _fatal(part: FileSegment) -> list[tuple[Sign, FileSegment]]:
    """Return the signs that no training step follows, in the order of the lines; a cause before its exception."""
    signs = [sign for sign in part.signs.all() if not part.continues_after(sign)]
    return [(sign, part) for sign in sorted(signs, key=lambda each: (each.line, each.kind is SignKind.EXCEPTION))]


def _incomplete(segment: RunSegment, fatal: list[tuple[Sign, FileSegment]], steps_done: float | None) -> Ending:
    def ending(outcome: Outcome, sign: Sign, part: FileSegment, says: str) -> Ending:
        cause = None if outcome is Outcome.COMPLETED else (sign, part)
        return Ending(outcome=outcome, exit=_exit(segment, fatal, cause), proofs=(_proof(sign, part, says),))

    cancelled = any(sign.kind is SignKind.CANCELLED for sign, _ in fatal)
    for kind, outcome in _CAUSES:
        for sign, part in fatal:
            if sign.kind is kind and not (cancelled and _is_guess(sign)):
                return ending(outcome, sign, part, kind.value)
    crash = _crash_of(fatal)
    stops = [each for each in fatal if each[0].kind in _STOPS]
    stop = next((each for each in stops if "CANCELLED" in each[0].text), stops[0] if stops else None)
    # A crash that was cancelled afterwards is a crash; what a cancelled program raises is not.
    if stop is not None and (
        crash is None or crash[1] is not stop[1] or crash[0].line >= stop[0].line or LAUNCHER_KILLS in crash[0].text
    ):
        return ending(Outcome.CANCELLED, *stop, stop[0].kind.value)
    if crash is not None:
        return ending(_crash(*crash, segment, steps_done), *crash, "the program failed")
    saved = [each for each in fatal if each[0].kind in (SignKind.SAVED, SignKind.DONE, SignKind.EXPORTING)]
    if saved and steps_done is None and segment.has_progress:
        return ending(Outcome.COMPLETED, *saved[-1], "saved after the last loss")
    failed = next((each for each in fatal if each[0].kind is SignKind.FAILED_COMMAND), None)
    if failed is not None and not segment.has_progress:
        return ending(Outcome.CRASH_START, *failed, "a command of the job failed")
    word = _exit(segment, fatal, None)
    outcome = Outcome.RUNNING_OR_TRUNCATED
    if isinstance(word, SourcedText) and 0 < (exit_code(word) or 0) < _BY_SIGNAL:
        outcome = Outcome.CRASH_MID if _has_trained(segment, steps_done) else Outcome.CRASH_START
    return Ending(outcome=outcome, exit=word, proofs=())


def _is_guess(sign: Sign) -> bool:
    """Return True for a bare "Killed": usually the kernel, short of memory, but a cancelled process leaves it too."""
    return sign.kind is SignKind.HOST_OOM and not any(
        word in sign.text.lower() for word in ("memory", "oom", "alloc", "out of")
    )


def _has_trained(segment: RunSegment, steps_done: float | None) -> bool:
    return bool(steps_done) or any(part.losses.count for part in segment.parts)


def _crash(sign: Sign, crashed: FileSegment, segment: RunSegment, steps_done: float | None) -> Outcome:
    trained_some = _has_trained(segment, steps_done)
    during = sign.during or ("evaluate" if crashed.was_evaluating(sign) else None)
    if during == "evaluate" and trained_some:
        return Outcome.CRASH_EVAL
    if during == "export" and trained_some:
        return Outcome.CRASH_EXPORT
    return Outcome.CRASH_MID if trained_some else Outcome.CRASH_START


def _after_training(
    fatal: list[tuple[Sign, FileSegment]], trained: list[tuple[Sign, FileSegment]]
) -> tuple[Outcome, Sign, FileSegment] | None:
    """Return a failure of evaluation, export or disk after a complete training; None if only the exit suffered."""
    doing: Outcome | None = None
    for sign, part in fatal:
        is_before = bool(trained) and part is trained[-1][1] and sign.line < trained[-1][0].line
        if is_before and not (sign.is_uncaught and sign.during in _LATE):
            continue
        match sign.kind:
            case SignKind.EVALUATING:
                doing = Outcome.CRASH_EVAL
            case SignKind.EXPORTING | SignKind.SAVING:
                doing = Outcome.CRASH_EXPORT
            case SignKind.SAVED | SignKind.DONE:
                doing = None
            case SignKind.DISK_FULL:
                return Outcome.DISK_QUOTA, sign, part
            case SignKind.GPU_OOM:
                return Outcome.GPU_OOM, sign, part
            case SignKind.HOST_OOM if not _is_guess(sign):
                return Outcome.HOST_OOM, sign, part
            case SignKind.EXCEPTION:
                by_frames = {
                    "evaluate": Outcome.CRASH_EVAL,
                    "export": Outcome.CRASH_EXPORT,
                    "save": Outcome.CRASH_EXPORT,
                }.get(sign.during or "")
                if (outcome := by_frames or doing) is not None:
                    return outcome, sign, part
            case _:
                pass
    return None


def _diverged(segment: RunSegment) -> tuple[Sign, FileSegment] | None:
    """Return the last sign of a loss that is not a number, if no finite loss follows it."""
    for part in segment.parts:
        signs = [sign for sign in part.signs.all() if sign.kind is SignKind.NOT_A_NUMBER]
        if not signs:
            continue
        last = part.losses.last
        if last is None and part.progress_line > signs[-1].line:
            continue  # steps follow, and no loss that would be one
        if last is None or signs[-1].line > last.line or (signs[-1].line == last.line and last.value == 0.0):
            return signs[-1], part
    return None


def _crash_of(fatal: list[tuple[Sign, FileSegment]]) -> tuple[Sign, FileSegment] | None:
    """Return the exception that ended the program: the last one that does not follow from another process's end."""
    raised = [each for each in fatal if each[0].kind is SignKind.EXCEPTION]
    causes = [each for each in raised if _CONSEQUENCE.search(each[0].text) is None]
    if causes or raised:
        return (causes or raised)[-1]
    return next((each for each in fatal if each[0].kind is SignKind.TASK_FAILED), None)


def _exit(
    segment: RunSegment, fatal: list[tuple[Sign, FileSegment]], cause: tuple[Sign, FileSegment] | None
) -> OptionalText:
    codes = segment.all("exit_code")
    if codes and codes[-1].number is not None:
        return SourcedText(value=f"{codes[-1].number:.0f}", where=codes[-1].where)
    if cause is None:
        named = (each for kind, _ in _CAUSES for each in fatal if each[0].kind is kind)
        others = (each for kind in (*_STOPS, SignKind.FAILED_COMMAND) for each in fatal if each[0].kind is kind)
        cause = next(named, None) or _crash_of(fatal) or next(others, None)
    if cause is None:
        return Missing(missing="no line states the exit code")
    sign, part = cause
    return exit_by_cause(redact(sign.text)[:160], f"{part.file}:{sign.line}")


def _proof(sign: Sign, part: FileSegment, says: str) -> EvidenceLine:
    return EvidenceLine(where=f"{part.file}:{sign.line}", text=redact(sign.text)[:300], says=says)
