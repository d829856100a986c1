"""A scheduler's job at one moment: its state in SLURM's words, exit code, id, output, and the source of each.

A word that is not known here, from a newer SLURM, is UNKNOWN and therefore no end: only words that say so end a job.
Source: squeue(1), section JOB STATE CODES, of SLURM 22.05 to 25.05.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from touchline.core.status import JobState

JOB_ID = "%j"
"""What becomes the job's id."""


def output_pattern(folder: str, file: str) -> str | None:
    r"""Return the `--output` by which a job in `folder` writes to `file` there; None if `file` itself will do.

    SLURM puts the job's folder before a relative name and replaces `%j`, `%x` and others in both. `%%` stands for a
    percent sign. A backslash anywhere ends all replacement, and only a doubled one stands for itself: a file below such
    a folder keeps its `%j` as it is written (slurm 22.05, src/slurmd/slurmstepd/fname.c).
    """
    if "\\" in folder:
        return "/".join((folder.replace("\\", "\\\\"), file))
    return "/".join((folder.replace("%", "%%"), file)) if "%" in folder else None


# If the kernel's out-of-memory killer ends a process outside SLURM's cgroups, SLURM reports only `FAILED 0:9`, as for
# any `kill -9`. Only words of the kernel, of SLURM or of the framework that name memory are accepted.
_PROOF = re.compile(
    r"\bDetected \d+ oom[_-]kill event|\boom[_-]kill(?:er)?\b|cgroup out-of-memory handler|\bOUT_OF_MEMORY\b"
    r"|\bOut Of Memory\b|\b[Oo]ut of memory: [Kk]ill|\b[Ee]xceeded (?:\w+ ){0,2}memory limit|\bOOMKilled\b"
    r"|CUDA out of memory|CUDA error: out of memory|torch\.(?:cuda\.)?OutOfMemoryError|\bCannot allocate memory\b"
    r"|DUE TO MEMORY LIMIT|exceeds? (?:job |step )?memory limit|DefaultCPUAllocator: (?:can't|not enough)"
)
_OTHER_TIME = re.compile(r"\*\*\* JOB \d+\S*(?: ON \S+)? CANCELLED.*DUE TO (?:JOB REQUEUE|PREEMPTION|NODE FAILURE)")
_TEXT_LIMIT = 300


def out_of_memory_line(tail: str) -> str | None:
    """Return the last line that proves it; None if there is none.

    Args:
        tail: the end of the output. What stands before a requeue belongs to another time that the job was run.
    """
    for line in reversed(tail.splitlines()):
        if _PROOF.search(line):
            return line.strip()[:_TEXT_LIMIT]
        if _OTHER_TIME.search(line):
            return None
    return None


_AS_WRITTEN = {state.value: state for state in JobState}
_OTHER_WORDS = {
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.COMPLETING,
    "STOPPED": JobState.SUSPENDED,
    "POWER_UP_NODE": JobState.CONFIGURING,
    # Requeued and held: nothing of them is over.
    "REQUEUE_HOLD": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "SPECIAL_EXIT": JobState.PENDING,
    "EXPEDITING": JobState.PENDING,
}
_COMPACT = {
    **{"BF": "BOOT_FAIL", "CA": "CANCELLED", "CD": "COMPLETED", "CF": "CONFIGURING", "CG": "COMPLETING"},
    **{"DL": "DEADLINE", "F": "FAILED", "NF": "NODE_FAIL", "OOM": "OUT_OF_MEMORY", "PD": "PENDING", "PR": "PREEMPTED"},
    **{"R": "RUNNING", "RD": "RESV_DEL_HOLD", "RF": "REQUEUE_FED", "RH": "REQUEUE_HOLD", "RQ": "REQUEUED"},
    **{"RS": "RESIZING", "SI": "SIGNALING", "SE": "SPECIAL_EXIT", "SO": "STAGE_OUT", "ST": "STOPPED"},
    **{"S": "SUSPENDED", "TO": "TIMEOUT"},
}
_CUT_SHORT = 3
"""sacct cuts words to its column and writes `+`: `CANCELLED+`, `OUT_OF_ME+`; fewer letters than these name none."""
_EXIT = re.compile(r"(\d{1,3}):(\d{1,3})")


def read_state(text: str) -> JobState:
    """Read a state: `RUNNING`, `R`, `CANCELLED by 1000`, `OUT_OF_ME+`, `COMPLETED,COMPLETING`.

    Of several words the one that says that it is not over counts.
    """
    states = [_word(word) for word in re.split(r"[,\s|]+", re.sub(r"\s+by\s.*", "", text.strip(), flags=re.DOTALL))]
    return next((state for state in states if not state.ended), states[0])


def _word(text: str) -> JobState:
    word = text.strip().upper()
    if word.endswith("+"):
        start = word.rstrip("+")
        whole = {_AS_WRITTEN[name] for name in _AS_WRITTEN if len(start) >= _CUT_SHORT and name.startswith(start)}
        return whole.pop() if len(whole) == 1 else JobState.UNKNOWN
    word = _COMPACT.get(word, word)
    return _AS_WRITTEN.get(word) or _OTHER_WORDS.get(word, JobState.UNKNOWN)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExitCode:
    """Exit code and signal as SLURM writes them: `3:0`, `0:9`, `0:125`."""

    code: int
    """Its exit code; 0 also if a signal ended it or SLURM has no code."""
    signal: int
    """The signal that ended it, or 0; 125 is SLURM's own for out of memory."""


