"""One function derives a run's status, whoever asks; a scheduler's word alone never makes a run complete."""

import itertools
from dataclasses import replace

import pytest

from touchline.core.status import (
    HEARTBEAT_STALE_SECONDS,
    Attempt,
    AttemptExit,
    AttemptStart,
    JobState,
    RunStatus,
    TrainingOutcome,
)
from touchline.experiment.runs import RunKind
from touchline.run.run_status import (
    StatusInputs,
    drop_lock_conflicts,
    job_view_from_files,
    run_status,
    training_outcome,
)
from touchline.slurm.job_view import JobView

pytestmark = pytest.mark.planning

COMPLETE, PARTIAL, NOTHING = TrainingOutcome.COMPLETE, TrainingOutcome.PARTIAL, TrainingOutcome.NOT_STARTED
NOW = 10_000.0


def view(state: JobState, *, active: bool | None = None, exit_code: int | None = None, **more: object) -> JobView:
    at_work = not state.ended if active is None else active
    return JobView(job_id="76", state=state, active=at_work, source="sacct", exit_code=exit_code, **more)  # type: ignore[arg-type]


def status(
    job: JobView | None, outcome: TrainingOutcome = PARTIAL, *, evaluated: bool = False, prepared: bool = True,
    kind: RunKind = RunKind.FINE_TUNED, cut: bool = False,
) -> RunStatus:  # fmt: skip
    return run_status(
        StatusInputs(kind=kind, prepared=prepared, outcome=outcome, evaluated=evaluated, job=job, cut=cut)
    )


@pytest.mark.parametrize(
    ("job", "outcome", "evaluated", "expected"),
    [
        (None, NOTHING, False, RunStatus.PREPARED),
        (view(JobState.PENDING), NOTHING, False, RunStatus.QUEUED),
        (view(JobState.CONFIGURING), NOTHING, False, RunStatus.QUEUED),
        (view(JobState.RUNNING), PARTIAL, False, RunStatus.RUNNING),
        (view(JobState.COMPLETING), PARTIAL, False, RunStatus.RUNNING),
        (view(JobState.UNKNOWN, active=True), NOTHING, False, RunStatus.QUEUED),
        (view(JobState.UNKNOWN, active=True), PARTIAL, False, RunStatus.RUNNING),
        (view(JobState.PENDING), PARTIAL, False, RunStatus.QUEUED),
        (view(JobState.COMPLETED, exit_code=0), COMPLETE, False, RunStatus.TRAINED),
        (view(JobState.COMPLETED, exit_code=0), COMPLETE, True, RunStatus.COMPLETED),
        (view(JobState.FAILED, exit_code=1), COMPLETE, True, RunStatus.COMPLETED_FAILED_EXIT),
        (view(JobState.TIMEOUT), COMPLETE, True, RunStatus.COMPLETED_FAILED_EXIT),
        (view(JobState.UNKNOWN, active=False), COMPLETE, True, RunStatus.COMPLETED),
        # COMPLETED though dead: the artefacts decide.
        (view(JobState.COMPLETED, exit_code=0), PARTIAL, False, RunStatus.INTERRUPTED),
        (view(JobState.COMPLETED, exit_code=0), NOTHING, False, RunStatus.PREPARED),
        (view(JobState.FAILED, exit_code=1), PARTIAL, False, RunStatus.FAILED),
        (view(JobState.FAILED, exit_code=137), PARTIAL, False, RunStatus.INTERRUPTED),
        (view(JobState.FAILED, exit_code=0, signal=9), PARTIAL, False, RunStatus.INTERRUPTED),
        (view(JobState.OUT_OF_MEMORY, exit_code=0, signal=9), PARTIAL, False, RunStatus.FAILED),
        (view(JobState.TIMEOUT), PARTIAL, False, RunStatus.INTERRUPTED),
        (view(JobState.NODE_FAIL), PARTIAL, False, RunStatus.INTERRUPTED),
        (view(JobState.PREEMPTED), PARTIAL, False, RunStatus.INTERRUPTED),
        (view(JobState.CANCELLED), PARTIAL, False, RunStatus.INTERRUPTED),
        (view(JobState.CANCELLED), NOTHING, False, RunStatus.PREPARED),
        # Ended before our own supervisor could write a word: a module that does not load, a node that does not boot.
        (view(JobState.FAILED, exit_code=1), NOTHING, False, RunStatus.FAILED),
        (view(JobState.BOOT_FAIL), NOTHING, False, RunStatus.INTERRUPTED),
    ],
)
def test_status_of_a_training(
    job: JobView | None, outcome: TrainingOutcome, evaluated: bool, expected: RunStatus
) -> None:
    assert status(job, outcome, evaluated=evaluated) is expected


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (view(JobState.COMPLETED, exit_code=0), RunStatus.PAUSED),
        (None, RunStatus.PAUSED),
        # Killed between its saved state and its exit record: the state is that of the pause all the same.
        (view(JobState.FAILED, exit_code=137), RunStatus.PAUSED),
        (view(JobState.NODE_FAIL), RunStatus.PAUSED),
        (view(JobState.PENDING), RunStatus.QUEUED),
        (view(JobState.RUNNING), RunStatus.RUNNING),
    ],
)
def test_a_paused_training_is_neither_failed_nor_interrupted(job: JobView | None, expected: RunStatus) -> None:
    assert status(job, TrainingOutcome.PAUSED) is expected


