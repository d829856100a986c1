"""Rate-limited SLURM queries: one squeue for all jobs, one sacct for all others.

A failed, late or incomplete answer changes nothing: the last known state stays.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from touchline.core.clock import Clock
from touchline.core.status import JobState
from touchline.slurm.job_view import read_job_id, waiting_tasks
from touchline.slurm.local.commands import CommandResult, Commands
from touchline.slurm.queue import (
    AccountingRow,
    QueueRow,
    accounting_format,
    latest,
    queue_format,
    read_accounting,
    read_job,
    read_queue,
)

_QUERY_SECONDS = 60.0
"""Timeout of a query."""
LONGEST_WAIT_SECONDS = 180.0
"""Maximum interval of queries; it doubles after each failure."""
SETTLED_SECONDS = 120.0
"""Seconds after a job's end at which sacct's exit code is final, even if missing."""
TOKEN_SECONDS = 10.0
_SECOND_LOOK_SECONDS = 3.0
"""Seconds after a submission within which a job may still appear: squeue shows it at once, sacct took 5 s."""
_TOKEN_PAUSE_SECONDS = 3.0
_IDS_AT_ONCE = 1000
_OFF = ("accounting storage is disabled", "no such file or directory")


@dataclass(kw_only=True, slots=True)
class Pace:
    """Rate limit of one kind of query."""

    clock: Clock
    seconds: float
    failures: int = 0
    asked: float | None = None

    def may_ask(self) -> bool:
        """Return True if the interval has passed."""
        wait = max(self.seconds, min(LONGEST_WAIT_SECONDS, self.seconds * 2.0 ** min(self.failures, 30)))
        return self.asked is None or self.clock.monotonic() - self.asked >= wait

    def ends(self, *, well: bool) -> None:
        """Note how a query ended."""
        self.failures = 0 if well else self.failures + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """Last complete answer of squeue."""

    rows: tuple[QueueRow, ...] = ()
    number: int = 0
    """Number of the answer; 0 if there was none, and the rows mean nothing."""
    asked: float = -math.inf
    """Start of squeue on the monotonic clock."""
    by_id: Mapping[str, tuple[QueueRow, ...]] = field(default_factory=dict)
    """Rows by every id of a job; several for an array."""
    by_folder: Mapping[str, tuple[QueueRow, ...]] = field(default_factory=dict)
    """Rows by submission folder."""
    by_comment: Mapping[str, tuple[QueueRow, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: tuple[QueueRow, ...], *, number: int, asked: float) -> Queue:
        """Return an answer with its rows in order."""
        return cls(
            rows=rows,
            number=number,
            asked=asked,
            by_id=_by(rows, _names),
            by_folder=_by(rows, lambda row: (row.folder,)),
            by_comment=_by(rows, lambda row: (row.comment,) if row.comment else ()),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SacctJob:
    """Data of sacct on one job."""

    row: AccountingRow
    """Row of its last start."""
    restarts: int
    """Number of earlier starts."""
    is_final: bool
    """Whether it has ended and its exit code is reliable."""


class SlurmQueries:
    """Queries of squeue, sacct and scontrol with their last answers."""

    def __init__(self, commands: Commands, clock: Clock, poll_seconds: float) -> None:
        self._commands = commands
        self._clock = clock
        self._queue_pace = Pace(clock=clock, seconds=poll_seconds)
        self._sacct_pace = Pace(clock=clock, seconds=poll_seconds)
        self._submit_lines = True
        self._accounted: dict[str, SacctJob] = {}
        self._doubted: dict[str, float] = {}
        self._absent: set[str] = set()
        self.queue = Queue()
        """Last complete answer."""
        self.fault = ""
        """Error of the last squeue; empty if it succeeded."""
        self.is_absent = False
        """Whether squeue is missing on this machine."""
        self.has_accounting: bool | None = None
        """Whether this cluster has accounting; None before the first query."""

    def refresh(self, *, now: bool = False) -> None:
        """Query squeue again unless its interval has not passed; `now` forces it."""
        if not (now or self._queue_pace.may_ask()):
            return
        asked = self._queue_pace.asked = self._clock.monotonic()
        separator = _separator()
        answer = self._ask(["squeue", "--me", "--states=all", f"--Format={queue_format(separator)}"])
        rows = read_queue(answer.out, separator) if answer.ok else None
        self._queue_pace.ends(well=rows is not None)
        if rows is None:
            self.fault = f"squeue: {_words(answer) or 'an incomplete answer'}"
            self.is_absent = answer.code is None and "no such file" in answer.err.lower()
            return
        self.fault = ""
        self.queue = Queue.of(rows, number=self.queue.number + 1, asked=asked)
        # What lives may have been ended and queued again: what the accounting said of it is of an earlier time.
        for name in {name for row in rows if not row.state.ended for name in _names(row)}:
            self._accounted.pop(name, None)
            self._doubted.pop(name, None)
            self._absent.discard(name)

    def account(self, ids: Collection[str], also: Collection[str] = ()) -> None:
        """Query sacct for these jobs if their end is unknown; at most one query per interval.

        Args:
            ids: requested ids without steps.
            also: further ids, included if sacct is queried at all, to save the next query.
        """
        wanted = [id_ for id_ in ids if not self._is_final(id_)]
        if not wanted or self.has_accounting is False or not self._sacct_pace.may_ask():
            return
        self._sacct_pace.asked = self._clock.monotonic()
        asked = list(dict.fromkeys([*wanted, *(each for each in also if not self._is_final(each))]))
        for start in range(0, len(asked), _IDS_AT_ONCE):
            part = asked[start : start + _IDS_AT_ONCE]
            rows = self._sacct([f"--jobs={','.join(part)}"])
            if rows is None:
                return
            self._remember(rows)
            self._absent.difference_update(part)
            self._absent.update(each for each in part if each not in self._accounted)

    def accounted(self, job_id: str) -> SacctJob | None:
        """Return sacct's answer on a job, array task or step; None if not queried or unknown."""
        return self._accounted.get(job_id)

    def is_unaccounted(self, job_id: str) -> bool:
        """Return True if sacct has no more to report on a job: no accounting, or an answer without this job."""
        return self.has_accounting is False or job_id in self._absent

    def knows(self, job_id: str) -> bool | None:
        """Return True if the controller knows a job; None if it gave no answer."""
        answer = self._ask(["scontrol", "show", "job", job_id])
        if answer.ok and read_job(answer.out) is not None:
            return True
        return False if "invalid job id" in answer.err.lower() else None

    def find(self, tokens: Sequence[str], since_unix: float) -> Mapping[str, str] | None:
        """Return the ids of jobs submitted with these tokens; None if unknown.

        It waits until a job submitted at `since_unix` must have appeared.
        """
        found: dict[str, str] = {}
        begun = self._clock.monotonic()
        age = self._clock.now() - since_unix
        left = _SECOND_LOOK_SECONDS if age >= TOKEN_SECONDS else TOKEN_SECONDS - max(age, 0.0)
        while True:
            elapsed = self._clock.monotonic() - begun
            self.refresh(now=True)
            found |= {token: _id_of(rows[-1]) for token in tokens if (rows := self.queue.by_comment.get(token))}
            if len(found) == len(set(tokens)):
                return found
            if elapsed >= left:
                break
            self._clock.sleep(min(_TOKEN_PAUSE_SECONDS, max(left - elapsed, 0.1)))
        if self.fault:
            return None
        return self._find_accounted(tokens, found, max(age, 0.0))

    def _find_accounted(
        self, tokens: Sequence[str], found: dict[str, str], age_seconds: float
    ) -> Mapping[str, str] | None:
        """Add jobs that have ended and left squeue."""
        days = 2 + math.ceil(age_seconds / 86400)
        rows = self._sacct([f"--starttime=now-{days}days", "--allocations"]) if self.has_accounting is not False else ()
        for row in () if rows is None else rows:
            for token in tokens:
                if token == row.comment or token in row.submit_line:
                    found[token] = row.job_id
        return found if rows is not None or self.has_accounting is False else None

    def _sacct(self, which: Sequence[str]) -> tuple[AccountingRow, ...] | None:
        separator = _separator()
        fields = accounting_format(submit_line=self._submit_lines)
        options = ["--parsable2", "--duplicates", f"--delimiter={separator}", f"--format={fields}"]
        answer = self._ask(["sacct", *options, *which])
        message = answer.err.lower()
        if "invalid field requested" in message and self._submit_lines:
            self._submit_lines = False
            return self._sacct(which)
        if not answer.ok and any(word in message for word in _OFF):
            self.has_accounting = False
            return None
        rows = read_accounting(answer.out, separator, submit_line=self._submit_lines) if answer.ok else None
        self._sacct_pace.ends(well=rows is not None)
        self.has_accounting = True if rows is not None else self.has_accounting
        return rows

    def _remember(self, rows: Sequence[AccountingRow]) -> None:
        now = self._clock.now()
        for row in rows:
            for name in _accounted_names(row) - {row.job_id}:
                self._accounted.pop(name, None)
        for job_id, (row, restarts) in latest(rows).items():
            settled = row.is_settled or self._doubted.get(job_id, math.inf) < self._clock.monotonic()
            if row.state.ended and not settled:
                # Read again before it is believed: by the next query, or at once where it ended long ago.
                self._doubted.setdefault(job_id, self._clock.monotonic())
                settled = row.ended_unix is not None and now - row.ended_unix > SETTLED_SECONDS
            known = SacctJob(row=row, restarts=restarts, is_final=row.state.ended and settled)
            for name in _accounted_names(row):
                before = self._accounted.get(name)
                # An array is represented by a live task, or by one that failed.
                if name == job_id or before is None or _urgency(known) >= _urgency(before):
                    self._accounted[name] = known

    def _is_final(self, job_id: str) -> bool:
        known = self._accounted.get(job_id)
        return known is not None and known.is_final

    def _ask(self, words: Sequence[str]) -> CommandResult:
        return self._commands.run(words, timeout_seconds=_QUERY_SECONDS)


