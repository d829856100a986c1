"""The queue: order, room, refusals, cancelled jobs, and jobs that are started again; in simulated time."""

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from touchline.core.errors import SubmissionLimitError, SubmissionRejectedError, SubmissionUnknownError
from touchline.core.status import HEARTBEAT_STALE_SECONDS, AttemptExit, AttemptStart, JobState
from touchline.run.claim_file import CLAIM, drop_claim, take_claim
from touchline.run.executors import Executor
from touchline.run.jobs import Job
from touchline.run.ledger import Ledger, read_ledger
from touchline.run.queue import LATER_SECONDS, run_jobs
from touchline.run.statusfiles import identify, write_exit, write_heartbeat, write_start
from touchline.slurm.job_view import JobView

pytestmark = pytest.mark.planning


class Simulated:
    def __init__(self) -> None:
        self.seconds = 1e6

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class Scripted:
    """An executor whose jobs last two looks; `answers` are raised by the starts of a job, in order."""

    name = "scripted"
    tick_seconds = 1.0
    trouble = ""

    def __init__(self, answers: Mapping[str, list[Exception]] | None = None, *, waits_itself: bool = False) -> None:
        self.waits_itself, self.find = waits_itself, None
        self.answers = {name: list(faults) for name, faults in (answers or {}).items()}
        self.started: list[tuple[str, tuple[str, ...]]] = []
        self.most = 0
        self.ends: dict[str, list[JobState]] = {}
        self._left: dict[str, int] = {}
        self._ids: dict[str, str] = {}

    def start(self, job: Job, token: str, gpus: tuple[str, ...], after: Sequence[str] = ()) -> str:
        if self.answers.get(job.name):
            raise self.answers[job.name].pop(0)
        self.started.append((job.name, tuple(after)))
        self._ids[job.name] = f"{job.name}#{sum(name == job.name for name, _ in self.started)}"
        self._left[job.name] = 2
        self.most = max(self.most, sum(left > 0 for left in self._left.values()))
        return self._ids[job.name]

    def query_jobs(self, jobs: Sequence[Job]) -> Mapping[str, JobView]:
        found: dict[str, JobView] = {}
        for job in jobs:
            if job.name not in self._left:
                continue
            self._left[job.name] -= 1
            over = self._left[job.name] <= 0
            state = (self.ends.get(job.name) or [JobState.COMPLETED])[0] if over else JobState.RUNNING
            if over and len(self.ends.get(job.name, ())) > 1 and self._left[job.name] == 0:
                self.ends[job.name].pop(0)
            found[job.name] = JobView(job_id=self._ids[job.name], state=state, active=not over, source="process")
        return found

    def stop(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._left[job.name] = 0


def job(folder: Path, name: str, *after: str) -> Job:
    return Job(
        name=name, folder=folder / name, status=folder / name, script=None, command=("true",), output="", after=after
    )


def ran(folder: Path, jobs: Sequence[Job], executor: Executor, *, room: int = 1, **hooks: object) -> dict[str, JobView]:
    ledger = Ledger(folder / "ledger.jsonl", executor.name)
    return run_jobs(jobs, executor, ledger, [()] * room, lambda *_: None, clock=Simulated(), **hooks)


@pytest.mark.parametrize("room", [1, 2, 9])
def test_never_more_at_once_than_there_is_room(tmp_path: Path, room: int) -> None:
    executor = Scripted()
    ended = ran(tmp_path, [job(tmp_path, str(i)) for i in range(7)], executor, room=room)
    assert executor.most == min(room, 7)
    assert sorted(name for name, _ in executor.started) == sorted(ended) == [str(i) for i in range(7)]


def test_a_stage_starts_when_the_one_before_has_ended_and_others_need_not_wait(tmp_path: Path) -> None:
    """However that one ended: it looks at its artefacts itself."""
    executor = Scripted()
    executor.ends = {"easy": [JobState.FAILED]}
    jobs = [job(tmp_path, "easy"), job(tmp_path, "hard", "easy"), job(tmp_path, "other")]
    ended = ran(tmp_path, jobs, executor, room=3)
    assert [name for name, _ in executor.started] == ["easy", "other", "hard"]
    assert executor.started[-1] == ("hard", ())
    assert ended["hard"].state is JobState.COMPLETED


def test_a_scheduler_that_waits_itself_is_told_what_for(tmp_path: Path) -> None:
    executor = Scripted(waits_itself=True)
    ran(tmp_path, [job(tmp_path, "easy"), job(tmp_path, "hard", "easy")], executor, room=9)
    assert executor.started == [("easy", ()), ("hard", ("easy#1",))]


def test_a_refused_job_does_not_keep_the_next_ones_from_starting(tmp_path: Path) -> None:
    executor = Scripted({"a": [SubmissionRejectedError("unknown partition 'gpuu'", hint="one of gpu")]})
    ended = ran(tmp_path, [job(tmp_path, "a"), job(tmp_path, "b")], executor)
    assert (ended["a"].state, ended["a"].source) == (JobState.FAILED, "ledger")
    assert "gpuu" in ended["a"].reason
    assert "one of gpu" in ended["a"].reason
    assert ended["b"].state is JobState.COMPLETED


@pytest.mark.parametrize("fault", [SubmissionLimitError("too many"), SubmissionUnknownError("no answer")])
def test_what_is_not_taken_is_tried_later(tmp_path: Path, fault: SubmissionLimitError | SubmissionUnknownError) -> None:
    executor = Scripted({"b": [fault, fault]})
    said: list[str] = []
    ended = ran(tmp_path, [job(tmp_path, name) for name in "abc"], executor, room=3, on_message=said.append)
    assert said == [f"{fault.message} (retrying later)"]
    assert sorted(name for name, _ in executor.started) == ["a", "b", "c"]
    assert all(view.state is JobState.COMPLETED for view in ended.values())


def test_what_another_command_cancels_does_not_start(tmp_path: Path) -> None:
    """It reads it in the ledger; what was cancelled before it was asked for again starts."""
    ledger = Ledger(tmp_path / "ledger.jsonl", "other")
    ledger.record("cancel requested", "a")
    executor = Scripted()

    def before(each: Job) -> bool:
        if each.name == "a":
            ledger.record("cancel requested", "b")
        return True

    ended = ran(tmp_path, [job(tmp_path, "a"), job(tmp_path, "b"), job(tmp_path, "c")], executor, before=before)
    assert [name for name, _ in executor.started] == ["a", "c"]
    assert ended["b"].state is JobState.CANCELLED


def test_what_failed_may_be_started_again_and_its_last_end_counts(tmp_path: Path) -> None:
    executor = Scripted(waits_itself=True)
    executor.ends = {"a": [JobState.NODE_FAIL, JobState.COMPLETED]}

    def after(each: Job, view: JobView) -> Sequence[Job]:
        return () if view.state is JobState.COMPLETED else (each, job(tmp_path, "child", "a"))

    ended = ran(tmp_path, [job(tmp_path, "a")], executor, room=5, after=after)
    assert executor.started == [("a", ()), ("a", ()), ("child", ("a#2",))]
    assert ended["a"].state is JobState.COMPLETED
    events = [entry.event for entry in read_ledger(tmp_path / "ledger.jsonl") if entry.job == "a"]
    assert events == ["intent", "submitted", "ended"] * 2


@pytest.mark.parametrize("waits_itself", [False, True])
def test_ctrl_c_stops_what_runs_here_and_leaves_a_schedulers_jobs_alone(tmp_path: Path, waits_itself: bool) -> None:
    """A closed laptop must not empty the cluster's queue."""
    executor = Scripted(waits_itself=waits_itself)
    stopped: list[str] = []
    executor.stop = lambda jobs: stopped.extend(each.name for each in jobs)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    ledger = Ledger(tmp_path / "ledger.jsonl", executor.name)
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job(tmp_path, "a")], executor, ledger, [()], lambda *_: interrupt(), clock=Simulated())
    assert stopped == ([] if waits_itself else ["a"])


