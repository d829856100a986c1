"""PBS's forms as text: `#PBS` lines, the answers of qsub, and jobs as `qstat -f -F json` prints them.

Jobs become the rows that squeue's become, so that one judgement of a job's state serves both schedulers. A job's id is
its number: `1234.server` is `1234`, which every command takes for the default server.

Source: OpenPBS's manual pages qsub(1B), qstat(1B), qdel(1B), pbs_job_attributes(7B); of its code, at commit cd7ab5e:
the letters of states, substates and special exit values in src/include/job.h, an exit by a signal as 256 + signal in
src/resmom/linux/mom_start.c, messages in src/lib/Liblog/pbs_messages.c, JSON in src/cmds/qstat.c. Not seen on a real
PBS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from touchline.core.json_text import parse_json
from touchline.core.status import JobState
from touchline.slurm.answers import SbatchResult, Submission
from touchline.slurm.queue import QueueRow
from touchline.slurm.scripts import time_limit_seconds
from touchline.slurm.site_options import value_fault
from touchline.slurm.states import ExitCode

TOKEN_VARIABLE = "TOUCHLINE_INTENT"
"""Variable of a job that holds its token behind `TOKEN_PREFIX`: qstat prints a value of digits alone as a number."""
TOKEN_PREFIX = "intent-"
_NAME_LIMIT = 230
_ID = re.compile(r"(\d{1,12})(?:\[\d*\])?(?:\.\S+)?")
_STATES = {
    **dict.fromkeys("QHWT", JobState.PENDING),
    **dict.fromkeys("RB", JobState.RUNNING),
    **dict.fromkeys("SU", JobState.SUSPENDED),
    "E": JobState.COMPLETING,
}
_ENDED = frozenset("FX")
_TERMINATED = 91
_NODE_LOST = frozenset({-4, -5, -6, -14, -20})
"""Special exit values: aborted when the node's daemon started again, and lost contact between the nodes of a job."""
_OVER_TIME = frozenset({-28, -29})
_OVER_MEMORY = frozenset({-26, -27})
_SIGNALLED = 256
_SIGTERM = 15


def read_number(text: str) -> str | None:
    """Return the number of a job id: `1234` of `1234.server`; None for another text."""
    match = _ID.fullmatch(text.strip())
    return None if match is None else match[1]


# ---- qstat -----------------------------------------------------------------------------------------------------------


def read_jobs(text: str) -> tuple[QueueRow, ...] | None:
    """Return the jobs of `qstat -f -F json`; None if the answer is not whole and proves nothing.

    Versions before 20 print some values of a job's environment as invalid JSON (openpbs issues 1255 and 2541): lines
    that are no JSON are left out then, since each line holds one value.
    """
    document = _document(text)
    if document is None or "timestamp" not in document:
        return None
    jobs = document.get("Jobs", {})
    if not isinstance(jobs, dict) or not all(isinstance(job, dict) for job in jobs.values()):
        return None
    rows = [(read_number(name), job) for name, job in jobs.items()]
    return tuple(_row(number, job) for number, job in rows if number is not None)


def _document(text: str) -> dict[str, object] | None:
    for candidate in (text, _repaired(text)):
        try:
            found = parse_json(candidate, allow_control_characters=True)
        except ValueError:
            continue
        return found if isinstance(found, dict) else None
    return None


_LINE = re.compile(r'\s*"(?:[^"\\]|\\.)*"\s*:\s*(?P<value>.*?),?\s*')


def _repaired(text: str) -> str:
    """Return the text without the lines whose value is no JSON."""
    kept: list[str] = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is not None and match["value"] != "{" and not _is_json(match["value"]):
            continue
        kept.append(line)
    # What was left out may have been the last entry of an object, or have stood between two.
    return re.sub(r",(\s*})", r"\1", "\n".join(kept))


def _is_json(text: str) -> bool:
    try:
        parse_json(text, allow_control_characters=True)
    except ValueError:
        return False
    return True


def _row(number: str, job: Mapping[str, object]) -> QueueRow:
    variables = _part(job, "Variable_List")
    asked = _part(job, "Resource_List")
    letter = _text(job, "job_state")
    state, exit_code = _ended(job) if letter in _ENDED else (_STATES.get(letter, JobState.UNKNOWN), None)
    runs = _number(job, "run_count")
    waits = state is JobState.PENDING
    begun = _text(job, "stime")
    limit = _text(asked, "walltime")
    return QueueRow(
        job_id=number,
        raw_id=number,
        array_id="",
        state=state,
        # Of a job that runs the comment says where.
        reason="" if state is JobState.RUNNING else _text(job, "comment"),
        # It counts starts, this one among them.
        restarts=None if runs is None else runs if waits else max(runs - 1, 0),
        exit_code=exit_code,
        comment=_text(variables, TOKEN_VARIABLE).removeprefix(TOKEN_PREFIX),
        name=_text(job, "Job_Name"),
        folder=_text(variables, "PBS_O_WORKDIR"),
        # The script is not among a job's attributes; it is where no command stands behind the options.
        script=_script(_text(job, "Submit_arguments")),
        partition=_text(job, "queue"),
        nodes=_nodes(_text(job, "exec_host")),
        submitted_unix=_time(_text(job, "ctime")),
        started_unix=None if waits else _time(begun),
        ended_unix=_time(_text(job, "obittime") or _text(job, "mtime")) if state.ended else None,
        time_limit_seconds=time_limit_seconds(limit) if limit else None,
        source="qstat",
    )


