"""sbatch's answers: those marked 22.05 were given by one; a job may be in unless a refusal says that it is not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import parametrize, some

from touchline.core.status import JobState
from touchline.slurm.answers import SbatchResult, read_submission, read_trial
from touchline.slurm.job_view import (
    ExitCode,
    out_of_memory_line,
    read_exit_code,
    read_job_id,
    read_seconds,
    read_state,
    read_text,
    waiting_tasks,
)
from touchline.slurm.queue import (
    AccountingRow,
    QueueRow,
    accounting_format,
    latest,
    queue_format,
    read_accounting,
    read_closed_table,
    read_job,
    read_queue,
    read_table,
)

pytestmark = pytest.mark.planning

FAILED = "sbatch: error: Batch job submission failed: "
POLICY = f"{FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n"

REFUSED = [  # (standard error, words of the reason, a word of the hint), all of 22.05
    (
        f"sbatch: error: invalid partition specified: nope\n{FAILED}Invalid partition name specified\n",
        "invalid partition specified: nope; Invalid partition name specified",
        "sinfo -s",
    ),
    (
        f"{FAILED}Invalid account or account/partition combination specified\n",
        "Invalid account or account/partition combination specified",
        "sacctmgr",
    ),
    (f"{FAILED}Invalid qos specification\n", "Invalid qos specification", "slurm.qos"),
    (
        "sbatch: error: Memory specification can not be satisfied\n"
        f"{FAILED}Requested node configuration is not available\n",
        "Memory specification can not be satisfied; Requested node configuration is not available",
        "sinfo -o",
    ),
    (f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)\n", "Requested time limit", "%l"),
    (f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{POLICY}", "QOSMaxWallDurationPerJobLimit", "sacctmgr show qos"),
    ("sbatch: error: Invalid --time specification\n", "Invalid --time specification", "%l"),
    (f"{FAILED}Invalid feature specification\n", "Invalid feature specification", "constraint"),
    ("sbatch: error: Unable to open file nofile.slurm\n", "Unable to open file nofile.slurm", "prepare"),
    (
        "sbatch: unrecognized option '--foo'\nTry \"sbatch --help\" for more information\n",
        "unrecognized option '--foo'",
        "",
    ),
    (f"{FAILED}Job dependency problem\n", "Job dependency problem", "squeue"),
    (f"{FAILED}Invalid job array specification\n", "Invalid job array specification", ""),
    (f"{FAILED}Requested reservation is invalid\n", "Requested reservation is invalid", "reservation"),
    (
        "sbatch: error: This does not look like a batch script.  The first\n"
        "sbatch: error: line must start with #! followed by the path to an interpreter.\n"
        "sbatch: error: For instance: #!/bin/sh\n",
        "This does not look like a batch script.",
        "prepare",
    ),
    (f"{FAILED}Unspecified error\n", "Unspecified error", ""),  # a site's plugin
]

LATER = [
    f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}",  # 22.05
    f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}",
    f"sbatch: error: AssocGrpSubmitJobsLimit\n{POLICY}",
    f"sbatch: error: QOSGrpSubmitJobsLimit\n{POLICY}",
    f"sbatch: error: QOSMaxSubmitJobPerAccountLimit\n{POLICY}",
    "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"  # 22.05, MaxJobCount
    f"{FAILED}Resource temporarily unavailable\n",
]

UNCLEAR = [  # (code, standard output, standard error)
    (1, "", f"{FAILED}Unable to contact slurm controller (connect failure)\n"),  # 22.05
    (1, "", f"{FAILED}Socket timed out on send/recv operation\n"),
    (1, "", f"{FAILED}Zero Bytes were transmitted or received\n"),
    (1, "", f"{FAILED}Transport endpoint is not connected\n"),
    (1, "", f"{FAILED}Connection timed out\n"),
    (1, "", f"{FAILED}Unexpected message received\n"),
    (1, "", ""),
    (0, "", ""),
    (0, "Submitted batch job\n", ""),
    (0, "welcome to the cluster\n", ""),
    (-9, "", ""),
    (137, "", "Killed\n"),
    (None, "", "sbatch: no answer within 60 s"),
    (None, "", "sbatch: no answer within 60 s\nsbatch: error: Slurm temporarily unable to accept job, sleeping"),
    (1, "76\n", ""),
]


def test_refused_for_good_with_what_to_do(subtests: pytest.Subtests) -> None:
    for err, reason, hint in some(REFUSED):
        with subtests.test(err=err, reason=reason):
            for code in (1, 255):
                told = read_submission("", err, code)
                assert told.verdict is SbatchResult.REFUSED
                assert told.reason.startswith(reason)
                assert "\n" not in told.reason
                assert hint in (told.hint or "")


@pytest.mark.parametrize("err", LATER)
def test_a_limit_on_the_number_of_jobs_is_not_now(err: str) -> None:
    told = read_submission("", err, 1)
    assert told.verdict is SbatchResult.LIMIT
    assert told.hint is not None


def test_what_is_neither_an_id_nor_a_refusal_is_unclear(subtests: pytest.Subtests) -> None:
    for code, out, err in some(UNCLEAR):
        with subtests.test(code=code, out=out):
            told = read_submission(out, err, code)
            assert told.verdict is SbatchResult.UNCLEAR
            assert told.reason
            assert told.hint is not None


@parametrize(
    "out, job_id, cluster", ("76\n", "76", ""), ("76;north\n", "76", "north"), ("Welcome!\n\n76;north", "76", "north")
)
def test_an_id(out: str, job_id: str, cluster: str) -> None:
    told = read_submission(out, "sbatch: warning: something\n", 0)
    assert (told.verdict, told.job_id, told.cluster) == (SbatchResult.ACCEPTED, job_id, cluster)


def test_sbatch_that_is_not_there_or_waits() -> None:
    told = read_submission("", "sbatch: No such file or directory", None)
    assert told.verdict is SbatchResult.ABSENT
    limited = [err for code, out, err in UNCLEAR if read_submission(out, err, code).is_limited]
    assert limited == [UNCLEAR[-2][2]]


@given(st.text(), st.text(), st.none() | st.integers(-64, 255))
def test_only_an_id_is_a_submission_and_only_words_are_a_refusal(out: str, err: str, code: int | None) -> None:
    told = read_submission(out, err, code)
    assert (told.verdict is SbatchResult.ACCEPTED) == bool(told.job_id)
    assert told.verdict is not SbatchResult.REFUSED or (err.strip() and code is not None and code > 0)


TRIED = "allocation failure: "
LIMITS = f"{TRIED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n"
DRAINED = f"{TRIED}Requested node configuration is not available\n"


@parametrize(
    "err, code, verdict, reason",
    (
        f"sbatch: error: invalid partition specified: no\n{TRIED}Invalid partition name specified\n",
        *(1, SbatchResult.REFUSED, "invalid partition specified: no"),
    ),
    (f"{TRIED}Invalid qos specification\n", 1, SbatchResult.REFUSED, "Invalid qos specification"),
    (
        f"sbatch: error: {TRIED}Invalid feature specification\n",
        *(1, SbatchResult.REFUSED, "Invalid feature specification"),
    ),
    (f"sbatch: error: QOSMaxCpuPerJobLimit\n{LIMITS}", 1, SbatchResult.REFUSED, "QOSMaxCpuPerJobLimit"),
    (f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{LIMITS}", 1, SbatchResult.LIMIT, None),
    (LIMITS, 1, SbatchResult.UNCLEAR, None),
    (f"sbatch: error: {LIMITS}", 1, SbatchResult.UNCLEAR, None),
    (DRAINED, 1, SbatchResult.UNCLEAR, None),
    (f"sbatch: error: {DRAINED}", 1, SbatchResult.UNCLEAR, None),
    (f"{TRIED}Unable to contact slurm controller (connect failure)\n", 1, SbatchResult.UNCLEAR, None),
    (f"{TRIED}Socket timed out on send/recv operation\n", 1, SbatchResult.UNCLEAR, None),
    ("sbatch: unrecognized option '--test-only'\n", 255, SbatchResult.UNCLEAR, None),
    ("sbatch: unrecognized option '--foo'\n", 255, SbatchResult.REFUSED, "unrecognized option '--foo'"),
    ("sbatch: Job 19 to start at 2026-11-23T19:50:31 using 1 processors\n", 0, SbatchResult.ACCEPTED, ""),
    ("sbatch: no answer within 30 s", None, SbatchResult.UNCLEAR, None),
    ("sbatch: No such file or directory", None, SbatchResult.ABSENT, None),
)
def test_test_only_refuses_as_sbatch(err: str, code: int | None, verdict: SbatchResult, reason: str | None) -> None:
    """Drained nodes and limits on jobs are refused by --test-only, though a submitted job waits for them."""
    found = read_trial("", err, code)
    assert found.verdict is verdict
    assert reason in (None, found.reason)


# Every word of squeue(1), 22.05 to 25.05, and whether a job in that state does nothing more.
WORDS = {
    **dict.fromkeys(("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"), True),
    **dict.fromkeys(("OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"), True),
    **dict.fromkeys(("CONFIGURING", "COMPLETING", "PENDING", "RUNNING", "RESV_DEL_HOLD", "REQUEUE_FED"), False),
    **dict.fromkeys(("REQUEUE_HOLD", "REQUEUED", "RESIZING", "REVOKED", "SIGNALING", "SPECIAL_EXIT"), False),
    **dict.fromkeys(("STAGE_OUT", "STOPPED", "SUSPENDED", "LAUNCH_FAILED", "RECONFIG_FAIL", "UPDATE_DB"), False),
    **dict.fromkeys(("POWER_UP_NODE", "EXPEDITING", "NEW_WORD_OF_2030"), False),
}


def test_a_word_ends_a_job_only_where_it_says_so(subtests: pytest.Subtests) -> None:
    for word, ended in some(WORDS.items()):
        with subtests.test(word=word, ended=ended):
            assert read_state(word).ended is ended
            assert read_state(f" {word.lower()} ").ended is ended


def test_words_as_squeue_and_sacct_write_them(subtests: pytest.Subtests) -> None:
    for text, state in [
        ("CANCELLED by 0", JobState.CANCELLED),
        ("CANCELLED by 1000", JobState.CANCELLED),
        ("CANCELLED+", JobState.CANCELLED),
        ("OUT_OF_ME+", JobState.OUT_OF_MEMORY),
        ("COMPLETE+", JobState.COMPLETED),
        ("COMPLET+", JobState.UNKNOWN),  # COMPLETED or COMPLETING
        ("C+", JobState.UNKNOWN),
        ("+", JobState.UNKNOWN),
        ("", JobState.UNKNOWN),
        ("PD", JobState.PENDING),
        ("CG", JobState.COMPLETING),
        ("OOM", JobState.OUT_OF_MEMORY),
        ("SE", JobState.PENDING),
        ("FAILED,COMPLETING", JobState.COMPLETING),
        ("NODE_FAIL,REQUEUED", JobState.REQUEUED),
        ("CANCELLED,CANCELLED", JobState.CANCELLED),
        ("COMPLETED,NEW_WORD", JobState.UNKNOWN),
    ]:
        with subtests.test(text=text, state=state):
            assert read_state(text) is state


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    """Whatever it is, it gives a state, an exit code or an id, or says that it is none."""
    assert read_state(text) in JobState
    read_exit_code(text)
    read_seconds(text)
    read_text(text)
    assert read_job_id(text) is None or waiting_tasks(text) == ()


def test_exit_codes() -> None:
    assert read_exit_code("3:0") == ExitCode(code=3, signal=0)
    assert read_exit_code("0:9") == ExitCode(code=0, signal=9)
    assert read_exit_code("0:125") == ExitCode(code=0, signal=125)
    assert read_exit_code("") is None
    assert read_exit_code("SUCCESS") is None


@parametrize(
    "text, whole, task, step",
    ("76", "76", None, None),
    ("14_3", "14_3", 3, None),
    ("76.1", "76", None, "1"),
    ("14_3.batch", "14_3", 3, "batch"),
)
def test_ids(text: str, whole: str, task: int | None, step: str | None) -> None:
    identity = read_job_id(text)
    assert (identity.whole, identity.task, identity.step) == (whole, task, step)


@parametrize("text", "", "local-1f", "14_[0-3%2]", "76;north", "-1", "７６", "12345678901", "76 77", "76\n")
def test_what_is_no_id(text: str) -> None:
    assert read_job_id(text) is None


def test_rows_of_waiting_tasks_and_absent_fields() -> None:
    assert waiting_tasks("14_[0-3%2]") == ("14_0", "14_1", "14_2", "14_3")
    assert waiting_tasks("14_[1,5,8-9]") == ("14_1", "14_5", "14_8", "14_9")
    assert waiting_tasks("14_[0-9:4]") == ("14_0", "14_4", "14_8")
    assert waiting_tasks("14_[1,3,5,...]") == ("14_1", "14_3", "14_5")
    assert waiting_tasks("14_3") == ()
    assert len(waiting_tasks("14_[0-4294967295]")) == 100_000
    assert [read_seconds(t) for t in ("N/A", "Unknown", "None", "", "0", "1795280873")] == [None] * 5 + [1795280873.0]
    assert [read_text(text) for text in ("(null)", "N/A", "None", "Resources")] == ["", "", "", "Resources"]


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


def test_the_recorded_queue(queue: dict[str, QueueRow]) -> None:
    row = queue["39"]
    assert (row.state, row.exit_code, row.reason) == (JobState.FAILED, ExitCode(code=3, signal=0), "NonZeroExitCode")
    assert (row.folder, row.script, row.comment, row.restarts) == (FOLDER, "", "", 0)
    assert row.started_unix == row.ended_unix == 1795282498.0
    assert row.time_limit_seconds == 3600
    # squeue's raw status is 253: signal 125, SLURM's own for it, and the bit of a core file.
    assert (queue["43"].state, queue["43"].exit_code) == (JobState.OUT_OF_MEMORY, ExitCode(code=0, signal=125))
    # Tasks that have started have rows of their own; one row stands for all that wait.
    assert {row.array_id for name, row in queue.items() if name.startswith("40_")} == {"40"}
    assert queue["40_[4-9%2]"].state is JobState.PENDING
    assert queue["40_[4-9%2]"].started_unix is None
    assert (queue["40_0"].raw_id, queue["40_1"].raw_id) == ("44", "45")
    assert queue["40_2"].state is JobState.RUNNING
    assert queue["40_2"].ended_unix is None  # squeue gives the time of its limit
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
    assert (last["2"][1], last["3_1"][1]) == (0, 0)
    assert last["9.0"][0].state is JobState.COMPLETED


def test_the_recorded_accounting(accounting: tuple[AccountingRow, ...]) -> None:
    last = {name: row for name, (row, _) in latest(accounting).items()}
    assert (last["3_3"].raw_id, last["3_2"].raw_id) == ("3", "8")  # an array's last task has the array's own id
    assert (last["12"].state, last["12"].word) == (JobState.CANCELLED, "CANCELLED by 0")
    assert (last["43"].state, last["43"].exit_code) == (JobState.OUT_OF_MEMORY, ExitCode(code=0, signal=125))
    assert (last["35"].state, last["35"].exit_code) == (JobState.FAILED, ExitCode(code=0, signal=9))
    assert (last["2.batch"].folder, last["2"].folder) == ("", FOLDER)
    assert last["11"].state is JobState.TIMEOUT
    # sacct puts backticks where double quotes were; the line that submitted it keeps them.
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
def test_no_queue_is_too_strange(text: str) -> None:
    assert read_job(text) == read_job(text)
    assert read_queue(text, BAR) == read_queue(text, BAR)
    assert read_accounting(text, BAR) == read_accounting(text, BAR)


CELL_BAR = "\x1f0a1b\x1f"
CELL = st.text(st.characters(exclude_characters="\x1f", exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "\n", "a\nb", "|", "two\n\nlines", "'\"`$(id)", "\r\n", "\u2028", "%.5j", "\x1f"]
)
LAST = st.text("ABC_ ", max_size=8)
ROWS = st.integers(2, 5).flatmap(
    lambda columns: st.lists(
        st.tuples(st.lists(CELL, min_size=columns - 1, max_size=columns - 1), LAST), min_size=0, max_size=5
    ).map(lambda rows: (columns, [[*cells, last] for cells, last in rows]))
)


@given(ROWS)
def test_cells_come_back_whole(drawn: tuple[int, list[list[str]]]) -> None:
    """Header and rows, between bars and closed by bars."""
    columns, rows = drawn
    table = [[f"C{number}" for number in range(columns)], *rows]
    between = "".join(f"{CELL_BAR.join(row)}\n" for row in table)
    closed = "".join("".join(f"{cell}{CELL_BAR}" for cell in row) + "\n" for row in table)
    assert read_table(between, CELL_BAR, columns) == table
    assert read_closed_table(closed, CELL_BAR) == table


@given(ROWS, st.data())
def test_a_cut_answer_is_none_but_after_a_row(drawn: tuple[int, list[list[str]]], data: st.DataObject) -> None:
    """Fewer rows may come back only where the cut fell between two of them: such an answer is whole."""
    columns, rows = drawn
    table = [[f"C{number}" for number in range(columns)], *rows]
    lines = ["".join(f"{cell}{CELL_BAR}" for cell in row) + "\n" for row in table]
    text = "".join(lines)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    read = read_closed_table(cut, CELL_BAR)
    assert read is None or (read == table[: len(read)] and cut == "".join(lines[: len(read)]))


@parametrize("text", "", "\n", "C0", f"C0{CELL_BAR}", f"C0{CELL_BAR}C1", "slurm_load_jobs error: too late\n")
def test_what_is_no_table(text: str) -> None:
    assert read_closed_table(text, CELL_BAR) is None
    assert read_table(text, CELL_BAR, 2) is None


@parametrize(
    "line",
    "slurmstepd: error: Detected 1 oom_kill event in StepId=76.batch. Some of the step tasks have been OOM Killed.",
    "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=76.batch.",
    "srun: error: sim1: task 0: Out Of Memory",
    "slurmstepd: error: StepId=1.batch exceeded memory limit (419430400 > 157286400), being killed",
    "slurmstepd: error: Exceeded job memory limit",
    "Some of your processes may have been killed by the cgroup out-of-memory handler.",
    "Out of memory: Killed process 1234 (python) total-vm:1kB",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "OSError: [Errno 12] Cannot allocate memory",
)
def test_a_proof(line: str) -> None:
    assert out_of_memory_line(f"step 1\n{line}\nslurmstepd: error: *** JOB 76 ON n1 CANCELLED ***\n") == line


@parametrize(
    "line",
    "Killed",
    "srun: error: sim1: task 0: Killed",
    "loss 0.3, memory 12 GiB of 80 GiB",
    "room left: 3 GiB, memory limit 100 GiB",
    "slurmstepd: error: *** JOB 76 ON n1 CANCELLED AT 2026-11-21T17:08:31 DUE TO TIME LIMIT ***",
)
def test_no_proof(line: str) -> None:
    assert out_of_memory_line(f"step 1\n{line}\n") is None


def test_what_stands_before_a_requeue_is_of_another_time() -> None:
    proof = "slurmstepd: error: Detected 1 oom_kill event in StepId=9.batch."
    requeue = "slurmstepd-sim1: error: *** JOB 9 ON sim1 CANCELLED AT 2026-11-21T17:08:31 DUE TO JOB REQUEUE ***"
    assert out_of_memory_line(f"{proof}\n{requeue}\nstep 1\n") is None
    assert out_of_memory_line(f"{requeue}\nstep 1\n{proof}\n") == proof
