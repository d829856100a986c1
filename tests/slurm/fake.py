"""SLURM's commands without SLURM: the words of 22.05, jobs that come and go in simulated time, and faults on order.

    clock = SimClock()
    fake = FakeSlurm(clock, make_work)
    fake.run(["sbatch", "--parsable", "finetune.slurm"], timeout_seconds=10, cwd=folder)

It answers what the product asks, as a real one was recorded: tests/slurm/scenarios.py runs on both, and every answer
must be the same.
"""

import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.slurm.fake_cluster import FakeCluster
from tests.slurm.fake_jobs import FakeJob, Life, SimClock, Work, sacct_lines, squeue_lines

from touchline.slurm.local.commands import CommandResult

CONNECT = "Unable to contact slurm controller (connect failure)"
TIMED_OUT = "Socket timed out on send/recv operation"
INVALID = "Invalid job id specified"
FLAGS = frozenset(
    {*("parsable", "test-only", "requeue", "no-requeue", "hold", "me", "parsable2", "allocations", "duplicates")}
)
VALUES = frozenset(
    {
        *("job-name", "comment", "partition", "account", "qos", "time", "gpus", "mem", "dependency", "output"),
        *("open-mode", "signal", "begin", "nodelist", "export", "Format", "states", "jobs", "format", "delimiter"),
        "starttime",
    }
)
SHORT = {"-j": "--jobs"}

Trouble = Literal["", "down", "frozen", "no database", "lost in", "lost out", "empty", "partial", "slow"]
"""What is wrong with one command. `lost in`: the job is taken though the answer is not told; `lost out`: it is not."""


@dataclass(kw_only=True, slots=True)
class Submission:
    job: FakeJob
    time: float
    tokens: str


