"""The truth about a job, from its folder and from answers that fail, lag, leave out, or name somebody else's job."""

from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.run.scripted_slurm import (
    DOWN,
    LOST,
    NO_DATABASE,
    OFF,
    Row,
    ScriptedSlurm,
    SimClock,
    ended,
    make_job,
    started,
)

from touchline.core.errors import HostError, SubmissionLimitError, SubmissionRejectedError, SubmissionUnknownError
from touchline.core.status import JobState
from touchline.run.ledger import Event, Ledger, read_ledger
from touchline.run.protocol import Job
from touchline.run.slurm import SlurmExecutor
from touchline.slurm.job_view import JobView
from touchline.slurm.local.commands import CommandResult

pytestmark = pytest.mark.planning

POLL = 30.0


class Bench:
    """One experiment with one run, on a scripted SLURM."""

    def __init__(self, root: Path) -> None:
        self.clock = SimClock()
        self.slurm = ScriptedSlurm(clock=self.clock)
        self.job = make_job(root)
        self.ledger = Ledger(root / "ledger.jsonl", "slurm")
        self.executor = self.another()

    def another(self) -> SlurmExecutor:
        """The executor of a process that begins now."""
        return SlurmExecutor(self.slurm, self.ledger.path, clock=self.clock, poll_seconds=POLL)

    def submitted(self, job_id: str = "76", token: str = "t" * 16, job: Job | None = None) -> None:
        """What the ledger holds of a job that was submitted."""
        for event in ("intent", "submitted"):
            self.ledger.record(
                event,  # type: ignore[arg-type]
                (job or self.job).name,
                token=token,
                job_id="" if event == "intent" else job_id,
                time_unix=self.clock.now(),
            )

    def row(self, job_id: str = "76", state: str = "RUNNING", **more: object) -> Row:
        return Row(job_id=job_id, folder=str(self.job.folder), state=state, **more)  # type: ignore[arg-type]

    def look(self, *, later: float = POLL) -> JobView | None:
        """One look, after the next query is due."""
        self.clock.sleep(later)
        return self.executor.query_jobs([self.job]).get(self.job.name)

    def view(self, *, later: float = POLL) -> JobView:
        view = self.look(later=later)
        assert view is not None
        return view

    def events(self) -> list[Event]:
        return [entry.event for entry in read_ledger(self.ledger.path)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "with a space\nand more")


# ---- queries ---------------------------------------------------------------------------------------------------------


def test_one_squeue_a_poll_for_all_jobs_however_often_one_looks(bench: Bench) -> None:
    jobs = [make_job(bench.job.folder.parent, f"run{number}") for number in range(50)]
    for number, job in enumerate(jobs):
        bench.submitted(str(number), f"{number:016d}", job)
        bench.slurm.queue.append(Row(job_id=str(number), folder=str(job.folder), name=job.name))
    for _ in range(30):
        assert len(bench.executor.query_jobs(jobs)) == 50
        bench.clock.sleep(1)
    assert (bench.slurm.count("squeue"), bench.slurm.count("sacct")) == (1, 0)
    bench.executor.query_jobs(jobs)
    assert bench.slurm.count("squeue") == 2


def test_one_sacct_for_all_that_squeue_has_forgotten_and_none_for_what_is_known(bench: Bench) -> None:
    """Also where each job is looked at by itself, as a queue does before it starts them."""
    jobs = [make_job(bench.job.folder.parent, f"run{number}") for number in range(50)]
    for number, job in enumerate(jobs):
        bench.submitted(str(number), f"{number:016d}", job)
        bench.slurm.accounting.append(
            Row(job_id=str(number), folder=str(job.folder), state="FAILED", exit_code="3:0", name=job.name)
        )
    for job in jobs:
        view = bench.executor.query_jobs([job])[job.name]
        assert (view.state, view.active, view.exit_code, view.source) == (JobState.FAILED, False, 3, "sacct")
    assert (bench.slurm.count("squeue"), bench.slurm.count("sacct")) == (1, 1)
    bench.clock.sleep(POLL)
    bench.executor.query_jobs(jobs)
    assert (bench.slurm.count("squeue"), bench.slurm.count("sacct")) == (2, 1)


def test_failures_make_queries_rarer_up_to_three_minutes(bench: Bench) -> None:
    bench.submitted()
    bench.slurm.squeue = DOWN
    asked: list[float] = []
    for _ in range(1200):
        before = bench.slurm.count("squeue")
        bench.look(later=1)
        if bench.slurm.count("squeue") > before:
            asked.append(bench.clock.monotonic())
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert gaps[:4] == [60, 120, 180, 180]
    assert set(gaps[2:]) == {180}
    bench.slurm.squeue = None
    bench.slurm.queue = [bench.row()]
    bench.view(later=180)
    before = bench.slurm.count("squeue")
    bench.view(later=POLL)
    assert bench.slurm.count("squeue") == before + 1


