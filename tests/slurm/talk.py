"""A conversation with SLURM, the real one or the fake, and its transcript without ids, times and nodes."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from touchline.core.clock import Clock
from touchline.slurm.local.commands import CommandResult, Commands

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
