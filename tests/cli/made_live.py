"""States of runs, and a reader that returns them."""

import threading
from collections.abc import Sequence
from dataclasses import replace

from tests.api.made_runs import STEP

from touchline.core.finding import Severity
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState, RunStatus
from touchline.data.metrics import StepRow
from touchline.experiment.runs import RunKind
from touchline.lint.checked import FindingRow
from touchline.results.live_status import LiveRun
from touchline.results.watching import Snapshot
from touchline.slurm.job_view import JobView

NONE = Missing(missing="not yet")


def rows(losses: Sequence[float], first: int = 1) -> tuple[StepRow, ...]:
    """Steps with these losses."""
    return tuple(replace(STEP, step=first + number, loss=loss) for number, loss in enumerate(losses))


def running(name: str) -> LiveRun:
    """A run in the middle of its training."""
    return LiveRun(
        name=name, kind=RunKind.FINE_TUNED, status=RunStatus.RUNNING, job_state=JobState.RUNNING,
        job=JobView(job_id="76", state=JobState.RUNNING, active=True, source="squeue"), evaluation=None, attempts=1,
        steps_done=500, steps_planned=1000, loss=Quantity(value=0.51, unit="1"),
        tokens_per_second=Quantity(value=1234.0, unit="tokens/s"), memory=Quantity(value=12.5 * 1024**3, unit="B"),
        seconds_left=Quantity(value=3600.0, unit="s", low=3000.0, high=4200.0), queue_reason="", flags=(),
    )  # fmt: skip


def queued(name: str) -> LiveRun:
    job = JobView(job_id="77", state=JobState.PENDING, active=True, source="squeue", reason="Priority")
    return replace(
        running(name), status=RunStatus.QUEUED, job_state=JobState.PENDING, job=job, steps_done=0, loss=NONE,
        tokens_per_second=NONE, memory=NONE, seconds_left=NONE, queue_reason="Priority",
    )  # fmt: skip


def failed(name: str) -> LiveRun:
    flag = FindingRow(
        code="RN111", severity=Severity.ERROR, path=None, line=None, column=None, message="exit code 1",
        hint="touchline logs exp",
    )  # fmt: skip
    job = JobView(job_id="75", state=JobState.FAILED, active=False, source="exit file")
    return replace(
        running(name), status=RunStatus.FAILED, job_state=JobState.FAILED, job=job, seconds_left=NONE, flags=(flag,)
    )


def completed(name: str) -> LiveRun:
    return replace(
        running(name), status=RunStatus.COMPLETED, job=None, job_state=None, steps_done=1000, seconds_left=NONE
    )


def snapshot(experiment: str, *runs: LiveRun, note: str = "", strategy: str = "") -> Snapshot:
    losses = {run.name: rows([3.0, 3.0, 2.0, 2.0, 1.0, 1.0]) for run in runs if run.steps_done}
    return Snapshot(experiment=experiment, runs=runs, note=note, active=True, steps=losses, strategy=strategy)


class FakeReader:
    """Reader that returns what a test puts into `found`, and waits while `gate` is closed."""

    def __init__(self, found: Snapshot | Exception) -> None:
        self.found = found
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> Snapshot:
        """Return the state of the experiment."""
        self.gate.wait(60)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found
