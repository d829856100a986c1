"""Short conversations with SLURM, which the real one and the fake must answer alike.

    python -m tests.slurm.scenarios        runs them all on a real SLURM and writes transcripts.json anew

A scenario is a function of a `Talk`; `talk.ask` puts a command and what was said into the transcript, with ids, times
and nodes replaced; `talk.until` waits. All run side by side, each in a folder of its own.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.slurm.talk import Talk, WaitTimeoutError

from touchline.core.clock import Clock, RealClock
from touchline.slurm.accounting import accounting_format
from touchline.slurm.local.commands import Commands
from touchline.slurm.queue import queue_format

TRANSCRIPTS = Path(__file__).with_name("transcripts.json")
SMALL_IDS = 100
STATES = "%i|%T|%r|%K|%F|%N"
FIELDS = "JobID,JobName,State,ExitCode,NodeList,TimelimitRaw,Partition,WorkDir,SubmitLine,Comment"


Scenario = Callable[[Talk], None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    """Put it on the list."""
    SCENARIOS[function.__name__] = function
    return function


def _queue(talk: Talk) -> None:
    """What squeue knows of our jobs, in two forms, of which the product uses the second."""
    ids = ",".join(talk.ids)
    talk.ask("squeue", "--me", "-h", "-t", "all", "-o", STATES, "-j", ids)
    if not any("array" in line for line in talk.submitted):
        talk.ask("squeue", "--me", "--states=all", f"--Format={queue_format('#')}", "-j", ids)


def _book(talk: Talk, *more: str) -> None:
    ids = ",".join(talk.ids)
    talk.ask("sacct", "-n", "-P", "-X", *more, "-j", ids, "-o", FIELDS)
    if not any("array" in line for line in talk.submitted):
        fields = f"--format={accounting_format()}"
        talk.ask("sacct", "--parsable2", "--allocations", "--duplicates", "--delimiter=#", fields, f"--jobs={ids}")


@scenario
def taken(talk: Talk) -> None:
    """A job that goes well, with all that is asked of it later."""
    script = talk.script("finetune.slurm", "sleep 1", options=("--job-name=from_script", "--time=10"))
    talk.ask("sbatch", "--parsable", f"--nodelist={talk.nodes[0]}", "--comment=tok-1", "--job-name=a run", script)
    talk.until(J1="COMPLETED")
    talk.ask(
        "squeue", "--me", "-h", "-t", "all", "-o", "%i|%T|%r|%k|%j|%Z|%o|%P|%N|%l|%A|%F|%K|%u|%D", "-j", talk.ids[0]
    )
    talk.ask("squeue", "--me", "-t", "all", "-o", "%i|%A|%F|%K|%r|%k|%j|%Z|%o|%P|%N|%V|%S|%e|%l|%T", "-j", talk.ids[0])
    talk.ask("squeue", "-h", "-o", "%T", "-j", talk.ids[0])
    talk.booked("COMPLETED")
    talk.ask(
        "sacct",
        "--parsable2",
        "--allocations",
        "--duplicates",
        "--delimiter=#",
        f"--format={FIELDS}",
        f"--jobs={talk.ids[0]}",
    )
    talk.ask("sacct", "-n", "-P", "-j", talk.ids[0], "-o", "JobID,JobName,State,ExitCode,NodeList")
    talk.ask(
        "scontrol",
        "show",
        "job",
        talk.ids[0],
        only="JobState|Reason|Restarts|Requeue|ExitCode|WorkDir|Command|Comment|Partition",
    )
    talk.ask("scancel", talk.ids[0])
    _queue(talk)


@scenario
def said_in_full(talk: Talk) -> None:
    """Without --parsable; from the script's own lines."""
    script = talk.script("s.sh", "true", options=("--comment=inside", "--time=0-00:30:00"))
    talk.ask("sbatch", f"--nodelist={talk.nodes[0]}", script)
    talk.until(J1="COMPLETED")
    talk.ask(
        "squeue",
        "--me",
        "-h",
        "-t",
        "all",
        "-O",
        "JobArrayID:|,State:|,Comment:|,RestartCnt:|,Name:|",
        "-j",
        talk.ids[0],
    )