def _ended(job: Mapping[str, object]) -> tuple[JobState, ExitCode | None]:
    """Return the state and exit code of a job that has ended, by its substate and exit value."""
    value = _number(job, "Exit_status")
    if _number(job, "substate") == _TERMINATED:
        return JobState.CANCELLED, None
    if value is None:
        return JobState.UNKNOWN if "stime" in job else JobState.CANCELLED, None
    if value in _OVER_TIME or (value == _SIGNALLED + _SIGTERM and _is_over_time(job)):
        return JobState.TIMEOUT, None
    if value in _OVER_MEMORY:
        return JobState.OUT_OF_MEMORY, None
    if value in _NODE_LOST:
        return JobState.NODE_FAIL, None
    if value < 0:
        return JobState.FAILED, None
    if value >= _SIGNALLED:
        return JobState.FAILED, ExitCode(code=0, signal=value - _SIGNALLED)
    return JobState.FAILED if value else JobState.COMPLETED, ExitCode(code=value, signal=0)


def _is_over_time(job: Mapping[str, object]) -> bool:
    """Return True if a job used its walltime up; versions without the exit value -29 end it by TERM."""
    used, limit = (
        time_limit_seconds(_text(_part(job, part), "walltime")) for part in ("resources_used", "Resource_List")
    )
    return used is not None and limit is not None and used >= limit


def _script(arguments: str) -> str:
    last = arguments.rpartition(" ")[2]
    return last if last.endswith(".pbs") else ""


def _nodes(exec_host: str) -> str:
    """Return the hosts of `node1/0*8+node2/1`."""
    return ",".join(dict.fromkeys(part.partition("/")[0] for part in exec_host.split("+") if part))


def _part(job: Mapping[str, object], key: str) -> Mapping[str, object]:
    part = job.get(key)
    return part if isinstance(part, dict) else {}


def _text(part: Mapping[str, object], key: str) -> str:
    value = part.get(key)
    return str(value) if isinstance(value, (str, int, float)) else ""


def _number(job: Mapping[str, object], key: str) -> int | None:
    value = job.get(key)
    return value if isinstance(value, int) else None


def _time(text: str) -> float | None:
    """Return the seconds since 1970 of `Fri Nov 11 17:57:05 2016`, in this machine's time zone."""
    try:
        return datetime.strptime(text, "%a %b %d %H:%M:%S %Y").timestamp()  # noqa: DTZ007 (qstat prints local time)
    except ValueError:
        return None


# ---- qsub and qdel ---------------------------------------------------------------------------------------------------

_LATER = re.compile(r"would exceed .*limit|Maximum number of jobs already in queue|Resource temporarily unavailable")
_REFUSED = re.compile(
    r"Unknown queue|violates queue and/or server resource limits|Unauthorized Request|Illegal attribute or resource"
    r"|Unknown resource|Access to queue is denied|Queue is not enabled|Invalid Account|Invalid Job Dependency"
    r"|Bad [UG]ID|Invalid credential|No default queue|Resource limit exceeds|Undefined attribute|illegal -\w value"
    r"|script not a file|script file|usage: qsub|rejected by all possible destinations|illegally formed"
    r"|Cannot set attribute|Invalid request|Duplicate entry"
)
_HINTS = (
    (r"queue", "qstat -Q shows the queues; set pbs.partition in the config file"),
    (r"resource|limit", "qstat -Qf shows the queues' limits, pbsnodes -a what nodes have; set pbs.constraint"),
    (r"[Aa]ccount|Unauthorized", "set pbs.account in the config file, or ask the people who run the cluster"),
    (r"script", "touchline prepare writes the scripts"),
)


