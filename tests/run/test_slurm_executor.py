"""The truth about a job, from its folder and from answers that fail, lag, leave out, or name somebody else's job."""

import itertools
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.cases import parametrize
from tests.run.slurm_bench import POLL, Bench, make_job, said
from tests.slurm.fake_jobs import FakeJob

from touchline.core.status import JobState
from touchline.run.jobs import Job
from touchline.run.ledger import Ledger
from touchline.run.statusfiles import identify

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


def test_one_sacct_for_all_that_squeue_forgot_and_none_for_what_is_known(bench: Bench, several: list[Job]) -> None:
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
        bench.trouble["squeue"] = fault
    for _ in range(20):
        assert bench.view(later=180) == before
    assert "missing" not in bench.events()


Step = Callable[[Bench], object]


def do(method: str, *arguments: object, **more: object) -> Step:
    return lambda bench: getattr(bench, method)(*arguments, **more)


def record(event: str, **more: str) -> Step:
    return lambda bench: bench.ledger.record(event, "run", **more)


def job(job_id: str = "76", state: str = "RUNNING", **more: Any) -> Callable[[Bench], FakeJob]:
    """A job that stands so: `ended` in seconds from then, its folder perhaps a function of the run's."""

    def row(bench: Bench) -> FakeJob:
        given = dict(more)
        if "ended" in given:
            given["ended"] += bench.clock.now()
        if callable(given.get("folder")):
            given["folder"] = given["folder"](bench.job.folder)
        return bench.row(job_id, state, **given)

    return row


def queue(*rows: Callable[[Bench], FakeJob]) -> Step:
    return lambda bench: bench.queue(*(row(bench) for row in rows))


def accounts(*rows: Callable[[Bench], FakeJob], kept: int = 0) -> Step:
    """What sacct knows from now on, after the first `kept` that it knew."""

    def step(bench: Bench) -> None:
        before = [each[3] for each in bench.slurm.cluster.accounting[:kept]]
        bench.accounts(*before, *(row(bench) for row in rows))

    return step


def sees(
    state: str = "", active: bool | None = None, source: str = "", *, later: float = POLL, times: int = 1, **more: Any
) -> Step:
    """What looks must see; `says` is looked for in the reason."""

    def step(bench: Bench) -> None:
        for _ in range(times):
            view = bench.view(later=later)
            assert view.state.value == (state or view.state.value)
            assert view.active is (view.active if active is None else active)
            assert view.source == (source or view.source)
            for name, value in more.items():
                assert re.search(value, view.reason) if name == "says" else getattr(view, name) == value, name

    return step


def is_nothing(bench: Bench) -> None:
    assert bench.look() is None


def events(*expected: str) -> Step:
    def step(bench: Bench) -> None:
        assert tuple(bench.events()[-len(expected) :]) == expected

    return step


def never_missed(bench: Bench) -> None:
    assert "missing" not in bench.events()


def no_sacct(bench: Bench) -> None:
    assert bench.slurm.count("sacct") == 0


def trouble(command: str, what: str) -> Step:
    return lambda bench: bench.trouble.update({command: what})


def no_accounting(bench: Bench) -> None:
    bench.slurm.accounting = False


def another(bench: Bench) -> None:
    bench.executor = bench.another()


def jump(seconds: float) -> Step:
    return lambda bench: setattr(bench.clock, "ahead", bench.clock.ahead + seconds)


submitted, started, ended = (partial(do, name) for name in ("submitted", "started", "ended"))
SUBMITTED, STARTED, FAILED, DONE = submitted(), started(), ended(3, "failed"), ended(0, "completed")
QUEUED_AGAIN = ended(75, "stopped by SIGUSR1; queued again")
DOWN, UP = trouble("squeue", "down"), trouble("squeue", "")
ACTIVE, OVER = sees(active=True), sees(active=False, later=200)
OTHERS: dict[str, Any] = {"folder": "/somebody/else", "name": "other", "script": "other.sh"}
ROOT: dict[str, Any] = {"folder": lambda folder: folder.parent}
TWO = (submitted("76", "a" * 16), submitted("77", "b" * 16))
TWIN = job("77", "FAILED", exit_code="76:0")
STEP = (started("20.1"), queue(job("20", **ROOT, script="mega_job.slurm")), sees("RUNNING"))


