"""The supervisor between its scheduler and its work: limits, signals, requeues, ids, status folders of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from touchline.core.files import try_lock
from touchline.core.status import AttemptStart, JobState
from touchline.run.attempt import own_job_id
from touchline.run.claim_file import take_claim
from touchline.run.processes import identify
from touchline.run.statusfiles import read_attempts, write_holder

pytestmark = pytest.mark.planning

WAIT_SECONDS = 60.0
SAVER = """\
import os, pathlib, signal, sys, time
def stop(*_):
    if len(sys.argv) > 1:
        os.makedirs("resume/step_00000001")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
pathlib.Path("began").touch()
while True:
    time.sleep(0.02)
"""
DEAF = SAVER.replace("signal.signal(signal.SIGTERM, stop)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
SCONTROL = '#!/bin/sh\necho "$@" >> "$ASKED"\n'

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[bytes]] = []
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "TOUCHLINE_"))}

    def begin(*command: str, options: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "touchline.run.attempt", "--folder", str(tmp_path), *options, "--", *command]
        processes.append(subprocess.Popen(words, stderr=subprocess.DEVNULL, env={**clean, **environment}))
        return processes[-1]

    yield begin
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch job, and a scontrol that writes down what it is asked."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text(SCONTROL)
    (programs / "scontrol").chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "ASKED": str(tmp_path / "asked"),
        "SLURM_JOB_ID": "41",
        "SLURM_RESTART_COUNT": "1",
    }


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_time_limit_of_this_machine_lets_the_work_save(tmp_path: Path, start: Start) -> None:
    """TIMEOUT, as SLURM calls it, with the state saved."""
    process = start(sys.executable, "-c", SAVER, TOUCHLINE_TIME_LIMIT_SECONDS="1")
    assert process.wait(WAIT_SECONDS) == 75
    (attempt,) = read_attempts(tmp_path / "status")
    assert attempt.exit is not None
    assert (attempt.state, attempt.exit.reason) == (JobState.TIMEOUT, "stopped at its time limit")


def test_work_that_ends_in_time_knows_no_limit(tmp_path: Path, start: Start) -> None:
    """The limit does not make it wait either."""
    assert start("true", TOUCHLINE_TIME_LIMIT_SECONDS="3600").wait(WAIT_SECONDS) == 0
    assert read_attempts(tmp_path / "status")[0].state is JobState.COMPLETED


def test_an_evaluation_keeps_its_status_and_lock_apart(tmp_path: Path, start: Start) -> None:
    """So a run's evaluation may start while its training still ends."""
    training = start(sys.executable, "-c", SAVER)
    until((tmp_path / "began").exists)
    assert start("true", options=("--status", "eval/status")).wait(WAIT_SECONDS) == 0
    training.terminate()
    assert training.wait(WAIT_SECONDS) == 75
    assert read_attempts(tmp_path / "eval" / "status")[0].state is JobState.COMPLETED


def test_before_its_time_limit_a_job_saves_and_is_queued_again(
    tmp_path: Path, start: Start, slurm: dict[str, str]
) -> None:
    """USR1 is what SLURM sends then; the exit file is written before the requeue ends the script."""
    process = start(sys.executable, "-c", SAVER, "save", **slurm)
    until((tmp_path / "began").exists)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(WAIT_SECONDS) == 75
    assert (tmp_path / "asked").read_text() == "requeue 41\n"
    (attempt,) = read_attempts(tmp_path / "status")
    assert (attempt.start.job_id, attempt.start.restart) == ("41", 1)
    assert attempt.exit is not None
    assert attempt.exit.reason == "stopped by SIGUSR1; queued again"


@pytest.mark.parametrize(
    ("number", "arguments", "changes"),
    [
        (signal.SIGUSR1, (), {}),
        (signal.SIGTERM, ("save",), {}),
        (signal.SIGUSR1, ("save",), {"SLURM_RESTART_COUNT": "3", "TOUCHLINE_MAX_RESTARTS": "3"}),
        (signal.SIGUSR1, ("save",), {"SLURM_STEP_ID": "2"}),
        (signal.SIGUSR1, ("save",), {"SLURM_JOB_ID": ""}),
    ],
    ids=["nothing saved", "cancelled", "too often", "a step of a larger job", "no scheduler"],
)
def test_a_job_is_not_queued_again(
    tmp_path: Path,
    start: Start,
    slurm: dict[str, str],
    number: signal.Signals,
    arguments: tuple[str, ...],
    changes: dict[str, str],
) -> None:
    """Where it would do nothing better, or was not asked because of its time limit."""
    process = start(sys.executable, "-c", SAVER, *arguments, **{**slurm, **changes})
    until((tmp_path / "began").exists)
    process.send_signal(number)
    assert process.wait(WAIT_SECONDS) == 75
    assert not (tmp_path / "asked").exists()
    assert read_attempts(tmp_path / "status")[0].exit is not None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ""),
        ({"TOUCHLINE_JOB_ID": "local-1"}, "local-1"),
        ({"SLURM_JOB_ID": "7", "TOUCHLINE_JOB_ID": "local-1"}, "7"),
        ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}, "7_0"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "3"}, "7.3"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "batch"}, "7"),
    ],
)
def test_an_attempt_knows_which_job_it_is(environment: dict[str, str], expected: str) -> None:
    """Arrays and steps of one allocation are told apart: their status files must not meet."""
    assert own_job_id(environment) == expected


@pytest.mark.parametrize(("job", "code"), [("7", 0), ("8", 76)])
def test_a_requeued_job_waits_for_the_lock_of_its_dead_node(tmp_path: Path, start: Start, job: str, code: int) -> None:
    """A network file system lets go of a dead node's lock after a while; any other job finds the folder taken."""
    status = tmp_path / "status"
    me = identify()
    elsewhere = AttemptStart(
        job_id="7",
        restart=0,
        token="",
        host="node1",
        boot_id=me.boot_id,
        pid=me.pid,
        pid_started=me.started,
        time_unix=time.time(),
    )
    assert take_claim(status, elsewhere)
    lock = try_lock(status / "lock")
    assert lock is not None
    write_holder(status / "lock", replace(me, host="node1"), None)
    process = start("true", SLURM_JOB_ID=job, SLURM_RESTART_COUNT="1")
    if code == 0:
        time.sleep(1.5)
        assert process.poll() is None
        os.close(lock)
    assert process.wait(WAIT_SECONDS) == code
