"""SLURM's commands as they are called: an argument list, a time limit, both streams apart, words that do not change.


The queries of `touchline doctor` change nothing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from touchline.core.quantity import Missing
from touchline.slurm.site_facts import SINFO_FORMAT, ClusterFacts, PartitionFacts, read_config, read_partitions

_OURS = frozenset({"TOUCHLINE_JOB_ID", "TOUCHLINE_TOKEN", "TOUCHLINE_TIME_LIMIT_SECONDS", "TOUCHLINE_KILL_SECONDS"})
_OUTER = ("SLURM_", "SLURMD_", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
_CONFIGURATION = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_DEBUG"})


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandResult:
    """Result of a command."""

    code: int | None
    """Its exit code; none when it gave none in time, or could not be started."""
    out: str
    err: str
    """Its standard error; of one that could not be started or was too slow, what happened."""

    @property
    def ok(self) -> bool:
        """Return True if it ended with exit code 0."""
        return self.code == 0


class Commands(Protocol):
    """Runs sbatch, squeue, sacct, scancel, scontrol, sinfo, sacctmgr; the tests' fake answers in their place."""

    def run(
        self,
        words: Sequence[str],
        *,
        timeout_seconds: float,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
        keep: Sequence[int] = (),
    ) -> CommandResult:
        """Run one command to its end; never raises.

        Args:
            timeout_seconds: it is killed after that, and the answer has no code.
            cwd: where; sbatch takes it as the job's folder.
            environment: variables added to this process's own.
            keep: descriptors that it inherits: a lock that must be held as long as it lives.
        """
        ...


class RealCommands:
    """The commands that are on PATH."""

    def run(
        self,
        words: Sequence[str],
        *,
        timeout_seconds: float,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
        keep: Sequence[int] = (),
    ) -> CommandResult:
        """Run one command; times as seconds since 1970, words in English."""
        # sbatch hands its environment on to the job, which must find there what its user has set and
        # nothing of ours.
        inherited = {} if words[0] == "sbatch" else {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}
        try:
            done = subprocess.run(  # noqa: S603 (an argument list of our own words)
                list(words),
                cwd=cwd,
                env={**without_outer_job(os.environ), **inherited, **(environment or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_seconds,
                pass_fds=tuple(keep),
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            message = (late.stderr or b"").decode(errors="replace")
            slow = f"{words[0]}: no answer within {timeout_seconds:.0f} s"
            return CommandResult(code=None, out="", err=f"{slow}\n{message}".strip())
        except OSError as error:
            return CommandResult(code=None, out="", err=f"{words[0]}: {error.strerror}")
        return CommandResult(
            code=done.returncode, out=done.stdout.decode(errors="replace"), err=done.stderr.decode(errors="replace")
        )


def without_outer_job(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables of the surrounding SLURM job."""
    inside = "SLURM_JOB_ID" in environment
    return {
        name: value
        for name, value in environment.items()
        if name not in _OURS and not (inside and name.startswith(_OUTER) and name not in _CONFIGURATION)
    }


ANSWER_SECONDS = 30.0
"""Timeout of one query; a busy controller needs time."""

LISTING_SECONDS = 10.0
"""Timeout for the list of partitions while planning."""


def query_cluster(commands: Commands, options: Sequence[str]) -> ClusterFacts:
    """Query the cluster's partitions, its accounting, and whether sbatch accepts a job.

    Args:
        options: what a job of this user asks for, as words for sbatch.
    """
    problems: dict[str, str] = {}
    silent: list[CommandResult] = []

    def run(*words: str) -> CommandResult:
        # Who waited once in vain for the controller need not wait for each other command too.
        answer = silent[0] if silent else commands.run(words, timeout_seconds=ANSWER_SECONDS)
        if answer.code is None and words[0] != "sacctmgr":
            silent.append(answer)
        return answer

    def ask(*words: str) -> str:
        if silent:
            return ""
        answer = run(*words)
        if not answer.ok:
            problems[" ".join(words[:3])] = said(answer)
            return ""
        return answer.out

    partitions = read_partitions(ask("sinfo", "--noheader", f"--format={SINFO_FORMAT}"))
    config = read_config(ask("scontrol", "show", "config"))
    accounting = config.get("AccountingStorageType", "") not in ("", "(null)", "accounting_storage/none")
    if accounting:
        ask("sacctmgr", "--noheader", "--parsable2", "show", "cluster")
    asked = accounting and not any(command.startswith("sacctmgr") for command in problems)
    tried = ("sbatch", "--test-only", *options, "--wrap=true")
    taken = run(*tried)
    return ClusterFacts(
        version=config.get("SLURM_VERSION", ""),
        partitions=partitions,
        config=config,
        accounting=asked,
        tried=tried,
        taken=_taken(taken),
        answer=said(taken),
        problems=problems,
    )


def ask_partitions(commands: Commands) -> tuple[PartitionFacts, ...] | Missing:
    """Return the cluster's partitions with their GPUs, or why they are not known."""
    answer = commands.run(("sinfo", "--noheader", f"--format={SINFO_FORMAT}"), timeout_seconds=LISTING_SECONDS)
    if not answer.ok:
        return Missing(missing=said(answer))
    found = read_partitions(answer.out)
    return found or Missing(missing="sinfo lists no partition")


def said(answer: CommandResult) -> str:
    """Return a command's output on one line, stderr first."""
    lines = [line.strip() for line in (answer.err + "\n" + answer.out).splitlines() if line.strip()]
    return " ".join(lines) or ("nothing" if answer.code is not None else "it gave no answer")


_SILENT = ("Unable to contact", "Connection refused", "Socket timed out", "Slurm backup controller", "try again later")


def _taken(answer: CommandResult) -> bool | None:
    """Return whether sbatch accepts the job; None if the controller does not answer."""
    if answer.ok:
        return True
    return None if answer.code is None or any(words in answer.err for words in _SILENT) else False
