"""Short conversations with SLURM, which the real one and the fake must answer alike.

    python -m tests.slurm.scenarios        runs them all on a real SLURM and writes transcripts.json anew

A scenario is a function of a `Talk`; `talk.ask` puts a command and what was said into the transcript, with ids, times
and nodes replaced; `talk.until` waits. All run side by side, each in a folder of its own.
"""

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from touchline.core.clock import Clock, RealClock
from touchline.slurm.local.commands import CommandResult, Commands
from touchline.slurm.queue import accounting_format, queue_format

PATIENCE_SECONDS = 150.0
"""What a scenario waits for comes within this time, or never."""


class WaitTimeoutError(Exception):
    """What was waited for did not come."""


@dataclass(kw_only=True)
class Talk:
    commands: Commands
    clock: Clock
    folder: Path
    nodes: Sequence[str]
    lines: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def script(self, name: str, *body: str, options: Sequence[str] = ()) -> str:
        head = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options)]
        (self.folder / name).write_text("\n".join([*head, *body]) + "\n")
        return name

    def run(self, *words: str) -> CommandResult:
        return self.commands.run(words, timeout_seconds=60.0, cwd=self.folder)

    def submit(self, *words: str, node: int = 0) -> str:
        """sbatch that goes well, on the first node; its id."""
        answer = self.run("sbatch", "--parsable", f"--nodelist={self.nodes[node]}", *words)
        if answer.code != 0:
            raise WaitTimeoutError(answer.err)
        self.ids.append(answer.out.strip())
        return answer.out.strip()

    def ask(self, *words: str) -> CommandResult:
        """Run a command and write down what it said."""
        answer = self.run(*words)
        if words[0] == "sbatch" and answer.code == 0:
            self.ids += re.findall(r"^(?:Submitted batch job )?(\d+)$", answer.out, re.MULTILINE)
        self.lines.append(self.neutral("$ " + " ".join(words)))
        self.lines.append(f"code {answer.code}")
        self.lines += [f"out {self.neutral(line)}" for line in sorted(answer.out.splitlines())]
        self.lines += [f"err {self.neutral(line)}" for line in answer.err.splitlines()]
        return answer

    def states(self) -> dict[str, str]:
        """squeue's word for each of our jobs."""
        answer = self.run("squeue", "--me", "--states=all", "--Format=JobArrayID:|,State:|,Reason:|")
        rows = [line.split("|") for line in answer.out.splitlines()]
        return {row[0]: f"{row[1]} {row[2]}" for row in rows if row[0] in self.ids}

    def until(self, **wanted: str) -> None:
        """Wait until squeue says of each job what it should: `until(J1="RUNNING", J2="FAILED NonZero")`."""
        self._wait(lambda: self._stand(wanted), f"{wanted}; now {self.states()}")

    def booked(self, *wanted: str) -> None:
        """Wait until sacct says of our jobs what it should, and knows all of them: at first it has no names."""

        def there() -> bool:
            words = ("--parsable2", "--allocations", "--delimiter=|", "--format=WorkDir,State")
            answer = self.run("sacct", *words, f"--jobs={','.join(self.ids)}")
            rows = [line.partition("|") for line in answer.out.splitlines()[1:]]
            return all(row[0] for row in rows) and sorted(row[2].split()[0] for row in rows) == sorted(wanted)

        self._wait(there, f"sacct: {wanted}")

    def neutral(self, text: str) -> str:
        """Without what differs from time to time."""
        for folder in (str(self.folder.resolve()), str(self.folder)):
            text = text.replace(folder, "FOLDER")
        for number, node in enumerate(self.nodes):
            text = text.replace(node, f"NODE{number + 1}")
        text = re.sub(r"\b1[78]\d{8}\b", "TIME", text)
        # Of a job that never had a node: when it may start, if the scheduler has guessed that by now.
        text = re.sub(r"##TIME#(?:TIME|N/A)#(?:TIME|N/A)#", "##TIME#GUESS#GUESS#", text)
        for number, each in sorted(enumerate(self.ids), key=lambda pair: -len(pair[1])):
            text = re.sub(rf"(?<![\w.]){each}(?![\w.])", f"J{number + 1}", text)
            text = re.sub(rf"(?<![\w.]){each}(?=[_.])", f"J{number + 1}", text)
        return text

    def _stand(self, wanted: dict[str, str]) -> bool:
        states = self.states()
        by_name = {self.neutral(each): word for each, word in states.items()}
        return all(by_name.get(name, "").startswith(word) for name, word in wanted.items())

    def _wait(self, there: Callable[[], bool], what: str) -> None:
        end = self.clock.monotonic() + PATIENCE_SECONDS
        while not there():
            if self.clock.monotonic() > end:
                raise WaitTimeoutError(f"{what}: {self.states()}")
            self.clock.sleep(0.25)


TRANSCRIPTS = Path(__file__).with_name("transcripts.json")
SMALL_IDS = 100


