"""Submitting is a transaction: whatever kills it and wherever, no run is lost and none is started twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.run.scripted_slurm import DOWN, LOST, Row, ScriptedSlurm, SimClock, ended, make_job, started

from touchline.core.errors import HostError, SubmissionLimitError, SubmissionRejectedError, SubmissionUnknownError
from touchline.core.status import JobState
from touchline.run.ledger import Ledger, LedgerEntry, LedgerReader, open_intents, open_jobs, read_ledger
from touchline.run.protocol import Job
from touchline.run.slurm import SlurmExecutor
from touchline.run.submission import begin
from touchline.slurm.local.commands import CommandResult, without_outer_job

pytestmark = pytest.mark.planning

REFUSAL = CommandResult(
    code=1, out="", err="sbatch: error: Batch job submission failed: Invalid partition name specified\n"
)
FULL = CommandResult(code=1, out="", err="sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Job violates\n")


class Killed(BaseException):
    """The process ends here."""


class Bench:
    """One run, one scripted SLURM that takes what is submitted."""

    def __init__(self, root: Path) -> None:
        self.clock = SimClock()
        self.slurm = ScriptedSlurm(clock=self.clock)
        self.job = make_job(root)
        self.ledger_path = root / "ledger.jsonl"
        self.taken = 0

    def take(self, words: tuple[str, ...]) -> str:
        """The controller takes a job."""
        self.taken += 1
        token = next(word.partition("=")[2] for word in words if word.startswith("--comment="))
        job_id = str(75 + self.taken)
        self.slurm.queue.append(Row(job_id=job_id, folder=str(self.job.folder), state="PENDING", comment=token))
        return job_id

    def begin(self, job: Job | None = None) -> str:
        """In a process of its own."""
        executor = SlurmExecutor(self.slurm, self.ledger_path, clock=self.clock)
        return begin(job or self.job, executor, Ledger(self.ledger_path, "slurm"))

    def entries(self) -> tuple[LedgerEntry, ...]:
        return read_ledger(self.ledger_path)

    def events(self) -> list[str]:
        return [entry.event for entry in self.entries()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_intent_then_start_then_id(bench: Bench) -> None:
    bench.slurm.sbatch = [CommandResult(code=0, out="76\n", err="")]
    assert bench.begin() == "76"
    intent, submitted = bench.entries()
    assert (intent.event, submitted.event, submitted.job_id) == ("intent", "submitted", "76")
    assert intent.token == submitted.token
    assert len(intent.token) == 16


@pytest.mark.parametrize(("answer", "fault"), [(REFUSAL, SubmissionRejectedError), (FULL, SubmissionLimitError)])
def test_a_refusal_closes_the_intent_and_the_next_try_begins_anew(
    answer: CommandResult, fault: type[HostError], bench: Bench
) -> None:
    bench.slurm.sbatch = [answer, CommandResult(code=0, out="76\n", err="")]
    with pytest.raises(fault) as caught:
        bench.begin()
    assert bench.events() == ["intent", "refused"]
    assert bench.entries()[-1].reason == caught.value.message
    assert bench.begin() == "76"
    assert bench.events() == ["intent", "refused", "intent", "submitted"]
    assert len({entry.token for entry in bench.entries()}) == 2


def goes_down_at_sbatch(bench: Bench) -> None:
    """The controller answers the look before, and nothing from then on."""
    run = bench.slurm.run

    def answer(words: tuple[str, ...], **more: object) -> CommandResult:
        if words[0] == "sbatch":
            bench.slurm.squeue = DOWN
        return run(words, **more)  # type: ignore[arg-type]

    bench.slurm.run = answer  # type: ignore[method-assign, assignment]


def test_nothing_is_submitted_while_nobody_tells_what_is_in_the_queue(bench: Bench) -> None:
    """Somebody may have submitted it by hand; and an sbatch that cannot be answered would only be waited for."""
    bench.slurm.squeue = DOWN
    with pytest.raises(SubmissionLimitError):
        bench.begin()
    assert bench.slurm.count("sbatch") == 0
    assert bench.events() == []
    bench.slurm.squeue, bench.slurm.sbatch = None, [CommandResult(code=0, out="80\n", err="")]
    assert bench.begin() == "80"


def test_what_was_finished_while_the_scheduler_took_its_time_is_not_begun(bench: Bench) -> None:
    ledger = Ledger(bench.ledger_path, "slurm")
    executor = SlurmExecutor(bench.slurm, bench.ledger_path, clock=bench.clock)
    assert begin(bench.job, executor, ledger, is_done=lambda: True) is None
    assert (bench.slurm.count("sbatch"), bench.events()) == (0, [])


def test_an_unclear_answer_keeps_the_intent_open_until_its_token_was_looked_for(bench: Bench) -> None:
    bench.slurm.sbatch = [LOST, CommandResult(code=0, out="80\n", err="")]
    goes_down_at_sbatch(bench)
    with pytest.raises(SubmissionUnknownError):
        bench.begin()
    assert bench.events() == ["intent", "unclear"]
    with pytest.raises(SubmissionUnknownError, match="does not report"):
        bench.begin()
    assert bench.slurm.count("sbatch") == 1
    bench.slurm.squeue = None
    assert bench.begin() == "80"
    assert bench.events() == ["intent", "unclear", "not submitted", "intent", "submitted"]
    assert open_intents(bench.entries(), "slurm") == {}


def test_an_unclear_answer_of_a_job_that_is_in_is_settled_by_its_token(bench: Bench) -> None:
    bench.slurm.sbatch = [LOST]
    goes_down_at_sbatch(bench)
    with pytest.raises(SubmissionUnknownError):
        bench.begin()
    bench.slurm.squeue = None
    bench.take(next(words for words in bench.slurm.calls if words[0] == "sbatch"))
    assert bench.begin() == "76"
    assert bench.events() == ["intent", "unclear", "submitted"]
    assert bench.begin() == "76"
    assert (bench.events()[-1], bench.slurm.count("sbatch")) == ("adopted", 1)


@pytest.mark.parametrize("point", ["before", "inside", "after"])
def test_killed_at_any_step_of_a_submission(point: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before sbatch, between sbatch's taking and its answer, and before the id is on disk."""
    run = bench.slurm.run

    def submit(words: tuple[str, ...], **more: object) -> CommandResult:
        if words[0] != "sbatch":
            return run(words, **more)  # type: ignore[arg-type]
        if point == "before" and not bench.taken:
            bench.taken += 1
            raise Killed
        job_id = bench.take(tuple(words))
        if point == "inside" and bench.taken == 1:
            raise Killed
        return CommandResult(code=0, out=f"{job_id}\n", err="")

    monkeypatch.setattr(bench.slurm, "run", submit)
    record = Ledger.record
    killed: list[str] = []

    def write(self: Ledger, event: str, *rest: object, **more: object) -> None:
        if point == "after" and event == "submitted" and not killed:
            killed.append(event)
            raise Killed
        record(self, event, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Ledger, "record", write)
    with pytest.raises(Killed):
        bench.begin()
    job_id = bench.begin()
    assert [row.job_id for row in bench.slurm.queue] == [job_id]
    assert bench.begin() == job_id
    assert len(bench.slurm.queue) == 1
    assert open_intents(bench.entries(), "slurm") == {}


