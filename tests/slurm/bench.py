"""Runs jobs of the conformance table through the executor, and writes down all that it said on the way."""

import itertools
import shlex
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from touchline.core.status import JobState
from touchline.run.jobs import Job, training_in
from touchline.run.ledger import Ledger
from touchline.run.queue import begin
from touchline.run.slurm import SlurmExecutor
from touchline.run.statusfiles import read_attempts
from touchline.slurm.job_view import TRAINING_SCRIPT, JobView
from touchline.slurm.local.commands import CommandResult, Commands

WORK = Path(__file__).with_name("work.py")
SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --mem=400M
{directives}
set -euo pipefail
cd -- "${{SLURM_SUBMIT_DIR:-$PWD}}"
exec {python} -m touchline.run.attempt -- {python} work.py {work}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What the executor must say in the end, and what must then lie in the run's folder."""

    state: JobState
    active: bool = False
    """Whether it may still do something."""
    reason: str = ""
    """A word that the reason holds."""
    attempts: tuple[str | None, ...] = ()
    """Code and reason in the exit file of each start; None for a start that left no exit file. None of them ran twice:
    each has its own restart."""
    leaves: tuple[str, ...] = ()
    """Files beside those that every start makes."""


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    """Its name in the table."""
    work: str
    """What the job does: a verb of work.py."""
    told: Told
    directives: tuple[str, ...] = ()
    """More lines for sbatch; `{row name}` stands for another row's job id, `{first}` and `{second}` for the nodes."""
    bench: str = "plain"
    """Which cluster it is on: `plain`, `no accounting`, `answer lost`, `never arrived`, `no cgroup`."""
    smoke: bool = False
    """Whether `make test` has it: nothing waits for SLURM's limits, and one node is enough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    job: Job
    history: tuple[JobView, ...]
    """Every view that the executor gave, oldest first, each different one once."""
    later: JobView | None
    """What another process's executor says, when all is over."""


LOST_WORDS = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
"""What a submission says whose answer is lost."""


class Recorder:
    """Commands that count what is asked, and lose an answer when they are told to."""

    def __init__(self, commands: Commands, lose: Literal["", "answer", "request"] = "") -> None:
        """Take the real commands.

        Args:
            commands: what runs them.
            lose: what becomes of the first submission: its answer is lost, or it does not even arrive.
        """
        self._commands = commands
        self._lose = lose
        self._guard = threading.Lock()
        self.calls: list[tuple[str, ...]] = []
        """What really ran."""
        self.callers: list[int] = []
        """The thread that asked for each: one may submit while another looks."""

    def run(
        self,
        words: Sequence[str],
        *,
        timeout_seconds: float,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
        keep: Sequence[int] = (),
    ) -> CommandResult:
        lose = ""
        with self._guard:
            if words[0] == "sbatch":
                lose, self._lose = self._lose, ""
        lost = CommandResult(code=1, out="", err=LOST_WORDS)
        if lose == "request":
            return lost
        answer = self._commands.run(words, timeout_seconds=timeout_seconds, cwd=cwd, environment=environment, keep=keep)
        with self._guard:
            self.calls.append(tuple(words))
            self.callers.append(threading.get_ident())
        return lost if lose == "answer" else answer

    def own_calls(self, first: int) -> list[str]:
        """The commands that this thread has run, from the `first` of all calls on."""
        with self._guard:
            mine = [caller == threading.get_ident() for caller in self.callers[first:]]
            return [words[0] for words, own in zip(self.calls[first:], mine, strict=True) if own]

    def count(self, command: str) -> int:
        return sum(words[0] == command for words in self.calls)


def write_run(folder: Path, work: str, directives: Sequence[str] = (), *, name: str = "") -> Job:
    """A run's folder, as touchline prepares one, and its job, which is called as the folder is, or by a name."""
    folder.mkdir()
    shutil.copyfile(WORK, folder / WORK.name)
    (folder / TRAINING_SCRIPT).write_text(
        SCRIPT.format(
            name=shlex.quote(name or folder.name),
            directives="\n".join(f"#SBATCH {line}" for line in directives),
            python=shlex.quote(sys.executable),
            work=shlex.quote(work),
        )
    )
    return training_in(folder, name or folder.name)