@pytest.mark.parametrize(
    "answer",
    [
        DOWN,
        CommandResult(code=None, out="", err="squeue: no answer within 60 s"),
        CommandResult(code=0, out="", err=""),
        CommandResult(code=0, out="JOBID\x1f", err=""),
        CommandResult(code=0, out="slurm_load_jobs error: half an answer\n", err=""),
        CommandResult(code=1, out="", err=""),
    ],
)
@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "FAILED"])
def test_a_query_that_fails_or_is_not_whole_changes_no_state(answer: CommandResult, state: str, bench: Bench) -> None:
    bench.submitted()
    bench.slurm.queue = [bench.row(state=state, exit_code="3:0")]
    before = bench.view()
    bench.slurm.squeue = answer
    for _ in range(20):
        assert bench.view(later=180) == before
    assert "missing" not in bench.events()


def test_nothing_is_known_of_a_job_while_nothing_answers(bench: Bench) -> None:
    bench.submitted()
    bench.slurm.squeue = DOWN
    for _ in range(20):
        view = bench.view(later=180)
        assert (view.state, view.active, view.source) == (JobState.UNKNOWN, True, "none")
        assert "Unable to contact" in view.reason
    assert bench.events() == ["intent", "submitted"]


# ---- states ----------------------------------------------------------------------------------------------------------


def test_without_a_trace_there_is_no_job(bench: Bench) -> None:
    assert bench.look() is None


def test_just_submitted_and_not_yet_asked_for_is_pending(bench: Bench) -> None:
    bench.slurm.squeue = None
    bench.look()
    bench.slurm.sbatch = [CommandResult(code=0, out="76\n", err="")]
    bench.ledger.record("intent", "run", token="t")
    bench.ledger.record("submitted", "run", token="t", job_id=bench.executor.start(bench.job, "t", ()))
    view = bench.view(later=1)
    assert (view.job_id, view.state, view.active, view.source) == ("76", JobState.PENDING, True, "ledger")


def test_why_it_waits_is_told(bench: Bench) -> None:
    bench.submitted()
    bench.slurm.queue = [bench.row(state="PENDING", reason="DependencyNeverSatisfied")]
    view = bench.view()
    assert (view.state, view.active, view.reason) == (JobState.PENDING, True, "DependencyNeverSatisfied")
    assert view.started_unix is None
    assert view.time_limit_seconds == 3600


def test_a_word_of_a_later_slurm_is_active(bench: Bench) -> None:
    bench.submitted()
    bench.slurm.queue = [bench.row(state="TELEPORTING")]
    view = bench.view()
    assert (view.state, view.active, view.source) == (JobState.UNKNOWN, True, "squeue")


def test_an_exit_code_of_zero_is_final_whatever_slurm_says(bench: Bench) -> None:
    """After a restart of the controller a job that has ended is RUNNING for some seconds."""
    bench.submitted()
    started(bench.job, "76", bench.clock)
    ended(bench.job, "76", bench.clock, 0, "completed")
    for state in ("RUNNING", "FAILED", "COMPLETING", "NODE_FAIL"):
        bench.slurm.queue = [bench.row(state=state)]
        view = bench.view()
        assert (view.state, view.active, view.source, view.exit_code) == (JobState.COMPLETED, False, "exit file", 0)
    bench.slurm.queue, bench.slurm.squeue = [], DOWN
    assert bench.view().state is JobState.COMPLETED
    assert bench.slurm.count("sacct") == 0


def test_a_failure_waits_for_slurm_s_last_word(bench: Bench) -> None:
    """SLURM may know a better reason, or queue it again."""
    bench.submitted()
    started(bench.job, "76", bench.clock)
    ended(bench.job, "76", bench.clock, 3, "failed")
    bench.slurm.squeue = DOWN
    assert bench.view().active
    bench.slurm.squeue = None
    bench.slurm.queue = [bench.row(state="COMPLETING")]
    assert bench.view(later=180).active
    bench.slurm.queue = [bench.row(state="OUT_OF_MEMORY", exit_code="0:125")]
    view = bench.view()
    assert (view.state, view.active, view.exit_code, view.signal) == (JobState.OUT_OF_MEMORY, False, 3, 125)


def test_a_failure_that_slurm_has_forgotten_is_told_by_its_exit_file(bench: Bench) -> None:
    """Once the controller itself says that it knows no such job; a list without it is not enough."""
    bench.submitted()
    started(bench.job, "76", bench.clock)
    ended(bench.job, "76", bench.clock, 3, "failed")
    bench.slurm.sacct = OFF
    bench.slurm._squeue = lambda words: ScriptedSlurm(clock=bench.clock)._squeue(words)  # type: ignore[method-assign]
    bench.slurm.queue = [bench.row(state="PENDING", restarts=1)]
    assert bench.view().active
    bench.slurm.queue = []
    view = bench.view()
    assert (view.state, view.active, view.source, view.exit_code) == (JobState.FAILED, False, "exit file", 3)
    assert view.reason == "failed"