def two_jobs(first: str, second: str, seconds: float) -> tuple[Step, ...]:
    return (
        *(submitted(first, "a" * 16), started(first), ended(3, "failed", first), jump(seconds)),
        *(submitted(second, "b" * 16), started(second), ended(0, "completed", second)),
        sees("COMPLETED", job_id=second),
    )


# fmt: off
STORIES: dict[str, tuple[Step, ...]] = {
    "nothing is known while nothing answers": (
        SUBMITTED, DOWN, sees("UNKNOWN", True, "none", says="Unable to contact", later=180, times=20),
        events("intent", "submitted")),
    "without a trace there is no job": (is_nothing,),
    # Once the controller itself says that it knows no such job; a list without it is not enough.
    "a failure that SLURM has forgotten is told by its exit file": (
        SUBMITTED, STARTED, FAILED, no_accounting, do("hide"), queue(job(state="PENDING", restarts=1)), ACTIVE, queue(),
        sees("FAILED", False, "exit file", exit_code=3)),
    "a failure is told where there is no SLURM": (
        SUBMITTED, STARTED, FAILED,
        lambda bench: bench.slurm.answers.update(squeue=said(None, "squeue: No such file or directory")),
        sees("FAILED", False, exit_code=3)),
    "a job that was queued again goes on under its id": (
        SUBMITTED, STARTED, QUEUED_AGAIN, queue(job(state="PENDING", reason="BeginTime", restarts=1)),
        sees("PENDING", True, restarts=1, reason="BeginTime"), started(restart=1), queue(job(restarts=1)),
        sees("RUNNING"), ended(0, "completed", restart=1), sees("COMPLETED", False, restarts=1)),
    "an exit file of an earlier time is not the last word: cancelled while it waited, or killed in silence": (
        SUBMITTED, STARTED, QUEUED_AGAIN, queue(job(state="CANCELLED", restarts=1)),
        sees("CANCELLED", False, exit_code=None),
        queue(job(state="FAILED", restarts=1, exit_code="0:9")), sees("UNKNOWN")),
    # One that never comes is none, rather than zero.
    **{f"an exit code that is still on its way {comes}": (
        SUBMITTED, accounts(job(state="FAILED", ended=0)), sees(active=True, later=1),
        accounts(job(state="FAILED", exit_code=later, ended=-1)), sees("FAILED", False, exit_code=code))
       for comes, later, code in (("comes", "5:0", 5), ("never comes", "0:0", None))},
    "long ago is settled at the first look": (
        SUBMITTED, accounts(job(state="FAILED", ended=-600)), sees(active=False, later=1)),
    "absence from an sacct that lags is no state": (
        SUBMITTED, sees(active=True, times=5), accounts(job(state="COMPLETED", ended=0)),
        sees("COMPLETED", False, "sacct", later=180)),
    "absence from an sacct that is away is no state": (
        SUBMITTED, trouble("sacct", "no database"), sees(active=True, later=180, times=30), never_missed,
        trouble("sacct", ""), accounts(job(state="COMPLETED", ended=0)), sees("COMPLETED", False, "sacct", later=180)),
    "a requeued job is not judged by the record of its first time": (
        SUBMITTED, accounts(job(state="PREEMPTED", ended=0)), sees("PREEMPTED"),
        queue(job(state="PENDING", restarts=1)), ACTIVE, queue(),
        accounts(job(state="COMPLETED", ended=9), kept=1), sees("COMPLETED", False, restarts=1)),
    "later processes go on counting": (
        SUBMITTED, *(3 * (another, sees(active=True, later=100))), *(2 * (another, sees(active=False, later=100)))),
    # One look before it and one after it are two looks, however many hours the clock says.
    "a jump of the clock loses no job": (
        SUBMITTED, ACTIVE, jump(10 * HOUR), another, ACTIVE, jump(-20 * HOUR), another, ACTIVE),
    "failed looks are not counted, and a sighting begins anew": (
        SUBMITTED, sees(active=True, later=60, times=3), queue(job(state="PENDING")), sees("PENDING"), events("found"),
        queue(), ACTIVE, DOWN, sees(active=True, later=180, times=10), UP, sees(active=True, later=180)),
    # Whatever the node's clock says: that the heartbeat moves is enough.
    "a heartbeat keeps a job that SLURM forgot": (
        SUBMITTED, *(20 * (started(ahead=POLL - 2 * HOUR), do("view"))),
        sees("RUNNING", True, "heartbeat", later=1)),
    # SLURM has given it up; its job beats on, and ends well. One that really died does not beat.
    "a node that was only cut off works on": (
        SUBMITTED, STARTED, accounts(job(state="NODE_FAIL", ended=10)), sees("NODE_FAIL", False), STARTED,
        sees("RUNNING", True, "heartbeat"), OVER, DONE, sees("COMPLETED")),
    "what ended when asked to and is forgotten is told by its exit file": (
        SUBMITTED, no_accounting, STARTED, ended(75, "stopped by SIGTERM"), sees(active=True, times=10),
        sees("UNKNOWN", False, "exit file", exit_code=75, says="^stopped by SIGTERM; lost")),
    "a job of another user in a shared folder is not lost": (
        SUBMITTED, do("hide"), queue(job()), sees(active=True, times=30)),
    "the ledger keeps what SLURM forgets, until it is requeued by hand": (
        SUBMITTED, record("ended", job_id="76", state="TIMEOUT", reason="TimeLimit"), sees("TIMEOUT", False, "ledger"),
        no_sacct, queue(job(restarts=1)), sees("RUNNING")),
    "what was submitted by hand is ours": (
        queue(job("91", "PENDING")), sees("PENDING", True, job_id="91"),
        queue(job("91")), sees("RUNNING", True, job_id="91")),
    "a token finds a job whose answer was lost": (
        record("intent", token="a1b2"), queue(job("91", folder="/seen/from/elsewhere", comment="a1b2", script="x.sh")),
        sees(job_id="91")),
    # SLURM keeps a FAILED job for a request that no node can ever serve.
    "a refused submission leaves a record that is no job": (
        record("intent", token="a1b2"), record("refused", token="a1b2"),
        queue(job("91", "FAILED", comment="a1b2", exit_code="1:0")), is_nothing),
    "an id that was given to another job since tells nothing": (
        SUBMITTED, queue(job(**OTHERS)), accounts(job(state="FAILED", **OTHERS)), sees("UNKNOWN", source="none")),
    "the same folder by another path is the same job": (
        SUBMITTED, queue(job(folder=lambda folder: f"/net/export/{folder.name}")), sees("RUNNING")),
    "a twin that found another at work is no attempt": (
        *TWO, STARTED, ended(76, "another attempt holds the run", "77"), queue(job(), TWIN),
        sees("RUNNING", job_id="76"), DONE, queue(job(state="COMPLETED"), TWIN), sees("COMPLETED", job_id="76"),
        queue(), sees("COMPLETED", job_id="76")),
    "of two that live the one that works is told": (
        *TWO, queue(job(), job("77", "PENDING")), sees(job_id="76"), queue(job("77", "PENDING")), sees(job_id="77")),
    "the last job counts and not the last start, where the clock went back": two_jobs("76", "77", -100_000.0),
    "the last job counts and not the last start, where a controller counts from 1 again": two_jobs("9000", "4", 0.0),
    "an array's tasks are told apart": (
        started("14_3"), queue(job("14_3", script="array.slurm", **ROOT), job("14_4", "FAILED", **ROOT)),
        sees("RUNNING", job_id="14_3")),
    "a step of an allocation ends before that, with a word": (
        *STEP, ended(3, "failed", "20.1"), sees("FAILED", False, job_id="20.1", exit_code=3, later=200)),
    "a step of an allocation ends before that, in silence": (
        *STEP, accounts(job("20", script="mega_job.slurm", **ROOT),
                        job("20.1", "OUT_OF_MEMORY", exit_code="0:125", ended=0, **ROOT)),
        sees("OUT_OF_MEMORY", False, job_id="20.1", exit_code=None, later=200)),
    "an attempt without SLURM on another node is waited for": (
        started("local-1f2e", host="login2"), sees("RUNNING", True, job_id="local-1f2e", later=1), OVER,
        SUBMITTED, queue(job()), sees(job_id="76")),
}
# fmt: on


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_what_is_told_of_a_job(story: tuple[Step, ...], bench: Bench) -> None:
    for step in story:
        step(bench)


