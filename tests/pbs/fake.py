"""PBS's commands without PBS: qsub, qselect, qstat, qdel, with jobs that are real processes of this machine.

What it says is held to OpenPBS's manual pages and code (the module `touchline.slurm.pbs` names them): the JSON of
`qstat -f -F json` as cJSON prints it, one value a line behind tabs; finished jobs only with -x, and only where the
server keeps a history; an exit by a signal as 256 + signal; TERM, and KILL after `kill_delay`, for whatever ends a job.
No real PBS has been asked.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from touchline.run.processes import identify, send_signal
from touchline.slurm.local.commands import CommandResult

SERVER = "pbs"
KILL_DELAY_SECONDS = 10.0
"""PBS's default."""
TICK_SECONDS = 0.05
KILLED_BY_WALLTIME = -29
VALUES = frozenset("ACNWSlmopqrv")
"""Options of qsub with a value that are known here."""


@dataclass(kw_only=True, slots=True)
class FakePbsJob:
    """Job of the server."""

    number: int
    folder: Path
    script: Path
    text: str
    name: str
    arguments: str
    variables: dict[str, str]
    after: tuple[str, ...] = ()
    walltime: float | None = None
    queue: str = "workq"
    is_held: bool = False
    state: str = "Q"
    substate: int = 10
    runs: int = 0
    exit_status: int | None = None
    begun: float | None = None
    ended: float | None = None
    told_to_end: float | None = None
    why: str = ""
    """Why it was told to end: `walltime`, `qdel`, `rerun`."""
    process: subprocess.Popen[bytes] | None = None
    created: float = field(default_factory=time.time)

    @property
    def id(self) -> str:
        return f"{self.number}.{SERVER}"


def said(code: int, out: str = "", err: str = "") -> CommandResult:
    return CommandResult(code=code, out=out, err=err)