def test_a_failure_is_told_where_there_is_no_slurm(bench: Bench) -> None:
    bench.submitted()
    started(bench.job, "76", bench.clock)
    ended(bench.job, "76", bench.clock, 3, "failed")
    bench.slurm.squeue = CommandResult(code=None, out="", err="squeue: No such file or directory")
    view = bench.view()
    assert (view.state, view.active, view.exit_code) == (JobState.FAILED, False, 3)


@pytest.mark.parametrize("word", ["TIMEOUT", "PREEMPTED", "CANCELLED", "NODE_FAIL", "DEADLINE"])
def test_what_saved_and_ended_when_asked_to_waits_for_the_reason(word: str, bench: Bench) -> None:
    bench.submitted()
    started(bench.job, "76", bench.clock)
    ended(bench.job, "76", bench.clock, 75, "stopped by SIGTERM")
    bench.slurm.squeue = DOWN
    view = bench.view()
    assert view.active
    assert view.reason.startswith("stopped by SIGTERM; squeue: ")
    bench.slurm.squeue = None
    bench.slurm.queue = [bench.row(state=word)]
    view = bench.view(later=180)
    assert (view.state.value, view.active, view.exit_code) == (word, False, 75)


def test_a_job_that_was_queued_again_goes_on_under_its_id(bench: Bench) -> None:
    bench.submitted()
    started(bench.job, "76", bench.clock)
    ended(bench.job, "76", bench.clock, 75, "stopped by SIGUSR1; queued again")
    bench.slurm.queue = [bench.row(state="PENDING", reason="BeginTime", restarts=1)]
    view = bench.view()
    assert (view.state, view.active, view.restarts, view.reason) == (JobState.PENDING, True, 1, "BeginTime")
    started(bench.job, "76", bench.clock, restart=1)
    bench.slurm.queue = [bench.row(restarts=1)]
    assert bench.view().state is JobState.RUNNING
    ended(bench.job, "76", bench.clock, 0, "completed", restart=1)
    view = bench.view()
    assert (view.state, view.active, view.restarts) == (JobState.COMPLETED, False, 1)


def test_an_exit_file_of_an_earlier_time_is_not_the_last_word(bench: Bench) -> None:
    """Queued again, and then cancelled while it waited; or killed in silence the second time."""
    bench.submitted()
    started(bench.job, "76", bench.clock)
    ended(bench.job, "76", bench.clock, 75, "stopped by SIGUSR1; queued again")
    bench.slurm.queue = [bench.row(state="CANCELLED", restarts=1)]
    view = bench.view()
    assert (view.state, view.active, view.exit_code) == (JobState.CANCELLED, False, None)
    bench.slurm.queue = [bench.row(state="FAILED", restarts=1, exit_code="0:9")]
    assert bench.view().state is JobState.UNKNOWN


def test_what_ended_itself_says_more_than_slurm_does(bench: Bench) -> None:
    """SLURM calls a job FAILED or COMPLETED by the code of its script."""
    cases = (
        ("FAILED", "79:0", 79, "failed", JobState.OUT_OF_MEMORY),
        ("FAILED", "75:0", 75, "stopped by SIGTERM", JobState.FAILED),
        ("FAILED", "75:0", 75, "stopped by SIGUSR1; queued again", JobState.TIMEOUT),
        ("FAILED", "3:0", 3, "failed", JobState.FAILED),
        ("COMPLETED", "0:0", 3, "failed", JobState.FAILED),
    )
    bench.submitted()
    started(bench.job, "76", bench.clock)
    for word, told, code, reason, state in cases:
        ended(bench.job, "76", bench.clock, code, reason)
        bench.slurm.queue = [bench.row(state=word, exit_code=told)]
        view = bench.view()
        assert (view.state, view.active, view.exit_code, view.reason) == (state, False, code, reason)


@pytest.mark.parametrize(("told", "exit_code"), [("0:9", None), ("137:0", 137)])
@pytest.mark.parametrize("has_file", [True, False])
def test_killed_by_9_is_out_of_memory_only_where_the_log_proves_it(
    told: str, exit_code: int | None, has_file: bool, bench: Bench
) -> None:
    bench.submitted()
    started(bench.job, "76", bench.clock)
    if has_file:
        ended(bench.job, "76", bench.clock, 137, "killed by SIGKILL")
    bench.slurm.queue = [bench.row(state="FAILED", exit_code=told, reason="JobLaunchFailure")]
    view = bench.view()
    assert (view.state, view.active) == (JobState.UNKNOWN, False)
    assert view.exit_code == (137 if has_file else exit_code)
    assert "killed by signal 9" in view.reason
    log = bench.job.folder / "slurm-76.out"
    log.write_text("x\n" * 200_000 + "slurmstepd: error: StepId=76.batch exceeded memory limit (2 > 1), being killed\n")
    view = bench.view()
    assert (view.state, view.active) == (JobState.OUT_OF_MEMORY, False)
    assert "exceeded memory limit" in view.reason


