"""Saved sacct output: `sacct -j 76,77 --format=JobID,State,ExitCode > sacct.txt`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from touchline.core.status import JobState
from touchline.history.saved_sacct import SAVED_SACCT, saved_rows
from touchline.results.imported.text import below, bounded, clean_line
from touchline.slurm.states import ExitCode, read_exit_code, read_job_id, read_state

_LIMIT_BYTES = 4 << 20
_MOST_FILES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedSacctJob:
    """Accounting entry of a job."""

    state: JobState
    """Final state."""
    exit_code: ExitCode | None
    """Exit code."""
    line: str
    """Line of the file."""
    where: str
    """`file:line`."""


def accounting_of(root: Path) -> dict[str, SavedSacctJob]:
    """Return the jobs in the folder's saved sacct files, by id; the last entry of a job counts."""
    found: dict[str, SavedSacctJob] = {}
    try:
        paths = sorted(path for path in root.iterdir() if SAVED_SACCT.fullmatch(path.name) and not path.is_symlink())
    except OSError:
        return found
    for path in paths[:_MOST_FILES]:
        text = bounded(path, _LIMIT_BYTES)
        if text is not None:
            found |= dict(_rows(text.splitlines(), below(root, path)))
    return found


def _rows(lines: list[str], file: str) -> Iterator[tuple[str, SavedSacctJob]]:
    for number, cells in saved_rows(lines):
        job = read_job_id(cells.get("jobid", ""))
        state = read_state(cells["state"]) if cells.get("state") else JobState.UNKNOWN
        if job is None or job.step is not None or state is JobState.UNKNOWN:
            continue
        code = read_exit_code(cells["exitcode"]) if "exitcode" in cells else None
        line = clean_line(lines[number - 1].strip())
        yield job.whole, SavedSacctJob(state=state, exit_code=code, line=line, where=f"{file}:{number}")