@scenario
def refused(talk: Talk) -> None:
    """What sbatch says no to."""
    script = talk.script("s.sh", "true")
    (talk.folder / "plain.txt").write_text("echo hello\n")
    for option in (
        *("--partition=nowhere", "--account=nobody", "--qos=none", "--gres=gpu:99", "--mem=9999G", "--time=soon"),
        *("--constraint=zz", "--array=0-5000", "--bogus", "--bogus=1", "--dependency=nonsense", "--gpus=a100:1"),
    ):
        talk.ask("sbatch", "--parsable", option, script)
    talk.ask("sbatch", "--parsable", "nothing.sh")
    talk.ask("sbatch", "--parsable", "plain.txt")
    talk.ask("sbatch", "--parsable", talk.script("in.sh", "true", options=("--partition=nowhere",)))
    talk.ask("sbatch", "--test-only", "--partition=nowhere", script)


@scenario
def over_the_limit(talk: Talk) -> None:
    """More jobs than a quality of service takes."""
    script = talk.script("s.sh", "sleep 60")
    for _ in range(3):
        talk.ask("sbatch", "--parsable", "--qos=small", f"--nodelist={talk.nodes[0]}", script)
    talk.run("scancel", *talk.ids)


@scenario
def unknown_ids(talk: Talk) -> None:
    """Questions about jobs that are not there."""
    known = talk.submit(talk.script("s.sh", "sleep 60"))
    talk.until(J1="RUNNING")
    talk.ask("squeue", "-h", "-o", "%T", "-j", "7777777")
    talk.ask("squeue", "-h", "-o", "%T", "-j", f"7777777,{known}")
    talk.ask("squeue", "-h", "-o", "%T", "-j", "abc")
    talk.ask("squeue", "-t", "bogus")
    talk.ask("squeue", "--bogus")
    talk.ask("sacct", "-n", "-P", "-X", "-j", "7777777", "-o", "JobID,State")
    talk.ask("sacct", "-P", "-X", "-j", "7777777", "-o", "JobID,State")
    talk.ask("sacct", "-n", "-P", "-j", "abc", "-o", "JobID")
    talk.ask("sacct", "-n", "-P", "-X", "-j", known, "-o", "JobID,Bogus")
    talk.ask("sacct", "--bogus")
    talk.ask("scancel", "7777777")
    talk.ask("scancel", "abc")
    talk.ask("scancel", "--bogus")
    talk.ask("scancel")
    talk.ask("scancel", "--name=nothing")
    talk.ask("scontrol", "show", "job", "7777777")
    talk.ask("scontrol", "show", "job", "abc")
    talk.ask("scontrol", "requeue", "7777777")
    talk.ask("scontrol", "hold", "7777777")
    talk.ask("scontrol", "show", "nonsense")
    talk.ask("scancel", known)


@scenario
def failed(talk: Talk) -> None:
    """Exit code 3."""
    talk.submit(talk.script("s.sh", "exit 3"))
    talk.until(J1="FAILED")
    _queue(talk)
    talk.booked("FAILED")
    _book(talk)
    talk.ask("scontrol", "show", "job", talk.ids[0], only="JobState|Reason|Restarts|ExitCode")


@scenario
def killed(talk: Talk) -> None:
    """kill -9 of the script."""
    talk.submit(talk.script("s.sh", "kill -9 $$"))
    talk.until(J1="FAILED")
    _queue(talk)
    talk.booked("FAILED")
    _book(talk)
    talk.ask("sacct", "-n", "-P", "-j", talk.ids[0], "-o", "JobID,State,ExitCode")


@scenario
def cancelled(talk: Talk) -> None:
    """scancel of one that runs, of one that waits, of one that has a trap."""
    talk.submit(talk.script("s.sh", "sleep 300"))
    talk.submit("--begin=now+1hour", "s.sh")
    talk.submit(talk.script("trap.sh", "trap 'exit 75' TERM", "sleep 300 & wait"))
    talk.submit("--hold", "s.sh")
    talk.until(J1="RUNNING", J2="PENDING BeginTime", J3="RUNNING", J4="PENDING JobHeldUser")
    _queue(talk)
    talk.clock.sleep(1.0)
    talk.ask("scancel", *talk.ids)
    talk.until(J1="CANCELLED", J2="CANCELLED", J3="CANCELLED", J4="CANCELLED")
    _queue(talk)
    talk.booked(*["CANCELLED"] * 4)
    _book(talk)
    talk.ask("sacct", "-n", "-P", "-j", ",".join(talk.ids), "-o", "JobID,State,ExitCode,TimelimitRaw")