def test_a_script_that_failed_before_it_could_say_so(bench: Bench) -> None:
    bench.submitted()
    bench.slurm.queue = [bench.row(state="FAILED", exit_code="2:0", reason="NonZeroExitCode")]
    view = bench.view()
    assert (view.state, view.active, view.source, view.exit_code) == (JobState.FAILED, False, "squeue", 2)
    assert view.signal is None


# ---- accounting ------------------------------------------------------------------------------------------------------


def test_an_exit_code_that_is_still_on_its_way_is_read_again(bench: Bench) -> None:
    bench.submitted()
    now = bench.clock.now()
    bench.slurm.accounting = [bench.row(state="FAILED", exit_code="0:0", ended=now)]
    assert bench.view(later=1).active
    bench.slurm.accounting = [bench.row(state="FAILED", exit_code="5:0", ended=now)]
    view = bench.view()
    assert (view.state, view.active, view.exit_code) == (JobState.FAILED, False, 5)


def test_an_exit_code_that_never_comes_is_none_rather_than_zero(bench: Bench) -> None:
    bench.submitted()
    bench.slurm.accounting = [bench.row(state="FAILED", exit_code="0:0", ended=bench.clock.now())]
    assert bench.view(later=1).active
    view = bench.view()
    assert (view.state, view.active, view.exit_code) == (JobState.FAILED, False, None)


def test_long_ago_is_settled_at_the_first_look(bench: Bench) -> None:
    bench.submitted()
    bench.slurm.accounting = [bench.row(state="FAILED", exit_code="0:0", ended=bench.clock.now() - 600)]
    assert not bench.view(later=1).active


def test_absence_from_a_lagging_sacct_is_no_state(bench: Bench) -> None:
    bench.submitted()
    for _ in range(5):
        assert bench.view().active
    bench.slurm.accounting = [bench.row(state="COMPLETED", ended=bench.clock.now())]
    view = bench.view()
    assert (view.state, view.active, view.source) == (JobState.COMPLETED, False, "sacct")
    assert bench.events()[-1] == "found"


def test_a_database_that_is_away_proves_nothing_however_long(bench: Bench) -> None:
    bench.submitted()
    bench.slurm.sacct = NO_DATABASE
    for _ in range(30):
        assert bench.view(later=180).active
    assert "missing" not in bench.events()


def test_a_requeued_job_is_not_judged_by_the_record_of_its_first_time(bench: Bench) -> None:
    """PREEMPTED is in the accounting; then the queue lists it again, and it completes."""
    bench.submitted()
    bench.slurm.accounting = [bench.row(state="PREEMPTED", ended=bench.clock.now())]
    assert bench.view().state is JobState.PREEMPTED
    bench.slurm.queue = [bench.row(state="PENDING", restarts=1)]
    assert bench.view().active
    bench.slurm.queue = []
    bench.slurm.accounting.append(bench.row(state="COMPLETED", submit=bench.clock.now(), ended=bench.clock.now() + 9))
    view = bench.view()
    assert (view.state, view.active, view.restarts) == (JobState.COMPLETED, False, 1)


def test_an_sacct_without_submit_lines_is_asked_without(bench: Bench) -> None:
    bench.submitted()
    plain = bench.slurm._sacct
    refusal = CommandResult(code=1, out="", err='sacct: error: Invalid field requested: "SubmitLine"\n')
    bench.slurm._sacct = lambda words: refusal if "SubmitLine" in str(words) else plain(words)  # type: ignore[method-assign]
    bench.slurm.accounting = [bench.row(state="FAILED", exit_code="3:0", ended=bench.clock.now())]
    assert bench.view().exit_code == 3


# ---- lost ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sacct", [None, OFF], ids=["sacct without it", "no sacct"])
def test_lost_only_after_five_minutes_of_answers_without_it(sacct: CommandResult | None, bench: Bench) -> None:
    bench.submitted()
    bench.slurm.sacct = sacct
    begun = bench.clock.monotonic() + POLL
    while True:
        view = bench.view()
        if not view.active:
            break
        assert bench.clock.monotonic() - begun < 310
    assert bench.clock.monotonic() - begun >= 300
    assert (view.state, view.source) == (JobState.UNKNOWN, "none")
    assert view.reason.startswith("lost: ")
    assert bench.events().count("missing") == 6


def test_later_processes_go_on_counting(bench: Bench) -> None:
    """`touchline status` now and then, each time in another process."""
    bench.submitted()
    seen: list[bool] = []
    for _ in range(5):
        bench.executor = bench.another()
        seen.append(bench.view(later=100).active)
    assert seen == [True, True, True, False, False]


