"""The supervisor: one attempt at a time, true status files, nothing orphaned; with real processes and real kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cases import parametrize, until

from touchline.core.files import try_lock
from touchline.core.status import AttemptStart, JobState
from touchline.run.attempt import own_job_id
from touchline.run.claim_file import take_claim
from touchline.run.executors import LocalExecutor
from touchline.run.jobs import Job
from touchline.run.ledger import Ledger, read_ledger
from touchline.run.queue import run_jobs
from touchline.run.statusfiles import (
    ProcessIdentity,
    identify,
    identity_of,
    is_alive,
    read_attempts,
    read_holder,
    write_holder,
)

pytestmark = [pytest.mark.planning, pytest.mark.slow]

WAIT_SECONDS = 60.0
SAVER = """\
import os, pathlib, signal, sys, time
def stop(*_):
    pathlib.Path("saved").write_text("yes")
    if len(sys.argv) > 1:
        os.makedirs("resume/step_00000001")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
with open("began", "a") as stream:
    stream.write("x")
while True:
    time.sleep(0.02)
"""
SCONTROL = '#!/bin/sh\necho "$@" >> "$ASKED"\n'
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder, with a name that breaks careless scripts."""
    path = tmp_path / 'it\'s a "run"\nwith $HOME; ünd'
    path.mkdir()
    return path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[bytes]] = []
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "TOUCHLINE_"))}

    def begin(
        *command: str, options: tuple[str, ...] = (), place: Path = folder, **environment: str
    ) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "touchline.run.attempt", "--folder", str(place), *options, "--", *command]
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


def worker(folder: Path) -> ProcessIdentity:
    until(lambda: read_holder(folder / "status" / "lock")[1] is not None)
    _, work = read_holder(folder / "status" / "lock")
    assert work is not None
    return work


def job(folder: Path, name: str, code: str) -> Job:
    place = folder / name
    place.mkdir()
    (place / "work.py").write_text(code)
    command = (sys.executable, "-m", "touchline.run.attempt", "--", sys.executable, "work.py")
    return Job(name=name, folder=place, status=place / "status", script=None, command=command, output="{job}.out")


def test_the_exit_file_tells_the_code_and_the_reason(folder: Path, start: Start) -> None:
    """0 is completed, another code is failed, and the supervisor's own code is the work's."""
    for code, state in ((0, JobState.COMPLETED), (7, JobState.FAILED)):
        assert start(sys.executable, "-c", f"raise SystemExit({code})").wait() == code
        last = read_attempts(folder / "status")[-1]
        assert (last.exit.code, last.state) == (code, state)
    assert len(read_attempts(folder / "status")) == 2


def test_a_command_that_is_not_there_is_a_failed_attempt(folder: Path, start: Start) -> None:
    assert start("/nowhere/at/all").wait() == 127
    end = read_attempts(folder / "status")[-1].exit
    assert "/nowhere/at/all" in end.reason