@pytest.mark.parametrize("outcome", [PARTIAL, TrainingOutcome.PAUSED, COMPLETE])
@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
def test_a_cut_run_is_cut_however_its_job_ended(state: JobState, outcome: TrainingOutcome) -> None:
    assert status(view(state, exit_code=1), outcome, cut=True) is RunStatus.CUT
    assert status(view(JobState.RUNNING), outcome, cut=True) is RunStatus.RUNNING


def test_the_marker_of_a_complete_training_outranks_a_pause() -> None:
    for marked, expected in ((8, COMPLETE), (None, TrainingOutcome.PAUSED)):
        found = training_outcome(
            RunKind.FINE_TUNED, steps_planned=8, marked_steps=marked, last_export_whole=True, begun=True, paused=True
        )
        assert found is expected


def test_every_combination_has_a_status_and_only_artefacts_complete_a_run() -> None:
    jobs = [None, *(view(state, active=active) for state in JobState for active in (False, True))]
    done = {RunStatus.COMPLETED, RunStatus.COMPLETED_FAILED_EXIT, RunStatus.TRAINED}
    for kind, job, outcome, evaluated in itertools.product(RunKind, jobs, TrainingOutcome, (False, True)):
        found = status(job, outcome, evaluated=evaluated, kind=kind)
        if job is not None and job.active:
            assert found in (RunStatus.QUEUED, RunStatus.RUNNING)
        elif kind is RunKind.CONTROL:
            assert (found in done) == evaluated
        else:
            assert (found in done) == (outcome is COMPLETE)


def test_a_control_is_what_its_evaluation_is() -> None:
    control = RunKind.CONTROL
    assert status(None, NOTHING, kind=control, prepared=False) is RunStatus.PLANNED
    assert status(view(JobState.PENDING), NOTHING, kind=control) is RunStatus.QUEUED
    assert status(view(JobState.FAILED, exit_code=1), NOTHING, kind=control) is RunStatus.FAILED
    assert status(view(JobState.FAILED, exit_code=1), NOTHING, kind=control, evaluated=True) is RunStatus.COMPLETED


def attempt(*, code: int | None = None, alive: bool | None = None, beat: float | None = None) -> Attempt:
    start = AttemptStart(
        job_id="7", restart=1, token="", host="n1", boot_id="b", pid=1, pid_started=1.0, time_unix=NOW - 500
    )
    end = None if code is None else AttemptExit(job_id="7", restart=1, code=code, reason="failed", time_unix=NOW - 1)
    return Attempt(start=start, exit=end, heartbeat_unix=beat, alive=alive)


def test_an_attempt_lasts_by_a_clock_that_does_not_jump() -> None:
    """By its exit record's own seconds; records of 0.1.0 have none, and a killed attempt has its heartbeat alone."""
    ended = attempt(code=0)
    assert ended.exit is not None
    jumped = replace(ended.exit, time_unix=NOW + 86_400, elapsed_seconds=20.0)
    assert replace(ended, exit=jumped).elapsed_seconds == 20.0
    assert (ended.elapsed_seconds, attempt(beat=NOW - 490).elapsed_seconds) == (499.0, 10.0)
    assert (attempt(beat=NOW - 600).elapsed_seconds, attempt().elapsed_seconds) == (0.0, None)


@pytest.mark.parametrize(
    ("one", "state", "active"),
    [
        (attempt(beat=NOW - 5), JobState.RUNNING, True),
        (attempt(beat=NOW - HEARTBEAT_STALE_SECONDS - 1), JobState.UNKNOWN, False),
        (attempt(), JobState.UNKNOWN, False),
        (attempt(alive=False), JobState.FAILED, False),
        (attempt(alive=True), JobState.RUNNING, True),
        (attempt(code=3), JobState.FAILED, False),
    ],
    ids=["a heartbeat", "an old one", "none", "a dead process", "a living one", "an exit file"],
)
def test_a_folder_tells_of_a_job_by_its_files(one: Attempt, state: JobState, active: bool) -> None:
    found = job_view_from_files([one], NOW)
    assert found is not None
    assert (found.state, found.active, found.restarts) == (state, active, 1)
    assert found.exit_code == (None if one.exit is None else 3)


def test_an_attempt_that_found_another_one_at_work_does_not_count() -> None:
    assert drop_lock_conflicts([attempt(code=76), attempt(code=1)]) == (attempt(code=1),)
    assert job_view_from_files([], NOW) is None