class Bench:
    """Some rows on one executor; `later` stands for that of a process that comes later."""

    def __init__(self, root: Path, recorder: Recorder, poll_seconds: float) -> None:
        root.mkdir()
        self.root = root
        self.recorder = recorder
        self.jobs: dict[str, Job] = {}
        self.ids: dict[str, str] = {}
        self.busiest_look: Counter[str] = Counter()
        """Most calls of one command that one look took."""
        self._ledger = Ledger(root / "ledger.jsonl", "slurm")
        self.executor, self._later = (
            SlurmExecutor(recorder, self._ledger.path, poll_seconds=poll_seconds) for _ in range(2)
        )
        self._rows: dict[str, Row] = {}
        self._history: dict[str, list[JobView]] = {}

    def begin(self, row: Row, names: Mapping[str, str]) -> None:
        """Write a row's folder and submit it; `names` fill what its directives leave open."""
        self._rows[row.name] = row
        if row.name not in self.jobs:
            folder = self.root / row.name.replace(",", "").replace(" ", "-")
            self.jobs[row.name] = write_run(folder, row.work, [line.format_map(names) for line in row.directives])
        self.ids[row.name] = begin(self.jobs[row.name], self.executor, self._ledger)

    def look(self) -> dict[str, JobView]:
        before = len(self.recorder.callers)
        seen = self.executor.query_jobs(tuple(self.jobs.values()))
        self.busiest_look |= Counter(self.recorder.own_calls(before))
        found = {name: seen[job.name] for name, job in self.jobs.items() if job.name in seen}
        for name, view in found.items():
            history = self._history.setdefault(name, [])
            if not history or history[-1] != view:
                history.append(view)
        return found

    def at_work(self, name: str) -> bool:
        """Whether a row's work has begun, and heeds signals."""
        return bool(starts_of(self.jobs[name]))

    def go(self, name: str) -> None:
        (self.jobs[name].folder / "go").touch()

    def unsettled(self, views: Mapping[str, JobView]) -> list[str]:
        """Rows that have not come to an end, or to what the table says of them."""
        waiting = []
        for name, row in self._rows.items():
            view, told = views.get(name), row.told
            waits = told.active and view is not None and view.state is told.state and told.reason in view.reason
            if view is None or (view.active and not waits):
                waiting.append(name)
        return waiting

    def outcomes(self) -> dict[str, Outcome]:
        later = self._later.query_jobs(tuple(self.jobs.values()))
        return {
            name: Outcome(job=job, history=tuple(self._history.get(name, ())), later=later.get(job.name))
            for name, job in self.jobs.items()
        }


def starts_of(job: Job) -> list[str]:
    ran = job.folder / "ran.txt"
    return ran.read_text().splitlines() if ran.exists() else []


def attempts_of(job: Job) -> tuple[str | None, ...]:
    return tuple(
        None if attempt.exit is None else f"{attempt.exit.code} {attempt.exit.reason}"
        for attempt in read_attempts(job.status)
    )


def files_of(job: Job) -> set[str]:
    """The files in a run's folder; the job's id reads {job}.

    What an attempt that died was just writing depends on when it died: its sampler's file, and files half written, are
    left out.
    """
    names = {path.relative_to(job.folder).as_posix() for path in job.folder.rglob("*") if path.is_file()}
    for attempt in read_attempts(job.status):
        if attempt.exit is None:
            names.discard(f"status/resources.{attempt.start.job_id}.{attempt.start.restart}.json")
            names = {name for name in names if not (name.startswith("status/.") and name.endswith(".tmp"))}
    ids = {attempt.start.job_id for attempt in read_attempts(job.status)}
    return {name.replace(next(iter(ids)), "{job}") for name in names} if len(ids) == 1 else names


def expected_files(told: Told) -> set[str]:
    files = {TRAINING_SCRIPT, "work.py", *told.leaves}
    if told.attempts:
        files |= {"ran.txt", "slurm-{job}.out", "status/lock"}
    for restart, end in enumerate(told.attempts):
        files |= {f"status/start.{{job}}.{restart}.json", f"status/heartbeat.{{job}}.{restart}"}
        if end is not None:
            files |= {f"status/exit.{{job}}.{restart}.json", f"status/resources.{{job}}.{restart}.json"}
    return files


def contradictions(history: Sequence[JobView]) -> list[str]:
    """Where an executor took back that a job was over, or how it ended."""
    found = []
    for before, after in itertools.pairwise(history):
        if not before.active and (after.active or after.state is not before.state):
            found.append(f"{before.state} ({before.source}: {before.reason}), then {after.state} ({after.source})")
    return found