def test_torn_and_foreign_status_files_are_no_attempts(folder: Path, start: Start) -> None:
    start("true").wait()
    status = folder / "status"
    (status / "start.torn.0.json").write_text('{"job_id": "to')
    (status / "start.foreign.0.json").write_text("[]")
    (status / "exit.torn.0.json").write_bytes(b"\xff\xfe")
    assert len(read_attempts(status)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_lets_the_work_save(folder: Path, start: Start, number: signal.Signals) -> None:
    """TERM, INT and USR1 all reach the work as TERM; its code 75 is kept, and the attempt counts as stopped."""
    process = start(sys.executable, "-c", SAVER)
    until((folder / "began").exists)
    process.send_signal(number)
    assert process.wait() == 75
    assert (folder / "saved").exists()
    # USR1 is what a scheduler sends before its time limit, and scripts ask for it for nothing else.
    stopped = JobState.TIMEOUT if number is signal.SIGUSR1 else JobState.CANCELLED
    assert read_attempts(folder / "status")[-1].state is stopped


def test_a_time_limit_of_this_machine_lets_the_work_save(folder: Path, start: Start) -> None:
    assert start(sys.executable, "-c", SAVER, TOUCHLINE_TIME_LIMIT_SECONDS="1").wait(WAIT_SECONDS) == 75
    (attempt,) = read_attempts(folder / "status")
    assert (attempt.state, attempt.exit.reason) == (JobState.TIMEOUT, "stopped at its time limit")


def test_work_that_ends_in_time_knows_no_limit(folder: Path, start: Start) -> None:
    assert start("true", TOUCHLINE_TIME_LIMIT_SECONDS="3600").wait(WAIT_SECONDS) == 0
    assert read_attempts(folder / "status")[0].state is JobState.COMPLETED


def test_a_twin_ends_at_once_and_harms_nothing(folder: Path, start: Start) -> None:
    """A job that was submitted twice does its work once; supervisor and work are named in the lock."""
    first = start(sys.executable, "-c", SAVER)
    until((folder / "began").exists)
    assert start(sys.executable, "-c", SAVER).wait() == 76
    assert first.poll() is None
    assert (folder / "began").read_text() == "x"
    work = worker(folder)
    supervisor, _ = read_holder(folder / "status" / "lock")
    assert supervisor.pid == first.pid
    assert os.getpgid(work.pid) == os.getpgid(first.pid)
    assert json.loads((folder / "status" / "lock").read_text())["work"]["pid"] == work.pid


def test_an_evaluation_keeps_its_status_and_lock_apart(folder: Path, start: Start) -> None:
    """So a run's evaluation may start while its training still ends."""
    training = start(sys.executable, "-c", SAVER)
    until((folder / "began").exists)
    assert start("true", options=("--status", "eval/status")).wait(WAIT_SECONDS) == 0
    training.terminate()
    assert training.wait(WAIT_SECONDS) == 75
    assert read_attempts(folder / "eval" / "status")[0].state is JobState.COMPLETED


def test_work_whose_supervisor_is_killed_saves_and_ends(folder: Path, start: Start) -> None:
    """kill -9 of the supervisor: the kernel asks the work to stop, and the attempt reads as failed, not as running."""
    process = start(sys.executable, "-c", SAVER)
    until((folder / "began").exists)
    work = worker(folder)
    process.kill()
    process.wait()
    until(lambda: is_alive(work) is False)
    assert (folder / "saved").exists()
    assert read_attempts(folder / "status")[-1].state is JobState.FAILED


def test_an_orphan_that_ignores_its_parents_death_is_ended_first(folder: Path, start: Start) -> None:
    """The lock stays with the orphan, so two never work at once; the next attempt asks the orphan to save first."""
    stubborn = SAVER.replace(
        "signal.signal(signal.SIGTERM, stop)",
        "import ctypes; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0); signal.signal(signal.SIGTERM, stop)",
    )
    process = start(sys.executable, "-c", stubborn)
    until((folder / "began").exists)
    work = worker(folder)
    process.kill()
    process.wait()
    assert is_alive(work)
    assert start(sys.executable, "-c", "raise SystemExit(0)").wait() == 0
    assert is_alive(work) is False
    assert (folder / "saved").exists()


def test_a_pid_that_another_process_has_now_is_not_the_attempt() -> None:
    me = identify()
    assert is_alive(me) is True
    assert is_alive(replace(me, started=me.started + 1)) is False
    assert is_alive(replace(me, boot_id="another")) is False
    assert is_alive(replace(me, host="another")) is None


@pytest.mark.parametrize(("id_", "code"), [("7", 0), ("8", 76)])
def test_a_requeued_job_waits_for_the_lock_of_its_dead_node(folder: Path, start: Start, id_: str, code: int) -> None:
    """A network file system lets go of a dead node's lock after a while; any other job finds the folder taken."""
    status = folder / "status"
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
    process = start("true", SLURM_JOB_ID=id_, SLURM_RESTART_COUNT="1")
    if code == 0:
        time.sleep(1.5)
        assert process.poll() is None
        os.close(lock)
    assert process.wait(WAIT_SECONDS) == code


def test_a_cohort_is_one_attempt_in_each_folder(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is told which folders it holds; the end of each run is by its own training.json."""
    places = {name: tmp_path / name for name in ("lead", "done", "failed", "held")}
    for place in places.values():
        place.mkdir()
    holder = start(sys.executable, "-c", SAVER, place=places["held"])
    until((places["held"] / "began").exists)
    monkeypatch.setenv("TOUCHLINE_COHORT", "done:failed:held:../escape")
    work = (
        "import pathlib, sys; pathlib.Path('words').write_text(' '.join(sys.argv[1:]));"
        "pathlib.Path('../done/training.json').write_text('{}'); print('said'); sys.exit(1)"
    )
    with (places["lead"] / "slurm-7.out").open("wb") as stream:
        words = [sys.executable, "-m", "touchline.run.attempt", "--folder", str(places["lead"]), "--"]
        ended = subprocess.run(
            [*words, sys.executable, "-c", work], check=False, stdout=stream, stderr=subprocess.DEVNULL
        )
    assert ended.returncode == 1
    assert (places["lead"] / "words").read_text() == "--with ../done --with ../failed"
    codes = {name: read_attempts(places[name] / "status")[-1].exit for name in ("lead", "done", "failed")}
    assert {name: None if e is None else e.code for name, e in codes.items()} == {"lead": 1, "done": 0, "failed": 1}
    assert (places["failed"] / "slurm-7.out").read_text() == "said\n"
    assert holder.poll() is None
    assert not (tmp_path.parent / "escape").exists()


def test_before_its_limit_a_job_saves(folder: Path, tmp_path: Path, start: Start, slurm: dict[str, str]) -> None:
    """USR1 is what SLURM sends then; the exit file is written before the requeue ends the script."""
    process = start(sys.executable, "-c", SAVER, "save", **slurm)
    until((folder / "began").exists)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(WAIT_SECONDS) == 75
    assert (tmp_path / "asked").read_text() == "requeue 41\n"
    (attempt,) = read_attempts(folder / "status")
    assert (attempt.start.job_id, attempt.start.restart) == ("41", 1)
    assert attempt.exit.reason == "stopped by SIGUSR1, requeued"


@parametrize(
    "number, arguments, changes",
    (signal.SIGUSR1, (), {}),
    (signal.SIGTERM, ("save",), {}),
    (signal.SIGUSR1, ("save",), {"SLURM_RESTART_COUNT": "3", "TOUCHLINE_MAX_RESTARTS": "3"}),
    (signal.SIGUSR1, ("save",), {"SLURM_STEP_ID": "2"}),
    (signal.SIGUSR1, ("save",), {"SLURM_JOB_ID": ""}),
    ids=["nothing saved", "cancelled", "too often", "a step of a larger job", "no scheduler"],
)
def test_a_job_is_not_queued_again(
    folder: Path,
    tmp_path: Path,
    start: Start,
    slurm: dict[str, str],
    number: signal.Signals,
    arguments: tuple[str, ...],
    changes: dict[str, str],
) -> None:
    """Where it would do nothing better, or was not asked because of its time limit."""
    process = start(sys.executable, "-c", SAVER, *arguments, **{**slurm, **changes})
    until((folder / "began").exists)
    process.send_signal(number)
    assert process.wait(WAIT_SECONDS) == 75
    assert not (tmp_path / "asked").exists()
    assert read_attempts(folder / "status")[0].exit is not None


@parametrize(
    "environment, expected",
    ({}, ""),
    ({"TOUCHLINE_JOB_ID": "local-1"}, "local-1"),
    ({"SLURM_JOB_ID": "7", "TOUCHLINE_JOB_ID": "local-1"}, "7"),
    ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}, "7_0"),
    ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "3"}, "7.3"),
    ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "batch"}, "7"),
)
def test_an_attempt_knows_which_job_it_is(environment: dict[str, str], expected: str) -> None:
    """Arrays and steps of one allocation are told apart: their status files must not meet."""
    assert own_job_id(environment) == expected


ENDS = {
    "good": ("raise SystemExit(0)", JobState.COMPLETED),
    "bad": ("raise SystemExit(3)", JobState.FAILED),
    "full": ("raise SystemExit(79)", JobState.OUT_OF_MEMORY),
    "killed": ("import os; os.kill(os.getpid(), 9)", JobState.UNKNOWN),
    "gone": ("import os; os.kill(os.getppid(), 9); os.kill(os.getpid(), 9)", JobState.UNKNOWN),
}
"""Of each job, its work, and what the local executor says of its end; a later one says the same."""


def test_the_queue_runs_jobs_and_records_the_intent_before_the_start(folder: Path) -> None:
    """Every start in the ledger has its intent before it, with the same token; states come from the files."""
    jobs = [job(folder, name, code) for name, (code, _) in ENDS.items()]
    ended = run_jobs(jobs, LocalExecutor(), Ledger(folder / "ledger.jsonl", "local"), [()], lambda running, views: None)
    assert {name: view.state for name, view in ended.items()} == {name: state for name, (_, state) in ENDS.items()}
    later = LocalExecutor().query_jobs(jobs)
    assert {name: (view.job_id, view.state) for name, view in later.items()} == {
        name: (view.job_id, view.state) for name, view in ended.items()
    }
    events = [(entry.event, entry.job, entry.token) for entry in read_ledger(folder / "ledger.jsonl")]
    assert [event for event, _, _ in events] == ["intent", "submitted", "ended"] * len(ENDS)
    assert events[0][2] == events[1][2] != ""


def test_the_queue_adopts_a_job_that_is_alive(folder: Path, start: Start) -> None:
    run = job(folder, "run", SAVER)
    other = start(sys.executable, "-c", SAVER, place=run.folder)
    until((run.folder / "began").exists)

    def stop_it(running: object, views: object) -> None:
        if other.poll() is None:
            other.terminate()

    run_jobs([run], LocalExecutor(), Ledger(folder / "ledger.jsonl", "local"), [()], stop_it)
    assert [entry.event for entry in read_ledger(folder / "ledger.jsonl")] == ["adopted", "ended"]
    assert (run.folder / "began").read_text() == "x"


def test_ctrl_c_lets_running_jobs_save_and_starts_no_more(folder: Path) -> None:
    jobs = [job(folder, "first", SAVER), job(folder, "second", SAVER)]

    def interrupt(running: object, views: object) -> None:
        if (jobs[0].folder / "began").exists() and not (jobs[0].folder / "saved").exists() and not asked:
            asked.append(True)
            raise KeyboardInterrupt

    asked: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, LocalExecutor(), Ledger(folder / "ledger.jsonl", "local"), [()], interrupt)
    assert (jobs[0].folder / "saved").exists()
    assert not (jobs[1].folder / "began").exists()
    start = read_attempts(jobs[0].folder / "status")[-1].start
    assert is_alive(identity_of(start)) is False


def test_a_torn_ledger_line_harms_no_other(folder: Path) -> None:
    path = folder / "ledger.jsonl"
    ledger = Ledger(path, "local")
    ledger.record("intent", "a", token="1")
    with path.open("a") as stream:
        stream.write('{"event": "sub')
    ledger.record("intent", "b", token="2")
    assert [entry.job for entry in read_ledger(path)] == ["a", "b"]
    assert len(path.read_text().splitlines()) == 3
