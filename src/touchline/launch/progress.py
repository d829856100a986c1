"""How far a job is, read from what it writes; never from what it was asked to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from touchline.domain.jobs import JobView
from touchline.domain.status import JobState
from touchline.files import open_regular
from touchline.jsontext import parse_json
from touchline.launch.protocol import Job

_TAIL_BYTES = 8192
_EVALUATED = re.compile(r"^(\S+) (\S+): (\d+)/(\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobProgress:
    """One job, at this moment."""

    name: str
    """The run, or `evaluate 135M`."""
    done: int
    """Steps or items done."""
    total: int
    """Steps or items in all; 0 when that is not known yet."""
    text: str
    """What to say beside the bar: the loss, the item."""


def training_progress(job: Job, total: int, view: JobView | None = None) -> JobProgress:
    """From the last step in metrics.jsonl; of a job that waits, why it does."""
    if waits := _waits(view):
        return JobProgress(name=job.name, done=0, total=total, text=waits)
    for line in reversed(_tail(job.folder / "metrics.jsonl").splitlines()):
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("event") == "step":
            return JobProgress(name=job.name, done=int(row["step"]), total=total, text=f"loss {row['loss']:.3f}")
    return JobProgress(name=job.name, done=0, total=total, text="starting")


def evaluation_progress(job: Job, view: JobView | None = None) -> JobProgress:
    """From the last `run checkpoint: done/total` line of the newest output; of a job that waits, why it does."""
    if waits := _waits(view):
        return JobProgress(name=job.name, done=0, total=0, text=waits)
    outputs = sorted(job.folder.glob(job.output.replace("{job}", "*")), key=lambda path: path.stat().st_mtime)
    if outputs and (found := _EVALUATED.findall(_tail(outputs[-1]))):
        run, checkpoint, done, total = found[-1]
        return JobProgress(name=job.name, done=int(done), total=int(total), text=f"{run} {checkpoint}")
    return JobProgress(name=job.name, done=0, total=0, text="starting")


def _waits(view: JobView | None) -> str:
    if view is None or view.state is not JobState.PENDING:
        return ""
    return f"waits: {view.reason}" if view.reason else "waits"


def _tail(path: Path) -> str:
    try:
        with open_regular(path) as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""