def test_a_fresh_intent_is_given_ten_seconds_to_appear(bench: Bench) -> None:
    """Killed a moment ago: the controller may still be taking the job."""
    Ledger(bench.ledger_path, "slurm").record("intent", "run", token="a1b2", time_unix=bench.clock.now())
    sleep = bench.clock.sleep

    def appear(seconds: float) -> None:
        sleep(seconds)
        if bench.clock.monotonic() > 505 and not bench.slurm.queue:
            bench.take(("--comment=a1b2",))

    bench.clock.sleep = appear  # type: ignore[method-assign]
    assert bench.begin() == "76"
    assert bench.slurm.count("sbatch") == 0


def test_many_open_intents_are_settled_by_one_search(bench: Bench) -> None:
    jobs = [make_job(bench.ledger_path.parent, f"run{number}") for number in range(20)]
    ledger = Ledger(bench.ledger_path, "slurm")
    for number, job in enumerate(jobs):
        ledger.record("intent", job.name, token=f"token{number:02d}", time_unix=bench.clock.now() - 3600)
        if number % 2:
            bench.slurm.queue.append(Row(job_id=str(number), folder=str(job.folder), comment=f"token{number:02d}"))
    bench.slurm.sbatch = [CommandResult(code=0, out=f"{number}\n", err="") for number in range(100, 110)]
    executor = SlurmExecutor(bench.slurm, bench.ledger_path, clock=bench.clock)
    ids = [begin(job, executor, ledger) for job in jobs]
    assert ids == [str(number if number % 2 else 100 + number // 2) for number in range(20)]
    assert (bench.slurm.count("squeue"), bench.slurm.count("sacct"), bench.slurm.count("sbatch")) == (2, 1, 10)


def test_what_is_at_work_is_adopted_and_what_has_ended_is_begun_again(bench: Bench) -> None:
    bench.slurm.queue = [Row(job_id="50", folder=str(bench.job.folder))]
    assert bench.begin() == "50"
    assert bench.events() == ["adopted"]
    started(bench.job, "50", bench.clock)
    ended(bench.job, "50", bench.clock, 3, "failed")
    bench.slurm.queue = [Row(job_id="50", folder=str(bench.job.folder), state="FAILED", exit_code="3:0")]
    bench.slurm.sbatch = [CommandResult(code=0, out="76\n", err="")]
    assert bench.begin() == "76"


def test_the_job_of_a_cohort_is_that_of_all_its_runs(bench: Bench) -> None:
    """In the queue, at work, and when it has ended; another folder's job of that id is nobody's here."""
    root = bench.ledger_path.parent
    lead, other = (make_job(root, name) for name in ("first", "second"))
    ledger = Ledger(bench.ledger_path, "slurm")
    executor = SlurmExecutor(bench.slurm, bench.ledger_path, clock=bench.clock)
    bench.slurm.sbatch = [CommandResult(code=0, out="76\n", err="")]
    assert begin(replace(lead, cohort=("second",)), executor, ledger) == "76"
    assert open_jobs(ledger.entries()) == {"first": "76", "second": "76"}
    token = ledger.entries()[0].token
    for state in (JobState.PENDING, JobState.RUNNING, JobState.NODE_FAIL):
        row = Row(job_id="76", folder=str(lead.folder), state=state.value, comment=token)
        bench.slurm.queue = [row]
        bench.clock.sleep(60)
        assert executor.query_jobs([other])["second"].state is state
    bench.slurm.queue = [replace(row, folder=str(root.parent), comment="")]
    bench.clock.sleep(60)
    assert executor.query_jobs([other])["second"].state is not JobState.NODE_FAIL
    ledger.record("ended", "first", job_id="76", state="NODE_FAIL")
    assert not open_jobs(ledger.entries())


def test_no_job_while_nobody_can_tell_how_the_last_one_stands(bench: Bench) -> None:
    bench.slurm.sbatch = [CommandResult(code=0, out="76\n", err="")]
    bench.begin()
    bench.slurm.squeue = DOWN
    assert bench.begin() == "76"
    assert bench.slurm.count("sbatch") == 1


def test_five_hundred_submissions_ask_squeue_once(bench: Bench) -> None:
    jobs = [make_job(bench.ledger_path.parent, f"run{number}") for number in range(500)]
    bench.slurm.sbatch = [CommandResult(code=0, out=f"{number}\n", err="") for number in range(1, 501)]
    executor = SlurmExecutor(bench.slurm, bench.ledger_path, clock=bench.clock)
    ledger = Ledger(bench.ledger_path, "slurm")
    for job in jobs:
        begin(job, executor, ledger)
    assert (bench.slurm.count("squeue"), bench.slurm.count("sbatch")) == (1, 500)
    assert [entry.event for entry in ledger.entries()] == ["intent", "submitted"] * 500
    assert all(view.state is JobState.PENDING for view in executor.query_jobs(jobs).values())


def test_the_ledger_is_read_on_from_where_the_last_look_ended(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    reader, ledger = LedgerReader(path), Ledger(path, "slurm")
    assert list(reader.entries()) == []
    ledger.record("intent", "a", token="1")
    assert [entry.event for entry in reader.of("a")] == ["intent"]
    with path.open("a") as stream:
        stream.write('{"event": "torn')
    assert len(reader.entries()) == 1
    ledger.record("submitted", "a", token="1", job_id="76")
    ledger.record("intent", "b", token="2")
    assert [entry.event for entry in reader.of("a")] == ["intent", "submitted"]
    assert tuple(reader.entries()) == read_ledger(path)
    assert set(open_intents(reader.entries(), "slurm")) == {"2"}
    assert open_intents(reader.entries(), "local") == {}
    path.write_text("")
    assert list(reader.entries()) == []


def test_a_job_inherits_nothing_of_the_job_that_submits_it() -> None:
    outer = {
        "SLURM_JOB_ID": "9",
        "SLURM_RESTART_COUNT": "2",
        "CUDA_VISIBLE_DEVICES": "3",
        "SLURM_CONF": "/etc/slurm.conf",
    }
    ours = {"TOUCHLINE_TOKEN": "a", "TOUCHLINE_JOB_ID": "local-1", "TOUCHLINE_TIME_LIMIT_SECONDS": "60"}
    plain = {"HOME": "/home/me", "SLURM_CONF": "/etc/slurm.conf"}
    assert without_outer_job({**outer, **ours, **plain}) == plain
    login = {"SLURM_TIME_FORMAT": "relative", "CUDA_VISIBLE_DEVICES": "0", "HOME": "/home/me"}
    assert without_outer_job({**login, **ours}) == login
