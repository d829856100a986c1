"""Live state of a run, as shown by `touchline status`."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.quantity import Measured
from touchline.core.status import JobState, RunStatus
from touchline.experiment.runs import RunKind
from touchline.lint.checked import FindingRow
from touchline.slurm.job_view import JobView


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRun:
    """State of a run, from its folder and a queue query."""

    name: str
    """Run name."""
    kind: RunKind
    """Fine-tuned or control."""
    status: RunStatus
    """Derived from files and jobs."""
    job_state: JobState | None
    """State of its last job of any kind; None if there was none."""
    job: JobView | None
    """Training job; None if there was none."""
    evaluation: JobView | None
    """Evaluation job; None if there was none or if it shares a process with other runs."""
    attempts: int
    """Number of training attempts."""
    steps_done: int | None
    """Optimizer steps done; None for a control."""
    steps_planned: int | None
    """Optimizer steps planned; None for a control."""
    loss: Measured
    """Last training loss."""
    tokens_per_second: Measured
    """Non-padding tokens per second over the last steps."""
    memory: Measured
    """Peak memory so far."""
    seconds_left: Measured
    """Predicted seconds until the training ends, with an interval."""
    queue_reason: str
    """Pending reason of the scheduler; empty if not queued."""
    flags: tuple[FindingRow, ...]
    """Warnings: NaN, zero loss, stall, far slower than planned, insufficient time limit or disk space."""
    items_done: int | None = None
    """Test items answered by the active evaluation; None if none is active."""
    items_planned: int | None = None
    """Test items of the active evaluation."""
