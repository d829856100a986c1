"""The truth about a job, from its folder and from answers that fail, lag, leave out, or name somebody else's job."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.run.slurm_bench import POLL, Bench, make_job, said
from tests.slurm.fake import Trouble

from touchline.core.status import JobState
from touchline.run.ledger import Ledger
from touchline.run.processes import identify
from touchline.run.protocol import Job

pytestmark = pytest.mark.planning
HOUR = 3600.0
Answer = tuple[str, bool, int | None]
"""State, whether it is active, exit code."""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "with a space\nand more")


@pytest.fixture
def several(bench: Bench) -> list[Job]:
    jobs = [make_job(bench.job.folder.parent, f"run{number}") for number in range(50)]
    for number, job in enumerate(jobs):
        bench.submitted(str(number), f"{number:016d}", job)
    return jobs


def test_one_squeue_a_poll_for_all_jobs_however_often_one_looks(bench: Bench, several: list[Job]) -> None:
    bench.queue(*(bench.row(str(number), folder=job.folder, name=job.name) for number, job in enumerate(several)))
    for _ in range(29):
        assert len(bench.executor.query_jobs(several)) == 50
        bench.clock.sleep(1)
    assert (bench.slurm.count("squeue"), bench.slurm.count("sacct")) == (1, 0)
    bench.clock.sleep(1)
    bench.executor.query_jobs(several)
    assert bench.slurm.count("squeue") == 2


def test_one_sacct_for_all_that_squeue_has_forgotten_and_none_for_what_is_known(
    bench: Bench, several: list[Job]
) -> None:
    """Also where each job is looked at by itself, as a queue does before it starts them."""
    bench.accounts(
        *(
            bench.row(str(number), "FAILED", folder=job.folder, exit_code="3:0", name=job.name)
            for number, job in enumerate(several)
        )
    )
    for job in several:
        view = bench.executor.query_jobs([job])[job.name]
        assert (view.state, view.active, view.exit_code, view.source) == (JobState.FAILED, False, 3, "sacct")
    assert (bench.slurm.count("squeue"), bench.slurm.count("sacct")) == (1, 1)
    bench.clock.sleep(POLL)
    bench.executor.query_jobs(several)
    assert (bench.slurm.count("squeue"), bench.slurm.count("sacct")) == (2, 1)


def test_failures_make_queries_rarer_up_to_three_minutes(bench: Bench) -> None:
    bench.submitted()
    bench.trouble["squeue"] = "down"
    asked: list[float] = []
    for _ in range(1200):
        before, count = bench.clock.true + 1, bench.slurm.count("squeue")
        bench.look(later=1)
        if bench.slurm.count("squeue") > count:
            asked.append(before)
    gaps = [round(later - earlier) for earlier, later in itertools.pairwise(asked)]
    assert gaps[:4] == pytest.approx([60, 120, 180, 180], abs=1)
    assert max(gaps) <= 181
    bench.trouble.clear()
    bench.queue(bench.row())
    bench.view(later=180)
    count = bench.slurm.count("squeue")
    bench.view()
    assert bench.slurm.count("squeue") == count + 1


@pytest.mark.parametrize("fault", ["down", "slow", "partial", "no output", "half a header", "other words"])
@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "FAILED"])
def test_a_query_that_fails_or_is_not_whole_changes_no_state(fault: str, state: str, bench: Bench) -> None:
    bench.submitted()
    bench.queue(bench.row(state=state, exit_code="3:0"))
    before = bench.view()
    outputs = {"no output": "", "half a header": "JOBID\x1f", "other words": "slurm_load_jobs error: half an answer\n"}
    if fault in outputs:
        bench.slurm.answers["squeue"] = said(0, out=outputs[fault])
    else:
        bench.trouble["squeue"] = fault  # type: ignore[assignment]
    for _ in range(20):
        assert bench.view(later=180) == before
    assert "missing" not in bench.events()


def test_nothing_is_known_of_a_job_while_nothing_answers(bench: Bench) -> None:
    bench.submitted()
    bench.trouble["squeue"] = "down"
    for _ in range(20):
        view = bench.view(later=180)
        assert (view.state, view.active, view.source) == (JobState.UNKNOWN, True, "none")
        assert "Unable to contact" in view.reason
    assert bench.events() == ["intent", "submitted"]


def test_without_a_trace_there_is_no_job(bench: Bench) -> None:
    assert bench.look() is None


def test_just_submitted_and_not_yet_asked_for_is_pending(bench: Bench) -> None:
    bench.look()
    bench.ledger.record("intent", "run", token="t")
    job_id = bench.executor.start(bench.job, "t", ())
    bench.ledger.record("submitted", "run", token="t", job_id=job_id)
    view = bench.view(later=1)
    assert (view.job_id, view.state, view.active, view.source) == (job_id, JobState.PENDING, True, "ledger")


@pytest.mark.parametrize(
    ("word", "reason", "answer"),
    [
        ("PENDING", "DependencyNeverSatisfied", ("PENDING", True, None)),
        ("TELEPORTING", "None", ("UNKNOWN", True, None)),
        ("FAILED", "NonZeroExitCode", ("FAILED", False, 2)),
    ],
    ids=["waits", "a word of a later SLURM", "a script that failed before it could say so"],
)
def test_what_squeue_says_of_a_job_without_an_attempt(word: str, reason: str, answer: Answer, bench: Bench) -> None:
    bench.submitted()
    bench.queue(bench.row(state=word, reason=reason, exit_code="2:0" if word == "FAILED" else "0:0"))
    view = bench.view()
    assert (view.state.value, view.active, view.exit_code) == answer
    assert (view.source, view.signal, view.time_limit_seconds) == ("squeue", None, 3600)
    assert (view.reason, view.started_unix is None) == (reason if reason != "None" else "", word == "PENDING")


@pytest.mark.parametrize(
    ("code", "reason", "word", "told", "answer"),
    [
        # After a restart of the controller a job that has ended is RUNNING for some seconds.
        *((0, "completed", word, "0:0", ("COMPLETED", False, 0)) for word in ("RUNNING", "FAILED", "NODE_FAIL")),
        (3, "failed", "COMPLETING", "0:0", ("COMPLETING", True, None)),
        (3, "failed", "OUT_OF_MEMORY", "0:125", ("OUT_OF_MEMORY", False, 3)),
        *(
            (75, "stopped by SIGTERM", word, "0:0", (word, False, 75))
            for word in ("TIMEOUT", "PREEMPTED", "CANCELLED", "NODE_FAIL", "DEADLINE")
        ),
        # SLURM calls a job FAILED or COMPLETED by the code of its script.
        (79, "failed", "FAILED", "79:0", ("OUT_OF_MEMORY", False, 79)),
        (75, "stopped by SIGTERM", "FAILED", "75:0", ("FAILED", False, 75)),
        (75, "stopped by SIGUSR1; queued again", "FAILED", "75:0", ("TIMEOUT", False, 75)),
        (3, "failed", "FAILED", "3:0", ("FAILED", False, 3)),
        (3, "failed", "COMPLETED", "0:0", ("FAILED", False, 3)),
    ],
)
def test_an_exit_file_and_slurm_s_word_together(
    code: int, reason: str, word: str, told: str, answer: Answer, bench: Bench
) -> None:
    """An exit code of 0 is final; a failure waits for SLURM's last word, which may know a better reason."""
    bench.submitted()
    bench.started()
    bench.ended(code, reason)
    bench.trouble["squeue"] = "down"
    assert bench.view().active == (code != 0)
    bench.trouble.clear()
    bench.queue(bench.row(state=word, exit_code=told))
    view = bench.view(later=180)
    assert (view.state.value, view.active, view.exit_code) == answer
    if code == 0:
        assert bench.slurm.count("sacct") == 0


