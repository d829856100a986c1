"""What squeue, sacct and scontrol of SLURM 22.05 print of the fake's jobs, field by field."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.slurm.fake_jobs import FakeJob, Life


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a listing: a job, or the tasks of an array that wait together."""

    job: FakeJob
    life: Life
    tasks: tuple[int, ...] = ()
    """Waiting tasks of an array."""
    stub: bool = False
    """The accounting has not been told more than its id and how it stands."""

    @property
    def shown(self) -> str:
        if len(self.tasks) > 1 and self.job.array is not None:
            return f"{self.job.array[0]}_[{self.task_text}]"
        return self.job.shown

    @property
    def task_text(self) -> str:
        assert self.job.array is not None
        most = f"%{self.job.array[2]}" if self.job.array[2] else ""
        return f"{ranges(self.tasks)}{most}"


def ranges(numbers: Sequence[int]) -> str:
    """`0-3,5`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def span(seconds: float, *, padded: bool = False) -> str:
    """`1-02:03:04`, `1:00:00` or `0:05` as squeue writes it; `00:00:05` padded."""
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days}-{hours:02}:{minutes:02}:{rest:02}"
    if padded:
        return f"{hours:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# ------------------------------------------------------------------------------------------------------------- squeue

SHORT = {"PENDING": "PD", "RUNNING": "R", "COMPLETING": "CG", "COMPLETED": "CD", "FAILED": "F", "CANCELLED": "CA"}
SHORT |= {"TIMEOUT": "TO", "NODE_FAIL": "NF", "PREEMPTED": "PR", "OUT_OF_MEMORY": "OOM", "CONFIGURING": "CF"}


def _when(time: float | None, none: str = "N/A") -> str:
    return none if time is None else f"{int(time)}"


def _start(row: Row) -> float | None:
    job = row.job
    if row.life.started is not None:
        return row.life.started
    if row.life.state == "CANCELLED":
        return None if job.ended_itself else row.life.ended
    return row.job.begin or None


def _end(row: Row) -> float | None:
    if row.life.ended is not None:
        return row.life.ended
    start = _start(row)
    return None if start is None else start + row.job.limit_seconds


def _raw_status(life: Life) -> int:
    return life.end.code * 256 + life.end.signal


_SQUEUE: dict[str, tuple[str, str, str, Callable[[Row, float], str]]] = {
    # long name: (letter, header of -o, header of -O, value)
    "jobarrayid": ("i", "JOBID", "JOBID", lambda row, now: row.shown),
    "jobid": ("A", "JOBID", "JOBID", lambda row, now: str(row.job.raw or (row.job.array or (0,))[0])),
    "arrayjobid": (
        "F",
        "ARRAY_JOB_ID",
        "ARRAY_JOB_ID",
        lambda row, now: str(row.job.array[0] if row.job.array else row.job.raw),
    ),
    "arraytaskid": ("K", "ARRAY_TASK_ID", "ARRAY_TASK_ID", lambda row, now: _task(row)),
    "state": ("T", "STATE", "STATE", lambda row, now: row.life.state),
    "statecompact": ("t", "ST", "ST", lambda row, now: SHORT.get(row.life.state, row.life.state)),
    "reason": ("r", "REASON", "REASON", lambda row, now: row.life.reason),
    "reasonlist": (
        "R",
        "NODELIST(REASON)",
        "NODELIST(REASON)",
        lambda row, now: row.life.node or f"({row.life.reason})",
    ),
    "comment": ("k", "COMMENT", "COMMENT", lambda row, now: row.job.comment or "(null)"),
    "name": ("j", "NAME", "NAME", lambda row, now: row.job.name),
    "workdir": ("Z", "WORK_DIR", "WORK_DIR", lambda row, now: str(row.job.folder)),
    "command": ("o", "COMMAND", "COMMAND", lambda row, now: str(row.job.script)),
    "submittime": ("V", "SUBMIT_TIME", "SUBMIT_TIME", lambda row, now: _when(row.life.submitted)),
    "starttime": ("S", "START_TIME", "START_TIME", lambda row, now: _when(_start(row))),
    "endtime": ("e", "END_TIME", "END_TIME", lambda row, now: _when(_end(row))),
    "timelimit": ("l", "TIME_LIMIT", "TIME_LIMIT", lambda row, now: span(row.job.limit_seconds)),
    "timeused": ("M", "TIME", "TIME", lambda row, now: span(_used(row.life, now))),
    "timeleft": ("L", "TIME_LEFT", "TIME_LEFT", lambda row, now: span(row.job.limit_seconds - _used(row.life, now))),
    "partition": ("P", "PARTITION", "PARTITION", lambda row, now: row.job.partition),
    "nodelist": ("N", "NODELIST", "NODELIST", lambda row, now: row.life.node),
    "batchhost": ("B", "EXEC_HOST", "EXEC_HOST", lambda row, now: row.life.node or "n/a"),
    "numnodes": ("D", "NODES", "NODES", lambda row, now: str(row.job.nodes)),
    "username": ("u", "USER", "USER", lambda row, now: "root"),
    "account": ("a", "ACCOUNT", "ACCOUNT", lambda row, now: row.job.account),
    "qos": ("q", "QOS", "QOS", lambda row, now: row.job.qos),
    "restartcnt": ("", "", "RESTART_COUNT", lambda row, now: str(row.job.restarts)),
    "exit_code": ("", "", "EXIT_CODE", lambda row, now: str(_raw_status(row.life))),
    "dependency": ("E", "DEPENDENCY", "DEPENDENCY", lambda row, now: depends_text(row.job)),
}
_BY_LETTER = {letter: name for name, (letter, *_) in _SQUEUE.items() if letter}


def _task(row: Row) -> str:
    if row.job.array is None:
        return "N/A"
    return row.task_text if len(row.tasks) > 1 else str(row.job.array[1])


def depends_text(job: FakeJob) -> str:
    """What it still waits for."""
    return ",".join(f"{kind}:{other}(unfulfilled)" for kind, other in job.depends) or "(null)"


def _used(life: Life, now: float) -> float:
    return 0.0 if life.started is None else (now if life.ended is None else life.ended) - life.started


def squeue_lines(
    rows: Sequence[Row], now: float, words: str | None, long: str | None, *, header: bool
) -> tuple[str, str]:
    """(standard output, standard error) of squeue with a format of letters or of names."""
    lines: list[list[str]] = [[] for _ in range(len(rows) + header)]
    faults = ""
    if long is not None:
        for field in long.split(","):
            name, _, shape = field.partition(":")
            known = _SQUEUE.get(name.strip().lower())
            if known is None:
                faults += f"squeue: error: Invalid job format specification: {name}\n"
                continue
            right, width, tail = re.fullmatch(r"(\.?)(\d*)(.*)", shape).groups()  # type: ignore[union-attr]
            size = int(width) if width else (0 if tail else 20)
            cells = ([known[2]] if header else []) + [known[3](row, now) for row in rows]
            for line, cell in zip(lines, cells, strict=True):
                line.append(_sized(cell, size, right) + tail)
    else:
        for literal, right, width, letter in re.findall(r"([^%]*)(?:%(\.?)(\d*)([a-zA-Z])|$)", words or ""):
            known = _SQUEUE.get(_BY_LETTER.get(letter, ""))
            cells = (
                ([known[1]] if header else []) + [known[3](row, now) for row in rows] if known else [""] * len(lines)
            )
            for line, cell in zip(lines, cells, strict=True):
                line.append(literal + _sized(cell, int(width or 0), right))
    return "".join("".join(line) + "\n" for line in lines), faults


def _sized(text: str, width: int, right: str) -> str:
    if not width:
        return text
    return text[:width].rjust(width) if right else text[:width].ljust(width)


# -------------------------------------------------------------------------------------------------------------- sacct

_SACCT: dict[str, tuple[str, Callable[[Row], str]]] = {
    "jobid": ("JobID", lambda row: row.shown),
    "jobidraw": ("JobIDRaw", lambda row: str(row.job.raw or (row.job.array or (0,))[0])),
    "jobname": ("JobName", lambda row: row.job.name.replace('"', "`")),
    "state": (
        "State",
        lambda row: "CANCELLED by 0" if row.life.state == "CANCELLED" and not row.job.ended_itself else row.life.state,
    ),
    "exitcode": ("ExitCode", lambda row: _exit_text(row.life)),
    "derivedexitcode": ("DerivedExitCode", lambda row: "0:0"),
    "submit": ("Submit", lambda row: _when(row.life.submitted)),
    "eligible": ("Eligible", lambda row: _when(row.life.submitted)),
    "start": ("Start", lambda row: _when(row.life.started, "Unknown" if row.life.ended is None else "None")),
    "end": ("End", lambda row: _when(row.life.ended, "Unknown")),
    "timelimit": ("Timelimit", lambda row: span(row.job.limit_seconds, padded=True)),
    "timelimitraw": ("TimelimitRaw", lambda row: str(int(row.job.limit_seconds // 60))),
    "partition": ("Partition", lambda row: row.job.partition),
    "account": ("Account", lambda row: row.job.account),
    "qos": ("QOS", lambda row: row.job.qos),
    "user": ("User", lambda row: "root"),
    "cluster": ("Cluster", lambda row: "fake"),
    "nodelist": ("NodeList", lambda row: row.life.node or "None assigned"),
    "workdir": ("WorkDir", lambda row: str(row.job.folder)),
    "submitline": ("SubmitLine", lambda row: row.job.line),
    "comment": ("Comment", lambda row: ""),
    "reason": ("Reason", lambda row: row.life.reason),
    "allocnodes": ("AllocNodes", lambda row: str(row.job.nodes)),
    "elapsedraw": (
        "ElapsedRaw",
        lambda row: str(int(_used(row.life, row.life.ended or 0.0)) if row.life.started else 0),
    ),
}


def _exit_text(life: Life) -> str:
    if life.state in ("PENDING", "RUNNING", "COMPLETING", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"):
        return "0:0"
    return f"{life.end.code}:{life.end.signal}"


def unknown_sacct_field(fields: Sequence[str]) -> str | None:
    """The first field that sacct does not know."""
    return next((field for field in fields if field.partition("%")[0].lower() not in _SACCT), None)


def sacct_lines(rows: Sequence[Row], fields: Sequence[str], bar: str, *, header: bool, steps: bool) -> str:
    """Standard output of sacct --parsable2."""
    known = [_SACCT[field.partition("%")[0].lower()] for field in fields]
    lines = [bar.join(name for name, _ in known)] if header else []
    for row in rows:
        lines.append(bar.join(_stub_cell(name, value(row)) if row.stub else value(row) for name, value in known))
        if steps and row.life.started is not None:
            lines.append(bar.join(_batch_cell(name, value(row), row) for name, value in known))
    return "".join(f"{line}\n" for line in lines)


def _stub_cell(name: str, text: str) -> str:
    if name == "JobName":
        return "allocation"
    return "" if name in ("TimelimitRaw", "Timelimit", "Partition", "WorkDir", "SubmitLine", "QOS") else text


def _batch_cell(name: str, text: str, row: Row) -> str:
    if name in ("JobID", "JobIDRaw"):
        return f"{text}.batch"
    if name == "JobName":
        return "batch"
    if name == "State":
        end = row.life.end
        return "CANCELLED" if end.signal else "FAILED" if end.code else text.split()[0]
    if name == "ExitCode":
        return f"{row.life.end.code}:{row.life.end.signal}"
    return "" if name in _NOT_OF_STEPS else text


_NOT_OF_STEPS = ("User", "Timelimit", "TimelimitRaw", "Partition", "WorkDir", "SubmitLine", "DerivedExitCode", "QOS")


# ------------------------------------------------------------------------------------------------------------ scontrol


def show_job(row: Row, now: float) -> list[list[str]]:
    """`scontrol show job`, its lines of `Key=value` words."""
    job, life = row.job, row.life
    array: list[str] = []
    if job.array is not None:
        task = row.task_text.partition("%")[0] if len(row.tasks) > 1 else str(job.array[1])
        array = [f"ArrayJobId={job.array[0]}", f"ArrayTaskId={task}"]
        array += [f"ArrayTaskThrottle={job.array[2]}"] if job.array[2] else []
    code = f"{life.end.code}:{life.end.signal}"
    raw = job.raw or (job.array or (0,))[0]
    name = f"JobName={job.name}"
    return [
        [f"JobId={raw}", *array, name],
        ["UserId=root(0)", "GroupId=root(0)", "MCS_label=N/A"],
        ["Priority=1", "Nice=0", f"Account={job.account}", f"QOS={job.qos}"],
        [f"JobState={life.state}", f"Reason={life.reason}", f"Dependency={depends_text(job)}"],
        [f"Requeue={int(job.requeue)}", f"Restarts={job.restarts}", "BatchFlag=1", "Reboot=0", f"ExitCode={code}"],
        [
            f"RunTime={span(_used(life, now), padded=True)}",
            f"TimeLimit={span(job.limit_seconds, padded=True)}",
            "TimeMin=N/A",
        ],
        [f"SubmitTime={_when(life.submitted)}", f"EligibleTime={_when(job.begin or life.submitted)}"],
        [f"StartTime={_when(_start(row), 'Unknown')}", f"EndTime={_when(_end(row), 'Unknown')}", "Deadline=N/A"],
        [f"Partition={job.partition}", "AllocNode:Sid=login:1"],
        ["ReqNodeList=(null)", "ExcNodeList=(null)"],
        [f"NodeList={life.node}"],
        *([[f"BatchHost={life.node}"]] if life.node else []),
        [f"NumNodes={job.nodes}", "NumCPUs=1", "NumTasks=1", "CPUs/Task=1"],
        [f"Command={job.script}"],
        [f"WorkDir={job.folder}"],
        *([[f"Comment={job.comment} "]] if job.comment else []),
        [f"StdErr={job.folder}/slurm-{job.shown}.out"],
        ["StdIn=/dev/null"],
        [f"StdOut={job.folder}/slurm-{job.shown}.out"],
        ["Power="],
    ]
