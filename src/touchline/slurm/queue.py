"""Output of squeue, with every job of this user that the controller knows, and of `scontrol show job`.

    squeue --me --states=all --Format=queue_format(separator)       with SLURM_TIME_FORMAT=%s

Source: squeue(1) of SLURM 22.05, tried on it: `-O NAME:SUFFIX` prints a field whole, whatever its length, and gives the
number of restarts and the exit code, which `-o` does not. A field that a version does not know is left out of its
answer; the header says which are there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from touchline.core.status import JobState
from touchline.slurm.job_view import Source
from touchline.slurm.resources import time_limit_seconds
from touchline.slurm.states import ExitCode, read_exit_code, read_seconds, read_state, read_text
from touchline.slurm.table import read_closed_table

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
    """Value of `--comment`."""
    name: str
    """`--job-name`."""
    folder: str
    """Its working directory."""
    script: str
    """The script that was submitted, absolute; empty for `--wrap` and for one from standard input."""
    partition: str
    """Its partition, or several with commas while it waits."""
    nodes: str
    """The nodes it runs or ran on."""
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