def test_a_jump_of_the_clock_loses_no_job(bench: Bench) -> None:
    """One look before it and one after it are two looks, however many hours the clock says."""
    bench.submitted()
    assert bench.view().active
    bench.clock.wall += 36_000
    bench.executor = bench.another()
    assert bench.view().active
    bench.clock.wall -= 72_000
    bench.executor = bench.another()
    assert bench.view().active


def test_failed_looks_are_not_counted_and_a_sighting_begins_anew(bench: Bench) -> None:
    bench.submitted()
    for _ in range(3):
        assert bench.view(later=60).active
    bench.slurm.queue = [bench.row(state="PENDING")]
    assert bench.view().state is JobState.PENDING
    assert bench.events()[-1] == "found"
    bench.slurm.queue = []
    assert bench.view().active
    bench.slurm.squeue = DOWN
    for _ in range(10):
        assert bench.view(later=180).active
    bench.slurm.squeue = None
    assert bench.view(later=180).active


def test_a_heartbeat_keeps_a_job_that_slurm_forgot(bench: Bench) -> None:
    """Whatever the node's clock says: that the heartbeat moves is enough."""
    bench.submitted()
    wrong = SimClock()
    wrong.wall -= 7200
    for _ in range(20):
        wrong.sleep(POLL)
        started(bench.job, "76", wrong)
        bench.view()
    view = bench.view(later=1)
    assert (view.state, view.active, view.source) == (JobState.RUNNING, True, "heartbeat")


def test_a_node_that_was_only_cut_off_works_on(bench: Bench) -> None:
    """SLURM has given it up; its job beats on, and ends well. One that really died does not beat."""
    bench.submitted()
    started(bench.job, "76", bench.clock)
    bench.slurm.accounting = [bench.row(state="NODE_FAIL", ended=bench.clock.now() + 10)]
    view = bench.view()
    assert (view.state, view.active) == (JobState.NODE_FAIL, False)
    started(bench.job, "76", bench.clock)
    view = bench.view()
    assert (view.state, view.active, view.source) == (JobState.RUNNING, True, "heartbeat")
    assert not bench.view(later=200).active
    ended(bench.job, "76", bench.clock, 0, "completed")
    assert bench.view().state is JobState.COMPLETED


def test_a_process_on_this_very_machine_needs_no_slurm(bench: Bench) -> None:
    from touchline.run.processes import identify

    bench.submitted()
    started(bench.job, "76", bench.clock)
    me = identify()
    path = bench.job.status / "start.76.0.json"
    text = path.read_text().replace('"node1"', f'"{me.host}"').replace('"boot"', f'"{me.boot_id}"')
    path.write_text(
        text.replace('"pid":1,', f'"pid":{me.pid},').replace('"pid_started":1.0', f'"pid_started":{me.started}')
    )
    bench.slurm.squeue = DOWN
    view = bench.view(later=4000)
    assert (view.state, view.active, view.source) == (JobState.RUNNING, True, "process")


def test_what_ended_when_asked_to_and_is_forgotten_is_told_by_its_exit_file(bench: Bench) -> None:
    bench.submitted()
    bench.slurm.sacct = OFF
    started(bench.job, "76", bench.clock)
    ended(bench.job, "76", bench.clock, 75, "stopped by SIGTERM")
    for _ in range(10):
        assert bench.view().active
    view = bench.view()
    assert (view.state, view.active, view.exit_code, view.source) == (JobState.UNKNOWN, False, 75, "exit file")
    assert view.reason.startswith("stopped by SIGTERM; lost")


def test_a_job_of_another_user_in_a_shared_folder_is_not_lost(bench: Bench) -> None:
    """squeue --me does not list it; the controller knows it."""
    bench.submitted()
    hidden = bench.row(comment="")
    bench.slurm._squeue = lambda words: ScriptedSlurm(clock=bench.clock)._squeue(words)  # type: ignore[method-assign]
    bench.slurm.queue = [hidden]
    for _ in range(30):
        assert bench.view().active


def test_the_ledger_keeps_what_slurm_forgets(bench: Bench) -> None:
    bench.submitted()
    bench.ledger.record("ended", "run", job_id="76", state="TIMEOUT", reason="TimeLimit")
    view = bench.view()
    assert (view.state, view.active, view.source) == (JobState.TIMEOUT, False, "ledger")
    assert bench.slurm.count("sacct") == 0
    bench.slurm.queue = [bench.row(state="RUNNING", restarts=1)]  # requeued by hand
    assert bench.view().state is JobState.RUNNING


# ---- whose job it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_what_was_submitted_by_hand_is_ours(state: str, bench: Bench) -> None:
    bench.slurm.queue = [bench.row("91", state)]
    view = bench.view()
    assert (view.job_id, view.state.value, view.active) == ("91", state, True)


