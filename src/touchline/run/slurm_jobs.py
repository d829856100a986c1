"""SLURM jobs of one of our jobs, and the state of one from all known sources.

The job's own exit file comes first, SLURM's answer second:

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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from touchline.core.files import is_other_folder
from touchline.core.status import EXIT_ALREADY_RUNNING, EXIT_OUT_OF_MEMORY, Attempt, AttemptExit, JobState, is_fresh
from touchline.run.jobs import Job
from touchline.run.ledger import LedgerEntry
from touchline.run.slurm_queries import Queue, SacctJob
from touchline.run.statusfiles import read_attempts, read_exit
from touchline.slurm.job_view import ExitCode, JobView, Source, out_of_memory_line, read_job_id
from touchline.slurm.queue import QueueRow

_CLOCKS_APART_SECONDS = 15.0
"""More than the clocks of one cluster differ, which munge sees to, and three heartbeats."""
_SIGKILL = 9
_KILLED = 128 + _SIGKILL
_OWN_WORD = frozenset({JobState.FAILED, JobState.COMPLETED})
"""SLURM says these of the script's exit code alone; why it was so stands in the exit file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobMatches:
    """SLURM jobs ever started for one of our jobs."""

    job: Job
    folder: str
    """Its folder without links, as in SLURM."""
    ids: tuple[str, ...]
    """SLURM ids, oldest first."""
    tokens: Mapping[str, str]
    """Tokens of its intents with their ids, empty if unknown."""
    attempts: Mapping[str, Attempt]
    """Last attempt of each id."""
    by_hand: tuple[Attempt, ...]
    """Attempts without SLURM: `bash finetune.slurm` on a login node."""
    recorded: Mapping[str, JobView]
    events: Sequence[LedgerEntry]

    def rows(self, queue: Queue, job_id: str) -> tuple[QueueRow, ...]:
        """Return squeue's rows of an id, unless the id was reused for another job."""
        identity = read_job_id(job_id)
        rows = queue.by_id.get(job_id if identity is None else identity.whole, ())
        return tuple(row for row in rows if self._is_ours(job_id, row.comment, row.folder, row.script))

    def accounted(self, known: SacctJob | None, job_id: str) -> SacctJob | None:
        """Return sacct's row of an id, unless it is of another job with that id."""
        if known is None:
            return None
        row = known.row
        line = f"{row.comment} {row.submit_line}"
        script = row.submit_line.rpartition("/")[2] if self.job.script is None else self.job.script
        is_ours = not row.folder or self._is_ours(job_id, line, row.folder, script)
        return known if is_ours else None

    def _is_ours(self, job_id: str, comment: str, folder: str, script: str) -> bool:
        if folder in (self.folder, str(self.job.folder)):
            return True
        if any(token in comment for token in self.tokens):
            # A copied experiment has the ledger of the original, whose jobs stay the original's. The job of a cohort
            # has the folder of another run.
            beside = is_other_folder(str(PurePath(folder).parent), self.job.folder.parent)
            return not (beside and is_other_folder(folder, self.job.folder))
        if job_id in self.attempts:  # a task or a step, started from a folder above, or a cohort's, from beside
            above = PurePath(self.folder).parents
            return PurePath(folder) in above or PurePath(folder).parent == above[0]
        # Another node may call the same folder by another path.
        return (PurePath(folder).name, PurePath(script).name) == (self.job.folder.name, self.job.script)

    def without_held(self, queue: Queue) -> tuple[str, ...]:
        """Return its ids without those that ended at once because another attempt was active; all if none worked.

        The SLURM state of such a job is not the state of ours, even while it is ending.
        """
        if len(self.ids) == 1:
            return self.ids
        return tuple(job_id for job_id in self.ids if not self._is_held(job_id, queue)) or self.ids

    def _is_held(self, job_id: str, queue: Queue) -> bool:
        last = -1 if (attempt := self.attempts.get(job_id)) is None else attempt.start.restart
        numbers = [
            int(number)
            for path in self.job.status.glob(f"exit.{job_id}.*.json")
            if (number := path.name.split(".")[-2]).isdigit() and int(number) > last
        ]
        end = read_exit(self.job.status, job_id, max(numbers)) if numbers else None
        if end is None or end.code != EXIT_ALREADY_RUNNING:
            return False
        # Queued again since, it may find the folder free.
        return not any(not row.state.ended and (row.restarts or 0) > end.restart for row in self.rows(queue, job_id))