def read_exit_code(text: str) -> ExitCode | None:
    """Read exit code and signal; None if the text has another form."""
    match = _EXIT.fullmatch(text.strip())
    return None if match is None else ExitCode(code=int(match[1]), signal=int(match[2]))


def read_seconds(text: str) -> float | None:
    """Read a time in `SLURM_TIME_FORMAT=%s`; None for `N/A`, `Unknown`, `NONE` and 0."""
    stripped = text.strip()
    return float(stripped) if stripped.isascii() and stripped.isdigit() and int(stripped) else None


def read_text(text: str) -> str:
    """Read a field that may be absent: `(null)`, `N/A` and `None` are empty."""
    return "" if text in ("(null)", "N/A", "None", "None assigned", "Unknown") else text


@dataclass(frozen=True, kw_only=True, slots=True)
class JobId:
    """A job's id in its parts: `76`, the array task `14_3`, the step `76.1`."""

    job: int
    task: int | None
    """The array's task; None if it is no array."""
    step: str | None
    """The step: `1`, `batch`; None for the job itself."""

    @property
    def whole(self) -> str:
        """The id without its step."""
        return str(self.job) if self.task is None else f"{self.job}_{self.task}"


_ID = re.compile(r"(?P<job>\d{1,10})(?:_(?P<task>\d{1,10}))?(?:\.(?P<step>\w{1,20}))?")


def read_job_id(text: str) -> JobId | None:
    """Read a job id; None for others such as `local-1f` and for several tasks such as `14_[0-3%2]`."""
    match = _ID.fullmatch(text)
    if match is None or not match["job"].isascii():
        return None
    task = match["task"]
    return JobId(job=int(match["job"]), task=None if task is None else int(task), step=match["step"])


_TASKS_LIMIT = 100_000


def waiting_tasks(text: str) -> tuple[str, ...]:
    """Return the ids of an array's waiting tasks: `14_[0-3,7%2]` is five of them.

    Empty where it stands for none; a list that squeue cut short, `14_[1,3,5,...]`, gives those that it names.
    """
    match = re.fullmatch(r"(\d{1,10})_\[([\d,:.-]+)(?:%\d+)?\]", text)
    if match is None:
        return ()
    tasks: list[int] = []
    for part in match[2].split(","):
        bounds = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10})(?::(\d{1,10}))?)?", part)
        if bounds is None:
            continue
        first, last, step = int(bounds[1]), int(bounds[2] or bounds[1]), int(bounds[3] or 1)
        tasks += range(first, min(last, first + _TASKS_LIMIT) + 1, max(step, 1))
    return tuple(f"{match[1]}_{task}" for task in tasks[:_TASKS_LIMIT])


TRAINING_SCRIPT = "finetune.slurm"
"""Script of a run's training, for sbatch and for bash, to which its directives are comments."""
EVALUATION_SCRIPT = "eval.slurm"
"""Script of a run's evaluation."""
_EVALUATION_PREFIX = "evaluate "
"""Prefix of the name of an evaluation. The name of a run has no blank, so that it cannot be mistaken for one."""


class JobKind(StrEnum):
    """Kind of work that a job does."""

    TRAINING = "training"
    EVALUATION = "evaluation"


@dataclass(frozen=True, slots=True)
class JobName:
    """Name of a job in the ledger and the queue, taken apart."""

    kind: JobKind
    subject: str
    """The run; for the shared evaluation of the runs of a base model, the name of that model."""

    @classmethod
    def parse(cls, name: str) -> JobName:
        """Return the kind and the subject of a job's name."""
        subject = name.removeprefix(_EVALUATION_PREFIX)
        return cls(JobKind.TRAINING if subject == name else JobKind.EVALUATION, subject)


def evaluation_name(subject: str) -> str:
    """Return the name of the evaluation job of a run or a base model."""
    return _EVALUATION_PREFIX + subject


Source = Literal["exit file", "process", "heartbeat", "squeue", "sacct", "scontrol", "ledger", "none"]
"""Source of a state, the strongest first: the job's exit file, its process, the scheduler."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobView:
    """Job at one moment. A query that failed leaves the state as it was or UNKNOWN."""

    job_id: str
    """SLURM's id (`76`, `14_3` of an array, `76.1` of a step) or `local-<token>`; empty when none is known."""
    state: JobState
    """State."""
    active: bool
    """Whether it may still do something: pending, running, or not known to have ended. Nothing is submitted again
    while this is true."""
    source: Source
    """Source of the state."""
    reason: str = ""
    """Reason for waiting, in the scheduler's word (`Resources`, `DependencyNeverSatisfied`), or for its end."""
    exit_code: int | None = None
    """Exit code of the script; None while it runs or if unknown."""
    signal: int | None = None
    """The signal that ended it; none or 0 when it was none."""
    restarts: int | None = None
    """Number of restarts by the scheduler; None if unknown."""
    partition: str = ""
    """Its partition."""
    node: str = ""
    """The nodes it runs or ran on."""
    submitted_unix: float | None = None
    """Submission time, in seconds since 1970."""
    started_unix: float | None = None
    """Time of the last start."""
    ended_unix: float | None = None
    """End time."""
    time_limit_seconds: float | None = None
    """Time limit; None if there is none or if unknown."""
    comment: str = ""
    """The token that it was submitted with."""
    script_folder: str = ""
    """The folder it was submitted from."""
    name: str = ""
    """Its name."""
