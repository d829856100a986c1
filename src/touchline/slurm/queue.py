"""Output of squeue, sacct and `scontrol show job`: every job of this user that the controller or the accounting knows.

    squeue --me --states=all --Format=queue_format(separator)
    sacct --parsable2 --duplicates --delimiter=SEPARATOR --format=accounting_format() --jobs=76,14_3

Both with SLURM_TIME_FORMAT=%s. They print names as they are, so every call uses a random separator, which cannot be
part of a name. An answer that is not whole gives no table: it must not be read as one without the rows it lacks.

Source: squeue(1) and sacct(1) of SLURM 22.05, tried on it. `-O NAME:SUFFIX` prints a field whole, whatever its length,
and gives the number of restarts and the exit code, which `-o` does not. A field that a version does not know is left
out of squeue's answer; the header says which are there. sacct lags about a second behind; it writes double quotes in
names as backticks; a requeued job has one row for each time, with the same id; a row may come twice; after an outage a
job may read `FAILED|0:0` before its exit code arrives; `--json` calls failed jobs successful, and is not used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from touchline.core.status import JobState
from touchline.core.units import minutes_to_seconds
from touchline.slurm.job_view import (
    ExitCode,
    Source,
    read_exit_code,
    read_job_id,
    read_seconds,
    read_state,
    read_text,
    waiting_tasks,
)
from touchline.slurm.resources import time_limit_seconds

_ACCOUNTED = (
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
    ended_unix: float | None
    """End time; None while it runs."""
    nodes: str
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
    return ",".join(_accounted(submit_line))


def read_accounting(text: str, separator: str, *, submit_line: bool = True) -> tuple[AccountingRow, ...] | None:
    """Return the rows of sacct's output in order; None if it is incomplete.

    The waiting tasks of an array, one row of sacct's, are a row each.
    """
    fields = _accounted(submit_line)
    table = read_table(text, separator, len(fields))
    if table is None or table[0] != list(fields):
        return None
    rows: list[AccountingRow] = []
    for cells in table[1:]:
        cell = dict(zip(fields, cells, strict=True))
        rows += (_accounting_row(cell, task) for task in waiting_tasks(cell["JobID"]) or (cell["JobID"],))
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


def _accounted(submit_line: bool) -> tuple[str, ...]:
    return tuple(name for name in _ACCOUNTED if submit_line or name != _SINCE_21_08)


def _accounting_row(cell: dict[str, str], job_id: str) -> AccountingRow:
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


def read_closed_table(text: str, separator: str) -> list[list[str]] | None:
    """Read a table with the separator after every cell, header first; None if it is incomplete.

    `squeue --Format` writes it, where each field has the separator as its suffix.
    """
    header = text.partition("\n")[0].split(separator)
    columns = len(header) - 1
    parts = text.split(separator)
    if columns < 1 or header[-1] or parts[-1] != "\n" or (len(parts) - 1) % columns:
        return None
    rows = [parts[start : start + columns] for start in range(0, len(parts) - 1, columns)]
    if not all(row[0].startswith("\n") for row in rows[1:]):
        return None
    return [rows[0], *([row[0][1:], *row[1:]] for row in rows[1:])]


def read_table(text: str, separator: str, columns: int) -> list[list[str]] | None:
    """Read a table with `columns` cells per row, header first; None if it is incomplete.

    The separator stands between cells, as in sacct's `--parsable2`; a row's last cell must never hold a line end.
    """
    if not text.endswith("\n"):
        return None
    parts = text[:-1].split(separator)
    if columns < 2 or (len(parts) - 1) % (columns - 1) or len(parts) == 1:
        return None
    rows: list[list[str]] = []
    row = [parts[0]]
    for number, part in enumerate(parts[1:], 1):
        if number % (columns - 1) or number == len(parts) - 1:
            row.append(part)
            continue
        last, end, first = part.partition("\n")  # the end of one row and the beginning of the next
        if not end:
            return None
        rows.append([*row, last])
        row = [first]
    rows.append(row)
    return None if "\n" in row[-1] else rows


_FIELDS = {  # name for -O: header of its column
    "JobArrayID": "JOBID",
    "ArrayJobID": "ARRAY_JOB_ID",
    "ArrayTaskID": "ARRAY_TASK_ID",
    "State": "STATE",
    "Reason": "REASON",
    "RestartCnt": "RESTART_COUNT",
    "exit_code": "EXIT_CODE",
    "Comment": "COMMENT",
    "Name": "NAME",
    "WorkDir": "WORK_DIR",
    "Command": "COMMAND",
    "Partition": "PARTITION",
    "NodeList": "NODELIST",
    "SubmitTime": "SUBMIT_TIME",
    "StartTime": "START_TIME",
    "EndTime": "END_TIME",
    "TimeLimit": "TIME_LIMIT",
}
_RAW_ID = "JobID"
"""Its header is `JOBID` too, so it comes last of all and is found by that."""
_NEEDED = frozenset({"JOBID", "STATE", "NAME", "WORK_DIR", "COMMENT"})
_WAIT_STATUS_LIMIT = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueRow:
    """Row of squeue: a job, an array task, or all waiting tasks of an array."""

    job_id: str
    """`76`, `14_3`, or `14_[0-3%2]`."""
    raw_id: str
    """What the script finds in SLURM_JOB_ID; of an array's last task it is the array's own id."""
    array_id: str
    """The array's id; empty if it is not an array."""
    state: JobState
    reason: str
    """Reason for waiting or for its end: `Resources`, `NonZeroExitCode`."""
    restarts: int | None
    """Number of requeues; None if unknown."""
    exit_code: ExitCode | None
    """Exit code and signal; None before the end or if unknown."""
    comment: str
    name: str
    folder: str
    script: str
    """The script that was submitted, absolute; empty for `--wrap` and for one from standard input."""
    partition: str
    """Its partition, or several with commas while it waits."""
    nodes: str
    submitted_unix: float | None
    """Submission time; a requeue counts as a submission."""
    started_unix: float | None
    """Start time; None while it waits, though SLURM prints an expected time."""
    ended_unix: float | None
    """End time; None before, though SLURM prints the time of its limit."""
    time_limit_seconds: float | None
    """Its limit; None for UNLIMITED."""
    source: Source = "squeue"
    """Command that listed it."""