def test_what_somebody_else_has_done_meanwhile_is_not_started(tmp_path: Path) -> None:
    """The list of what is missing may be old by the time that there is room."""
    executor = Scripted()
    jobs = [job(tmp_path, "a"), job(tmp_path, "b", "a")]
    ended = ran(tmp_path, jobs, executor, before=lambda each: each.name != "a")
    assert [name for name, _ in executor.started] == ["b"]
    assert ended["a"].state is JobState.COMPLETED


def test_what_builds_on_a_refused_job_waits_until_that_is_settled(tmp_path: Path) -> None:
    """`after` hears of the refusal before `before` is asked about the next one, which can then say no."""
    executor = Scripted({"a": [SubmissionRejectedError("unknown partition 'gpuu'")]}, waits_itself=True)
    stopped: list[str] = []

    def before(each: Job) -> bool:
        if stopped and each.name == "b":
            raise SubmissionRejectedError("its parent a")
        return True

    def after(each: Job, view: JobView) -> Sequence[Job]:
        del view
        stopped.append(each.name)
        return ()

    jobs = [job(tmp_path, "a"), job(tmp_path, "b", "a"), job(tmp_path, "c")]
    ended = ran(tmp_path, jobs, executor, room=9, before=before, after=after)
    assert [name for name, _ in executor.started] == ["c"]
    assert ended["b"].reason == "its parent a"
    assert [entry.event for entry in read_ledger(tmp_path / "ledger.jsonl") if entry.job == "b"] == ["ended"]