def test_a_failure_that_slurm_has_forgotten_is_told_by_its_exit_file(bench: Bench) -> None:
    """Once the controller itself says that it knows no such job; a list without it is not enough."""
    bench.submitted()
    bench.started()
    bench.ended(3, "failed")
    bench.slurm.accounting = False
    bench.hide()
    bench.queue(bench.row(state="PENDING", restarts=1))
    assert bench.view().active
    bench.queue()
    view = bench.view()
    assert (view.state, view.active, view.source, view.exit_code) == (JobState.FAILED, False, "exit file", 3)


def test_a_failure_is_told_where_there_is_no_slurm(bench: Bench) -> None:
    bench.submitted()
    bench.started()
    bench.ended(3, "failed")
    bench.slurm.answers["squeue"] = said(None, "squeue: No such file or directory")
    view = bench.view()
    assert (view.state, view.active, view.exit_code) == (JobState.FAILED, False, 3)


def test_a_job_that_was_queued_again_goes_on_under_its_id(bench: Bench) -> None:
    bench.submitted()
    bench.started()
    bench.ended(75, "stopped by SIGUSR1; queued again")
    bench.queue(bench.row(state="PENDING", reason="BeginTime", restarts=1))
    view = bench.view()
    assert (view.state, view.active, view.restarts, view.reason) == (JobState.PENDING, True, 1, "BeginTime")
    bench.started(restart=1)
    bench.queue(bench.row(restarts=1))
    assert bench.view().state is JobState.RUNNING
    bench.ended(0, "completed", restart=1)
    view = bench.view()
    assert (view.state, view.active, view.restarts) == (JobState.COMPLETED, False, 1)