def test_just_submitted_and_not_yet_asked_for_is_pending(bench: Bench) -> None:
    bench.look()
    bench.ledger.record("intent", "run", token="t")
    job_id = bench.executor.start(bench.job, "t", ())
    bench.ledger.record("submitted", "run", token="t", job_id=job_id)
    view = bench.view(later=1)
    assert (view.job_id, view.state, view.active, view.source) == (job_id, JobState.PENDING, True, "ledger")


@parametrize(
    "word, reason, answer",
    ("PENDING", "DependencyNeverSatisfied", ("PENDING", True, None)),
    ("TELEPORTING", "None", ("UNKNOWN", True, None)),
    ("FAILED", "NonZeroExitCode", ("FAILED", False, 2)),
    ids=["waits", "a word of a later SLURM", "a script that failed before it could say so"],
)
def test_what_squeue_says_of_a_job_without_an_attempt(word: str, reason: str, answer: Answer, bench: Bench) -> None:
    bench.submitted()
    bench.queue(bench.row(state=word, reason=reason, exit_code="2:0" if word == "FAILED" else "0:0"))
    view = bench.view()
    assert (view.state.value, view.active, view.exit_code) == answer
    assert (view.source, view.signal, view.time_limit_seconds) == ("squeue", None, 3600)
    assert (view.reason, view.started_unix is None) == (reason if reason != "None" else "", word == "PENDING")