def candidates(job: Job, events: Sequence[LedgerEntry], queue: Queue, executor: str) -> JobMatches:
    """Return all SLURM jobs known to be this job's."""
    tokens: dict[str, str] = {}
    listed: list[str] = []
    recorded: dict[str, JobView] = {}
    refused: set[str] = set()
    for entry in events:
        if entry.executor != executor:
            continue
        if entry.event == "refused":
            refused.add(entry.token)
        if entry.token:
            tokens[entry.token] = entry.job_id or tokens.get(entry.token, "")
        if entry.event in ("submitted", "adopted") and read_job_id(entry.job_id) is not None:
            if entry.job_id in listed:
                listed.remove(entry.job_id)
            listed.append(entry.job_id)
            recorded.pop(entry.job_id, None)
        elif entry.event == "ended" and entry.job_id:
            recorded[entry.job_id] = _recorded(entry)
    listed = [job_id for job_id in listed if not _is_of_other_folder(job, job_id, queue)]
    attempts: dict[str, Attempt] = {}
    by_hand: list[Attempt] = []
    for attempt in read_attempts(job.status):
        if _is_of_other_folder(job, attempt.start.job_id, queue):
            continue
        if read_job_id(attempt.start.job_id) is None:
            by_hand.append(attempt)
        elif (other := attempts.get(attempt.start.job_id)) is None or other.start.restart <= attempt.start.restart:
            attempts[attempt.start.job_id] = attempt
    folder = str(job.folder.resolve())
    known = {*listed, *attempts}
    # Of a job that it refuses for its size the controller keeps a record of a failed one, which never was a job.
    found = [
        row.job_id
        for row in _rows_of(job, folder, tokens, queue)
        if not {row.job_id, row.raw_id, row.array_id} & known and row.comment not in refused
    ]
    return JobMatches(
        job=job,
        folder=folder,
        ids=_in_order(listed, dict.fromkeys([*attempts, *found])),
        tokens=tokens,
        attempts=attempts,
        by_hand=tuple(by_hand),
        recorded=recorded,
        events=events,
    )


def _recorded(entry: LedgerEntry) -> JobView:
    try:
        state = JobState(entry.state)
    except ValueError:
        state = JobState.UNKNOWN
    return JobView(job_id=entry.job_id, state=state, active=False, source="ledger", reason=entry.reason)


def _is_of_other_folder(job: Job, job_id: str, queue: Queue) -> bool:
    """Return True for a queued job started from another folder with a run of the same name.

    Its records came here with a copy of the experiment.
    """
    identity = read_job_id(job_id)
    rows = queue.by_id.get(job_id if identity is None else identity.whole, ())
    return any(PurePath(row.folder).name == job.folder.name and is_other_folder(row.folder, job.folder) for row in rows)


def _rows_of(job: Job, folder: str, tokens: Mapping[str, str], queue: Queue) -> list[QueueRow]:
    """Return the jobs in squeue submitted with our tokens, or by hand from the job's folder."""
    found = [
        row
        for token in tokens
        for row in queue.by_comment.get(token, ())
        if not is_other_folder(row.folder, job.folder)
    ]
    for each in dict.fromkeys((folder, str(job.folder))):
        found += [row for row in queue.by_folder.get(each, ()) if _is_our_script(job, row)]
    return found


def _is_our_script(job: Job, row: QueueRow) -> bool:
    """Return True if a row is of our script; a run's training and evaluation share a folder."""
    return Path(row.script).name == job.script if row.script and job.script else row.name == job.name


def _in_order(listed: Sequence[str], others: Mapping[str, None]) -> tuple[str, ...]:
    """Sort ids, oldest first: the ledger's in its order, others between them by number.

    SLURM ids increase; only if the ledger shows a restart of the count do later ids mean older jobs.
    """
    ranks: dict[str, tuple[int, int, int]] = {}
    era, highest = 0, -1
    for job_id in listed:
        number, task = _numbers(job_id)
        era += number < highest
        highest = number
        ranks[job_id] = (era, number, task)
    for job_id in others:
        ranks.setdefault(job_id, (era, *_numbers(job_id)))
    return tuple(sorted(ranks, key=lambda each: ranks[each]))