def test_an_exit_file_of_an_earlier_time_is_not_the_last_word(bench: Bench) -> None:
    """Queued again, and then cancelled while it waited; or killed in silence the second time."""
    bench.submitted()
    bench.started()
    bench.ended(75, "stopped by SIGUSR1; queued again")
    bench.queue(bench.row(state="CANCELLED", restarts=1))
    view = bench.view()
    assert (view.state, view.active, view.exit_code) == (JobState.CANCELLED, False, None)
    bench.queue(bench.row(state="FAILED", restarts=1, exit_code="0:9"))
    assert bench.view().state is JobState.UNKNOWN


@pytest.mark.parametrize(("told", "exit_code"), [("0:9", None), ("137:0", 137)])
@pytest.mark.parametrize("has_file", [True, False])
def test_killed_by_9_is_out_of_memory_only_where_the_log_proves_it(
    told: str, exit_code: int | None, has_file: bool, bench: Bench
) -> None:
    bench.submitted()
    bench.started()
    if has_file:
        bench.ended(137, "killed by SIGKILL")
    bench.queue(bench.row(state="FAILED", exit_code=told, reason="JobLaunchFailure"))
    view = bench.view()
    assert (view.state, view.active) == (JobState.UNKNOWN, False)
    assert view.exit_code == (137 if has_file else exit_code)
    log = bench.job.folder / "slurm-76.out"
    log.write_text("x\n" * 200_000 + "slurmstepd: error: StepId=76.batch exceeded memory limit (2 > 1), being killed\n")
    view = bench.view()
    assert (view.state, view.active) == (JobState.OUT_OF_MEMORY, False)
    assert "exceeded memory limit" in view.reason


@pytest.mark.parametrize(("later", "code"), [("5:0", 5), ("0:0", None)], ids=["comes", "never comes"])
def test_an_exit_code_that_is_still_on_its_way_is_read_again(later: str, code: int | None, bench: Bench) -> None:
    """One that never comes is none, rather than zero."""
    bench.submitted()
    now = bench.clock.now()
    bench.accounts(bench.row(state="FAILED", exit_code="0:0", ended=now))
    assert bench.view(later=1).active
    bench.accounts(bench.row(state="FAILED", exit_code=later, ended=now))
    view = bench.view()
    assert (view.state, view.active, view.exit_code) == (JobState.FAILED, False, code)


def test_long_ago_is_settled_at_the_first_look(bench: Bench) -> None:
    bench.submitted()
    bench.accounts(bench.row(state="FAILED", exit_code="0:0", ended=bench.clock.now() - 600))
    assert not bench.view(later=1).active


@pytest.mark.parametrize("fault", ["", "no database"])
def test_absence_from_an_sacct_that_lags_or_is_away_is_no_state(fault: Trouble, bench: Bench) -> None:
    bench.submitted()
    bench.trouble["sacct"] = fault
    for _ in range(30 if fault else 5):
        assert bench.view(later=180 if fault else POLL).active
    if fault:
        assert "missing" not in bench.events()
    bench.trouble.clear()
    bench.accounts(bench.row(state="COMPLETED", ended=bench.clock.now()))
    view = bench.view(later=180)
    assert (view.state, view.active, view.source) == (JobState.COMPLETED, False, "sacct")


