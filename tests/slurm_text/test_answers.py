"""sbatch's answers: those marked 22.05 were given by one; a job may be in unless a refusal says that it is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import some

from touchline.slurm.answers import SbatchResult, read_submission, read_trial

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


@pytest.mark.parametrize(
    ("out", "job_id", "cluster"),
    [("76\n", "76", ""), ("76;north\n", "76", "north"), ("Welcome!\n\n76;north", "76", "north")],
)
def test_an_id(out: str, job_id: str, cluster: str) -> None:
    told = read_submission(out, "sbatch: warning: something\n", 0)
    assert (told.verdict, told.job_id, told.cluster) == (SbatchResult.ACCEPTED, job_id, cluster)


def test_no_sbatch_here() -> None:
    told = read_submission("", "sbatch: No such file or directory", None)
    assert told.verdict is SbatchResult.ABSENT


def test_who_waited_at_a_limit_until_it_was_ended() -> None:
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


@pytest.mark.parametrize(
    ("err", "code", "verdict", "reason"),
    [
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
    ],
)
def test_only_what_sbatch_would_refuse_too_is_a_refusal_of_test_only(
    err: str, code: int | None, verdict: SbatchResult, reason: str | None
) -> None:
    """Drained nodes and limits on jobs are refused by --test-only, though a submitted job waits for them."""
    found = read_trial("", err, code)
    assert found.verdict is verdict
    assert reason in (None, found.reason)