class FakeSlurm:
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
        self.max_mem_mb = 64000
        self.submissions: list[Submission] = []
        self.calls: list[tuple[str, ...]] = []
        self.kept: list[tuple[int, ...]] = []
        """Descriptors that each call was given."""
        self.answers: dict[str, CommandResult] = {}
        """What a command says instead of an answer."""
        self.trouble: Callable[[Sequence[str]], Trouble] = lambda words: ""
        self.step: Callable[[str], None] = lambda point: None
        self.thaw: float = 0.0
        """When a frozen controller goes on: what was sent to it meanwhile happens then."""

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
        self.calls.append((command, *words[1:]))
        self.kept.append(tuple(keep))
        self.step(f"{command} called")
        trouble = self.trouble(words)
        self.clock.go(0.02)
        if command in self.answers:
            return self.answers[command]
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

    def count(self, command: str) -> int:
        return sum(words[0] == command for words in self.calls)

    def submit_by_hand(self, words: Sequence[str], folder: Path) -> CommandResult:
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
        if trouble == "no database" and command == "sacct":
            where = "127.0.0.1:6819: Connection refused"
            lines = ["slurm_persist_conn_open_without_init: failed to open persistent connection to host:" + where]
            lines += [
                "Sending PersistInit msg: Connection refused",
                "Problem talking to the database: Connection refused",
            ]
            return _said(1, err="".join(f"{command}: error: {line}\n" for line in lines))
        answer = self._do(command, words, cwd)
        if trouble == "empty" and answer.code == 0 and command in ("squeue", "sacct"):
            return _said(0, out="".join(answer.out.splitlines(keepends=True)[:1]))
        if trouble == "partial" and answer.code == 0 and command in ("squeue", "sacct"):
            return _said(0, out=answer.out[: len(answer.out) * 2 // 3])
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
        }.get(command, (1, f"slurm_load_jobs error: {why}\n"))
        return _said(code, err=words_)

    def _late(self, command: str, words: Sequence[str], cwd: Path) -> None:
        """It happens though nobody waits for the answer."""
        self._do(command, words, cwd)

    def _do(self, command: str, words: Sequence[str], cwd: Path) -> CommandResult:
        known = {"sbatch": self._sbatch, "squeue": self._squeue, "sacct": self._sacct, "scancel": self._scancel}
        known |= {"scontrol": self._scontrol}
        if command not in known:
            return CommandResult(code=None, out="", err=f"{command}: No such file or directory")
        return known[command](list(words), cwd)

    def _sbatch(self, words: list[str], cwd: Path) -> CommandResult:
        options, rest, unknown = _read_options(words)
        if unknown:
            return _said(
                255, err=f"sbatch: unrecognized option '{unknown}'\nTry \"sbatch --help\" for more information\n"
            )
        script = cwd / rest[0] if rest else None
        if script is None or not script.is_file():
            return _said(1, err=f"sbatch: error: Unable to open file {rest[0] if rest else ''}\n")
        text = script.read_text()
        if not text.startswith("#!"):
            lines = (
                "This does not look like a batch script.  The first",
                "line must start with #! followed by the path to an interpreter.",
            )
            return _said(1, err="".join(f"sbatch: error: {line}\n" for line in (*lines, "For instance: #!/bin/sh")))
        header = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
        inside = [word for line in header for word in shlex.split(line, comments=True)]
        given = _read_options(inside)[0] | options
        job, refusal = self._job(given, script, text, " ".join(words), cwd)
        if job is None:
            return refusal
        if "test-only" in given:
            where = job.node_wanted or next(iter(self.cluster.nodes))
            start = f"Job {self.cluster.take_id()} to start at {int(self.clock.true)} using 1 processors"
            return _said(0, err=f"sbatch: {start} on nodes {where} in partition {job.partition}\n")
        return _said(0, out=f"{job.raw}\n")

    def _job(
        self, given: dict[str, str], script: Path, text: str, line: str, cwd: Path
    ) -> tuple[FakeJob | None, CommandResult]:
        failed = "allocation failure: " if "test-only" in given else "sbatch: error: Batch job submission failed: "
        before = self._refusal(given, failed)
        if before is not None:
            return None, before
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
            qos=given.get("qos", "normal"),
            limit_seconds=_minutes(given.get("time", "60")) * 60.0,
            requeue="no-requeue" not in given,
            gpus=_gpus(given),
            node_wanted=given.get("nodelist", ""),
            depends=given.get("dependency", "").split(":")[1:],
            begin=self.clock.true + 3600.0 if "begin" in given else 0.0,
            held="hold" in given,
            signal_seconds=_signal_seconds(given.get("signal", "")),
            life=Life(submitted=self.clock.true),
        )
        why = self._impossible(job, given)
        if why:
            job.impossible, job.life.state, job.life.reason = "BadConstraints", "FAILED", "BadConstraints"
            job.life.ended = self.clock.true
            if "test-only" not in given:
                self.cluster.jobs.append(job)
            return None, _said(1, err="".join(f"sbatch: error: {each}\n" for each in why[:-1]) + f"{failed}{why[-1]}\n")
        if "test-only" in given:
            return job, _said(0)
        self.cluster.add(job)
        self.submissions.append(Submission(job=job, time=self.clock.true, tokens=line))
        self.cluster.accepted(job)
        return job, _said(0)

    def _refusal(self, given: dict[str, str], failed: str) -> CommandResult | None:
        if _minutes(given.get("time", "60")) < 0:
            return _said(255, err="sbatch: error: Invalid --time specification\n")
        partition, quality = given.get("partition", self.partitions[0]), given.get("qos", "normal")
        if partition not in self.partitions:
            first = f"sbatch: error: invalid partition specified: {partition}\n"
            return _said(1, err=f"{first}{failed}Invalid partition name specified\n")
        if given.get("account", "lab") not in self.accounts:
            return _said(1, err=f"{failed}Invalid account or account/partition combination specified\n")
        if quality not in self.qualities:
            return _said(1, err=f"{failed}Invalid qos specification\n")
        mine = [job for job in self.cluster.jobs if job.active]
        most = self.limits.get(quality)
        if most is not None and len([job for job in mine if job.qos == quality]) >= most:
            return _said(1, err=_limit_text(failed))
        if self.max_submitted is not None and len(mine) >= self.max_submitted:
            return _said(1, err=_limit_text(failed))
        return None

    def _impossible(self, job: FakeJob, given: dict[str, str]) -> list[str]:
        """Why no node will ever do, in the lines that sbatch prints."""
        typed = re.search(r"[a-z]", given.get("gpus", "").partition(":")[0]) is not None
        if typed or job.gpus > self.cluster.gpus_per_node:
            return ["Requested node configuration is not available"]
        if _megabytes(given.get("mem", "100M")) > self.max_mem_mb:
            return ["Memory specification can not be satisfied", "Requested node configuration is not available"]
        return []

    def _squeue(self, words: list[str], cwd: Path) -> CommandResult:
        del cwd
        given = _read_options(words)[0]
        asked = given["jobs"].split(",") if "jobs" in given else None
        jobs = [job for job in self.cluster.jobs if job.listed and (asked is None or str(job.raw) in asked)]
        return _said(0, out=squeue_lines([(job, job.life) for job in jobs], given["Format"]))

    def _sacct(self, words: list[str], cwd: Path) -> CommandResult:
        del cwd
        if not self.accounting:
            return _said(1, err="Slurm accounting storage is disabled\n")
        given = _read_options(words)[0]
        asked = given["jobs"].split(",") if "jobs" in given else None
        kept: dict[tuple[int, int], tuple[FakeJob, Life]] = {}
        for visible, identity, number, job, life in self.cluster.accounting:
            if visible <= self.clock.true and (asked is None or str(job.raw).partition(".")[0] in asked):
                kept[identity, number if "duplicates" in given else 0] = (job, life)
        seen = list(kept.values())
        whole = self.clock.true - self.cluster.accounting_whole
        if asked is None:
            days = re.fullmatch(r"now-(\d+)days", given["starttime"])
            start = self.clock.true - float(days[1]) * 86400.0
            seen = [(job, life) for job, life in seen if job.taken <= whole]
            seen = [(job, life) for job, life in seen if life.ended is None or life.ended >= start]
        stubs = [job.taken > whole for job, _ in seen]
        return _said(0, out=sacct_lines(seen, stubs, given["format"].split(","), given["delimiter"]))

    def _scancel(self, words: list[str], cwd: Path) -> CommandResult:
        del cwd
        for job in list(self.cluster.jobs):
            if str(job.raw) in words and job.active:
                self.cluster.cancel(job, self.clock.true)
        self.cluster.advance(self.clock.true)
        return _said(0)

    def _scontrol(self, words: list[str], cwd: Path) -> CommandResult:
        del cwd
        pairs = {key.lower(): value for key, _, value in (word.partition("=") for word in words[1:])}
        asked = pairs.get("jobid", words[-1])
        jobs = [job for job in self.cluster.jobs if job.listed and asked == str(job.raw)]
        if words[:2] == ["show", "job"]:
            lines = [f"JobId={job.raw} JobName={job.name}\n   UserId=root(0) GroupId=root(0)\n\n" for job in jobs]
            return _said(0, out=lines[0]) if lines else _said(1, err=f"slurm_load_jobs error: {INVALID}\n")
        if "nodename" in pairs and pairs["state"] == "down":
            self.cluster.fail_node(pairs["nodename"], self.clock.true, at_once=True)
        elif "nodename" in pairs:
            self.cluster.restore_node(pairs["nodename"])
        for job in jobs:
            if words[0] == "requeue" and not self.cluster.queue_again(job, self.clock.true):
                return _said(1, err=f"Requested operation is presently disabled for job {asked}\n")
            if "endtime" in pairs:
                end = self.clock.true + float(pairs["endtime"].removeprefix("now+"))
                job.limit_at, job.limit_seconds = end + (-end % self.cluster.limit_grain), 60.0
        self.cluster.touch()
        return _said(0)