def test_a_requeued_job_is_not_judged_by_the_record_of_its_first_time(bench: Bench) -> None:
    """PREEMPTED is in the accounting; then the queue lists it again, and it completes."""
    bench.submitted()
    first = bench.row(state="PREEMPTED", ended=bench.clock.now())
    bench.accounts(first)
    assert bench.view().state is JobState.PREEMPTED
    bench.queue(bench.row(state="PENDING", restarts=1))
    assert bench.view().active
    bench.queue()
    bench.accounts(first, bench.row(state="COMPLETED", ended=bench.clock.now() + 9))
    view = bench.view()
    assert (view.state, view.active, view.restarts) == (JobState.COMPLETED, False, 1)


def test_an_sacct_without_submit_lines_is_asked_without(bench: Bench) -> None:
    bench.submitted()
    bench.accounts(bench.row(state="FAILED", exit_code="3:0", ended=bench.clock.now()))
    run = bench.slurm.run
    refusal = said(1, 'sacct: error: Invalid field requested: "SubmitLine"\n')
    bench.slurm.run = lambda words, **more: refusal if "SubmitLine" in str(words) else run(words, **more)  # type: ignore[method-assign, assignment]
    assert bench.view().exit_code == 3


@pytest.mark.parametrize("accounting", [True, False], ids=["sacct without it", "no sacct"])
def test_lost_only_after_five_minutes_of_answers_without_it(accounting: bool, bench: Bench) -> None:
    bench.submitted()
    bench.slurm.accounting = accounting
    begun = bench.clock.monotonic() + POLL
    while (view := bench.view()).active:
        assert bench.clock.monotonic() - begun < 311
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
    for hours in (10, -20):
        bench.clock.ahead += hours * HOUR
        bench.executor = bench.another()
        assert bench.view().active


def test_failed_looks_are_not_counted_and_a_sighting_begins_anew(bench: Bench) -> None:
    bench.submitted()
    for _ in range(3):
        assert bench.view(later=60).active
    bench.queue(bench.row(state="PENDING"))
    assert bench.view().state is JobState.PENDING
    assert bench.events()[-1] == "found"
    bench.queue()
    assert bench.view().active
    bench.trouble["squeue"] = "down"
    for _ in range(10):
        assert bench.view(later=180).active
    bench.trouble.clear()
    assert bench.view(later=180).active


def test_a_heartbeat_keeps_a_job_that_slurm_forgot(bench: Bench) -> None:
    """Whatever the node's clock says: that the heartbeat moves is enough."""
    bench.submitted()
    for _ in range(20):
        bench.started(ahead=POLL - 2 * HOUR)
        bench.view()
    view = bench.view(later=1)
    assert (view.state, view.active, view.source) == (JobState.RUNNING, True, "heartbeat")


def test_a_node_that_was_only_cut_off_works_on(bench: Bench) -> None:
    """SLURM has given it up; its job beats on, and ends well. One that really died does not beat."""
    bench.submitted()
    bench.started()
    bench.accounts(bench.row(state="NODE_FAIL", ended=bench.clock.now() + 10))
    view = bench.view()
    assert (view.state, view.active) == (JobState.NODE_FAIL, False)
    bench.started()
    view = bench.view()
    assert (view.state, view.active, view.source) == (JobState.RUNNING, True, "heartbeat")
    assert not bench.view(later=200).active
    bench.ended(0, "completed")
    assert bench.view().state is JobState.COMPLETED


def test_a_process_on_this_very_machine_needs_no_slurm(bench: Bench) -> None:
    bench.submitted()
    me = identify()
    bench.started(host=me.host, boot_id=me.boot_id, pid=me.pid, pid_started=me.started)
    bench.trouble["squeue"] = "down"
    view = bench.view(later=4000)
    assert (view.state, view.active, view.source) == (JobState.RUNNING, True, "process")


