"""PBS's forms: jobs as qstat prints them, the answers of qsub, and `#PBS` lines."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import some

from touchline.core.status import JobState
from touchline.slurm.answers import SbatchResult
from touchline.slurm.pbs import directives, job_name, option_fault, read_jobs, read_number, read_submission
from touchline.slurm.states import ExitCode

pytestmark = pytest.mark.planning

# The example of the design document of `qstat -f -F json` (PP-483), cut to what is read here, with a variable as
# openpbs issue 1255 shows it: 005 is no number of JSON's.
DOCUMENT = """\
{
    "timestamp":1479277336,
    "pbs_version":"14.1",
    "pbs_server":"vbox",
    "Jobs":{
        "1.vbox":{
            "Job_Name":"STDIN",
            "Job_Owner":"root@vbox",
            "job_state":"Q",
            "queue":"workq",
            "server":"vbox",
            "Checkpoint":"u",
            "ctime":"Fri Nov 11 17:57:05 2016",
            "Error_Path":"vbox:/home/someone/STDIN.e1",
            "Hold_Types":"n",
            "Resource_List":{
                "ncpus":1,
                "walltime":"01:30:00"
            },
            "substate":10,
            "Variable_List":{
                "PBS_O_WORKDIR":"/home/someone/1M_rank4",
                "TOUCHLINE_INTENT":"intent-12345678",
                "foo":005
            },
            "comment":"Not Running: Insufficient amount of resource: ncpus"
        }
    }
}
"""


def job(**attributes: object) -> str:
    """A document with one job, as cJSON prints it."""
    whole = {"Job_Name": "1M_rank4", "job_state": "F", "stime": "Fri Nov 11 17:57:05 2016", **attributes}
    document = {"timestamp": 1, "pbs_version": "23.06.06", "pbs_server": "pbs", "Jobs": {"7.pbs": whole}}
    return json.dumps(document, indent="\t")


def test_a_job_that_waits_is_read_though_its_environment_is_no_json() -> None:
    rows = read_jobs(DOCUMENT)
    assert rows is not None
    row = rows[0]
    assert (row.job_id, row.state, row.name, row.partition) == ("1", JobState.PENDING, "STDIN", "workq")
    assert row.comment == "12345678"
    assert row.folder == "/home/someone/1M_rank4"
    assert row.time_limit_seconds == 5400
    assert row.reason.startswith("Not Running")
    assert row.submitted_unix is not None


ENDS = {
    "finished": ({"Exit_status": 0, "substate": 92}, JobState.COMPLETED, ExitCode(code=0, signal=0)),
    "failed": ({"Exit_status": 3, "substate": 93}, JobState.FAILED, ExitCode(code=3, signal=0)),
    "killed": ({"Exit_status": 265, "substate": 93}, JobState.FAILED, ExitCode(code=0, signal=9)),
    "deleted while it ran": ({"Exit_status": 271, "substate": 91}, JobState.CANCELLED, None),
    "over its walltime": ({"Exit_status": -29, "substate": 93}, JobState.TIMEOUT, None),
    "over its walltime, an older version": (
        {
            "Exit_status": 271,
            "resources_used": {"walltime": "01:00:04"},
            "Resource_List": {"walltime": "01:00:00"},
        },
        JobState.TIMEOUT,
        None,
    ),
    "ended by TERM before its walltime": (
        {
            "Exit_status": 271,
            "resources_used": {"walltime": "00:10:00"},
            "Resource_List": {"walltime": "01:00:00"},
        },
        JobState.FAILED,
        ExitCode(code=0, signal=15),
    ),
    "over its memory": ({"Exit_status": -27, "substate": 93}, JobState.OUT_OF_MEMORY, None),
    "its node restarted": ({"Exit_status": -4, "substate": 93}, JobState.NODE_FAIL, None),
    "never ran": ({"stime": None, "substate": 91}, JobState.CANCELLED, None),
}


@pytest.mark.parametrize("name", ENDS)
def test_how_a_job_ended_is_its_substate_and_exit_value(name: str) -> None:
    attributes, state, code = ENDS[name]
    rows = read_jobs(job(**attributes))
    assert rows is not None
    assert (rows[0].state, rows[0].exit_code) == (state, code)
    assert rows[0].state.ended


@pytest.mark.parametrize("letter", "QHWTREBSUM?")
def test_no_other_letter_is_an_end(letter: str) -> None:
    """Also one that is not known, and a job that was moved to another server."""
    rows = read_jobs(job(job_state=letter, Exit_status=0))
    assert rows is not None
    assert not rows[0].state.ended


def test_a_start_counts_as_a_restart_once_it_was_queued_again() -> None:
    found = [read_jobs(job(job_state=letter, run_count=runs)) for letter, runs in (("R", 1), ("Q", 1), ("R", 2))]
    assert [rows[0].restarts for rows in found if rows is not None] == [0, 1, 1]


@given(st.integers(min_value=0, max_value=len(DOCUMENT)))
def test_a_part_of_an_answer_proves_nothing(length: int) -> None:
    part = DOCUMENT[:length]
    assert read_jobs(part) is None or part.rstrip() == DOCUMENT.rstrip()


def test_an_answer_without_jobs_is_whole() -> None:
    assert read_jobs('{"timestamp":1,"pbs_version":"23","pbs_server":"pbs"}') == ()


def test_ids() -> None:
    for text, number in some((("12.pbs", "12"), ("12", "12"), ("12[3].pbs", "12"), ("local-1f", None), ("", None))):
        assert read_number(text) == number


ANSWERS = {
    "taken": (("1000.pbs\n", "", 0), SbatchResult.ACCEPTED),
    "unknown queue": (("", "qsub: Unknown queue\n", 170), SbatchResult.REFUSED),
    "too large": (("", "qsub: Job violates queue and/or server resource limits\n", 188), SbatchResult.REFUSED),
    "too many": (("", "qsub: would exceed queue workq's per-user limit\n", 38), SbatchResult.LIMIT),
    "no server": (
        ("", "Connection refused\nqsub: cannot connect to server pbs (errno=111)\n", 111),
        SbatchResult.UNCLEAR,
    ),
    "lost": (("", "qsub: End of File\n", 1), SbatchResult.UNCLEAR),
    "late": (("", "qsub: no answer within 60 s", None), SbatchResult.UNCLEAR),
    "no qsub": (("", "qsub: No such file or directory", None), SbatchResult.ABSENT),
    "nothing said": (("", "", 0), SbatchResult.UNCLEAR),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_of_qsub(name: str) -> None:
    answer, verdict = ANSWERS[name]
    assert read_submission(*answer).verdict is verdict


@given(st.text(min_size=1))
def test_every_name_becomes_one_that_qsub_takes(name: str) -> None:
    """As ck_job_name.c checks it: at most 230 of these characters, a letter first."""
    made = job_name(name)
    assert len(made) <= 230
    assert made[0].isascii()
    assert made[0].isalpha()
    assert all(character.isascii() and (character.isalnum() or character in "-_+.") for character in made)


def test_a_job_asks_for_one_chunk() -> None:
    options = [("job-name", "135M_rank4"), ("output", "x"), ("account", "lab"), ("partition", "gpuq")]
    options += [("constraint", "gpu_model=a100"), ("nodes", "1"), ("ntasks", "1"), ("gpus", "a100:2")]
    assert list(
        directives([*options, ("cpus-per-task", "8"), ("mem", "64G"), ("time", "1:33:00"), ("requeue", None)])
    ) == [
        "#PBS -N run-135M_rank4",
        "#PBS -S /bin/bash",
        "#PBS -j oe",
        "#PBS -A lab",
        "#PBS -q gpuq",
        "#PBS -l select=1:ncpus=8:ngpus=2:mem=64gb:gpu_model=a100",
        "#PBS -l walltime=1:33:00",
        "#PBS -r y",
    ]


def test_options_that_touchline_sets_are_refused() -> None:
    for text in some(("-N name", "-o file", "-l walltime=1:00:00", "-W depend=afterok:1", "--mail", "m ae", "-m a\n")):
        assert option_fault(text) is not None
    for text in some(("-m ae", "-M me@example.org", "-l place=excl", "-W group_list=lab", "-P project")):
        assert option_fault(text) is None
