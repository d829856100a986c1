"""ledger.jsonl: what was intended, started, adopted and ended, one event a line, appended and never rewritten.

intent           a job is about to be started; its token is known to nobody else yet
submitted        the executor took it; its id
refused          the executor said no: nothing was started, and the intent is closed
unclear          nobody knows whether it was taken; the intent stays open until its token was looked for
not submitted    a later look found no trace of the token: nothing was started, and the intent is closed
adopted          a job that somebody else started is waited for, not started again
missing          the scheduler no longer knows a job, for the first time
found            it does know it after all
stop requested, cancel requested, resume requested   what a person asked for
decided          what is done after a failure: again, smaller or stop, and why
ended            its final state
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

Event = Literal[
    "intent",
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
    "ended",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerEntry:
    """One event."""

    schema_version: int = 1
    """Version of this line's form."""
    time_unix: float
    """When it was written; for people, order is that of the lines."""
    event: Event
    """What happened."""
    job: str
    """The job's name: a run, or `evaluate 135M`."""
    executor: str
    """Which executor."""
    token: str = ""
    """Token of the intent; a job started by hand has none."""
    job_id: str = ""
    """The executor's id."""
    state: str = ""
    """For `ended`: the job's state."""
    gpus: tuple[str, ...] = ()
    """The GPUs that it was given."""
    reason: str = ""
    """For `refused`, `unclear` and `ended`: why, in the scheduler's words."""


_ADAPTER = TypeAdapter(LedgerEntry)


class Ledger:
    """The ledger of one experiment."""

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
    ) -> None:
        """Append an event; it is on disk when this returns."""
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
        )
        append_line(self.path, _ADAPTER.dump_json(entry).decode())

    def entries(self) -> Sequence[LedgerEntry]:
        """Every whole entry, in the order of the lines; only what is new is read."""
        return self._reader.entries()


class LedgerReader:
    """The ledger as far as it is written, read again only from where the last look ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._entries: list[LedgerEntry] = []
        self._by_job: dict[str, list[LedgerEntry]] = {}

    def entries(self) -> Sequence[LedgerEntry]:
        """Every whole entry, in the order of the lines."""
        self._refresh()
        return self._entries

    def of(self, job: str) -> Sequence[LedgerEntry]:
        """The events of one job, in the order of the lines."""
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
    """Every whole entry; a line that a kill cut off is none."""
    try:
        return tuple(_read(read_bytes(path)))
    except FileNotFoundError:
        return ()


def open_intents(entries: Iterable[LedgerEntry], executor: str) -> dict[str, LedgerEntry]:
    """Tokens whose fate nobody has written down, with their intents: a kill came between, or no clear answer did."""
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
    """Jobs that a scheduler took and of which no end is written down, with their ids; those of this machine are left
    out, since its processes tell themselves."""
    found: dict[str, str] = {}
    for entry in entries:
        if entry.executor == "local":
            continue
        if entry.event in ("submitted", "adopted") and entry.job_id:
            found[entry.job] = entry.job_id
        elif entry.event == "ended":
            found.pop(entry.job, None)
    return found


def close_ended(ledger: Ledger, views: Mapping[str, JobView]) -> None:
    """Write down the ends of jobs that a scheduler took and nobody waited for."""
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
