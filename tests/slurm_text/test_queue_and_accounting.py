"""Answers that a SLURM 22.05 gave to squeue, sacct and scontrol, with names of every kind, read field by field."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.core.status import JobState
from touchline.slurm.accounting import AccountingRow, accounting_format, latest, read_accounting
from touchline.slurm.queue import QueueRow, queue_format, read_job, read_queue
from touchline.slurm.states import ExitCode

pytestmark = pytest.mark.planning

RECORDED = Path(__file__).with_name("recorded")
BAR = "\x1fab12\x1f"
FOLDER = "/home/me/exp/run one|x'y"


def recorded(name: str) -> str:
    return (RECORDED / name).read_bytes().decode()


@pytest.fixture(scope="module")
def queue() -> dict[str, QueueRow]:
    rows = read_queue(recorded("squeue.txt"), BAR)
    assert rows is not None
    return {row.job_id: row for row in rows}


@pytest.fixture(scope="module")
def accounting() -> tuple[AccountingRow, ...]:
    rows = read_accounting(recorded("sacct.txt"), BAR)
    assert rows is not None
    return rows


def test_a_failed_job_in_the_queue(queue: dict[str, QueueRow]) -> None:
    row = queue["39"]
    assert (row.state, row.exit_code, row.reason) == (JobState.FAILED, ExitCode(code=3, signal=0), "NonZeroExitCode")
    assert (row.folder, row.script, row.comment, row.restarts) == (FOLDER, "", "", 0)
    assert row.started_unix == row.ended_unix == 1795282498.0
    assert row.time_limit_seconds == 3600


def test_out_of_memory_in_the_queue(queue: dict[str, QueueRow]) -> None:
    """squeue's raw status is 253: signal 125, SLURM's own for it, and the bit of a core file."""
    assert (queue["43"].state, queue["43"].exit_code) == (JobState.OUT_OF_MEMORY, ExitCode(code=0, signal=125))


def test_an_array_in_the_queue(queue: dict[str, QueueRow]) -> None:
    """Tasks that have started have rows of their own; one row stands for all that wait."""
    assert {row.array_id for name, row in queue.items() if name.startswith("40_")} == {"40"}
    assert queue["40_[4-9%2]"].state is JobState.PENDING
    assert queue["40_[4-9%2]"].started_unix is None
    assert (queue["40_0"].raw_id, queue["40_1"].raw_id) == ("44", "45")
    assert queue["40_2"].state is JobState.RUNNING
    assert queue["40_2"].ended_unix is None  # squeue gives the time of its limit


def test_what_waits_says_why_and_for_how_long_it_will_run(queue: dict[str, QueueRow]) -> None:
    assert (queue["41"].state, queue["41"].reason) == (JobState.PENDING, "DependencyNeverSatisfied")
    assert (queue["41"].name, queue["41"].comment) == ("evaluate run one", "TOKD")
    waiting = queue["42"]
    assert (waiting.state, waiting.reason, waiting.time_limit_seconds) == (JobState.PENDING, "BeginTime", 86400)
    assert waiting.started_unix is None  # squeue gives the time at which it may start
    assert waiting.exit_code is None
    assert waiting.script == f"{FOLDER}/finetune.slurm"


def test_a_queue_without_jobs_is_an_answer_and_no_answer_is_none() -> None:
    header = recorded("squeue.txt").partition("\n")[0]
    assert read_queue(f"{header}\n", BAR) == ()
    assert read_queue(header, BAR) is None
    assert read_queue("", BAR) is None
    assert read_queue("slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", BAR) is None


@given(st.integers(0, 2600))
def test_a_cut_queue_is_none_or_ends_with_a_whole_row(length: int) -> None:
    text = recorded("squeue.txt")
    cut = text[:length]
    rows = read_queue(cut, BAR)
    whole = read_queue(text, BAR)
    assert whole is not None
    assert rows is None or rows == whole[: len(rows)]
    if 0 < length < len(text) and not cut.endswith(f"{BAR}\n"):
        assert rows is None


def test_fields_that_a_version_does_not_know_are_left_out() -> None:
    """An older squeue prints its answer without them; those that identify a job must be there."""
    table = [line.split(BAR) for line in recorded("squeue.txt").split(f"{BAR}\n")[:-1]]
    for gone, is_needed in (("RESTART_COUNT", False), ("EXIT_CODE", False), ("COMMENT", True), ("WORK_DIR", True)):
        column = table[0].index(gone)
        text = "".join(BAR.join([*row[:column], *row[column + 1 :], "\n"]) for row in table)
        rows = read_queue(text, BAR)
        assert (rows is None) is is_needed
        assert is_needed or rows is not None
        assert rows is None or rows[0].state is JobState.FAILED


def test_the_format_asks_for_every_field_with_the_separator_behind_it() -> None:
    fields = queue_format(BAR).split(",")
    assert all(field.endswith(f":{BAR}") for field in fields)
    assert len(set(fields)) == len(fields) == len(recorded("squeue.txt").partition("\n")[0].split(BAR)) - 1


def test_the_last_time_of_each_job_counts(accounting: tuple[AccountingRow, ...]) -> None:
    """Jobs 9 and 10 were requeued and preempted, and then failed; rows that come twice are one."""
    last = latest(accounting)
    assert [row.state for row in accounting if row.job_id == "9"] == [JobState.REQUEUED, JobState.FAILED]
    assert [row.state for row in accounting if row.job_id == "10"] == [JobState.PREEMPTED, JobState.FAILED]
    for job_id in ("9", "10"):
        row, restarts = last[job_id]
        assert (row.state, row.exit_code, restarts) == (JobState.FAILED, ExitCode(code=4, signal=0), 1)
    assert last["2"][1] == 0
    assert last["3_1"][1] == 0
    assert last["9.0"][0].state is JobState.COMPLETED


def test_arrays_steps_and_ends_in_the_accounting(accounting: tuple[AccountingRow, ...]) -> None:
    last = {name: row for name, (row, _) in latest(accounting).items()}
    assert (last["3_3"].raw_id, last["3_2"].raw_id) == ("3", "8")  # an array's last task has the array's own id
    assert (last["12"].state, last["12"].word) == (JobState.CANCELLED, "CANCELLED by 0")
    assert (last["43"].state, last["43"].exit_code) == (JobState.OUT_OF_MEMORY, ExitCode(code=0, signal=125))
    assert (last["35"].state, last["35"].exit_code) == (JobState.FAILED, ExitCode(code=0, signal=9))
    assert (last["2.batch"].folder, last["2"].folder) == ("", FOLDER)
    assert last["11"].state is JobState.TIMEOUT


def test_a_name_with_everything(accounting: tuple[AccountingRow, ...]) -> None:
    """sacct puts backticks where double quotes were; the line that submitted it keeps them."""
    row = next(row for row in accounting if row.job_id == "1")
    assert row.name == "na me `q` 's' |p\x1f new\nline é"
    assert "na me \"q\" 's' |p\x1f new\nline é" in row.submit_line
    assert "--comment=TOK1" in row.submit_line
    assert row.comment == ""  # AccountingStoreFlags is not set


def test_waiting_tasks_are_a_row_each() -> None:
    fields = accounting_format().split(",")
    cells = {"JobID": "14_[0-3%2]", "JobIDRaw": "14", "State": "PENDING", "ExitCode": "0:0", "End": "Unknown"}
    text = f"{BAR.join(fields)}\n{BAR.join(cells.get(field, '') for field in fields)}\n"
    rows = read_accounting(text, BAR)
    assert rows is not None
    assert [row.job_id for row in rows] == ["14_0", "14_1", "14_2", "14_3"]
    assert {row.exit_code for row in rows} == {None}


def test_a_failure_without_a_code_is_not_believed_yet() -> None:
    """After an outage of slurmdbd a job that ended with 5 read `FAILED|0:0` first."""
    fields = accounting_format(submit_line=False).split(",")
    assert "SubmitLine" not in fields
    for code, state, is_settled in (
        *(("0:0", "FAILED", False), ("5:0", "FAILED", True), ("0:9", "FAILED", True)),
        *(("0:0", "TIMEOUT", True), ("0:0", "CANCELLED by 0", True), ("0:0", "COMPLETED", True), ("", "FAILED", False)),
    ):
        cells = {"JobID": "14", "State": state, "ExitCode": code}
        text = f"{BAR.join(fields)}\n{BAR.join(cells.get(field, '') for field in fields)}\n"
        rows = read_accounting(text, BAR, submit_line=False)
        assert rows[0].is_settled is is_settled
        assert rows[0].submit_line == ""


def test_no_jobs_is_an_answer_and_words_are_none() -> None:
    header = f"{BAR.join(accounting_format().split(','))}\n"
    assert read_accounting(header, BAR) == ()
    assert read_accounting(header[:-1], BAR) is None
    assert read_accounting("", BAR) is None
    assert read_accounting(header, "|") is None


def test_one_job_as_scontrol_shows_it() -> None:
    """A name that looks like fields, a comment and a path with blanks."""
    job = read_job(recorded("show_job.txt"))
    assert job["JobName"] == 'my "job" é=1\nJobState=COMPLETED'
    assert (job["JobId"], job["JobState"], job["Reason"], job["Restarts"]) == ("53", "PENDING", "JobHeldUser", "0")
    assert job["Command"] == f"{FOLDER}/finetune.slurm"
    assert job["Comment"].strip() == "a b=c d"
    assert read_job("slurm_load_jobs error: Invalid job id specified\n") is None
    assert read_job("") is None


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    assert read_job(text) == read_job(text)
    assert read_queue(text, BAR) == read_queue(text, BAR)
    assert read_accounting(text, BAR) == read_accounting(text, BAR)