def _numbers(job_id: str) -> tuple[int, int]:
    identity = read_job_id(job_id)
    if identity is None:
        return int(job_id.partition("_")[0]), 0
    return identity.job, identity.task or 0


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
    recorded: JobView | None
    beats: bool
    """Whether its heartbeat moved since the last look."""
    log: Callable[[], str]
    """Reads the end of its output."""


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
    told = row if row is not None or kept is None else kept.row
    if told is not None:
        waits = row is not None and row.state is JobState.PENDING
        view = replace(
            view,
            partition=told.partition,
            node=told.nodes or view.node,
            submitted_unix=told.submitted_unix,
            started_unix=told.started_unix or (None if waits else view.started_unix),
            ended_unix=None if view.active else view.ended_unix or told.ended_unix,
            time_limit_seconds=told.time_limit_seconds,
            script_folder=told.folder,
            name=told.name,
        )
    if row is not None:
        restarts = view.restarts if row.restarts is None else row.restarts
        view = replace(view, restarts=restarts, comment=row.comment or view.comment)
    elif kept is not None:
        view = replace(view, restarts=max(kept.restarts, view.restarts or 0))
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
        view = _final(_said(JobState.FAILED, "exit file", ""), end, known)
    whole = "; ".join(filter(None, (view.reason, reason)))
    return replace(view, job_id=known.job_id, ended_unix=end.time_unix, reason=whole)


def is_alive(attempt: Attempt | None, now_unix: float, *, beats: bool) -> bool:
    """Return True if an attempt has not ended and its heartbeat is recent."""
    if attempt is None or attempt.exit is not None or attempt.alive is False:
        return False
    return bool(attempt.alive) or beats or is_fresh(attempt.heartbeat_unix, now_unix)


def _state(known: JobEvidence, now_unix: float) -> JobView:
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


def _works_on(known: JobEvidence, word: JobView, now_unix: float) -> bool:
    """Return True if a job of a node that SLURM has lost still beats: a network that broke is no node that died."""
    attempt = known.attempt
    if attempt is None or attempt.heartbeat_unix is None or (word.restarts or 0) > attempt.start.restart:
        return False
    outlived = word.ended_unix is not None and attempt.heartbeat_unix > word.ended_unix + _CLOCKS_APART_SECONDS
    return outlived and is_alive(attempt, now_unix, beats=known.beats)


def _word(known: JobEvidence) -> JobView | None:
    """Return SLURM's last word on a job that has ended: squeue's, then sacct's, then what the ledger has kept of it."""
    row, kept = known.row, known.accounted
    if row is not None and row.state.ended and not known.is_step:
        return _said(row.state, row.source, row.reason, row.exit_code, row.restarts, row.ended_unix)
    if kept is not None and kept.is_final:
        _, by, who = kept.row.word.partition(" by ")
        reason = f"by user {who}" if by else ""
        return _said(kept.row.state, "sacct", reason, kept.row.exit_code, kept.restarts, kept.row.ended_unix)
    if row is not None and row.state.ended:  # a step whose allocation is over and that sacct says nothing of
        return _said(row.state, row.source, row.reason)
    return known.recorded


def _said(
    state: JobState,
    source: Source,
    reason: str,
    exit_code: ExitCode | None = None,
    restarts: int | None = None,
    ended_unix: float | None = None,
) -> JobView:
    """Return an end as SLURM reports it."""
    code, signal = (None, None) if exit_code is None else (exit_code.code, exit_code.signal)
    view = _ended(state, source, reason, code=code, signal=signal)
    return replace(view, restarts=restarts, ended_unix=ended_unix)


def _final(word: JobView, end: AttemptExit | None, known: JobEvidence) -> JobView:
    """Return how a job ended, from SLURM's last state and the exit file of that attempt."""
    code = word.exit_code if end is None else end.code
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