def read_submission(out: str, err: str, code: int | None) -> Submission:
    """Read the output of qsub: an id, a refusal, or an answer that leaves open whether the job is in.

    Args:
        out: its standard output.
        err: its standard error.
        code: its exit code; None if it gave none in time, or could not be started.
    """
    number = read_number(out.strip().rpartition("\n")[2])
    reason = " ".join(err.split()).removeprefix("qsub: ")[:500]
    if code == 0 and number is not None:
        return Submission(verdict=SbatchResult.ACCEPTED, job_id=number)
    if code is None and re.fullmatch(
        r"\S+: (?:No such file or directory|Permission denied|Not a directory)", err.strip()
    ):
        return Submission(
            verdict=SbatchResult.ABSENT, reason=err.strip(), hint="qsub on PATH, and the run's folder there"
        )
    if code is not None and _LATER.search(err):
        hint = "the others are submitted when these have ended: touchline resume; pbs.max_submitted keeps below a limit"
        return Submission(verdict=SbatchResult.LIMIT, reason=reason, hint=hint)
    if code is not None and code > 0 and _REFUSED.search(err):
        advice = next((words for pattern, words in _HINTS if re.search(pattern, err)), None)
        return Submission(verdict=SbatchResult.REFUSED, reason=reason, hint=advice)
    hint = "it is looked for by its token before anything is submitted again; touchline status shows it"
    return Submission(
        verdict=SbatchResult.UNCLEAR, reason=reason or f"qsub ended with {code} and said nothing", hint=hint
    )


_UNKNOWN = re.compile(r"\b(?:Unknown Job Id|Unknown Job Identifier|Job has finished)\b")


def are_unknown(err: str) -> bool:
    """Return True if qstat or qdel complains of nothing but jobs that it does not know or that have finished."""
    lines = [line for line in err.splitlines() if line.strip()]
    return bool(lines) and all(_UNKNOWN.search(line) for line in lines)


def has_no_history(err: str) -> bool:
    """Return True if qstat says that its server keeps nothing of jobs that have ended."""
    return "not configured to maintain job history" in err or "job_history_enable" in err


# ---- #PBS lines ------------------------------------------------------------------------------------------------------


def job_name(name: str) -> str:
    """Return a name that qsub takes: letters, digits and `-_+.`, a letter first, at most 230 characters."""
    plain = re.sub(r"[^A-Za-z0-9_+.-]", "_", name)
    return (plain if plain[:1].isalpha() else f"run-{plain}")[:_NAME_LIMIT]


def directives(options: Sequence[tuple[str, str | None]]) -> Iterator[str]:
    """Yield the `#PBS` lines of options in sbatch's words.

    PBS asks for a job's place in one line: one chunk on one node, with its cores, GPUs, memory, and what
    `constraint` names, `gpu_model=a100` or `host=node7`.
    """
    asked = dict(options)
    chunk = ["select=1"]
    for option, resource in (("cpus-per-task", "ncpus"), ("gpus", "ngpus"), ("mem", "mem")):
        if number := asked.get(option):
            chunk.append(f"{resource}={number.rpartition(':')[2] if option == 'gpus' else _size(number)}")
    if asked.get("constraint"):
        chunk.append(str(asked["constraint"]))
    for option, value in options:
        match option:
            case "job-name":
                yield f"#PBS -N {job_name(value or '')}"
                # PBS starts a script with the user's login shell, whatever its first line says.
                yield "#PBS -S /bin/bash"
            case "account":
                yield f"#PBS -A {value}"
            case "partition":
                yield f"#PBS -q {value}"
            case "output":
                # The script writes its own output file; this one holds what PBS itself has to say.
                yield "#PBS -j oe"
            case "time":
                yield f"#PBS -l walltime={value}"
            case "requeue":
                yield "#PBS -r y"
            case "nodes":
                yield f"#PBS -l {':'.join(chunk)}"


def _size(value: str) -> str:
    """Return `64gb` of `64G`; a plain number as it is."""
    return f"{value[:-1]}{value[-1].lower()}b" if value[-1:] in "GM" else value


_OURS = {
    "N": "the run's name is its name",
    "o": "the run's folder holds its output",
    "e": "the run's folder holds its output",
    "j": "the run's folder holds its output",
    "J": "a run is a job of its own",
    "r": "touchline sets it",
    "h": "nothing would start",
    "S": "the scripts are for bash",
    "z": "the job's id would be lost",
    "I": "a job is not interactive",
    "A": "pbs.account sets it",
    "q": "pbs.partition sets it",
    "v": "it holds the token by which a job is found again",
    "C": "the scripts' lines begin with #PBS",
}


def option_fault(text: str) -> tuple[str, str | None] | None:
    """Return (problem, hint) of an entry of `pbs.options`; None if it may stand behind `#PBS`."""
    example = "for example -m ae"
    if (wrong := value_fault(text)) is not None:
        return wrong, None
    match = re.fullmatch(r"-([A-Za-z])(?:\s*(.*))", text)
    if match is None:
        return f"{text!r} is no option of qsub", example
    if match[1] in _OURS:
        return f"-{match[1]} is set by touchline: {_OURS[match[1]]}", "leave it out here"
    if match[1] == "l" and re.match(r"(?:select|walltime|nodes)\b", match[2]):
        return f"{text!r} is set by touchline", "pbs.constraint adds to the chunk; compute.time_limit is the walltime"
    if match[1] == "W" and match[2].startswith("depend"):
        return f"{text!r} is set by touchline: what waits for what follows from the plan", "leave it out here"
    return None
