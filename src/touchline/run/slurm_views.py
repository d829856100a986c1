"""State of a SLURM job, from all known sources. The job's own exit file comes first, SLURM's answer second.

exit file 0                           COMPLETED, whatever SLURM says
squeue lists it and it has not ended  it is active: a code of 75 and PENDING is a job that was queued again
SLURM's last word                     TIMEOUT, CANCELLED, PREEMPTED, NODE_FAIL, OUT_OF_MEMORY stand; of FAILED and
                                      COMPLETED the exit file knows more
killed by signal 9                    out of memory where the log proves it, else UNKNOWN
exit file alone                       an end by itself stands; one that was asked for waits for SLURM's word
a recent heartbeat                    RUNNING
nothing                               UNKNOWN and active; the caller decides when it is lost
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from touchline.core.status import EXIT_ALREADY_RUNNING, EXIT_OUT_OF_MEMORY, Attempt, AttemptExit, JobState, is_fresh
from touchline.run.slurm_queries import SacctJob
from touchline.slurm.job_view import JobView, Source
from touchline.slurm.output import out_of_memory_line
from touchline.slurm.queue import QueueRow

_CLOCKS_APART_SECONDS = 15.0
"""More than the clocks of one cluster differ, which munge sees to, and three heartbeats."""
_SIGKILL = 9
_KILLED = 128 + _SIGKILL
_OWN_WORD = frozenset({JobState.FAILED, JobState.COMPLETED})
"""SLURM says these of the script's exit code alone; why it was so stands in the exit file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEvidence:
    """All that is known of one job."""

    job_id: str
    is_step: bool
    """Whether it is a step in an allocation with other work: the allocation's state is not its own."""
    attempt: Attempt | None
    """Its last attempt, from the run's folder."""
    row: QueueRow | None
    """squeue's row of it; None if it lists no such job, or was never queried."""
    accounted: SacctJob | None
    """sacct's row of it."""
    recorded: JobView | None
    """Its end, as the ledger has it."""
    beats: bool
    """Whether its heartbeat moved since the last look."""
    log: Callable[[], str]
    """Reads the end of its output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Word:
    """SLURM's last state of a job that has ended."""

    state: JobState
    source: Source
    code: int | None
    signal: int | None
    reason: str
    restarts: int | None
    ended_unix: float | None = None


def view_of(known: JobEvidence, now_unix: float) -> JobView:
    """Return a job's view. Without any source it is UNKNOWN and active."""
    view = _state(known, now_unix)
    row, kept, attempt = known.row, known.accounted, known.attempt
    view = replace(view, job_id=known.job_id)
    if attempt is not None:
        end = attempt.exit
        view = replace(
            view,
            started_unix=attempt.start.time_unix,
            node=attempt.start.host,
            restarts=attempt.start.restart,
            ended_unix=None if view.active or end is None else end.time_unix,
            comment=attempt.start.token,
        )
    if row is not None:
        view = replace(
            view,
            restarts=row.restarts if row.restarts is not None else view.restarts,
            partition=row.partition,
            node=row.nodes or view.node,
            submitted_unix=row.submitted_unix,
            started_unix=row.started_unix or (None if row.state is JobState.PENDING else view.started_unix),
            ended_unix=None if view.active else view.ended_unix or row.ended_unix,
            time_limit_seconds=row.time_limit_seconds,
            comment=row.comment or view.comment,
            script_folder=row.folder,
            name=row.name,
        )
    elif kept is not None:
        view = replace(
            view,
            restarts=kept.restarts if view.restarts is None else max(kept.restarts, view.restarts),
            partition=kept.row.partition,
            node=kept.row.nodes or view.node,
            submitted_unix=kept.row.submitted_unix,
            started_unix=kept.row.started_unix or view.started_unix,
            ended_unix=None if view.active else view.ended_unix or kept.row.ended_unix,
            time_limit_seconds=kept.row.time_limit_seconds,
            script_folder=kept.row.folder,
            name=kept.row.name,
        )
    return view


def exited_on_its_own(known: JobEvidence) -> bool:
    """Return True if its exit file says of itself how it ended: not by request, and not killed."""
    end = None if known.attempt is None else known.attempt.exit
    return end is not None and end.code < 128 and not end.ended_by.is_requested


def last_view(known: JobEvidence, reason: str) -> JobView:
    """Return how a job ended that SLURM has forgotten, from its exit file; unknown without one.

    Args:
        reason: why no more will be known of it; empty if all is known.
    """
    attempt = known.attempt
    end = None if attempt is None else attempt.exit
    if end is None:
        return replace(_ended(JobState.UNKNOWN, "none", reason, code=None), job_id=known.job_id)
    if end.ended_by.is_requested:
        view = _ended(_stopped(end, JobState.UNKNOWN), "exit file", end.reason, code=end.code)
    else:
        word = _Word(state=JobState.FAILED, source="exit file", code=None, signal=None, reason="", restarts=None)
        view = _final(word, end, known)
    whole = "; ".join(filter(None, (view.reason, reason)))
    return replace(view, job_id=known.job_id, ended_unix=end.time_unix, reason=whole)


def is_alive(attempt: Attempt | None, now_unix: float, *, beats: bool) -> bool:
    """Return True if an attempt has not ended and its heartbeat is recent."""
    if attempt is None or attempt.exit is not None or attempt.alive is False:
        return False
    return bool(attempt.alive) or beats or is_fresh(attempt.heartbeat_unix, now_unix)