Scenario = Callable[[Talk], None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def _queue(talk: Talk) -> None:
    """What squeue knows of our jobs, in the form that the product asks for."""
    talk.ask("squeue", "--me", "--states=all", f"--Format={queue_format('#')}", "-j", ",".join(talk.ids))


def _end(talk: Talk, *states: str) -> None:
    """Both queries once the jobs have ended so."""
    _queue(talk)
    talk.booked(*states)
    fields = f"--format={accounting_format()}"
    words = ("--parsable2", "--allocations", "--duplicates", "--delimiter=#", fields)
    talk.ask("sacct", *words, f"--jobs={','.join(talk.ids)}")


@scenario
def taken(talk: Talk) -> None:
    script = talk.script("finetune.slurm", "sleep 1", options=("--job-name=from_script", "--time=10"))
    talk.ask("sbatch", "--parsable", f"--nodelist={talk.nodes[0]}", "--comment=tok-1", "--job-name=a run", script)
    talk.until(J1="COMPLETED")
    talk.booked("COMPLETED")
    talk.ask("scancel", talk.ids[0])
    _queue(talk)


@scenario
def refused(talk: Talk) -> None:
    script = talk.script("s.sh", "true")
    (talk.folder / "plain.txt").write_text("echo hello\n")
    for option in (
        *("--partition=nowhere", "--account=nobody", "--qos=none", "--mem=9999G", "--time=soon", "--bogus"),
        "--gpus=a100:1",
    ):
        talk.ask("sbatch", "--parsable", option, script)
    talk.ask("sbatch", "--parsable", "nothing.sh")
    talk.ask("sbatch", "--parsable", "plain.txt")
    talk.ask("sbatch", "--parsable", talk.script("in.sh", "true", options=("--partition=nowhere",)))
    talk.ask("sbatch", "--test-only", "--partition=nowhere", script)


@scenario
def over_the_limit(talk: Talk) -> None:
    script = talk.script("s.sh", "sleep 60")
    for _ in range(3):
        talk.ask("sbatch", "--parsable", "--qos=small", f"--nodelist={talk.nodes[0]}", script)
    talk.run("scancel", *talk.ids)


@scenario
def unknown_ids(talk: Talk) -> None:
    known = talk.submit(talk.script("s.sh", "sleep 60"))
    talk.until(J1="RUNNING")
    talk.ask("scancel", "7777777")
    talk.ask("scontrol", "show", "job", "7777777")
    talk.ask("scancel", known)


@scenario
def failed(talk: Talk) -> None:
    talk.submit(talk.script("s.sh", "exit 3"))
    talk.until(J1="FAILED")
    _end(talk, "FAILED")


@scenario
def killed(talk: Talk) -> None:
    talk.submit(talk.script("s.sh", "kill -9 $$"))
    talk.until(J1="FAILED")
    _end(talk, "FAILED")


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
    _end(talk, *["CANCELLED"] * 4)


@scenario
def over_time(talk: Talk) -> None:
    talk.submit("--time=60", talk.script("s.sh", "sleep 600"))
    talk.until(J1="RUNNING")
    talk.ask("scontrol", "update", f"jobid={talk.ids[0]}", "EndTime=now+2")
    talk.until(J1="TIMEOUT")
    _end(talk, "TIMEOUT")


@scenario
def requeued(talk: Talk) -> None:
    talk.submit("--requeue", talk.script("s.sh", '[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || sleep 300', "sleep 1"))
    talk.until(J1="RUNNING")
    talk.clock.sleep(1.0)
    talk.ask("scontrol", "requeue", talk.ids[0])
    talk.until(J1="PENDING BeginTime")
    _queue(talk)
    talk.until(J1="COMPLETED")
    _end(talk, "COMPLETED")


@scenario
def requeues_itself(talk: Talk) -> None:
    body = ('[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || scontrol requeue $SLURM_JOB_ID',)
    more = ('[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || sleep 60', "exit 5")
    talk.submit("--requeue", talk.script("s.sh", *body, *more))
    talk.until(J1="FAILED")
    _end(talk, "FAILED")


@scenario
def node_down(talk: Talk) -> None:
    """A node fails under two jobs: one is queued again, the other is not."""
    talk.submit("--requeue", talk.script("s.sh", '[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || sleep 300', "true"), node=1)
    talk.submit("--no-requeue", talk.script("t.sh", "sleep 300"), node=1)
    talk.until(J1="RUNNING", J2="RUNNING")
    talk.clock.sleep(1.0)
    talk.ask("scontrol", "update", f"nodename={talk.nodes[1]}", "state=down", "reason=test")
    talk.until(J1="PENDING", J2="NODE_FAIL")
    # It may be back already: it answers.
    talk.run("scontrol", "update", f"nodename={talk.nodes[1]}", "state=resume")
    talk.until(J1="COMPLETED")
    talk.booked("COMPLETED", "NODE_FAIL")


def converse(name: str, commands: Commands, clock: Clock, folder: Path, nodes: Sequence[str]) -> list[str]:
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
    found: dict[str, list[str]] = json.loads(TRANSCRIPTS.read_text())
    return found


_GUESSED_START = re.compile(
    r"(?P<before>#\d+:\d+#TIME#)(?:TIME|None)(?P<after>#TIME#[^\n]*#(?:CANCELLED by \d+|REQUEUED)(?=$|['\n\\]))"
)


def differences(said: dict[str, list[str]], expected: dict[str, list[str]]) -> Iterator[str]:
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
    from tests.slurm.cluster import Cluster

    with Cluster() as cluster, tempfile.TemporaryDirectory() as folder:
        said = converse_all(cluster.commands(), Path(folder), cluster.nodes)
    TRANSCRIPTS.write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
    return int(any(lines and lines[0].startswith("waited") for lines in said.values()))


if __name__ == "__main__":
    sys.exit(main())
