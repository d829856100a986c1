"""Submitting is a transaction: whatever goes wrong and wherever, no run is lost and none is started twice.

Kills at every step of it are played by tests/slurm/test_thousand_kills.py.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.run.slurm_bench import TOKEN, Bench, make_job, said
from tests.slurm.fake import Trouble

from touchline.core.errors import HostError, SubmissionLimitError, SubmissionRejectedError, SubmissionUnknownError
from touchline.core.status import JobState
from touchline.run.jobs import Job
from touchline.run.ledger import Ledger, LedgerReader, open_intents, open_jobs, read_ledger
from touchline.run.queue import begin
from touchline.run.slurm import SlurmExecutor
from touchline.slurm.local.commands import without_outer_job

pytestmark = pytest.mark.planning


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def submit(bench: Bench, job: Job | None = None) -> str | None:
    return begin(job or bench.job, bench.another(), bench.ledger)


def taken(bench: Bench) -> list[str]:
    return [str(each.job.raw) for each in bench.slurm.submissions]


def goes_down_at_sbatch(bench: Bench, fault: Trouble) -> None:
    """The controller answers the look before, and nothing from then on."""

    def trouble(words: object) -> Trouble:
        if "sbatch" in str(words):
            bench.trouble["squeue"] = "down"
            return fault
        return bench.trouble.get(words[0], "")

    bench.slurm.trouble = trouble


def test_a_submission_names_token_parents_and_the_lock(bench: Bench) -> None:
    held = os.open(os.devnull, os.O_RDONLY)
    executor = SlurmExecutor(bench.slurm, bench.ledger.path, clock=bench.clock, lock=held)
    assert executor.start(bench.job, "a1b2", (), ["41", "local-7", "42_3", "41.2", "43.0"]) in taken(bench)
    os.close(held)
    assert bench.slurm.calls == [
        (
            *("sbatch", "--parsable", "--comment=a1b2", "--job-name=run", "--dependency=afterany:41:42_3:43"),
            *("--export=ALL,TOUCHLINE_TOKEN=a1b2", "finetune.slurm"),
        )
    ]
    assert bench.slurm.kept == [(held,)]


@pytest.mark.parametrize("at_limit", [False, True])
def test_a_refusal_closes_the_intent_and_the_next_try_begins_anew(at_limit: bool, bench: Bench) -> None:
    script = bench.job.folder / "finetune.slurm"
    plain = script.read_text()
    if at_limit:
        bench.slurm.max_submitted = 0
    else:
        script.write_text(f"{plain}#SBATCH --partition=nowhere\n")
    with pytest.raises(SubmissionLimitError if at_limit else SubmissionRejectedError) as caught:
        submit(bench)
    assert bench.events() == ["intent", "refused"]
    assert bench.ledger.entries()[-1].reason == caught.value.message
    assert bench.slurm.calls[-1][0] == "sbatch"
    bench.slurm.max_submitted = None
    script.write_text(plain)
    assert [submit(bench)] == taken(bench)
    assert bench.events() == ["intent", "refused", "intent", "submitted"]
    first, _, second, submitted = bench.ledger.entries()
    assert first.token != second.token == submitted.token
    assert len(second.token) == 16


def test_without_sbatch_nothing_was_started(bench: Bench) -> None:
    bench.slurm.answers["sbatch"] = said(None, "sbatch: No such file or directory")
    with pytest.raises(HostError) as caught:
        bench.executor.start(bench.job, "a1b2", ())
    assert not isinstance(caught.value, SubmissionUnknownError)


@pytest.mark.parametrize("where", ["queue", "late", "accounting"])
def test_after_a_lost_answer_the_token_is_looked_for(where: str, bench: Bench) -> None:
    """Also of a job that the controller takes late, or that ended at once."""
    if where == "late":
        bench.trouble["sbatch"] = "frozen"
        bench.slurm.thaw = bench.clock.true + 12
    else:
        bench.trouble["sbatch"] = "lost in"
    if where == "accounting":
        bench.trouble["sbatch"] = "lost out"
        bench.accounts(bench.row("91", "COMPLETED", comment="a1b2", ended=bench.clock.now()))
    job_id = bench.executor.start(bench.job, "a1b2", ())
    assert job_id == ("91" if where == "accounting" else taken(bench)[0])


@pytest.mark.parametrize("sacct", ["", "off", "no database"])
@pytest.mark.parametrize("squeue", ["", "down"])
def test_what_is_not_found_stays_unclear_after_ten_seconds(squeue: Trouble, sacct: str, bench: Bench) -> None:
    bench.slurm.accounting = sacct != "off"
    bench.trouble |= {"sbatch": "lost out", "squeue": squeue, "sacct": "no database" if "base" in sacct else ""}
    begun = bench.clock.monotonic()
    with pytest.raises(SubmissionUnknownError) as caught:
        bench.executor.start(bench.job, "a1b2", ())
    assert "Socket timed out" in caught.value.message
    assert "\n" not in caught.value.message
    assert bench.clock.monotonic() - begun >= 10


def test_an_sbatch_that_waits_at_a_limit_until_it_is_ended_is_not_now(bench: Bench) -> None:
    """At MaxJobCount sbatch tries again for minutes."""
    waiting = (
        "sbatch: no answer within 60 s\nsbatch: error: Slurm temporarily unable to accept job, sleeping and retrying"
    )
    bench.slurm.answers["sbatch"] = said(None, waiting)
    with pytest.raises(SubmissionLimitError):
        bench.executor.start(bench.job, "a1b2", ())
    bench.queue(bench.row("91", "PENDING", comment="c3d4"))
    assert bench.executor.start(bench.job, "c3d4", ()) == "91"


def test_stop_cancels_what_lives_and_only_that(bench: Bench) -> None:
    other = make_job(bench.job.folder.parent, "other")
    bench.submitted("76")
    bench.submitted("77", "u" * 16, other)
    bench.queue(bench.row("76", "PENDING"), bench.row("77", "COMPLETED", folder=other.folder))
    bench.slurm.answers["scancel"] = said(1, "scancel: error: Invalid job id 76\n")
    bench.executor.stop([bench.job, other])
    assert bench.slurm.calls[-1] == ("scancel", "76")
    bench.slurm.answers.clear()
    bench.trouble["scancel"] = "down"
    with pytest.raises(HostError, match="Unable to contact"):
        bench.executor.stop([bench.job])


def test_nothing_is_submitted_while_nobody_tells_what_is_in_the_queue(bench: Bench) -> None:
    """Somebody may have submitted it by hand; and how the last job stands is not known either."""
    bench.trouble["squeue"] = "down"
    with pytest.raises(SubmissionLimitError):
        submit(bench)
    assert (bench.slurm.count("sbatch"), bench.events()) == (0, [])
    bench.trouble.clear()
    job_id = submit(bench)
    bench.trouble["squeue"] = "down"
    assert submit(bench) == job_id
    assert bench.slurm.count("sbatch") == 1


def test_what_was_finished_while_the_scheduler_took_its_time_is_not_begun(bench: Bench) -> None:
    assert begin(bench.job, bench.executor, bench.ledger, is_done=lambda: True) is None
    assert (bench.slurm.count("sbatch"), bench.events()) == (0, [])


@pytest.mark.parametrize("arrived", [False, True])
def test_an_unclear_answer_keeps_the_intent_open_until_its_token_was_looked_for(arrived: bool, bench: Bench) -> None:
    goes_down_at_sbatch(bench, "lost in" if arrived else "lost out")
    with pytest.raises(SubmissionUnknownError):
        submit(bench)
    assert bench.events() == ["intent", "unclear"]
    with pytest.raises(SubmissionUnknownError, match="does not report"):
        submit(bench)
    assert bench.slurm.count("sbatch") == 1
    bench.slurm.trouble = lambda words: ""
    job_id = submit(bench)
    again = ["submitted"] if arrived else ["not submitted", "intent", "submitted"]
    assert bench.events() == ["intent", "unclear", *again]
    assert open_intents(bench.ledger.entries(), "slurm") == {}
    assert submit(bench) == job_id
    assert (taken(bench), bench.events()[-1]) == ([job_id], "adopted")


def test_many_open_intents_are_settled_by_one_search(bench: Bench) -> None:
    jobs = [make_job(bench.ledger.path.parent, f"run{number}") for number in range(20)]
    for number, job in enumerate(jobs):
        token = f"token{number:02d}"
        bench.ledger.record("intent", job.name, token=token, time_unix=bench.clock.now() - 3600)
        if number % 2:
            bench.slurm.cluster.jobs.append(bench.row(str(number), folder=job.folder, comment=token))
    ids = [begin(job, bench.executor, bench.ledger) for job in jobs]
    assert ids[1::2] == [str(number) for number in range(1, 20, 2)]
    assert ids[::2] == taken(bench)
    assert (bench.slurm.count("squeue"), bench.slurm.count("sacct"), bench.slurm.count("sbatch")) == (2, 1, 10)


def test_what_is_at_work_is_adopted_and_what_has_ended_is_begun_again(bench: Bench) -> None:
    bench.queue(bench.row("50"))
    assert submit(bench) == "50"
    assert bench.events() == ["adopted"]
    bench.started("50")
    bench.ended(3, "failed", "50")
    bench.queue(bench.row("50", "FAILED", exit_code="3:0"))
    assert [submit(bench)] == taken(bench)


def test_the_job_of_a_cohort_is_that_of_all_its_runs(bench: Bench) -> None:
    """In the queue, at work, and when it has ended; another folder's job of that id is nobody's here."""
    root = bench.ledger.path.parent
    lead, other = (make_job(root, name) for name in ("first", "second"))
    job_id = begin(replace(lead, cohort=("second",)), bench.executor, bench.ledger)
    assert open_jobs(bench.ledger.entries()) == {"first": job_id, "second": job_id}
    token = bench.ledger.entries()[0].token
    for state in (JobState.PENDING, JobState.RUNNING, JobState.NODE_FAIL):
        bench.queue(bench.row(job_id or "", state.value, folder=lead.folder, comment=token))
        bench.clock.sleep(60)
        assert bench.executor.query_jobs([other])["second"].state is state
    bench.queue(bench.row(job_id or "", "NODE_FAIL", folder=root.parent))
    bench.clock.sleep(60)
    assert bench.executor.query_jobs([other])["second"].state is not JobState.NODE_FAIL
    bench.ledger.record("ended", "first", job_id=job_id or "", state="NODE_FAIL")
    assert not open_jobs(bench.ledger.entries())


def test_the_ledger_is_read_on_from_where_the_last_look_ended(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    reader, ledger = LedgerReader(path), Ledger(path, "slurm")
    assert list(reader.entries()) == []
    ledger.record("intent", "a", token=TOKEN)
    assert [entry.event for entry in reader.of("a")] == ["intent"]
    with path.open("a") as stream:
        stream.write('{"event": "torn')
    assert len(reader.entries()) == 1
    ledger.record("submitted", "a", token=TOKEN, job_id="76")
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
