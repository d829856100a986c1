"""A run at this moment: what `touchline status` shows of it."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.quantity import Measured
from touchline.core.status import JobState, RunStatus
from touchline.lint.checked import FindingRow
from touchline.slurm.job_view import JobView
from touchline.spec.runs import RunKind


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRun:
    """One run, read from its folder and from one look at the queue."""

    name: str
    """The run."""
    kind: RunKind
    """Fine-tuned, or a control."""
    status: RunStatus
    """How it stands: from the artefacts and the jobs, never edited by hand."""
    job_state: JobState | None
    """State of its last job, of whichever kind; none when there was none."""
    job: JobView | None
    """Its training job; none when there was none."""
    evaluation: JobView | None
    """Its evaluation job; none when there was none, or when it shares one process with other runs."""
    attempts: int
    """How often its training was started."""
    steps_done: int | None
    """Optimizer steps done; none for a control."""
    steps_planned: int | None
    """Optimizer steps planned; none for a control."""
    loss: Measured
    """Last training loss."""
    tokens_per_second: Measured
    """Real tokens a second over the last steps."""
    memory: Measured
    """Peak memory so far."""
    seconds_left: Measured
    """Until the training ends, with an interval."""
    queue_reason: str
    """Why it waits, in the scheduler's word; empty when it does not."""
    flags: tuple[FindingRow, ...]
    """What a person should look at: NaN, a loss of zero, no progress, far slower than planned, a limit or a disk that
    will not do."""
    items_done: int | None = None
    """Test items that the evaluation at work has answered; none while none is at work."""
    items_planned: int | None = None
    """Test items that it has to answer."""
