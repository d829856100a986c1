"""Rate-limited PBS queries: one qselect for this user's jobs, and one qstat for those and the ones that have ended.

A failed, late or incomplete answer changes nothing: the last known state stays. qstat is asked for jobs by id, never
for all: a server lists everybody's. `-E` makes one request of them, without which some versions print the first job
alone as JSON (openpbs issue 2672).
"""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping, Sequence

from touchline.core.clock import Clock
from touchline.run.slurm_queries import QUERY_SECONDS, SECOND_LOOK_SECONDS, TOKEN_SECONDS, Pace, Queue, SacctJob
from touchline.slurm.local.commands import CommandResult, Commands
from touchline.slurm.pbs import are_unknown, has_no_history, read_jobs, read_number
from touchline.slurm.queue import QueueRow

_IDS_AT_ONCE = 500
_TOKEN_PAUSE_SECONDS = 3.0


class PbsQueries:
    """Queries of qselect and qstat with their last answers."""

    def __init__(self, commands: Commands, clock: Clock, poll_seconds: float) -> None:
        self._commands = commands
        self._clock = clock
        self._pace = Pace(clock=clock, seconds=poll_seconds)
        self._history = True
        self._over: dict[str, QueueRow] = {}
        self.queue = Queue()
        """Last complete answer."""
        self.fault = ""
        """Error of the last query; empty if it succeeded."""
        self.is_absent = False
        """Whether qselect is missing on this machine."""

    def refresh(self, ids: Iterable[str], *, now: bool = False) -> None:
        """Query this user's jobs and those with these ids unless the interval has not passed; `now` forces it."""
        if not (now or self._pace.may_ask()):
            return
        self._pace.begins()
        asked = self._clock.monotonic()
        rows = self._look(ids, ended=now)
        self._pace.ends(well=rows is not None)
        if rows is None:
            return
        self.fault = ""
        self.is_absent = False
        self._over = {row.job_id: row for row in rows if row.state.ended}
        self.queue = Queue.of(rows, number=self.queue.number + 1, asked=asked)

    def accounted(self, job_id: str) -> SacctJob | None:
        """Return None: PBS keeps ended jobs in its queue, for the time of its history."""
        del job_id
        return None

    def is_unaccounted(self, job_id: str) -> bool:
        """Return True: PBS has no accounting to ask."""
        del job_id
        return True

    def knows(self, job_id: str) -> bool | None:
        """Return True if the server knows a job; None if it gave no answer."""
        rows = self._stat([job_id])
        return None if rows is None else bool(rows)

    def find(self, tokens: Sequence[str], since_unix: float) -> Mapping[str, str] | None:
        """Return the ids of jobs submitted with these tokens; None if unknown.

        It waits until a job submitted at `since_unix` must have appeared.
        """
        begun = self._clock.monotonic()
        age = self._clock.now() - since_unix
        left = SECOND_LOOK_SECONDS if age >= TOKEN_SECONDS else TOKEN_SECONDS - max(age, 0.0)
        while True:
            elapsed = self._clock.monotonic() - begun
            self.refresh((), now=True)
            found = {token: rows[-1].job_id for token in tokens if (rows := self.queue.by_comment.get(token))}
            if len(found) == len(set(tokens)) or elapsed >= left:
                return None if self.fault and len(found) < len(set(tokens)) else found
            self._clock.sleep(min(_TOKEN_PAUSE_SECONDS, max(left - elapsed, 0.1)))

    def _look(self, ids: Iterable[str], *, ended: bool) -> tuple[QueueRow, ...] | None:
        """Return all rows; None if an answer was not whole.

        Args:
            ids: ids to ask for beside those of this user's jobs in the queue.
            ended: also ask for all of this user's jobs in the history.
        """
        words = ["qselect", "-u", getpass.getuser(), *(["-x"] if ended and self._history else [])]
        answer = self._ask(words)
        if has_no_history(answer.err) and "-x" in words:
            self._history = False
            return self._look(ids, ended=False)
        if not answer.ok:
            self._fail("qselect", answer)
            return None
        listed = [number for word in answer.out.split() if (number := read_number(word)) is not None]
        # What has ended stays so, unless it is listed again: a job that was queued again keeps its id.
        known = [id_ for id_ in dict.fromkeys((*listed, *ids)) if id_ in listed or id_ not in self._over]
        rows = [row for id_, row in self._over.items() if id_ not in known]
        for start in range(0, len(known), _IDS_AT_ONCE):
            part = self._stat(known[start : start + _IDS_AT_ONCE])
            if part is None:
                return None
            rows += part
        return tuple(rows)

    def _stat(self, ids: Sequence[str]) -> tuple[QueueRow, ...] | None:
        """Return the rows of these jobs, without those that the server does not know; None if it did not answer."""
        history = ["-x"] if self._history else []
        answer = self._ask(["qstat", "-E", *history, "-f", "-F", "json", *ids])
        if has_no_history(answer.err) and self._history:
            self._history = False
            return self._stat(ids)
        rows = read_jobs(answer.out) if answer.ok else () if are_unknown(answer.err) else None
        if rows is None:
            self._fail("qstat", answer)
        return rows

    def _fail(self, command: str, answer: CommandResult) -> None:
        lines = [line.strip() for line in answer.err.splitlines() if line.strip()]
        why = lines[-1].removeprefix(f"{command}: ")[:300] if lines else "an answer that is not whole"
        self.fault = f"{command}: {why}"
        self.is_absent = answer.code is None and "no such file" in answer.err.lower()

    def _ask(self, words: Sequence[str]) -> CommandResult:
        return self._commands.run(words, timeout_seconds=QUERY_SECONDS)
