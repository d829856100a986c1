"""Progress of a job, from its files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from touchline.core.files import open_regular
from touchline.core.quantity import Measured, Missing
from touchline.run.protocol import Job

_TAIL_BYTES = 8192
NOT_ESTIMATED = Missing(missing="not estimated")
_EVALUATED = re.compile(r"^(\S+) (\S+): (\d+)/(\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobProgress:
    """Progress of one job."""

    name: str
    """Job name: a run, or `evaluate 135M`."""
    done: int
    """Completed steps or items."""
    total: int
    """Total steps or items; 0 if unknown."""
    text: str
    """Text next to the bar: loss, item, or reason for waiting."""
    left: Measured = NOT_ESTIMATED
    """Predicted remaining seconds."""
    run: str | None = None
    """Run that an evaluation is working on."""
    waits: bool = False
    """Whether it is queued by a scheduler."""
    is_total: bool = False
    """Whether this is the sum over all jobs of the command; `done` and `total` then count jobs."""


def evaluation_progress(job: Job) -> JobProgress:
    """Read the last `run checkpoint: done/total` line of a job's newest output."""
    outputs = sorted(job.folder.glob(job.output.replace("{job}", "*")), key=lambda path: path.stat().st_mtime)
    if outputs and (found := _EVALUATED.findall(_tail(outputs[-1]))):
        run, checkpoint, done, total = found[-1]
        return JobProgress(name=job.name, done=int(done), total=int(total), text=f"{run} {checkpoint}", run=run)
    return JobProgress(name=job.name, done=0, total=0, text="starting")


def _tail(path: Path) -> str:
    try:
        with open_regular(path) as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""
