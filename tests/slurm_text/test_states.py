"""Only words that say so end a job; every other word, known or not, leaves it active."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import some

from touchline.core.status import JobState
from touchline.slurm.states import (
    ExitCode,
    read_exit_code,
    read_job_id,
    read_seconds,
    read_state,
    read_text,
    waiting_tasks,
)

pytestmark = pytest.mark.planning

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


@pytest.mark.parametrize(
    ("text", "whole", "task", "step"),
    [
        ("76", "76", None, None),
        ("14_3", "14_3", 3, None),
        ("76.1", "76", None, "1"),
        ("14_3.batch", "14_3", 3, "batch"),
    ],
)
def test_ids(text: str, whole: str, task: int | None, step: str | None) -> None:
    identity = read_job_id(text)
    assert (identity.whole, identity.task, identity.step) == (whole, task, step)


@pytest.mark.parametrize(
    "text", ["", "local-1f", "14_[0-3%2]", "76;north", "-1", "７６", "12345678901", "76 77", "76\n"]
)
def test_what_is_no_id(text: str) -> None:
    assert read_job_id(text) is None


def test_one_line_of_waiting_tasks() -> None:
    assert waiting_tasks("14_[0-3%2]") == ("14_0", "14_1", "14_2", "14_3")
    assert waiting_tasks("14_[1,5,8-9]") == ("14_1", "14_5", "14_8", "14_9")
    assert waiting_tasks("14_[0-9:4]") == ("14_0", "14_4", "14_8")
    assert waiting_tasks("14_[1,3,5,...]") == ("14_1", "14_3", "14_5")
    assert waiting_tasks("14_3") == ()
    assert len(waiting_tasks("14_[0-4294967295]")) == 100_000


def test_absent_fields() -> None:
    assert [read_seconds(text) for text in ("N/A", "Unknown", "None", "", "0", "1795280873")] == [None] * 5 + [
        1795280873.0
    ]
    assert [read_text(text) for text in ("(null)", "N/A", "None", "Resources")] == ["", "", "", "Resources"]
