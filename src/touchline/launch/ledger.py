"""ledger.jsonl: what was intended, started, adopted and ended, one event a line, appended and never rewritten."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from touchline.files import append_line

Event = Literal["intent", "submitted", "adopted", "stop requested", "ended"]


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


_ADAPTER = TypeAdapter(LedgerEntry)


class Ledger:
    """The ledger of one experiment."""

    def __init__(self, path: Path, executor: str) -> None:
        self._path = path
        self._executor = executor

    def record(
        self, event: Event, job: str, *, token: str = "", job_id: str = "", state: str = "", gpus: tuple[str, ...] = ()
    ) -> None:
        """Append an event; it is on disk when this returns."""
        entry = LedgerEntry(
            time_unix=time.time(),
            event=event,
            job=job,
            executor=self._executor,
            token=token,
            job_id=job_id,
            state=state,
            gpus=gpus,
        )
        append_line(self._path, _ADAPTER.dump_json(entry).decode())


def read_ledger(path: Path) -> tuple[LedgerEntry, ...]:
    """Every whole entry; a line that a kill cut off is none."""
    entries: list[LedgerEntry] = []
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    for line in lines:
        try:
            entries.append(_ADAPTER.validate_python(json.loads(line)))
        except (ValueError, ValidationError):
            continue
    return tuple(entries)
