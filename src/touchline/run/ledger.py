"""Append-only ledger.jsonl: one event per line, never rewritten.

Events: `intent` (a job is about to be started; its token is on disk only), `reserved` (the start may take that much of
an approved budget), `submitted` (the executor took it; its id),
`refused` (nothing was started; the intent is closed), `unclear` (unknown; the intent stays open until its token was
searched), `not submitted` (a later search found no trace; the intent is closed), `adopted` (a job started elsewhere, or
for the run's cohort, is waited for, not started again), `missing` (the scheduler does not list a job, first time),
`found` (it lists it again), `stop requested`, `cancel requested`, `resume requested` (by the user), `decided` (action
after a failure: again, longer, smaller or stop, with the reason), `strategy` (a decision of the strategy with its
numbers), `ended` (final state).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from touchline.core.files import append_line, open_regular, read_bytes
from touchline.slurm.job_view import JobView
from touchline.strategy.decisions import StrategyDecision

Event = Literal[
    "intent",
    "reserved",
    "submitted",
    "refused",
    "unclear",
    "not submitted",
    "adopted",
    "missing",
    "found",
    "stop requested",
    "cancel requested",
    "resume requested",
    "decided",
    "strategy",
    "ended",
]
LEDGER = "ledger.jsonl"
"""Name of the file in the experiment's folder."""
STRATEGY = "strategy"
"""Subject of a strategy's decisions, in the place of a job's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservation:
    """Part of an approved budget that a start may use."""

    approval: str
    """Id of the approval."""
    devices: float
    """Devices of the job; below 1 if jobs share a CPU."""
    seconds: float
    """Longest time from start to end, with the time to save and end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerEntry:
    """Event of the ledger."""

    schema_version: int = 1
    """Format version."""
    time_unix: float
    """Time of writing, for display; the order is that of the lines."""
    event: Event
    """Kind of event."""
    job: str
    """Job name: a run, or `evaluate 135M`."""
    executor: str
    """Executor name."""
    token: str = ""
    """Token of the intent; empty for a manually started job."""
    job_id: str = ""
    """Id from the executor."""
    state: str = ""
    """Final job state, for `ended`."""
    gpus: tuple[str, ...] = ()
    """Assigned GPUs."""
    reason: str = ""
    """Reason from the scheduler, for `refused`, `unclear` and `ended`."""
    limit_seconds: float | None = None
    """Time limit of the next attempts, for `decided` with a longer one."""
    reservation: Reservation | None = None
    """Reserved part of a budget, for `reserved`."""
    decision: StrategyDecision | None = None
    """Decision with its numbers, for `strategy`."""


_ADAPTER = TypeAdapter(LedgerEntry)


class Ledger:
    """Ledger of one experiment."""

    def __init__(self, path: Path, executor: str) -> None:
        self.path = path
        self.executor = executor
        self._reader = LedgerReader(path)

    def record(
        self,
        event: Event,
        job: str,
        *,
        token: str = "",
        job_id: str = "",
        state: str = "",
        gpus: tuple[str, ...] = (),
        reason: str = "",
        time_unix: float | None = None,
        limit_seconds: float | None = None,
        reservation: Reservation | None = None,
        decision: StrategyDecision | None = None,
    ) -> None:
        """Append an event durably."""
        entry = LedgerEntry(
            time_unix=time.time() if time_unix is None else time_unix,
            event=event,
            job=job,
            executor=self.executor,
            token=token,
            job_id=job_id,
            state=state,
            gpus=gpus,
            reason=reason,
            limit_seconds=limit_seconds,
            reservation=reservation,
            decision=decision,
        )
        append_line(self.path, _ADAPTER.dump_json(entry).decode())

    def entries(self) -> Sequence[LedgerEntry]:
        """Return every complete entry in file order; only new lines are read."""
        return self._reader.entries()


class LedgerReader:
    """Incremental reader of a ledger."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._entries: list[LedgerEntry] = []
        self._by_job: dict[str, list[LedgerEntry]] = {}

    def entries(self) -> Sequence[LedgerEntry]:
        """Return every complete entry in file order."""
        self._refresh()
        return self._entries

    def of(self, job: str) -> Sequence[LedgerEntry]:
        """Return the events of one job in file order."""
        self._refresh()
        return self._by_job.get(job, ())

    def _refresh(self) -> None:
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size == self._offset:
            return
        if size < self._offset:  # another file in its place
            self._offset, self._entries, self._by_job = 0, [], {}
        with open_regular(self._path) as stream:
            stream.seek(self._offset)
            new = stream.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for entry in _read(whole):
            self._entries.append(entry)
            self._by_job.setdefault(entry.job, []).append(entry)


def read_ledger(path: Path) -> tuple[LedgerEntry, ...]:
    """Return every complete entry; a truncated line is skipped."""
    try:
        return tuple(_read(read_bytes(path)))
    except FileNotFoundError:
        return ()


def open_intents(entries: Iterable[LedgerEntry], executor: str) -> dict[str, LedgerEntry]:
    """Return open intents by token: interrupted by a kill, or without a clear answer."""
    found: dict[str, LedgerEntry] = {}
    for entry in entries:
        if entry.executor != executor or not entry.token:
            continue
        if entry.event == "intent":
            found[entry.token] = entry
        elif entry.event in ("submitted", "refused", "not submitted"):
            found.pop(entry.token, None)
    return found


def open_jobs(entries: Iterable[LedgerEntry]) -> dict[str, str]:
    """Return ids of jobs accepted by a scheduler without a recorded end; local jobs are excluded, because their
    processes can be checked.
    """
    found: dict[str, str] = {}
    ended: set[str] = set()
    for entry in entries:
        if entry.executor == "local":
            continue
        if entry.event in ("submitted", "adopted") and entry.job_id:
            found[entry.job] = entry.job_id
            ended.discard(entry.job_id)
        elif entry.event == "ended":
            found.pop(entry.job, None)
            ended.add(entry.job_id)
    # The end of a cohort's job is recorded for one of its runs.
    return {job: job_id for job, job_id in found.items() if job_id not in ended}


def damaged_lines(path: Path) -> list[int]:
    """Return the numbers of the lines that hold no entry."""
    return [place for place, line in enumerate(read_bytes(path).splitlines(), 1) if not list(_read(line))]


def close_ended(ledger: Ledger, views: Mapping[str, JobView]) -> None:
    """Record the ends of scheduler jobs that no command waited for."""
    for name, job_id in open_jobs(read_ledger(ledger.path)).items():
        view = views.get(name)
        if view is not None and not view.active and view.job_id == job_id:
            ledger.record("ended", name, job_id=job_id, state=view.state.value, reason=view.reason)


def _read(data: bytes) -> Iterator[LedgerEntry]:
    for line in data.splitlines():
        try:
            yield _ADAPTER.validate_json(line)
        except ValidationError:
            continue