@parametrize(
    "code, reason, word, told, answer",
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
)
def test_exit_file_and_word_agree(code: int, reason: str, word: str, told: str, answer: Answer, bench: Bench) -> None:
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


@pytest.mark.parametrize(("told", "exit_code"), [("0:9", None), ("137:0", 137)])
@pytest.mark.parametrize("has_file", [True, False])
def test_signal_9_is_memory_if_the_log_proves_it(
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


def test_an_sacct_without_submit_lines_is_asked_without(bench: Bench) -> None:
    bench.submitted()
    bench.accounts(bench.row(state="FAILED", exit_code="3:0", ended=bench.clock.now()))
    run = bench.slurm.run
    refusal = said(1, 'sacct: error: Invalid field requested: "SubmitLine"\n')
    bench.slurm.run = lambda words, **more: refusal if "SubmitLine" in str(words) else run(words, **more)
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


def test_a_process_on_this_very_machine_needs_no_slurm(bench: Bench) -> None:
    bench.submitted()
    me = identify()
    bench.started(host=me.host, boot_id=me.boot_id, pid=me.pid, pid_started=me.started)
    bench.trouble["squeue"] = "down"
    view = bench.view(later=4000)
    assert (view.state, view.active, view.source) == (JobState.RUNNING, True, "process")


def test_evaluation_and_training_of_one_folder_are_told_apart_by_their_scripts(bench: Bench) -> None:
    status = bench.job.folder / "eval" / "status"
    evaluation = replace(bench.job, name="evaluate run", status=status, script="eval.slurm")
    bench.queue(bench.row("91"), bench.row("92", "PENDING", script="eval.slurm"))
    views = bench.executor.query_jobs([bench.job, evaluation])
    assert {name: view.job_id for name, view in views.items()} == {"run": "91", "evaluate run": "92"}
    bench.queue(bench.row("93", script="", name="evaluate run"))  # sbatch < eval.slurm
    bench.clock.sleep(POLL)
    assert set(bench.executor.query_jobs([bench.job, evaluation])) == {"evaluate run"}


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