def _state(known: JobEvidence, now_unix: float) -> JobView:
    """State, source, reason and exit code."""
    attempt, row = known.attempt, known.row
    end = None if attempt is None else attempt.exit
    if end is not None and end.code == 0:
        return _ended(JobState.COMPLETED, "exit file", end.reason, code=0)
    if end is not None and known.is_step and end.code < 128:
        # A step is not queued again by itself, and its allocation goes on with other work.
        return _ended(end.state, "exit file", end.reason, code=end.code)
    if row is not None and not row.state.ended and not known.is_step:
        return _active(row.state, row.source, row.reason)
    word = _word(known)
    if word is not None:
        if word.state is JobState.NODE_FAIL and _works_on(known, word, now_unix):
            return _active(JobState.RUNNING, "heartbeat", "its node was reported dead, but it is still running")
        current = end is not None and attempt is not None and (word.restarts or 0) <= attempt.start.restart
        return _final(word, end if current else None, known)
    if end is not None:
        return _active(JobState.COMPLETING, "exit file", end.reason)
    if is_alive(attempt, now_unix, beats=known.beats):
        assert attempt is not None
        return _active(JobState.RUNNING, "process" if attempt.alive else "heartbeat", "")
    return _active(JobState.UNKNOWN, "none", "")


def _works_on(known: JobEvidence, word: _Word, now_unix: float) -> bool:
    """Return True if a job of a node that SLURM has lost still beats: a network that broke is no node that died."""
    attempt = known.attempt
    if attempt is None or attempt.heartbeat_unix is None or (word.restarts or 0) > attempt.start.restart:
        return False
    outlived = word.ended_unix is not None and attempt.heartbeat_unix > word.ended_unix + _CLOCKS_APART_SECONDS
    return outlived and is_alive(attempt, now_unix, beats=known.beats)


def _word(known: JobEvidence) -> _Word | None:
    """SLURM's last word: squeue's, then sacct's, then what the ledger has kept of it."""
    row, kept = known.row, known.accounted
    if row is not None and row.state.ended and not known.is_step:
        exit_code = row.exit_code
        return _Word(
            state=row.state,
            source=row.source,
            code=None if exit_code is None else exit_code.code,
            signal=None if exit_code is None else exit_code.signal,
            reason=row.reason,
            restarts=row.restarts,
            ended_unix=row.ended_unix,
        )
    if kept is not None and kept.is_final:
        exit_code = kept.row.exit_code
        _, by, who = kept.row.word.partition(" by ")
        return _Word(
            state=kept.row.state,
            source="sacct",
            code=None if exit_code is None else exit_code.code,
            signal=None if exit_code is None else exit_code.signal,
            reason=f"by user {who}" if by else "",
            restarts=kept.restarts,
            ended_unix=kept.row.ended_unix,
        )
    if row is not None and row.state.ended:  # a step whose allocation is over and that sacct says nothing of
        return _Word(state=row.state, source=row.source, code=None, signal=None, reason=row.reason, restarts=None)
    recorded = known.recorded
    if recorded is not None:
        return _Word(
            state=recorded.state, source="ledger", code=None, signal=None, reason=recorded.reason, restarts=None
        )
    return None


def _final(word: _Word, end: AttemptExit | None, known: JobEvidence) -> JobView:
    """Return how a job ended, from SLURM's last state and the exit file of that attempt."""
    code = word.code if end is None else end.code
    reason = word.reason if end is None else end.reason
    if word.state is JobState.UNKNOWN or word.state not in _OWN_WORD:
        why = word.reason or ("" if end is None else end.reason)
        return _ended(word.state, word.source, why, code=None if end is None else end.code, signal=word.signal)
    if code == _KILLED or (end is None and word.signal == _SIGKILL):
        proof = out_of_memory_line(known.log())
        if proof is not None:
            return _ended(JobState.OUT_OF_MEMORY, word.source, proof, code=code or None, signal=_SIGKILL)
        why = "killed by signal 9 without a message (host memory, or kill -9)"
        return _ended(JobState.UNKNOWN, word.source, why, code=code or None, signal=_SIGKILL)
    if end is not None:
        return _ended(_stopped(end, JobState.FAILED), "exit file", end.reason, code=end.code)
    if code == EXIT_OUT_OF_MEMORY:
        return _ended(JobState.OUT_OF_MEMORY, word.source, reason, code=code)
    if code == EXIT_ALREADY_RUNNING:
        return _ended(JobState.FAILED, word.source, "another attempt held the run", code=code)
    final_code = code if code or word.state is JobState.COMPLETED else None
    return _ended(word.state, word.source, reason, code=final_code, signal=word.signal)


def _stopped(end: AttemptExit, by_whom: JobState) -> JobState:
    """Return the state of an exit file where SLURM does not report why the job was asked to end.

    SIGUSR1 comes before the time limit; SIGTERM comes for any reason, and only SLURM knows a cancellation.
    """
    return by_whom if end.state is JobState.CANCELLED else end.state


def _active(state: JobState, source: Source, reason: str) -> JobView:
    return JobView(job_id="", state=state, active=True, source=source, reason=reason)


def _ended(state: JobState, source: Source, reason: str, *, code: int | None, signal: int | None = None) -> JobView:
    return JobView(
        job_id="", state=state, active=False, source=source, reason=reason, exit_code=code, signal=signal or None
    )