def queue_format(separator: str) -> str:
    """Return the value of `--Format`.

    Args:
        separator: begins with neither a digit nor a full stop, and holds no comma.
    """
    return ",".join(f"{name}:{separator}" for name in (*_FIELDS, _RAW_ID))


def read_queue(text: str, separator: str) -> tuple[QueueRow, ...] | None:
    """Return the rows of squeue's output; None if it is incomplete and proves nothing."""
    table = read_closed_table(text, separator)
    if table is None or not _NEEDED.issubset(header := table[0]):
        return None
    # Of the two columns that are called JOBID the first one is the id for people.
    return tuple(_row(dict(zip(header[::-1], cells[::-1], strict=True)), cells[-1]) for cells in table[1:])


def _row(cell: dict[str, str], raw_id: str) -> QueueRow:
    state = read_state(cell["STATE"])
    waits = state in (JobState.PENDING, JobState.REQUEUED)
    restarts = cell.get("RESTART_COUNT", "")
    is_task = read_text(cell.get("ARRAY_TASK_ID", "")) != ""
    return QueueRow(
        job_id=cell["JOBID"],
        raw_id=raw_id,
        array_id=cell.get("ARRAY_JOB_ID", "") if is_task else "",
        state=state,
        reason=read_text(cell.get("REASON", "")),
        restarts=int(restarts) if restarts.isascii() and restarts.isdigit() else None,
        exit_code=_exit_code(cell.get("EXIT_CODE", "")) if state.ended else None,
        comment=read_text(cell["COMMENT"]),
        name=cell["NAME"],
        folder=cell["WORK_DIR"],
        script=read_text(cell.get("COMMAND", "")),
        partition=cell.get("PARTITION", ""),
        nodes=read_text(cell.get("NODELIST", "")),
        submitted_unix=read_seconds(cell.get("SUBMIT_TIME", "")),
        started_unix=None if waits else read_seconds(cell.get("START_TIME", "")),
        ended_unix=read_seconds(cell.get("END_TIME", "")) if state.ended else None,
        time_limit_seconds=time_limit_seconds(cell.get("TIME_LIMIT", "")),
    )


def _exit_code(text: str) -> ExitCode | None:
    """Return the exit code from the status of wait(2), or from sacct's form."""
    if re.fullmatch(r"[0-9]{1,5}", text) and int(text) < _WAIT_STATUS_LIMIT:
        return ExitCode(code=int(text) >> 8, signal=int(text) & 0x7F)
    return read_exit_code(text)


_ASSIGNED = re.compile(r"(?:^|(?<=\s))([A-Z][\w:/&-]*)=(\S*)")
_WHOLE_LINES = re.compile(r"   (Command|WorkDir|StdErr|StdIn|StdOut|Comment|AdminComment|SystemComment)=(.*)")
_FIRST_LINE = re.compile(r"JobId=(?P<id>\d+)(?: ArrayJobId=(?P<array>\d+) ArrayTaskId=(?P<task>\S+))? JobName=")


def read_job(text: str) -> dict[str, str] | None:
    """Return the job's fields by name; None if no job is shown.

    Names and paths may hold blanks, a name also line ends: the name continues up to the line of the user; paths and
    comments are the rest of their lines.
    """
    shown = text.lstrip("\n")
    first = _FIRST_LINE.match(shown)
    if first is None:
        return None
    name, _, rest = shown[first.end() :].partition("\n   UserId=")
    found: dict[str, str] = {}
    for line in f"   UserId={rest}".splitlines():
        whole = _WHOLE_LINES.fullmatch(line)
        pairs: list[tuple[str, str]] = _ASSIGNED.findall(line) if whole is None else [(whole[1], whole[2])]
        for key, value in pairs:
            found.setdefault(key, value)
    named = {"JobId": first["id"], "JobName": name, "ArrayJobId": first["array"], "ArrayTaskId": first["task"]}
    return found | {key: value for key, value in named.items() if value is not None}