def test_evaluation_and_training_of_one_folder_are_told_apart_by_their_scripts(bench: Bench) -> None:
    evaluation = Job(
        name="evaluate run",
        folder=bench.job.folder,
        status=bench.job.folder / "eval" / "status",
        script="eval.slurm",
        command=("bash", "eval.slurm"),
        output="eval-{job}.out",
    )
    bench.slurm.queue = [bench.row("91"), bench.row("92", "PENDING", script="eval.slurm")]
    views = bench.executor.query_jobs([bench.job, evaluation])
    assert {name: view.job_id for name, view in views.items()} == {"run": "91", "evaluate run": "92"}
    bench.slurm.queue = [bench.row("93", script="", name="evaluate run")]  # sbatch < eval.slurm
    bench.clock.sleep(POLL)
    assert set(bench.executor.query_jobs([bench.job, evaluation])) == {"evaluate run"}


def test_a_token_finds_a_job_whose_answer_was_lost(bench: Bench) -> None:
    bench.ledger.record("intent", "run", token="a1b2")
    bench.slurm.queue = [Row(job_id="91", folder="/seen/from/elsewhere", comment="a1b2", script="x.sh")]
    assert bench.view().job_id == "91"


def test_a_refused_submission_leaves_a_record_that_is_no_job(bench: Bench) -> None:
    """SLURM keeps a FAILED job for a request that no node can ever serve."""
    bench.ledger.record("intent", "run", token="a1b2")
    bench.ledger.record("refused", "run", token="a1b2")
    bench.slurm.queue = [bench.row("91", "FAILED", comment="a1b2", exit_code="1:0")]
    assert bench.look() is None


def test_an_id_that_was_given_to_another_job_since_tells_nothing(bench: Bench) -> None:
    bench.submitted("76")
    bench.slurm.queue = [Row(job_id="76", folder="/somebody/else", name="other", script="other.sh")]
    bench.slurm.accounting = [
        Row(job_id="76", folder="/somebody/else", name="other", script="other.sh", state="FAILED")
    ]
    view = bench.view()
    assert (view.state, view.source) == (JobState.UNKNOWN, "none")


def test_the_same_folder_by_another_path_is_the_same_job(bench: Bench) -> None:
    bench.submitted("76")
    bench.slurm.queue = [Row(job_id="76", folder=f"/net/export/{bench.job.folder.name}", comment="")]
    assert bench.view().state is JobState.RUNNING


def test_a_twin_that_found_another_at_work_is_no_attempt(bench: Bench) -> None:
    bench.submitted("76", "a" * 16)
    bench.submitted("77", "b" * 16)
    started(bench.job, "76", bench.clock)
    ended(bench.job, "77", bench.clock, 76, "another attempt holds the run")
    bench.slurm.queue = [bench.row("76"), bench.row("77", "FAILED", exit_code="76:0")]
    assert (bench.view().job_id, bench.view().state) == ("76", JobState.RUNNING)
    ended(bench.job, "76", bench.clock, 0, "completed")
    bench.slurm.queue = [bench.row("76", "COMPLETED"), bench.row("77", "FAILED", exit_code="76:0")]
    assert (bench.view().job_id, bench.view().state) == ("76", JobState.COMPLETED)
    bench.slurm.queue = []
    assert (bench.view().job_id, bench.view().state) == ("76", JobState.COMPLETED)


def test_of_two_that_live_the_one_that_works_is_told(bench: Bench) -> None:
    bench.submitted("76", "a" * 16)
    bench.submitted("77", "b" * 16)
    bench.slurm.queue = [bench.row("76"), bench.row("77", "PENDING")]
    assert bench.view().job_id == "76"
    bench.slurm.queue = [bench.row("77", "PENDING")]
    assert bench.view().job_id == "77"


def test_the_last_job_counts_and_not_the_last_start(bench: Bench) -> None:
    """Also where the clock went back between the two."""
    bench.submitted("76", "a" * 16)
    started(bench.job, "76", bench.clock)
    ended(bench.job, "76", bench.clock, 3, "failed")
    bench.clock.wall -= 100_000
    bench.submitted("77", "b" * 16)
    started(bench.job, "77", bench.clock)
    ended(bench.job, "77", bench.clock, 0, "completed")
    assert (bench.view().job_id, bench.view().state) == ("77", JobState.COMPLETED)


def test_ids_that_began_anew_come_later(bench: Bench) -> None:
    """A controller without its old state counts from 1 again."""
    bench.submitted("9000", "a" * 16)
    started(bench.job, "9000", bench.clock)
    ended(bench.job, "9000", bench.clock, 3, "failed")
    bench.submitted("4", "b" * 16)
    started(bench.job, "4", bench.clock)
    ended(bench.job, "4", bench.clock, 0, "completed")
    assert bench.view().job_id == "4"