@scenario
def over_time(talk: Talk) -> None:
    """The time limit comes."""
    talk.submit("--time=60", talk.script("s.sh", "sleep 600"))
    talk.until(J1="RUNNING")
    talk.ask("scontrol", "update", f"jobid={talk.ids[0]}", "EndTime=now+2")
    talk.until(J1="TIMEOUT")
    _queue(talk)
    talk.booked("TIMEOUT")
    _book(talk)


@scenario
def requeued(talk: Talk) -> None:
    """scontrol requeue from outside."""
    talk.submit("--requeue", talk.script("s.sh", '[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || sleep 300', "sleep 1"))
    talk.until(J1="RUNNING")
    talk.clock.sleep(1.0)
    talk.ask("scontrol", "requeue", talk.ids[0])
    talk.until(J1="PENDING BeginTime")
    _queue(talk)
    talk.until(J1="COMPLETED")
    _queue(talk)
    talk.booked("COMPLETED")
    _book(talk)
    _book(talk, "-D")
    talk.ask("scontrol", "show", "job", talk.ids[0], only="JobState|Reason|Restarts|ExitCode")


@scenario
def requeues_itself(talk: Talk) -> None:
    """scontrol requeue from inside."""
    body = ('[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || scontrol requeue $SLURM_JOB_ID',)
    more = ('[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || sleep 60', "exit 5")
    talk.submit("--requeue", talk.script("s.sh", *body, *more))
    talk.until(J1="FAILED")
    _queue(talk)
    talk.booked("FAILED")
    _book(talk, "-D")


@scenario
def requeued_after_its_end(talk: Talk) -> None:
    """A job that has ended runs again; one that does not allow it does not."""
    talk.submit(talk.script("s.sh", '[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || exit 4', "true"))
    talk.submit("--no-requeue", talk.script("t.sh", "sleep 300"))
    talk.until(J1="FAILED", J2="RUNNING")
    talk.booked("FAILED", "RUNNING")
    talk.ask("scontrol", "requeue", talk.ids[0])
    talk.ask("scontrol", "requeue", talk.ids[1])
    talk.until(J1="COMPLETED")
    talk.ask("squeue", "--me", "-h", "-t", "all", "-o", STATES, "-j", talk.ids[0])
    talk.booked("COMPLETED", "RUNNING")
    _book(talk, "-D")
    talk.run("scancel", talk.ids[1])


@scenario
def dependencies(talk: Talk) -> None:
    """After one that failed: afterok never, afterany at once."""
    failing = talk.submit(talk.script("fail.sh", "sleep 1", "exit 1"))
    talk.script("s.sh", "true")
    talk.submit(f"--dependency=afterok:{failing}", "s.sh")
    talk.submit(f"--dependency=afterany:{failing}", "s.sh")
    talk.submit(f"--dependency=afterok:{failing}", "--kill-on-invalid-dep=yes", "s.sh")
    talk.submit(f"--dependency=afternotok:{failing}", "s.sh")
    talk.until(J1="FAILED", J2="PENDING DependencyNeverSatisfied", J3="COMPLETED", J4="CANCELLED", J5="COMPLETED")
    _queue(talk)
    talk.booked("FAILED", "PENDING", "COMPLETED", "CANCELLED", "COMPLETED")
    talk.ask("sacct", "-n", "-P", "-X", "-j", ",".join(talk.ids), "-o", "JobID,State,ExitCode")
    talk.ask("scancel", talk.ids[1])
    talk.until(J2="CANCELLED")
    talk.booked("FAILED", "CANCELLED", "COMPLETED", "CANCELLED", "COMPLETED")
    talk.ask("sacct", "-n", "-P", "-X", "-j", ",".join(talk.ids), "-o", "JobID,State,ExitCode")


@scenario
def dependency_on_the_forgotten(talk: Talk) -> None:
    """A job that nobody knows is no reason to wait."""
    talk.submit("--dependency=afterok:7777777", talk.script("s.sh", "true"))
    talk.until(J1="COMPLETED")
    done = talk.ids[0]
    talk.submit(f"--dependency=afterok:{done}", "s.sh")
    talk.until(J2="COMPLETED")
    _queue(talk)