def test_what_ended_when_asked_to_and_is_forgotten_is_told_by_its_exit_file(bench: Bench) -> None:
    bench.submitted()
    bench.slurm.accounting = False
    bench.started()
    bench.ended(75, "stopped by SIGTERM")
    for _ in range(10):
        assert bench.view().active
    view = bench.view()
    assert (view.state, view.active, view.exit_code, view.source) == (JobState.UNKNOWN, False, 75, "exit file")
    assert view.reason.startswith("stopped by SIGTERM; lost")


def test_a_job_of_another_user_in_a_shared_folder_is_not_lost(bench: Bench) -> None:
    """squeue --me does not list it; the controller knows it."""
    bench.submitted()
    bench.hide()
    bench.queue(bench.row())
    for _ in range(30):
        assert bench.view().active


def test_the_ledger_keeps_what_slurm_forgets(bench: Bench) -> None:
    bench.submitted()
    bench.ledger.record("ended", "run", job_id="76", state="TIMEOUT", reason="TimeLimit")
    view = bench.view()
    assert (view.state, view.active, view.source) == (JobState.TIMEOUT, False, "ledger")
    assert bench.slurm.count("sacct") == 0
    bench.queue(bench.row(restarts=1))  # requeued by hand
    assert bench.view().state is JobState.RUNNING


def test_what_was_submitted_by_hand_is_ours(bench: Bench) -> None:
    for state in ("PENDING", "RUNNING"):
        bench.queue(bench.row("91", state))
        view = bench.view()
        assert (view.job_id, view.state.value, view.active) == ("91", state, True)


def test_evaluation_and_training_of_one_folder_are_told_apart_by_their_scripts(bench: Bench) -> None:
    status = bench.job.folder / "eval" / "status"
    evaluation = replace(bench.job, name="evaluate run", status=status, script="eval.slurm")
    bench.queue(bench.row("91"), bench.row("92", "PENDING", script="eval.slurm"))
    views = bench.executor.query_jobs([bench.job, evaluation])
    assert {name: view.job_id for name, view in views.items()} == {"run": "91", "evaluate run": "92"}
    bench.queue(bench.row("93", script="", name="evaluate run"))  # sbatch < eval.slurm
    bench.clock.sleep(POLL)
    assert set(bench.executor.query_jobs([bench.job, evaluation])) == {"evaluate run"}


def test_a_token_finds_a_job_whose_answer_was_lost(bench: Bench) -> None:
    bench.ledger.record("intent", "run", token="a1b2")
    bench.queue(bench.row("91", folder="/seen/from/elsewhere", comment="a1b2", script="x.sh"))
    assert bench.view().job_id == "91"


def test_a_refused_submission_leaves_a_record_that_is_no_job(bench: Bench) -> None:
    """SLURM keeps a FAILED job for a request that no node can ever serve."""
    bench.ledger.record("intent", "run", token="a1b2")
    bench.ledger.record("refused", "run", token="a1b2")
    bench.queue(bench.row("91", "FAILED", comment="a1b2", exit_code="1:0"))
    assert bench.look() is None


def test_an_id_that_was_given_to_another_job_since_tells_nothing(bench: Bench) -> None:
    bench.submitted("76")
    bench.queue(bench.row("76", folder="/somebody/else", name="other", script="other.sh"))
    bench.accounts(bench.row("76", "FAILED", folder="/somebody/else", name="other", script="other.sh"))
    view = bench.view()
    assert (view.state, view.source) == (JobState.UNKNOWN, "none")


def test_the_same_folder_by_another_path_is_the_same_job(bench: Bench) -> None:
    bench.submitted("76")
    bench.queue(bench.row("76", folder=f"/net/export/{bench.job.folder.name}"))
    assert bench.view().state is JobState.RUNNING


def test_a_twin_that_found_another_at_work_is_no_attempt(bench: Bench) -> None:
    bench.submitted("76", "a" * 16)
    bench.submitted("77", "b" * 16)
    bench.started()
    bench.ended(76, "another attempt holds the run", "77")
    bench.queue(bench.row("76"), bench.row("77", "FAILED", exit_code="76:0"))
    assert (bench.view().job_id, bench.view().state) == ("76", JobState.RUNNING)
    bench.ended(0, "completed")
    bench.queue(bench.row("76", "COMPLETED"), bench.row("77", "FAILED", exit_code="76:0"))
    assert (bench.view().job_id, bench.view().state) == ("76", JobState.COMPLETED)
    bench.queue()
    assert (bench.view().job_id, bench.view().state) == ("76", JobState.COMPLETED)


