"""SLURM's commands without SLURM: the words of 22.05, jobs that come and go in simulated time, and faults on order.

    clock = SimClock()
    fake = FakeSlurm(clock, make_work)
    fake.run(["sbatch", "--parsable", "finetune.slurm"], timeout_seconds=10, cwd=folder)

What it says was recorded from a real one: tests/slurm/scenarios.py runs on both, and every answer must be the same.
Not covered: other users, fair share, reservations, federations, job steps.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tests.slurm import fake_text
from tests.slurm.fake_cluster import FakeCluster
from tests.slurm.fake_control import INVALID, Control
from tests.slurm.fake_jobs import ACTIVE, FakeJob, Life, SimClock, Work
from tests.slurm.fake_words import (
    begin_time,
    dependency,
    directives,
    gpus,
    is_called,
    limit_text,
    listed_rows,
    megabytes,
    minutes,
    read_numbers,
    read_options,
    said,
    signal_seconds,
    since_time,
    submit_line,
)

from touchline.slurm.local.commands import CommandResult

CONNECT = "Unable to contact slurm controller (connect failure)"
TIMED_OUT = "Socket timed out on send/recv operation"
STATES = (
    *("PENDING", "RUNNING", "SUSPENDED", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"),
    *("BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY", "COMPLETING", "CONFIGURING", "RESIZING", "RESV_DEL_HOLD", "REQUEUED"),
    *("REQUEUE_FED", "REQUEUE_HOLD", "REVOKED", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED"),
)
SBATCH_FLAGS = frozenset({"parsable", "test-only", "requeue", "no-requeue", "hold", "exclusive", "kill-on-invalid-dep"})
SBATCH_VALUES = frozenset(
    {
        *(
            "job-name",
            "comment",
            "partition",
            "account",
            "qos",
            "time",
            "gres",
            "gpus",
            "mem",
            "cpus-per-task",
            "nodes",
        ),
        *("ntasks", "constraint", "dependency", "array", "output", "error", "open-mode", "signal", "begin", "chdir"),
        *("nodelist", "export", "mail-type", "nice", "kill-on-invalid-dep", "gpus-per-task", "wrap", "reservation"),
    }
)
SHORT = {"J": "job-name", "p": "partition", "A": "account", "q": "qos", "t": "time", "c": "cpus-per-task", "N": "nodes"}
SHORT |= {"n": "ntasks", "C": "constraint", "d": "dependency", "a": "array", "o": "output", "e": "error", "H": "hold"}
SHORT |= {"w": "nodelist", "D": "chdir", "G": "gpus", "b": "begin"}

Trouble = Literal["", "down", "frozen", "no database", "lost in", "lost out", "empty", "stale", "partial", "slow"]
"""What is wrong with one command. `lost in`: the job is taken though the answer is not told; `lost out`: it is not."""


@dataclass(kw_only=True, slots=True)
class Submission:
    """One job that was taken."""

    job: FakeJob
    time: float
    tokens: str


class FakeSlurm(Control):
    """A SLURM of two nodes with 4 GPUs each; `trouble` is asked before every command, `step` told around it."""

    def __init__(
        self,
        clock: SimClock,
        make_work: Callable[[FakeJob, float], Work],
        *,
        accounting: bool = True,
        max_submitted: int | None = None,
    ) -> None:
        self.clock = clock
        self.cluster = FakeCluster(clock, make_work)
        self.accounting = accounting
        self.max_submitted = max_submitted
        self.partitions = ("gpu", "preemptible")
        self.accounts = ("root", "lab")
        self.qualities = ("normal", "small")
        self.limits = {"small": 2}
        self.max_array = 1001
        self.max_mem_mb = 64000
        self.submissions: list[Submission] = []
        self.calls: list[str] = []
        self.trouble: Callable[[Sequence[str]], Trouble] = lambda words: ""
        self.step: Callable[[str], None] = lambda point: None
        self.thaw: float = 0.0
        """When a frozen controller goes on: what was sent to it meanwhile happens then."""

    # ---------------------------------------------------------------------------------------------------- the Protocol

    def run(
        self,
        words: Sequence[str],
        *,
        timeout_seconds: float,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
        keep: Sequence[int] = (),
    ) -> CommandResult:
        """Answer one command, as RealCommands would: a moment passes, and perhaps it takes too long."""
        del environment
        command = Path(words[0]).name
        self.calls.append(command)
        self.step(f"{command} called")
        trouble = self.trouble(words)
        self.clock.go(0.02)
        held = [os.dup(each) for each in keep]
        try:
            self.step(f"{command} at work")
        except BaseException:
            # Who called it was killed; the command itself goes on, and ends in its own time.
            self._go_on_alone(words, cwd, held, trouble)
            raise
        try:
            answer = self._answer(command, words[1:], cwd or Path(), trouble, timeout_seconds)
        finally:
            for each in held:
                os.close(each)
        self.step(f"{command} answered")
        return answer

    def submit_by_hand(self, words: Sequence[str], folder: Path) -> CommandResult:
        """sbatch as a person types it."""
        return self._sbatch(list(words), folder)

    def _go_on_alone(self, words: Sequence[str], cwd: Path | None, held: list[int], trouble: Trouble) -> None:
        def end(now: float) -> None:
            del now
            if trouble not in ("down", "lost out"):
                self._do(Path(words[0]).name, words[1:], cwd or Path())
            for each in held:
                os.close(each)

        late = max(self.thaw - self.clock.true, 0.0) if trouble == "frozen" else 8.0 if trouble == "lost in" else 0.1
        self.cluster.at(self.clock.true + late, end)

    def _answer(self, command: str, words: Sequence[str], cwd: Path, trouble: Trouble, timeout: float) -> CommandResult:
        if trouble in ("down", "frozen", "slow", "lost in", "lost out") and (command != "sacct" or trouble == "slow"):
            return self._unanswered(command, words, cwd, trouble, timeout)
        if trouble == "no database" and command in ("sacct", "sacctmgr"):
            where = "127.0.0.1:6819: Connection refused"
            lines = ["slurm_persist_conn_open_without_init: failed to open persistent connection to host:" + where]
            lines += [
                "Sending PersistInit msg: Connection refused",
                "Problem talking to the database: Connection refused",
            ]
            return said(1, err="".join(f"{command}: error: {line}\n" for line in lines))
        answer = self._do(command, words, cwd)
        if trouble == "empty" and answer.code == 0 and command in ("squeue", "sacct"):
            return said(0, out="".join(answer.out.splitlines(keepends=True)[:1]))
        if trouble == "partial" and answer.code == 0 and command in ("squeue", "sacct"):
            return said(0, out=answer.out[: len(answer.out) * 2 // 3])
        return answer

    def _unanswered(
        self, command: str, words: Sequence[str], cwd: Path, trouble: Trouble, timeout: float
    ) -> CommandResult:
        takes, why = (9.0, CONNECT) if trouble == "down" else (10.0, TIMED_OUT)
        if command in ("sbatch", "scancel", "scontrol"):
            if trouble in ("lost in", "slow"):
                self._do(command, words, cwd)
            elif trouble == "frozen":
                self.cluster.at(max(self.thaw, self.clock.true), lambda now: self._late(command, words, cwd))
        if trouble == "slow" or takes > timeout:
            self.clock.go(timeout)
            return CommandResult(code=None, out="", err=f"{command}: no answer within {timeout:.0f} s")
        self.clock.go(takes)
        code, words_ = {
            "sbatch": (1, f"sbatch: error: Batch job submission failed: {why}\n"),
            "scancel": (8, f"scancel: error: Kill job error on job id {words[-1]}: {why}\n"),
            "sinfo": (1, f"slurm_load_partitions: {why}\n"),
        }.get(command, (1, f"slurm_load_jobs error: {why}\n"))
        return said(code, err=words_)

    def _late(self, command: str, words: Sequence[str], cwd: Path) -> None:
        """It happens though nobody waits for the answer."""
        self._do(command, words, cwd)

    def _do(self, command: str, words: Sequence[str], cwd: Path) -> CommandResult:
        known = {"sbatch": self._sbatch, "squeue": self._squeue, "sacct": self._sacct, "scancel": self._scancel}
        known |= {"scontrol": self.scontrol, "sinfo": self.sinfo}
        if command not in known:
            return CommandResult(code=None, out="", err=f"{command}: No such file or directory")
        return known[command](list(words), cwd)

    # --------------------------------------------------------------------------------------------------------- sbatch

    def _sbatch(self, words: list[str], cwd: Path) -> CommandResult:
        options = read_options(words, SBATCH_VALUES, SBATCH_FLAGS, SHORT, stop_at_word=True)
        if options.unknown:
            return said(
                255,
                err=f"sbatch: unrecognized option '{options.unknown}'\nTry \"sbatch --help\" for more information\n",
            )
        script = cwd / options.words[0] if options.words else None
        if script is None or not script.is_file():
            return said(1, err=f"sbatch: error: Unable to open file {options.words[0] if options.words else ''}\n")
        text = script.read_text()
        if not text.startswith("#!"):
            lines = (
                "This does not look like a batch script.  The first",
                "line must start with #! followed by the path to an interpreter.",
            )
            return said(1, err="".join(f"sbatch: error: {line}\n" for line in (*lines, "For instance: #!/bin/sh")))
        inside = [word for line in directives(text) for word in shlex.split(line, comments=True)]
        given = read_options(inside, SBATCH_VALUES, SBATCH_FLAGS, SHORT).values | options.values
        job, refusal = self._job(given, script, text, submit_line(words), cwd)
        if job is None:
            return refusal
        if "test-only" in given:
            where = job.node_wanted or next(iter(self.cluster.nodes))
            words_ = (
                f"Job {self.cluster.take_id()} to start at {int(self.clock.true)} using 1 processors on nodes {where}"
            )
            return said(0, err=f"sbatch: {words_} in partition {job.partition}\n")
        number = job.array[0] if job.array is not None else job.raw
        return said(0, out=f"{number}\n" if "parsable" in given else f"Submitted batch job {number}\n")

    def _job(
        self, given: dict[str, str], script: Path, text: str, line: str, cwd: Path
    ) -> tuple[FakeJob | None, CommandResult]:
        failed = "allocation failure: " if "test-only" in given else "sbatch: error: Batch job submission failed: "
        before = self._refusal(given, failed)
        if before is not None:
            return None, before
        depends, unknown = dependency(given.get("dependency", ""))
        if unknown:
            return None, said(1, err=f"{failed}Job dependency problem\n")
        number = self.cluster.take_id() if "test-only" not in given else 0
        job = FakeJob(
            raw=number,
            name=given.get("job-name", script.name),
            comment=given.get("comment", ""),
            folder=Path(given.get("chdir", str(cwd))),
            script=script,
            text=text,
            line=f"sbatch {line}",
            partition=given.get("partition", self.partitions[0]),
            account=given.get("account", "lab"),
            qos=given.get("qos", "normal"),
            limit_seconds=minutes(given.get("time", "60")) * 60.0,
            requeue="no-requeue" not in given,
            gpus=gpus(given),
            nodes=int(given.get("nodes", "1")),
            node_wanted=given.get("nodelist", ""),
            depends=[pair for pair in depends if self._depends_on_known(pair[1])],
            kill_on_invalid=given.get("kill-on-invalid-dep", "no") == "yes",
            begin=begin_time(given.get("begin", ""), self.clock.true),
            held="hold" in given,
            signal_seconds=signal_seconds(given.get("signal", "")),
            life=Life(submitted=self.clock.true),
        )
        why = self._impossible(job, given)
        if why:
            job.impossible, job.life.state, job.life.reason = "BadConstraints", "FAILED", "BadConstraints"
            job.life.ended = self.clock.true
            if "test-only" not in given:
                self.cluster.jobs.append(job)
            return None, said(1, err="".join(f"sbatch: error: {each}\n" for each in why[:-1]) + f"{failed}{why[-1]}\n")
        if job.nodes > len(self.cluster.nodes):
            job.impossible = "PartitionConfig"
        if "test-only" in given:
            return job, said(0)
        for each in self._tasks(job, given.get("array", "")):
            self.cluster.add(each)
        self.submissions.append(Submission(job=job, time=self.clock.true, tokens=line))
        self.cluster.accepted(job)
        return job, said(0)

    def _refusal(self, given: dict[str, str], failed: str) -> CommandResult | None:
        if minutes(given.get("time", "60")) < 0:
            return said(255, err="sbatch: error: Invalid --time specification\n")
        partition, quality = given.get("partition", self.partitions[0]), given.get("qos", "normal")
        if partition not in self.partitions:
            first = f"sbatch: error: invalid partition specified: {partition}\n"
            return said(1, err=f"{first}{failed}Invalid partition name specified\n")
        if given.get("account", "lab") not in self.accounts:
            return said(1, err=f"{failed}Invalid account or account/partition combination specified\n")
        if quality not in self.qualities:
            return said(1, err=f"{failed}Invalid qos specification\n")
        mine = [job for job in self.cluster.jobs if job.active]
        most = self.limits.get(quality)
        if most is not None and len([job for job in mine if job.qos == quality]) >= most:
            return said(1, err=limit_text(failed))
        if self.max_submitted is not None and len(mine) >= self.max_submitted:
            return said(1, err=limit_text(failed))
        array = given.get("array")
        if array is not None and any(task >= self.max_array for task in read_numbers(array)[0]):
            return said(1, err=f"{failed}Invalid job array specification\n")
        if given.get("constraint"):
            return said(1, err=f"{failed}Invalid feature specification\n")
        return None

    def _impossible(self, job: FakeJob, given: dict[str, str]) -> list[str]:
        """Why no node will ever do, in the lines that sbatch prints."""
        typed = re.search(r"[a-z]", given.get("gpus", "").partition(":")[0]) is not None
        if typed or job.gpus > self.cluster.gpus_per_node:
            return ["Requested node configuration is not available"]
        if megabytes(given.get("mem", "100M")) > self.max_mem_mb:
            return ["Memory specification can not be satisfied", "Requested node configuration is not available"]
        return []

    def _depends_on_known(self, number: int) -> bool:
        return any(
            number in (job.raw, job.array[0] if job.array is not None else -1) and job.listed
            for job in self.cluster.jobs
        )

    def _tasks(self, job: FakeJob, array: str) -> list[FakeJob]:
        if not array:
            return [job]
        numbers, most = read_numbers(array)
        tasks: list[FakeJob] = []
        for number in numbers:
            values = {name: getattr(job, name) for name in FakeJob.__dataclass_fields__}
            values |= {"raw": 0, "array": (job.raw, number, most), "life": Life(submitted=job.life.submitted)}
            values |= {"depends": list(job.depends), "earlier": []}
            tasks.append(FakeJob(**values))
        job.array = (job.raw, numbers[0], most)
        return tasks

    # ------------------------------------------------------------------------------------- squeue, sacct, scancel, ...

    def _squeue(self, words: list[str], cwd: Path) -> CommandResult:
        del cwd
        values = frozenset({"format", "Format", "states", "jobs", "job", "name", "user", "partition", "sort"})
        short = {"o": "format", "O": "Format", "t": "states", "j": "jobs", "n": "name", "u": "user", "h": "noheader"}
        short |= {"p": "partition", "S": "sort", "a": "all", "r": "array"}
        options = read_options(words, values, frozenset({"noheader", "me", "all", "array"}), short)
        if options.unknown:
            return said(
                1, err=f"squeue: unrecognized option '{options.unknown}'\nTry \"squeue --help\" for more information\n"
            )
        given = options.values
        states = [state.upper() for state in given.get("states", "").split(",") if state]
        for state in states:
            if state not in STATES and state not in ("ALL", *fake_text.SHORT.values()):
                valid = f"squeue: error: Valid job states include: {','.join(STATES)}\n"
                return said(1, err=f"squeue: error: Invalid job state specified: {state.lower()}\n{valid}\n")
        jobs = [job for job in self.cluster.jobs if job.listed]
        asked = given.get("jobs", given.get("job"))
        if asked is not None:
            for each in asked.split(","):
                if not re.fullmatch(r"\d+(_\d+)?", each):
                    return said(1, err=f"squeue: error: Invalid job id: {each}\n")
            jobs = [job for job in jobs if any(is_called(job, each) for each in asked.split(","))]
            if not jobs and len(asked.split(",")) == 1:
                return said(1, err=f"slurm_load_jobs error: {INVALID}\n")
        if not states:
            jobs = [job for job in jobs if job.state in ACTIVE]
        elif "ALL" not in states:
            jobs = [job for job in jobs if job.state in states or fake_text.SHORT.get(job.state) in states]
        if "name" in given:
            jobs = [job for job in jobs if job.name in given["name"].split(",")]
        rows = listed_rows([(job, job.life) for job in jobs])
        format_ = given.get("format", "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R")
        out, err = fake_text.squeue_lines(
            rows, self.clock.true, format_, given.get("Format"), header="noheader" not in given
        )
        return said(0, out=out, err=err)

    def _sacct(self, words: list[str], cwd: Path) -> CommandResult:
        del cwd
        values = frozenset({"format", "jobs", "starttime", "endtime", "state", "name", "user", "delimiter", "cluster"})
        flags = frozenset({"noheader", "parsable2", "parsable", "allocations", "duplicates", "allusers", "truncate"})
        short = {
            "o": "format",
            "j": "jobs",
            "S": "starttime",
            "E": "endtime",
            "s": "state",
            "u": "user",
            "n": "noheader",
        }
        short |= {"P": "parsable2", "X": "allocations", "D": "duplicates", "a": "allusers"}
        options = read_options(words, values, flags, short)
        if options.unknown:
            return said(1, err=f"sacct: unrecognized option '{options.unknown}'\n")
        if not self.accounting:
            return said(1, err="Slurm accounting storage is disabled\n")
        given = options.values
        fields = given.get("format", "JobID,JobName,Partition,Account,AllocNodes,State,ExitCode").split(",")
        unknown = fake_text.unknown_sacct_field(fields)
        if unknown is not None:
            return said(1, err=f'sacct: error: Invalid field requested: "{unknown}"\n')
        asked = given["jobs"].split(",") if "jobs" in given else None
        for each in asked or ():
            if not re.fullmatch(r"\d+(_\d+)?", each):
                return said(1, err=f"sacct: fatal: Bad job/step specified: {each}\n")
        kept: dict[tuple[int, int], tuple[FakeJob, Life]] = {}
        for visible, identity, number, job, life in self.cluster.accounting:
            if visible <= self.clock.true and (asked is None or any(is_called(job, each) for each in asked)):
                kept[identity, number if "duplicates" in given else 0] = (job, life)
        since = given.get("starttime")
        seen = list(kept.values())
        whole = self.clock.true - self.cluster.accounting_whole
        if asked is None or "name" in given:
            seen = [(job, life) for job, life in seen if job.taken <= whole]
        if asked is None:
            start = since_time(since, self.clock.true)
            seen = [(job, life) for job, life in seen if life.ended is None or life.ended >= start]
        if "name" in given:
            seen = [(job, life) for job, life in seen if job.name in given["name"].split(",")]
        out = fake_text.sacct_lines(
            [replace(row, stub=row.job.taken > whole) for row in listed_rows(seen)],
            fields,
            given.get("delimiter", "|"),
            header="noheader" not in given,
            steps="allocations" not in given,
        )
        return said(0, out=out)

    def _scancel(self, words: list[str], cwd: Path) -> CommandResult:
        del cwd
        values = frozenset({"name", "user", "signal", "state", "partition"})
        options = read_options(
            words,
            values,
            frozenset({"batch", "full", "quiet"}),
            {"n": "name", "u": "user", "s": "signal", "b": "batch", "Q": "quiet"},
        )
        if options.unknown:
            what = f"unrecognized option '{options.unknown}'"
            if not options.unknown.startswith("--"):
                what = f"invalid option -- '{options.unknown[1:]}'"
            return said(1, err=f'scancel: {what}\nTry "scancel --help" for more information\n')
        given = options.values
        if not options.words and not given:
            return said(1, err="scancel: error: No job identification provided\n")
        for each in options.words:
            if not re.fullmatch(r"\d+(_\d+)?", each):
                return said(1, err=f"scancel: error: Invalid job id {each}\n")
        for job in list(self.cluster.jobs):
            called = any(is_called(job, each) for each in options.words) or (
                not options.words and (job.name == given.get("name") or "user" in given)
            )
            if called and job.active:
                if "signal" in given and job.work is not None:
                    job.work.signal(given["signal"].removeprefix("SIG"), self.clock.true)
                elif "signal" not in given:
                    self.cluster.cancel(job, self.clock.true)
        self.cluster.advance(self.clock.true)
        return said(0)