@scenario
def array(talk: Talk) -> None:
    """Four tasks, two at a time, one of which fails."""
    talk.submit("--array=0-3%2", talk.script("s.sh", "sleep 2", '[ "$SLURM_ARRAY_TASK_ID" != 2 ] || exit 1'))
    talk.until(J1_0="COMPLETED", J1_1="COMPLETED", J1_2="FAILED", J1_3="COMPLETED")
    _queue(talk)
    talk.booked("COMPLETED", "COMPLETED", "FAILED", "COMPLETED")
    _book(talk)
    talk.ask("squeue", "-h", "-t", "all", "-o", "%i|%T|%K|%F", "-j", f"{talk.ids[0]}_2")
    talk.ask("sacct", "-n", "-P", "-X", "-j", f"{talk.ids[0]}_2", "-o", "JobID,State,ExitCode")


@scenario
def array_that_waits(talk: Talk) -> None:
    """Held tasks are one line; a cancelled one leaves it."""
    talk.submit("--array=0-5%2", "--hold", talk.script("s.sh", "true"))
    talk.until(**{"J1_[0-5%2]": "PENDING"})
    _queue(talk)
    talk.booked("PENDING")
    talk.ask("sacct", "-n", "-P", "-X", "-j", talk.ids[0], "-o", "JobID,State,ExitCode")
    talk.ask("scancel", f"{talk.ids[0]}_4")
    talk.until(**{"J1_[0-3,5%2]": "PENDING"})
    _queue(talk)
    talk.ask("scancel", talk.ids[0])


@scenario
def node_down(talk: Talk) -> None:
    """A node fails under two jobs: one is queued again, the other is not."""
    talk.submit("--requeue", talk.script("s.sh", '[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || sleep 300', "true"), node=1)
    talk.submit("--no-requeue", talk.script("t.sh", "sleep 300"), node=1)
    talk.until(J1="RUNNING", J2="RUNNING")
    talk.clock.sleep(1.0)
    talk.ask("scontrol", "update", f"nodename={talk.nodes[1]}", "state=down", "reason=test")
    talk.until(J1="PENDING", J2="NODE_FAIL")
    talk.ask("squeue", "--me", "-h", "-t", "all", "-o", "%i|%T|%r", "-j", talk.ids[1])
    # It may be back already: it answers.
    talk.run("scontrol", "update", f"nodename={talk.nodes[1]}", "state=resume")
    talk.until(J1="COMPLETED")
    talk.booked("COMPLETED", "NODE_FAIL")
    talk.ask("sacct", "-n", "-P", "-X", "-D", "-j", ",".join(talk.ids), "-o", "JobID,State,ExitCode")
    talk.ask("scontrol", "show", "job", talk.ids[0], only="JobState|Restarts|ExitCode")


@scenario
def held_and_released(talk: Talk) -> None:
    """scontrol hold and release."""
    talk.submit("--hold", talk.script("s.sh", "true"))
    talk.until(J1="PENDING JobHeldUser")
    _queue(talk)
    talk.ask("scontrol", "release", talk.ids[0])
    talk.until(J1="COMPLETED")
    _queue(talk)


@scenario
def too_large(talk: Talk) -> None:
    """More nodes than there are: it waits for ever."""
    script = talk.script("s.sh", "true")
    talk.ask("sbatch", "--parsable", "--nodes=99", script)
    talk.until(J1="PENDING PartitionConfig")
    _queue(talk)
    talk.ask("scancel", talk.ids[0])
    talk.until(J1="CANCELLED")
    _queue(talk)


@scenario
def odd_names(talk: Talk) -> None:
    """Blanks, quotes and bars in names and comments."""
    script = talk.script("a script.sh", "true")
    talk.submit('--job-name=it\'s a "run" | 1', "--comment=a|b c", script)
    talk.until(J1="COMPLETED")
    talk.ask("squeue", "--me", "-h", "-t", "all", "-o", "%i#%j#%k#%o", "-j", talk.ids[0])
    talk.booked("COMPLETED")
    talk.ask("sacct", "-n", "-P", "-X", "-j", talk.ids[0], "--delimiter=#", "-o", "JobID,JobName,SubmitLine")


