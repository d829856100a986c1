"""SLURM's commands as they are called: an argument list, a time limit, both streams apart, words that do not change."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_OURS = frozenset({"TOUCHLINE_JOB_ID", "TOUCHLINE_TOKEN", "TOUCHLINE_TIME_LIMIT_SECONDS", "TOUCHLINE_KILL_SECONDS"})
_OUTER = ("SLURM_", "SLURMD_", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
_CONFIGURATION = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_DEBUG"})


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandResult:
    """Result of a command."""

    code: int | None
    """Its exit code; none when it gave none in time, or could not be started."""
    out: str
    """Its standard output."""
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