def test_an_array_s_tasks_and_an_allocation_s_steps(bench: Bench) -> None:
    root = str(bench.job.folder.parent)
    started(bench.job, "14_3", bench.clock)
    bench.slurm.queue = [
        Row(job_id="14_3", folder=root, script="array.slurm"),
        Row(job_id="14_4", folder=root, state="FAILED"),
    ]
    assert (bench.view().job_id, bench.view().state) == ("14_3", JobState.RUNNING)
    step = make_job(bench.job.folder.parent, "step")
    started(step, "20.1", bench.clock)
    ended(step, "20.1", bench.clock, 3, "failed")
    bench.slurm.queue = [Row(job_id="20", folder=root, script="mega_job.slurm")]
    bench.clock.sleep(POLL)
    view = bench.executor.query_jobs([step])["step"]
    assert (view.job_id, view.state, view.active, view.exit_code) == ("20.1", JobState.FAILED, False, 3)


def test_a_step_that_died_in_silence_is_known_to_the_accounting(bench: Bench) -> None:
    root = str(bench.job.folder.parent)
    started(bench.job, "20.1", bench.clock)
    bench.slurm.queue = [Row(job_id="20", folder=root, script="mega_job.slurm")]
    assert bench.view().state is JobState.RUNNING
    bench.slurm.accounting = [
        Row(job_id="20", folder=root, script="mega_job.slurm"),
        Row(job_id="20.1", folder=root, state="OUT_OF_MEMORY", exit_code="0:125", ended=bench.clock.now()),
    ]
    view = bench.view(later=200)
    assert (view.job_id, view.state, view.active) == ("20.1", JobState.OUT_OF_MEMORY, False)


def test_an_attempt_without_slurm_on_another_node_is_waited_for(bench: Bench) -> None:
    started(bench.job, "local-1f2e", bench.clock, host="login2")
    view = bench.view(later=1)
    assert (view.job_id, view.state, view.active) == ("local-1f2e", JobState.RUNNING, True)
    assert not bench.view(later=200).active
    bench.submitted()
    bench.slurm.queue = [bench.row()]
    assert bench.view().job_id == "76"


def test_strange_files_and_lines_harm_nothing(bench: Bench) -> None:
    bench.job.status.mkdir()
    for name in ("start.76.0.json", "start..json", "exit.76.x.json", "exit.76.-1.json", "start.a.b.c.json", "lock"):
        (bench.job.status / name).write_text('{"job_id": 3')
    bench.submitted()
    with bench.ledger.path.open("a") as stream:
        stream.write('{"event": "submitted", "job": "run"\nnot json\n\n{"event": "torn')
    bench.slurm.queue = [bench.row(state="FAILED", exit_code="1:0")]
    assert bench.view().state is JobState.FAILED


# ---- submitting and stopping -----------------------------------------------------------------------------------------


def test_a_submission_names_token_parents_and_the_lock(bench: Bench) -> None:
    held = os.open(os.devnull, os.O_RDONLY)
    executor = SlurmExecutor(bench.slurm, bench.ledger.path, clock=bench.clock, lock=held)
    bench.slurm.sbatch = [CommandResult(code=0, out="76;north\n", err="")]
    assert executor.start(bench.job, "a1b2", (), ["41", "local-7", "42_3", "41.2", "43.0"]) == "76"
    os.close(held)
    assert bench.slurm.calls == [
        (
            *("sbatch", "--parsable", "--comment=a1b2", "--job-name=run", "--dependency=afterany:41:42_3:43"),
            *("--export=ALL,TOUCHLINE_TOKEN=a1b2", "finetune.slurm"),
        )
    ]
    assert bench.slurm.kept == [(held,)]


@pytest.mark.parametrize(
    ("err", "fault"),
    [
        ("sbatch: error: Batch job submission failed: Invalid partition name specified\n", SubmissionRejectedError),
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates\n",
            SubmissionLimitError,
        ),
    ],
)
def test_a_refusal_asks_nothing_more(err: str, fault: type[Exception], bench: Bench) -> None:
    bench.slurm.sbatch = [CommandResult(code=1, out="", err=err)]
    with pytest.raises(fault):
        bench.executor.start(bench.job, "a1b2", ())
    assert [words[0] for words in bench.slurm.calls] == ["sbatch"]


def test_without_sbatch_nothing_was_started(bench: Bench) -> None:
    bench.slurm.sbatch = [CommandResult(code=None, out="", err="sbatch: No such file or directory")]
    with pytest.raises(HostError) as caught:
        bench.executor.start(bench.job, "a1b2", ())
    assert not isinstance(caught.value, SubmissionUnknownError)


def test_after_a_lost_answer_the_token_is_looked_for(bench: Bench) -> None:
    bench.slurm.sbatch = [LOST]
    bench.slurm.queue = [bench.row("91", "PENDING", comment="a1b2")]
    assert bench.executor.start(bench.job, "a1b2", ()) == "91"
    assert bench.clock.monotonic() == 500