def test_of_two_that_live_the_one_that_works_is_told(bench: Bench) -> None:
    bench.submitted("76", "a" * 16)
    bench.submitted("77", "b" * 16)
    bench.queue(bench.row("76"), bench.row("77", "PENDING"))
    assert bench.view().job_id == "76"
    bench.queue(bench.row("77", "PENDING"))
    assert bench.view().job_id == "77"


@pytest.mark.parametrize(("first", "second", "jump"), [("76", "77", -100_000.0), ("9000", "4", 0.0)])
def test_the_last_job_counts_and_not_the_last_start(first: str, second: str, jump: float, bench: Bench) -> None:
    """Also where the clock went back between the two, and where a controller counts from 1 again."""
    bench.submitted(first, "a" * 16)
    bench.started(first)
    bench.ended(3, "failed", first)
    bench.clock.ahead += jump
    bench.submitted(second, "b" * 16)
    bench.started(second)
    bench.ended(0, "completed", second)
    assert (bench.view().job_id, bench.view().state) == (second, JobState.COMPLETED)


def test_an_array_s_tasks_are_told_apart(bench: Bench) -> None:
    root = bench.job.folder.parent
    bench.started("14_3")
    bench.queue(bench.row("14_3", folder=root, script="array.slurm"), bench.row("14_4", "FAILED", folder=root))
    assert (bench.view().job_id, bench.view().state) == ("14_3", JobState.RUNNING)


@pytest.mark.parametrize("dies", ["with a word", "in silence"])
def test_a_step_of_an_allocation_ends_before_that(dies: str, bench: Bench) -> None:
    """One that died in silence is known to the accounting."""
    root = bench.job.folder.parent
    whole = bench.row("20", folder=root, script="mega_job.slurm")
    bench.started("20.1")
    bench.queue(whole)
    assert bench.view().state is JobState.RUNNING
    if dies == "with a word":
        bench.ended(3, "failed", "20.1")
        answer: Answer = ("FAILED", False, 3)
    else:
        lost = bench.row("20.1", "OUT_OF_MEMORY", folder=root, exit_code="0:125", ended=bench.clock.now())
        bench.accounts(whole, lost)
        answer = ("OUT_OF_MEMORY", False, None)
    view = bench.view(later=200)
    assert view.job_id == "20.1"
    assert (view.state.value, view.active, view.exit_code) == answer


def test_an_attempt_without_slurm_on_another_node_is_waited_for(bench: Bench) -> None:
    bench.started("local-1f2e", host="login2")
    view = bench.view(later=1)
    assert (view.job_id, view.state, view.active) == ("local-1f2e", JobState.RUNNING, True)
    assert not bench.view(later=200).active
    bench.submitted()
    bench.queue(bench.row())
    assert bench.view().job_id == "76"


def test_strange_files_and_lines_harm_nothing(bench: Bench) -> None:
    bench.job.status.mkdir()
    for name in ("start.76.0.json", "start..json", "exit.76.x.json", "exit.76.-1.json", "start.a.b.c.json", "lock"):
        (bench.job.status / name).write_text('{"job_id": 3')
    bench.submitted()
    with bench.ledger.path.open("a") as stream:
        stream.write('{"event": "submitted", "job": "run"}\nnot json\n\n{"event": "torn')
    bench.queue(bench.row(state="FAILED", exit_code="1:0"))
    assert bench.view().state is JobState.FAILED


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
    bench.queue(bench.row(state=state, comment="t" * 16))
    if state == "RUNNING":
        bench.started(token="t" * 16)
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
    bench.queue(bench.row(comment="t" * 16))
    bench.started(token="t" * 16)
    copy = _copy(bench, tmp_path / "moved")
    shutil.rmtree(bench.job.folder.parent)
    assert copy.view().active
    copy.executor.stop([copy.job])
    assert ("scancel", "76") in bench.slurm.calls