@scenario
def by_name(talk: Talk) -> None:
    """Looking for a job by its name, as far back as two days."""
    talk.submit("--job-name=wanted-9f3", talk.script("s.sh", "true"))
    talk.until(J1="COMPLETED")
    talk.booked("COMPLETED")
    talk.ask("squeue", "--me", "-h", "-t", "all", "-n", "wanted-9f3", "-o", "%i|%j")
    talk.ask("sacct", "-n", "-P", "-X", "--name=wanted-9f3", "-S", "now-2days", "-o", "JobID,JobName,State")


@scenario
def site(talk: Talk) -> None:
    """What the cluster says of itself."""
    talk.ask("scontrol", "ping", only="nothing")
    words = talk.run("scontrol", "show", "config").out
    for key in ("AccountingStorageType", "MaxArraySize", "MinJobAge", "SLURM_VERSION"):
        match = re.search(rf"^{key}\s*= .*$", words, re.MULTILINE)
        talk.lines.append(match[0] if match else f"no {key}")
    talk.ask("sinfo", "-h", "-o", "%P|%a|%l|%D|%G")


def converse(name: str, commands: Commands, clock: Clock, folder: Path, nodes: Sequence[str]) -> list[str]:
    """Run one scenario and give its transcript."""
    folder.mkdir(parents=True)
    talk = Talk(commands=commands, clock=clock, folder=folder, nodes=nodes)
    SCENARIOS[name](talk)
    return talk.lines


def converse_all(commands: Commands, folder: Path, nodes: Sequence[str]) -> dict[str, list[str]]:
    """Run every scenario on a real SLURM, side by side; what went wrong stands in the place of a transcript."""

    def one(name: str) -> list[str]:
        try:
            return converse(name, commands, RealClock(), folder / name, nodes)
        except WaitTimeoutError as fault:
            return [f"waited in vain: {fault}"]

    _pass_small_ids(commands, folder)
    with ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip(SCENARIOS, pool.map(one, SCENARIOS), strict=True))


def _pass_small_ids(commands: Commands, folder: Path) -> None:
    """Ids that could be taken for a count or an exit code are used up, by asking when a job would start."""
    (folder / "small.sh").write_text("#!/bin/bash\n")
    for _ in range(SMALL_IDS):
        answer = commands.run(("sbatch", "--test-only", "small.sh"), timeout_seconds=60.0, cwd=folder)
        match = re.search(r"Job (\d+) to start", answer.err)
        if match is None or int(match[1]) >= SMALL_IDS:
            return


def recorded() -> dict[str, list[str]]:
    """What the real one said when it was asked last."""
    found: dict[str, list[str]] = json.loads(TRANSCRIPTS.read_text())
    return found


_GUESSED_START = re.compile(
    r"(?P<before>#\d+:\d+#TIME#)(?:TIME|None)(?P<after>#TIME#[^\n]*#(?:CANCELLED by \d+|REQUEUED)(?=$|['\n\\]))"
)


def differences(said: dict[str, list[str]], expected: dict[str, list[str]]) -> Iterator[str]:
    """Every line that differs."""
    for name in sorted(set(said) | set(expected)):
        one, other = said.get(name, []), expected.get(name, [])
        for number in range(max(len(one), len(other))):
            here = one[number] if number < len(one) else "nothing"
            there = other[number] if number < len(other) else "nothing"
            if _without_guesses(here) != _without_guesses(there):
                yield f"{name}:{number + 1}: said {here!r}, recorded {there!r}"


def _without_guesses(line: str) -> str:
    """Without the start that sacct tells of a job that was cancelled before it started, or that was requeued: now a
    time, now none, by the same SLURM for the same commands."""
    return _GUESSED_START.sub(r"\g<before>GUESS\g<after>", line)


def main() -> int:
    """Record."""
    from tests.slurm.cluster import Cluster

    with Cluster() as cluster, tempfile.TemporaryDirectory() as folder:
        said = converse_all(cluster.commands(), Path(folder), cluster.nodes)
    TRANSCRIPTS.write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
    return int(any(lines and lines[0].startswith("waited") for lines in said.values()))


if __name__ == "__main__":
    sys.exit(main())