def _said(code: int, *, out: str = "", err: str = "") -> CommandResult:
    return CommandResult(code=code, out=out, err=err)


def _read_options(words: Sequence[str]) -> tuple[dict[str, str], list[str], str]:
    """Options with their values, the words from the first that is none, and the first unknown option."""
    found: dict[str, str] = {}
    rest, unknown = list(words), ""
    while rest and rest[0].startswith("-"):
        name, equals, value = SHORT.get(rest[0], rest[0]).partition("=")
        word = rest.pop(0)
        if name[2:] in VALUES:
            found[name[2:]] = value if equals else rest.pop(0)
        elif name[2:] in FLAGS and not equals:
            found[name[2:]] = ""
        else:
            unknown = unknown or word
    return found, rest, unknown


def _limit_text(failed: str) -> str:
    why = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    return f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{failed}{why}\n"


def _minutes(text: str) -> float:
    """Minutes of `90`, `1:30:00` or `1-00:00`; negative for none."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts) or (dash and not days.isdigit()):
        return -1.0
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
        return int(days) * 1440.0 + hours * 60 + minutes + seconds / 60
    if len(numbers) == 3:
        return numbers[0] * 60.0 + numbers[1] + numbers[2] / 60
    return numbers[0] + (numbers[1] / 60 if len(numbers) == 2 else 0.0)


def _gpus(given: dict[str, str]) -> int:
    number = given.get("gpus", "0").rpartition(":")[2]
    return int(number) if number.isdigit() else 1


def _megabytes(text: str) -> float:
    scale = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}
    return float(text.rstrip("KMGT")) * scale.get(text[-1], 1.0)


def _signal_seconds(text: str) -> float | None:
    match = re.fullmatch(r"(?:B:)?(?:SIG)?USR1@(\d+)", text)
    return None if match is None else float(match[1])
