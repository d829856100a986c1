"""The supervisor: one attempt at a time, true status files, nothing orphaned; with real processes and real kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from touchline.core.status import JobState
from touchline.run.ledger import Ledger, read_ledger
from touchline.run.local import LocalExecutor
from touchline.run.processes import identify, is_alive
from touchline.run.protocol import Job
from touchline.run.queue import run_jobs
from touchline.run.statusfiles import identity_of, read_attempts, read_holder

WAIT_SECONDS = 60.0
SAVER = """\
import pathlib, signal, sys, time
def stop(*_):
    pathlib.Path("saved").write_text("yes")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
with open("began", "a") as stream:
    stream.write("x")
while True:
    time.sleep(0.02)
"""


@pytest.fixture(params=["plain", 'it\'s a "run"\nwith $HOME; ünd'])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run's folder, once with a name that breaks careless scripts."""
    path = tmp_path / str(request.param)
    path.mkdir()
    return path


def until(true: Callable[[], object]) -> None:
    """Wait for something that must happen; its absence is the failure, not its lateness."""
    end = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start supervisors, and leave none behind."""
    processes: list[subprocess.Popen[bytes]] = []

    def begin(folder: Path, *command: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "touchline.run.attempt", "--folder", str(folder), "--", *command]
        processes.append(subprocess.Popen(words, stderr=subprocess.DEVNULL))
        return processes[-1]

    yield begin
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_the_exit_file_tells_the_code_and_the_reason(
    folder: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """0 is completed, another code is failed, and the supervisor's own code is the work's."""
    for code, state in ((0, JobState.COMPLETED), (7, JobState.FAILED)):
        assert start(folder, sys.executable, "-c", f"raise SystemExit({code})").wait() == code
        last = read_attempts(folder / "status")[-1]
        assert last.exit is not None
        assert (last.exit.code, last.state) == (code, state)
    assert len(read_attempts(folder / "status")) == 2


def test_a_command_that_is_not_there_is_a_failed_attempt(
    folder: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """The exit file says what could not be started."""
    assert start(folder, "/nowhere/at/all").wait() == 127
    end = read_attempts(folder / "status")[-1].exit
    assert end is not None
    assert "/nowhere/at/all" in end.reason


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_lets_the_work_save(
    folder: Path, start: Callable[..., subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    """TERM, INT and USR1 all reach the work as TERM; its code 75 is kept, and the attempt counts as stopped."""
    process = start(folder, sys.executable, "-c", SAVER)
    until((folder / "began").exists)
    process.send_signal(number)
    assert process.wait() == 75
    assert (folder / "saved").exists()
    # USR1 is what a scheduler sends before its time limit, and scripts ask for it for nothing else.
    stopped = JobState.TIMEOUT if number is signal.SIGUSR1 else JobState.CANCELLED
    assert read_attempts(folder / "status")[-1].state is stopped


def test_a_twin_ends_at_once_and_harms_nothing(folder: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    """A job that was submitted twice does its work once."""
    first = start(folder, sys.executable, "-c", SAVER)
    until((folder / "began").exists)
    assert start(folder, sys.executable, "-c", SAVER).wait() == 76
    assert first.poll() is None
    assert (folder / "began").read_text() == "x"


def test_work_whose_supervisor_is_killed_saves_and_ends(
    folder: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """kill -9 of the supervisor: the kernel asks the work to stop, and the attempt reads as failed, not as running."""
    process = start(folder, sys.executable, "-c", SAVER)
    until((folder / "began").exists)
    until(lambda: read_holder(folder / "status" / "lock")[1] is not None)
    _, work = read_holder(folder / "status" / "lock")
    process.kill()
    process.wait()
    until(lambda: work is not None and is_alive(work) is False)
    assert (folder / "saved").exists()
    assert read_attempts(folder / "status")[-1].state is JobState.FAILED


def test_an_orphan_that_ignores_its_parents_death_is_ended_before_the_work_begins_again(
    folder: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """The lock stays with the orphan, so two never work at once; the next attempt asks the orphan to save first."""
    stubborn = SAVER.replace(
        "signal.signal(signal.SIGTERM, stop)",
        "import ctypes; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0); signal.signal(signal.SIGTERM, stop)",
    )
    process = start(folder, sys.executable, "-c", stubborn)
    until((folder / "began").exists)
    until(lambda: read_holder(folder / "status" / "lock")[1] is not None)
    _, work = read_holder(folder / "status" / "lock")
    assert work is not None
    process.kill()
    process.wait()
    assert is_alive(work)
    assert start(folder, sys.executable, "-c", "raise SystemExit(0)").wait() == 0
    assert is_alive(work) is False
    assert (folder / "saved").exists()


def test_a_pid_that_another_process_has_now_is_not_the_attempt() -> None:
    """Pid and start belong together; another boot or another start is another process."""
    from dataclasses import replace

    me = identify()
    assert is_alive(me) is True
    assert is_alive(replace(me, started=me.started + 1)) is False
    assert is_alive(replace(me, boot_id="another")) is False
    assert is_alive(replace(me, host="another")) is None


def test_torn_and_foreign_status_files_are_no_attempts(
    folder: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """What a crash or a person left there does not hide the attempts that are whole."""
    start(folder, "true").wait()
    status = folder / "status"
    (status / "start.torn.0.json").write_text('{"job_id": "to')
    (status / "start.foreign.0.json").write_text("[]")
    (status / "exit.torn.0.json").write_bytes(b"\xff\xfe")
    assert len(read_attempts(status)) == 1


def test_the_queue_runs_jobs_and_records_the_intent_before_the_start(folder: Path) -> None:
    """Every start in the ledger has its intent before it, with the same token; states come from the files."""
    jobs = [_job(folder, "good", "raise SystemExit(0)"), _job(folder, "bad", "raise SystemExit(3)")]
    ended = run_jobs(jobs, LocalExecutor(), Ledger(folder / "ledger.jsonl", "local"), [()], lambda running, views: None)
    assert {name: view.state for name, view in ended.items()} == {"good": JobState.COMPLETED, "bad": JobState.FAILED}
    events = [(entry.event, entry.job, entry.token) for entry in read_ledger(folder / "ledger.jsonl")]
    assert [event for event, _, _ in events] == ["intent", "submitted", "ended"] * 2
    assert events[0][2] == events[1][2] != ""


def test_the_queue_adopts_a_job_that_is_alive(folder: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    """A job of an earlier, killed call is waited for and not started again."""
    job = _job(folder, "run", SAVER)
    other = start(job.folder, sys.executable, "-c", SAVER)
    until((job.folder / "began").exists)

    def stop_it(running: object, views: object) -> None:
        if other.poll() is None:
            other.terminate()

    run_jobs([job], LocalExecutor(), Ledger(folder / "ledger.jsonl", "local"), [()], stop_it)
    assert [entry.event for entry in read_ledger(folder / "ledger.jsonl")] == ["adopted", "ended"]
    assert (job.folder / "began").read_text() == "x"


def test_ctrl_c_lets_running_jobs_save_and_starts_no_more(folder: Path) -> None:
    """KeyboardInterrupt stops what runs, waits for it, and leaves what waits unstarted."""
    jobs = [_job(folder, "first", SAVER), _job(folder, "second", SAVER)]

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
    """A kill in the middle of a line loses that line alone."""
    path = folder / "ledger.jsonl"
    ledger = Ledger(path, "local")
    ledger.record("intent", "a", token="1")
    with path.open("a") as stream:
        stream.write('{"event": "sub')
    ledger.record("intent", "b", token="2")
    assert [entry.job for entry in read_ledger(path)] == ["a", "b"]
    assert len(path.read_text().splitlines()) == 3


def _job(folder: Path, name: str, code: str) -> Job:
    place = folder / name
    place.mkdir()
    (place / "work.py").write_text(code)
    command = (sys.executable, "-m", "touchline.run.attempt", "--", sys.executable, "work.py")
    return Job(name=name, folder=place, status=place / "status", script=None, command=command, output="{job}.out")


def test_the_holder_is_named_in_the_lock(folder: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    """Supervisor and work are both there while the work runs."""
    process = start(folder, sys.executable, "-c", SAVER)
    until(lambda: read_holder(folder / "status" / "lock")[1] is not None)
    supervisor, work = read_holder(folder / "status" / "lock")
    assert supervisor is not None
    assert work is not None
    assert supervisor.pid == process.pid
    assert os.getpgid(work.pid) == os.getpgid(process.pid)
    assert json.loads((folder / "status" / "lock").read_text())["work"]["pid"] == work.pid


def test_a_cohort_is_one_attempt_in_each_folder(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is told which folders it holds; the end of each run is by its own training.json."""
    places = {name: tmp_path / name for name in ("lead", "done", "failed", "held")}
    for place in places.values():
        place.mkdir()
    holder = start(places["held"], sys.executable, "-c", SAVER)
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
    assert {name: None if end is None else end.code for name, end in codes.items()} == {
        "lead": 1,
        "done": 0,
        "failed": 1,
    }
    assert (places["failed"] / "slurm-7.out").read_text() == "said\n"
    assert holder.poll() is None
    assert not (tmp_path.parent / "escape").exists()
