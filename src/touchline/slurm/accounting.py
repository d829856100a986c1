"""sacct: what the accounting has kept of jobs, also of those that the controller has forgotten.

    sacct --parsable2 --duplicates --delimiter=SEPARATOR --format=accounting_format() --jobs=76,14_3
                                                                    with SLURM_TIME_FORMAT=%s

Source: sacct(1) of SLURM 22.05, tried on it: it lags about a second behind; it writes double quotes in names as
backticks; a requeued job has one row for each time, with the same id; a row may come twice; after an outage a job may
read `FAILED|0:0` before its exit code arrives; `--json` calls failed jobs successful, and is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from touchline.core.status import JobState
from touchline.core.units import minutes_to_seconds
from touchline.slurm.states import (
    ExitCode,
    read_exit_code,
    read_job_id,
    read_seconds,
    read_state,
    read_text,
    waiting_tasks,
)
from touchline.slurm.table import read_table

_FIELDS = (
    *("JobID", "JobIDRaw", "ExitCode", "Submit", "Start", "End", "NodeList", "Partition", "TimelimitRaw"),
    *("Comment", "JobName", "WorkDir", "SubmitLine", "State"),
)
_SINCE_21_08 = "SubmitLine"


@dataclass(frozen=True, kw_only=True, slots=True)
class AccountingRow:
    """Row of sacct: one execution of a job, an array task or a step."""

    job_id: str
    """`76`, `14_3`, `76.1`, `76.batch`."""
    raw_id: str
    """The controller's own id."""
    state: JobState
    word: str
    """SLURM's own word: `CANCELLED by 1000`."""
    exit_code: ExitCode | None
    """Exit code and signal; None if unknown."""
    submitted_unix: float | None
    """Submission time; a requeue counts as a submission."""
    started_unix: float | None
    """Start time."""
    ended_unix: float | None
    """End time; None while it runs."""
    nodes: str
    """The nodes it ran on."""
    partition: str
    time_limit_seconds: float | None
    """Time limit; None if there is none."""
    comment: str
    """Value of `--comment`, on clusters that keep it."""
    name: str
    """`--job-name`, with backticks in the place of double quotes."""
    folder: str
    """Its working directory; empty for steps."""
    submit_line: str
    """The whole command that submitted it, with its `--comment`; empty for steps."""

    @property
    def is_settled(self) -> bool:
        """Return True if the exit code is final; a failure without code and signal is not recorded yet."""
        return self.state is not JobState.FAILED or self.exit_code not in (None, ExitCode(code=0, signal=0))


def accounting_format(*, submit_line: bool = True) -> str:
    """Return the value of `--format`; SubmitLine is available since SLURM 21.08."""
    return ",".join(_fields(submit_line))


def read_accounting(text: str, separator: str, *, submit_line: bool = True) -> tuple[AccountingRow, ...] | None:
    """Return the rows of sacct's output in order; None if it is incomplete.

    The waiting tasks of an array, one row of sacct's, are a row each.
    """
    fields = _fields(submit_line)
    table = read_table(text, separator, len(fields))
    if table is None or table[0] != list(fields):
        return None
    rows: list[AccountingRow] = []
    for cells in table[1:]:
        cell = dict(zip(fields, cells, strict=True))
        rows += (_row(cell, task) for task in waiting_tasks(cell["JobID"]) or (cell["JobID"],))
    return tuple(rows)


def latest(rows: Sequence[AccountingRow]) -> dict[str, tuple[AccountingRow, int]]:
    """Return the last execution of every job, array task and step, and the number of earlier ones."""
    found: dict[str, dict[float | None, AccountingRow]] = {}
    for row in rows:
        # A row that comes twice is one; of a requeued job each time was submitted at a moment of its own.
        found.setdefault(row.job_id, {})[row.submitted_unix] = row
    return {
        job_id: (times[max(times, key=lambda moment: moment or 0.0)], len(times) - 1) for job_id, times in found.items()
    }


def _fields(submit_line: bool) -> tuple[str, ...]:
    return tuple(name for name in _FIELDS if submit_line or name != _SINCE_21_08)


def _row(cell: dict[str, str], job_id: str) -> AccountingRow:
    state = read_state(cell["State"])
    minutes = cell["TimelimitRaw"].strip()
    identity = read_job_id(job_id)
    return AccountingRow(
        job_id=job_id,
        raw_id=cell["JobIDRaw"],
        state=state,
        word=cell["State"],
        exit_code=read_exit_code(cell["ExitCode"]) if state.ended else None,
        submitted_unix=read_seconds(cell["Submit"]),
        started_unix=read_seconds(cell["Start"]),
        ended_unix=read_seconds(cell["End"]) if state.ended else None,
        nodes=read_text(cell["NodeList"]),
        partition=cell["Partition"],
        time_limit_seconds=minutes_to_seconds(float(minutes)) if minutes.isascii() and minutes.isdigit() else None,
        comment=read_text(cell["Comment"]),
        name=cell["JobName"],
        folder="" if identity is not None and identity.step is not None else cell["WorkDir"],
        submit_line=cell.get(_SINCE_21_08, ""),
    )