def test_a_job_that_appears_late_is_still_found(bench: Bench) -> None:
    bench.slurm.sbatch = [LOST]
    sleep = bench.clock.sleep

    def appear(seconds: float) -> None:
        sleep(seconds)
        if bench.clock.monotonic() > 508:
            bench.slurm.queue = [bench.row("91", "PENDING", comment="a1b2")]

    bench.clock.sleep = appear  # type: ignore[method-assign]
    assert bench.executor.start(bench.job, "a1b2", ()) == "91"


def test_a_job_that_ended_at_once_is_found_in_the_accounting(bench: Bench) -> None:
    bench.slurm.sbatch = [LOST]
    bench.slurm.accounting = [bench.row("91", "COMPLETED", comment="a1b2")]
    assert bench.executor.start(bench.job, "a1b2", ()) == "91"


@pytest.mark.parametrize("sacct", [None, OFF, NO_DATABASE])
@pytest.mark.parametrize("squeue", [None, DOWN])
def test_what_is_not_found_stays_unclear_after_ten_seconds(
    squeue: CommandResult | None, sacct: CommandResult | None, bench: Bench
) -> None:
    bench.slurm.sbatch = [LOST]
    bench.slurm.squeue, bench.slurm.sacct = squeue, sacct
    with pytest.raises(SubmissionUnknownError) as caught:
        bench.executor.start(bench.job, "a1b2", ())
    assert "Socket timed out" in caught.value.message
    assert "\n" not in caught.value.message
    assert bench.clock.monotonic() >= 510


def test_an_sbatch_that_waits_at_a_limit_until_it_is_ended_is_not_now(bench: Bench) -> None:
    """At MaxJobCount sbatch tries again for minutes."""
    waiting = (
        "sbatch: no answer within 60 s\nsbatch: error: Slurm temporarily unable to accept job, sleeping and retrying"
    )
    bench.slurm.sbatch = [CommandResult(code=None, out="", err=waiting)] * 2
    with pytest.raises(SubmissionLimitError):
        bench.executor.start(bench.job, "a1b2", ())
    bench.slurm.queue = [bench.row("91", "PENDING", comment="c3d4")]
    assert bench.executor.start(bench.job, "c3d4", ()) == "91"


def test_stop_cancels_what_lives_and_only_that(bench: Bench) -> None:
    other = make_job(bench.job.folder.parent, "other")
    bench.submitted("76")
    bench.submitted("77", "u" * 16, other)
    bench.slurm.queue = [bench.row("76", "PENDING"), Row(job_id="77", folder=str(other.folder), state="COMPLETED")]
    bench.executor.stop([bench.job, other])
    assert bench.slurm.calls[-1] == ("scancel", "76")
    bench.slurm.scancel = CommandResult(code=1, out="", err="scancel: error: Invalid job id 76\n")
    bench.executor.stop([bench.job])
    bench.slurm.scancel = CommandResult(
        code=8, out="", err="scancel: error: Kill job error on job id 76: Unable to contact\n"
    )
    with pytest.raises(HostError, match="Unable to contact"):
        bench.executor.stop([bench.job])


# ---- copied experiments ----------------------------------------------------------------------------------------------


def _copy(bench: Bench, root: Path) -> Bench:
    """`cp -r` of the experiment, and who looks at the copy; the cluster is the same one."""
    shutil.copytree(bench.job.folder.parent, root)
    copy = Bench.__new__(Bench)
    copy.clock, copy.slurm = bench.clock, bench.slurm
    copy.job = replace(bench.job, folder=root / "run", status=root / "run" / "status")
    copy.ledger = Ledger(root / "ledger.jsonl", "slurm")
    copy.executor = copy.another()
    return copy


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_copy_does_not_own_the_jobs_of_the_original(state: str, bench: Bench, tmp_path: Path) -> None:
    """Neither shown nor cancelled from the copy, whether they wait or run; the original's stay as they are."""
    bench.submitted()
    bench.slurm.queue.append(bench.row(state=state, comment="t" * 16))
    if state == "RUNNING":
        started(bench.job, "76", bench.clock, token="t" * 16)
    copy = _copy(bench, tmp_path / "copy")
    assert bench.view().active
    seen = copy.look()
    assert seen is None or not seen.active
    copy.executor.stop([copy.job])
    assert bench.slurm.count("scancel") == 0
    bench.executor.stop([bench.job])
    assert ("scancel", "76") in bench.slurm.calls


def test_a_moved_experiment_keeps_its_jobs(bench: Bench, tmp_path: Path) -> None:
    """SLURM still lists them under the folder's old name, where nothing is any more."""
    bench.submitted()
    bench.slurm.queue.append(bench.row(comment="t" * 16))
    started(bench.job, "76", bench.clock, token="t" * 16)
    copy = _copy(bench, tmp_path / "moved")
    shutil.rmtree(bench.job.folder.parent)
    assert copy.view().active
    copy.executor.stop([copy.job])
    assert ("scancel", "76") in bench.slurm.calls