def test_an_end_makes_room_at_once(tmp_path: Path) -> None:
    """A limit of the scheduler is not waited for longer than the job that fills it."""
    executor = Scripted({"b": [SubmissionLimitError("one job only")]})
    clock = Simulated()
    ledger = Ledger(tmp_path / "ledger.jsonl", executor.name)
    run_jobs([job(tmp_path, name) for name in "ab"], executor, ledger, [()] * 2, lambda *_: None, clock=clock)
    assert [name for name, _ in executor.started] == ["a", "b"]
    assert clock.seconds - 1e6 < LATER_SECONDS


@pytest.fixture
def status(tmp_path: Path) -> Path:
    return tmp_path / "status"


def start(job_id: str = "1", *, restart: int = 0, host: str | None = None) -> AttemptStart:
    me = identify()
    return AttemptStart(
        job_id=job_id,
        restart=restart,
        token="",
        host=me.host if host is None else host,
        boot_id=me.boot_id,
        pid=me.pid,
        pid_started=me.started,
        time_unix=time.time(),
    )


def test_of_two_attempts_one_holds_the_folder(status: Path) -> None:
    assert take_claim(status, start("1"))
    assert not take_claim(status, start("2"))
    drop_claim(status)
    assert take_claim(status, start("2"))


def test_the_same_job_takes_it_again_after_a_requeue(status: Path) -> None:
    """Its node died, and SLURM started it elsewhere under the same id."""
    assert take_claim(status, start("7", host="node1"))
    assert take_claim(status, start("7", restart=1, host="node2"))


def test_a_dead_process_of_this_machine_holds_nothing(status: Path) -> None:
    assert take_claim(status, replace(start("1"), pid_started=1.0))
    assert take_claim(status, start("2"))


def test_an_attempt_that_ended_holds_nothing(status: Path) -> None:
    """Its exit file is its last word, even where its node cannot be asked."""
    other = start("1", host="elsewhere")
    assert take_claim(status, other)
    assert not take_claim(status, start("2"))
    write_exit(status, AttemptExit(job_id="1", restart=0, code=0, reason="completed", time_unix=0.0))
    assert take_claim(status, start("2"))


def test_another_node_holds_it_as_long_as_its_heart_beats(status: Path) -> None:
    """Only the file system's own clock counts: the nodes' clocks may differ."""
    other = start("1", host="elsewhere")
    assert take_claim(status, other)
    write_start(status, other)
    write_heartbeat(status, other, now_unix=0.0)
    assert not take_claim(status, start("2"))
    old = time.time() - HEARTBEAT_STALE_SECONDS - 5
    for path in status.iterdir():
        os.utime(path, (old, old))
    assert take_claim(status, start("2"))
    assert json.loads((status / CLAIM).read_text())["job_id"] == "2"


def test_a_claim_that_was_cut_off_binds_until_it_is_old(status: Path) -> None:
    status.mkdir()
    (status / CLAIM).write_text('{"job_id": "1"')
    assert not take_claim(status, start("2"))
    os.utime(status / CLAIM, (1, 1))
    assert take_claim(status, start("2"))


def test_many_who_find_it_stale_at_once_give_one_holder(status: Path) -> None:
    for _ in range(20):
        drop_claim(status)
        assert take_claim(status, replace(start("0"), pid_started=1.0))
        held: list[bool] = []
        barrier = threading.Barrier(8)

        def take(number: int, barrier: threading.Barrier = barrier, held: list[bool] = held) -> None:
            barrier.wait()
            held.append(take_claim(status, start(str(number))))

        threads = [threading.Thread(target=take, args=(number,)) for number in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert held.count(True) == 1
    assert [path.name for path in status.iterdir()] == [CLAIM]