class FakePbs:
    """A server with one host, which runs whatever may run; use it as a context, at whose end no process is left."""

    def __init__(self, root: Path, *, history: bool = True, most: int | None = None) -> None:
        self.root = root
        self.history = history
        self.most = most
        self.is_down = False
        self.jobs: dict[str, FakePbsJob] = {}
        self._numbers = itertools.count(1000)
        self._guard = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> FakePbs:
        self.root.mkdir(exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        for job in self.jobs.values():
            self._signal(job, signal.SIGKILL)
            if job.process is not None:
                job.process.wait()

    # ---- the commands ------------------------------------------------------------------------------------------------

    def run(
        self,
        words: Sequence[str],
        *,
        timeout_seconds: float,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
        keep: Sequence[int] = (),
    ) -> CommandResult:
        """Answer one command."""
        del timeout_seconds, environment, keep
        command = words[0]
        if self.is_down:
            lines = f"Connection refused\n{command}: cannot connect to server {SERVER} (errno=111)\n"
            return said(111, err=lines)
        with self._guard:
            match command:
                case "qsub":
                    return self._qsub(list(words[1:]), cwd or Path())
                case "qselect":
                    return self._qselect(words[1:])
                case "qstat":
                    return self._qstat(words[1:])
                case "qdel":
                    return self._qdel(words[1:])
        raise AssertionError(f"no such command here: {command}")

    def _qsub(self, words: list[str], folder: Path) -> CommandResult:
        script = folder / words.pop()
        if not script.is_file():
            return said(1, err=f"qsub: script file:: {script}: No such file or directory\n")
        text = script.read_text()
        lines = [line.removeprefix("#PBS ") for line in text.splitlines() if line.startswith("#PBS ")]
        try:
            options = read_options([word for line in lines for word in shlex.split(line)]) + read_options(words)
        except ValueError as error:
            return said(2, err=f"qsub: {error}\nusage: qsub [-a date_time] [-A account_string] ...\n")
        of = dict(options)
        if of.get("q", "workq") not in ("workq", "gpu"):
            return said(170, err="qsub: Unknown queue\n")
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9_+.-]{0,229}", name := of.get("N", script.name)) is None:
            return said(1, err="qsub: illegal -N value\n")
        if self.most is not None and sum(job.state != "F" for job in self.jobs.values()) >= self.most:
            return said(1, err="qsub: would exceed queue workq's per-user limit\n")
        depends = of.get("W", "").removeprefix("depend=").split(":")
        after = tuple(depends[1:]) if depends[0] == "afterany" else ()
        if any(each not in self.jobs for each in after):
            return said(1, err="qsub: Invalid Job Dependency\n")
        limits = [value for key, value in options if key == "l" and value.startswith("walltime=")]
        job = FakePbsJob(
            number=next(self._numbers),
            folder=folder.resolve(),
            script=script,
            text=text,
            name=name,
            arguments=" ".join([*words, script.name]),
            variables=dict(pair.split("=", 1) for pair in of.get("v", "").split(",") if "=" in pair),
            after=after,
            walltime=seconds(limits[-1].partition("=")[2]) if limits else None,
            queue=of.get("q", "workq"),
            is_held="h" in of,
        )
        if job.is_held:
            job.state, job.substate = "H", 20
        self.jobs[str(job.number)] = job
        return said(0, out=f"{job.id}\n")

    def _qselect(self, words: Sequence[str]) -> CommandResult:
        assert words[0] == "-u", words
        if "-x" in words and not self.history:
            return said(15, err="qselect: PBS is not configured to maintain job history\n")
        chosen = [job for job in self.jobs.values() if job.state != "F" or "-x" in words]
        return said(0, out="".join(f"{job.id}\n" for job in chosen))

    def _qstat(self, words: Sequence[str]) -> CommandResult:
        flags = [word for word in words if word.startswith("-")]
        assert {"-f", "-F", "-E"} <= {*flags}, words
        ids = [word for word in words[words.index("json") + 1 :] if not word.startswith("-")]
        assert ids, "all jobs of a server are never asked for"
        if "-x" in flags and not self.history:
            # As qstat does, it ends with 0.
            return said(0, out=printed({}), err="qstat: PBS is not configured to maintain job history\n")
        found = [job for each in ids if (job := self.jobs.get(each.partition(".")[0])) is not None]
        listed = [job for job in found if job.state != "F" or "-x" in flags]
        if not listed:
            if found and self.history:
                hint = "Job has finished, use -x or -H to obtain historical job information"
                return said(35, out=printed({}), err="".join(f"qstat: {job.id} {hint}\n" for job in found))
            return said(153, out=printed({}), err=f"qstat: Unknown Job Id {ids[-1]}.{SERVER}\n")
        return said(0, out=printed({job.id: attributes(job) for job in listed}))

    def _qdel(self, words: Sequence[str]) -> CommandResult:
        errors = []
        for each in words:
            job = self.jobs.get(each.partition(".")[0])
            if job is None:
                errors.append(f"qdel: Unknown Job Id {each}\n")
            elif job.state == "F":
                errors.append(f"qdel: Job has finished {job.id}\n")
            elif job.state == "R":
                self._end(job, "qdel")
            else:
                job.state, job.substate, job.ended = "F", 91, time.time()
        return said(0 if not errors else 1, err="".join(errors))

    # ---- what happens to it ------------------------------------------------------------------------------------------

    def rerun(self, job_id: str) -> None:
        """Queue a running job again, as preemption and qrerun do."""
        with self._guard:
            self._end(self.jobs[job_id], "rerun")

    def lose_node(self, job_id: str) -> None:
        """Take the power of a job's host: all of it dies at once, and the server queues it again."""
        with self._guard:
            job = self.jobs[job_id]
            job.why, job.told_to_end = "rerun", time.monotonic()
            self._signal(job, signal.SIGKILL)

    # ---- the server --------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._over.wait(TICK_SECONDS):
            with self._guard:
                for job in self.jobs.values():
                    self._turn(job)

    def _turn(self, job: FakePbsJob) -> None:
        if job.state == "Q" and all(self.jobs[each].state == "F" for each in job.after):
            self._start(job)
        elif job.state == "R":
            assert job.process is not None
            # Not reaped yet: until then the session's number is that of no other process.
            if os.waitid(os.P_PID, job.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                self._ended(job)
            elif job.told_to_end is not None and time.monotonic() > job.told_to_end + KILL_DELAY_SECONDS:
                self._signal(job, signal.SIGKILL)
            elif job.told_to_end is None and time.time() > (job.begun or 0.0) + (job.walltime or math.inf):
                self._end(job, "walltime")

    def _start(self, job: FakePbsJob) -> None:
        job.state, job.substate, job.begun, job.why, job.told_to_end = "R", 42, time.time(), "", None
        job.runs += 1
        copy = self.root / f"{job.id}.SC"
        copy.write_text(job.text)
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
        environment |= {"PBS_JOBID": job.id, "PBS_O_WORKDIR": str(job.folder), "PBS_ENVIRONMENT": "PBS_BATCH"}
        environment |= {"NCPUS": "1", "OMP_NUM_THREADS": "1", "PBS_JOBNAME": job.name} | job.variables
        with (self.root / f"{job.id}.OU").open("ab") as output:
            job.process = subprocess.Popen(
                ["/bin/bash", str(copy)],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _ended(self, job: FakePbsJob) -> None:
        assert job.process is not None
        self._signal(job, signal.SIGKILL)  # what is left of its session
        code = job.process.wait()
        if job.why == "rerun":
            job.state, job.substate, job.process = "Q", 10, None
            return
        job.state, job.ended = "F", time.time()
        job.exit_status = KILLED_BY_WALLTIME if job.why == "walltime" else 256 - code if code < 0 else code
        job.substate = 91 if job.why == "qdel" else 93 if job.exit_status else 92

    def _end(self, job: FakePbsJob, why: str) -> None:
        job.why, job.told_to_end = why, time.monotonic()
        self._signal(job, signal.SIGTERM)

    def _signal(self, job: FakePbsJob, number: signal.Signals) -> None:
        """Signal every process of a job's session; none may still do something because another one died before it.

        The session is the job's until its first process is reaped; after that its number may be another one's.
        """
        if job.process is None or job.process.returncode is not None:
            return
        session = job.process.pid
        found = [identify(pid) for pid in sorted(psutil.pids(), reverse=True) if _session(pid) == session]
        # A number may have passed to another process since it was listed; from here on its start time is compared.
        members = [each for each in found if _session(each.pid) == session]
        for sent in (signal.SIGSTOP, number) if number == signal.SIGKILL else (number,):
            for each in members:
                send_signal(each, sent)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def read_options(words: Sequence[str]) -> list[tuple[str, str]]:
    """Options of qsub as pairs.

    Raises:
        ValueError: qsub would refuse them.
    """
    found, left = [], list(words)
    while left:
        word = left.pop(0)
        if re.fullmatch(r"-[A-Za-z].*", word) is None:
            raise ValueError(f"invalid option -- {word!r}")
        letter, value = word[1], word[2:]
        if letter in VALUES | {"j"}:
            found.append((letter, value or left.pop(0)))
        elif letter in "hz" and not value:
            found.append((letter, ""))
        else:
            raise ValueError(f"invalid option -- {letter!r}")
    return found


def seconds(walltime: str) -> float:
    """`HH:MM:SS` as seconds."""
    hours, minutes, rest = (int(part) for part in walltime.split(":"))
    return hours * 3600 + minutes * 60 + rest


def attributes(job: FakePbsJob) -> dict[str, object]:
    """A job's attributes as `qstat -f -F json` names them."""
    found: dict[str, object] = {
        "Job_Name": job.name,
        "Job_Owner": f"someone@{SERVER}",
        "job_state": job.state,
        "queue": job.queue,
        "server": SERVER,
        "Checkpoint": "u",
        "ctime": time.ctime(job.created),
        "Error_Path": f"{SERVER}:{job.folder}/{job.name}.e{job.number}",
        "Hold_Types": "u" if job.is_held else "n",
        "Join_Path": "oe",
        "mtime": time.ctime(job.ended or job.begun or job.created),
        "Output_Path": f"{SERVER}:{job.folder}/{job.name}.o{job.number}",
        "qtime": time.ctime(job.created),
        "Rerunable": "True",
        "Resource_List": {"ncpus": 1, "nodect": 1, "place": "pack", "select": "1:ncpus=1"},
        "substate": job.substate,
        "Variable_List": {
            "PBS_O_HOME": os.environ.get("HOME", "/"),
            "PBS_O_WORKDIR": str(job.folder),
            "PBS_O_SYSTEM": "Linux",
            # A value that is a number by itself is printed as one.
            **{name: int(value) if value.isdigit() else value for name, value in job.variables.items()},
        },
        "Submit_arguments": job.arguments,
        "project": "_pbs_project_default",
    }
    if job.walltime is not None:
        found["Resource_List"] = {
            **found["Resource_List"],  # type: ignore[dict-item]
            "walltime": time.strftime("%H:%M:%S", time.gmtime(job.walltime)),
        }
    if job.begun is not None:
        found |= {"stime": time.ctime(job.begun), "exec_host": f"{SERVER}/0", "run_count": job.runs}
        found["comment"] = f"Job run at {time.ctime(job.begun)} on ({SERVER}:ncpus=1)"
    if job.exit_status is not None:
        found["Exit_status"] = job.exit_status
    return found


def printed(jobs: dict[str, dict[str, object]]) -> str:
    """The document as cJSON prints it."""
    document: dict[str, object] = {"timestamp": int(time.time()), "pbs_version": "23.06.06", "pbs_server": SERVER}
    if jobs:
        document["Jobs"] = jobs
    return re.sub(r'^(\t*"(?:[^"\\]|\\.)*":) ', r"\1\t", json.dumps(document, indent="\t"), flags=re.MULTILINE) + "\n"