def _separator() -> str:
    """Return a separator absent from names; `--Format` requires that it begins with neither a digit nor a full stop."""
    return f"\x1f{secrets.token_hex(4)}\x1f"


def _words(answer: CommandResult) -> str:
    """Return the last error line of a command."""
    lines = [line.strip() for line in answer.err.splitlines() if line.strip()]
    return lines[-1].removeprefix("squeue: error: ")[:300] if lines else ""


def _by(rows: Sequence[QueueRow], keys: Callable[[QueueRow], Collection[str]]) -> Mapping[str, tuple[QueueRow, ...]]:
    found: dict[str, list[QueueRow]] = {}
    for row in rows:
        for key in keys(row):
            found.setdefault(key, []).append(row)
    return {key: tuple(several) for key, several in found.items()}


def _names(row: QueueRow) -> Collection[str]:
    """Return the ids of a row: its own, its array's, those of waiting tasks, and the script's."""
    names = {row.job_id, *waiting_tasks(row.job_id)}
    if row.array_id:
        names.add(row.array_id)
    # An array's last task has the array's own id, which stands for all of it.
    if row.raw_id != row.array_id:
        names.add(row.raw_id)
    return names


def _accounted_names(row: AccountingRow) -> set[str]:
    """Return the ids of a sacct row: its own, its array's, and the script's."""
    identity = read_job_id(row.job_id)
    if identity is None or identity.step is not None or identity.task is None:
        return {row.job_id}
    return {row.job_id, str(identity.job), row.raw_id}


def _urgency(known: SacctJob) -> int:
    return 2 if not known.is_final else 0 if known.row.state is JobState.COMPLETED else 1


def _id_of(row: QueueRow) -> str:
    """Return the id to remember for a job: of an array that of the array."""
    identity = read_job_id(row.job_id)
    return row.array_id or (row.job_id if identity is None else identity.whole)
