"""What a scheduler writes into a job's output is read as what it did, and as nothing else."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.history.sound import assert_sound

from touchline.core.observation import Event, Observation, Sign
from touchline.history.slurm_lines import SlurmLines
from touchline.slurm.resources import read_sbatch, time_limit_seconds
from touchline.slurm.site_facts import first_number, read_config, read_gpus, read_partitions

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs" / "slurm"
LOGS = sorted(path.name for path in FIXTURES.iterdir())


def read(text: str) -> list[Event]:
    reader = SlurmLines()
    return [event for number, line in enumerate(text.split("\n"), 1) for event in reader.line(line, number)]


def kinds(text: str) -> list[str]:
    return [event.kind.name for event in read(text) if isinstance(event, Sign)]


def codes(text: str) -> list[float | str]:
    return [event.value for event in read(text) if isinstance(event, Observation) and event.name == "exit_code"]


def fixture(name: str) -> str:
    return (FIXTURES / name).read_text(encoding="utf-8")


def test_a_scheduler_s_line_has_its_sign(subtests: pytest.Subtests) -> None:
    for line, expected in [
        ("slurmstepd: error: *** JOB 71 ON crag3 CANCELLED AT 2026-01-02T03:04:05 DUE TO TIME LIMIT ***", "TIME_LIMIT"),
        (
            "slurmstepd: error: *** STEP 71.0 ON crag3 CANCELLED AT 2026-01-02T03:04:05 DUE TO TIME LIMIT ***",
            "TIME_LIMIT",
        ),
        ("slurmstepd: error: *** JOB 71 CANCELLED AT 2015-01-02T03:04:05 DUE TO TIME LIMIT on crag3 ***", "TIME_LIMIT"),
        (
            "slurmstepd-crag3: error: *** JOB 71 ON crag3 CANCELLED AT 2026-01-02T03:04:05 DUE TO PREEMPTION ***",
            "PREEMPTED",
        ),
        ("[2026-01-02T03:04:05.678] error: *** JOB 71 ON crag3 CANCELLED DUE TO TIME LIMIT ***", "TIME_LIMIT"),
        (
            "slurmstepd: error: *** JOB 71 ON crag3 CANCELLED AT 2026-01-02T03:04:05 DUE TO NODE FAILURE,"
            " SEE SLURMCTLD LOG FOR DETAILS ***",
            "NODE_FAILED",
        ),
        ("slurmstepd: error: *** JOB 71 ON crag3 CANCELLED AT 2026-01-02T03:04:05 DUE TO JOB REQUEUE ***", "REQUEUED"),
        (
            "slurmstepd: error: *** STEP 71.3 ON crag3 CANCELLED AT 2026-01-02T03:04:05 DUE TO TASK FAILURE ***",
            "TASK_FAILED",
        ),
        (
            "slurmstepd: error: *** STEP 71.3 ON crag3 CANCELLED AT 2026-01-02T03:04:05 DUE to SIGNAL Terminated ***",
            "CANCELLED",
        ),
        ("slurmstepd: error: *** JOB 71 ON crag3 CANCELLED AT 2026-01-02T03:04:05 ***", "CANCELLED"),
        ("slurmstepd: error: *** JOB 71 ON crag3 FAILED (non-zero exit code or other failure mode) ***", "TASK_FAILED"),
        ("slurmstepd: error: *** JOB 71 ON crag3 UNCORRECTABLE MEMORY ERROR AT 2026-01-02T03:04:05 ***", "NODE_FAILED"),
        ("slurmstepd: error: Job 71 exceeded memory limit (70254612 > 67108864), being killed", "HOST_OOM"),
        ("slurmstepd: error: Step 71.0 exceeded virtual memory limit (8254612 > 7108864), being killed", "HOST_OOM"),
        ("slurmstepd: error: Exceeded step memory limit at some point.", "HOST_OOM"),
        ("srun: Exceeded job memory limit", "HOST_OOM"),
        (
            "slurmstepd: error: Detected 3 oom-kill event(s) in step 71.batch cgroup. Some of your processes may have"
            " been killed by the cgroup out-of-memory handler.",
            "HOST_OOM",
        ),
        ("srun: error: crag3: tasks 0,4-7: Out Of Memory", "HOST_OOM"),
        ("3: srun: error: crag3: task 0: Segmentation fault (core dumped)", "TASK_FAILED"),
        ("srun: error: Node failure on crag3", "NODE_FAILED"),
        ("srun: error: Unable to create step for job 71: Memory required by task is not available", "TASK_FAILED"),
        ("slurmstepd: error: execve(): pythn: No such file or directory", "TASK_FAILED"),
        ("salloc: Job 71 has exceeded its time limit and its allocation has been revoked.", "TIME_LIMIT"),
        ("slurmstepd: error: Unable to create TMPDIR [/scratch/71]: No space left on device", "DISK_FULL"),
        ("sbatch: error: Batch job submission failed: Invalid account", "FAILED_COMMAND"),
        ("srun: Job step aborted: Waiting up to 32 seconds for job step to finish.", "INTERRUPTED"),
        ("State: TIMEOUT", "TIME_LIMIT"),
        ("State: OUT_OF_MEMORY (exit code 0)", "HOST_OOM"),
        ("State: CANCELLED by 1001 (exit code 0)", "CANCELLED"),
        ("Job State: NODE_FAIL (exit code 1)", "NODE_FAILED"),
        ("   JobState=PREEMPTED Reason=None Dependency=(null)", "PREEMPTED"),
    ]:
        with subtests.test(line=line, expected=expected):
            assert kinds(line) == [expected]


@parametrize(
    "line",
    "srun: job 71 queued and waiting for resources",
    "srun: job 71 has been allocated resources",
    "   JobState=RUNNING Reason=None Dependency=(null)",
    "   RunTime=00:00:02 TimeMin=N/A",
    "slurmstepd: error: *** JOB 71 ON crag3 CANCELLED AT 2026-01-02T03:04:05 DUE TO TIME LI",
    "slurmstepd: info: Step 71.0 hit memory limit at least once. This may or may not result in some failure.",
    "The order was CANCELLED AT noon ***",
    "She successfully completed. the course",
    "State: ACTIVE",
    "answer: the process exited with exit code 1 and a message",
    "Evaluation exit code: 3",
)
def test_other_lines_have_none(line: str) -> None:
    assert read(line) == []


@parametrize(
    "line, code",
    ("Job Exit Status    : 0", 0),
    ("exit code: 1", 1),
    ("[2026-01-02 03:04:05] Training finished with exit code 137", 137),
    ("EXIT_CODE=2", 2),
    ("Task 47 exited with code 137", 137),
    ("Exit code: 0:0", 0),
    ("Exited with exit code 13.", 13),
    ("srun: error: crag3: task 2: Exited with exit code 9", 9),
    ("State: FAILED (exit code 5)", 5),
    ("ExitCode 1", 1),
)
def test_an_exit_code_is_read_where_a_line_says_one(line: str, code: int) -> None:
    assert codes(line) == [code]


@pytest.mark.parametrize("state", ["TIMEOUT", "OUT_OF_MEMORY", "CANCELLED"])
def test_seff_says_exit_code_0_where_nothing_ended_with_it(state: str) -> None:
    assert codes(f"State: {state} (exit code 0)") == []


@parametrize(
    "name, expected",
    ("time_limit.err", ["TIME_LIMIT", "TIME_LIMIT", "TASK_FAILED"]),
    ("host_memory.err", ["HOST_OOM", "HOST_OOM", "CANCELLED"]),
    ("task_failed.err", ["TASK_FAILED", "TASK_FAILED"]),
    ("preempted.out", ["PREEMPTED"]),
    ("scancel.err", ["INTERRUPTED", "CANCELLED", "TASK_FAILED"]),
    ("seff.out", ["DONE"]),
)
def test_a_log_has_the_signs_of_its_end_and_no_others(name: str, expected: list[str]) -> None:
    assert kinds(fixture(name)) == expected


def test_every_fixture_is_expected_to_say_something() -> None:
    assert {"time_limit.err", "host_memory.err", "task_failed.err", "preempted.out"} <= set(LOGS)
    assert all(kinds(fixture(name)) for name in LOGS)


def test_a_killed_task_is_short_of_memory_only_where_nothing_else_is_said() -> None:
    killed = "srun: error: crag3: task 0: Killed"
    limit = "slurmstepd: error: *** STEP 71.0 ON crag3 CANCELLED AT 2026-01-02T03:04:05 DUE TO TIME LIMIT ***"
    assert kinds(killed) == ["TASK_FAILED", "HOST_OOM"]
    assert kinds(f"{limit}\n{killed}") == ["TIME_LIMIT", "TASK_FAILED"]
    assert kinds(f"srun: Force Terminated job 71\n{killed}") == ["INTERRUPTED", "TASK_FAILED"]


def test_a_step_that_is_ended_for_another_s_failure_was_not_cancelled() -> None:
    failed = "srun: error: crag3: task 1: Exited with exit code 1"
    step = "slurmstepd: error: *** STEP 71.0 ON crag3 CANCELLED AT 2026-01-02T03:04:05 ***"
    job = step.replace("STEP 71.0", "JOB 71")
    assert kinds(f"{failed}\n{step}") == ["TASK_FAILED", "TASK_FAILED"]
    assert kinds(f"{failed}\n{job}") == ["TASK_FAILED", "CANCELLED"]
    assert kinds(f"srun: Terminating StepId=70.0\n{step}") == ["CANCELLED"]


def test_a_sign_s_text_is_the_scheduler_s_however_long_its_line() -> None:
    bars = " 10%|█         | 1/10 [00:10<01:30, 10.00s/it]" * 40
    line = "slurmstepd: error: *** JOB 71 ON crag3 CANCELLED AT 2026-01-02T03:04:05 DUE TO TIME LIMIT ***"
    (sign,) = read(bars + line)
    assert isinstance(sign, Sign)
    assert sign.text == line


@pytest.mark.parametrize("name", LOGS)
def test_the_words_offer_every_line_that_says_something(name: str) -> None:
    reader = SlurmLines()
    for number, line in enumerate(fixture(name).split("\n"), 1):
        words = set(re.findall(r"[a-z_\x80-\U0010ffff]+", "".join(c.lower() if c.isascii() else c for c in line)))
        if not words & SlurmLines.words:
            assert list(reader.line(line, number)) == []


@given(name=st.sampled_from(LOGS), share=st.floats(0, 1))
def test_a_cut_log_says_nothing_that_the_whole_one_does_not(name: str, share: float) -> None:
    whole = fixture(name)
    assert set(kinds(whole[: round(share * len(whole))])) <= set(kinds(whole))


@given(st.text(max_size=300))
def test_no_text_breaks_it(text: str) -> None:
    assert_sound(read(text), text.count("\n") + 1)


def said(*lines: str) -> dict[str, float | str]:
    events = read_sbatch("#!/bin/bash\n" + "\n".join(lines))
    assert all(isinstance(event, Observation) for event in events)
    return {event.name: event.value for event in events if isinstance(event, Observation)}


@parametrize(
    "text, seconds",
    ("90", 5400),
    ("90:30", 5430),
    ("02:00:00", 7200),
    ("1-12", 129_600),
    ("1-12:30", 131_400),
    ("2-00:00:05", 172_805),
    ("UNLIMITED", None),
    ("0", None),
    ("1:2:3:4", None),
    ("", None),
    ("two hours", None),
)
def test_a_time_limit_is_read_in_each_of_slurm_s_forms(text: str, seconds: int | None) -> None:
    assert time_limit_seconds(text) == seconds


@given(days=st.integers(0, 30), hours=st.integers(0, 23), minutes=st.integers(0, 59), seconds=st.integers(1, 59))
def test_the_longest_form_is_the_sum_of_its_parts(days: int, hours: int, minutes: int, seconds: int) -> None:
    expected = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert time_limit_seconds(f"{days}-{hours:02d}:{minutes:02d}:{seconds:02d}") == expected


@parametrize(
    "lines, expected",
    (["#SBATCH --gres=gpu:a100:2"], {"gpus": 2, "gpu": "a100"}),
    (["#SBATCH --gres=gpu:2", "#SBATCH --nodes=3"], {"gpus": 6}),
    (["#SBATCH --gres=gpu"], {"gpus": 1}),
    (["#SBATCH --gres=shard:4"], {}),
    (["#SBATCH --gpus=4"], {"gpus": 4}),
    (["#SBATCH -G h100:4"], {"gpus": 4, "gpu": "h100"}),
    (["#SBATCH --gpus-per-node=a40:4 -N 2"], {"gpus": 8, "gpu": "a40"}),
    (["#SBATCH --gpus-per-node=4", "#SBATCH --nodes=1-2"], {}),
    (["#SBATCH --gpus-per-task=1", "#SBATCH --ntasks=4"], {"gpus": 4}),
    (["#SBATCH --gres=gpu:v100:1,gpu:a100:1"], {"gpus": 2}),
    (["#SBATCH -t 30", "#SBATCH --mem=4G"], {"time_limit_seconds": 1800}),
    (["#SBATCH --time 1-00:00:00  # a day"], {"time_limit_seconds": 86_400}),
    (["#SBATCH --time=10", "#SBATCH --time=20"], {"time_limit_seconds": 1200}),
    (["#SBATCH --partition=gpu", "#SBATCH --job-name=-t"], {}),
)
def test_directives_say_limit_and_gpus(lines: list[str], expected: dict[str, float | str]) -> None:
    assert said(*lines) == expected


def test_only_directives_before_the_first_command_count_and_gpus_are_asked_for() -> None:
    assert said("##SBATCH --gpus=8", "# SBATCH --gpus=8", "", "set -e", "#SBATCH --gpus=8") == {}
    events = read_sbatch("#SBATCH --gpus=2\n#SBATCH --time=5\n")
    assert {event.name: event.certain for event in events if isinstance(event, Observation)} == {
        "gpus": False,
        "time_limit_seconds": True,
    }


@given(st.text(max_size=200))
def test_no_script_breaks_it(text: str) -> None:
    for whole in (text, f"#SBATCH {text}"):
        assert_sound(read_sbatch(whole), whole.count("\n") + 1)


SINFO = """\
gpu*|up|infinite|1:00:00|2|32|64000|gpu:4
pli|up|1-00:00:00|30:00|42|96|1000000|gpu:h100:8(S:0-1)
mixed|up|6-00:00:00|n/a|3|128+|768000+|gpu:a100:4(S:0,1),shard:8
mixed|up|6-00:00:00|n/a|5|64|512000|gpu:v100:2
cpu|down|15:00:00|(null)|10|40|190000|(null)
torn line
"""


def test_partitions_with_their_limits_gpus_and_defaults() -> None:
    gpu, pli, mixed, cpu = read_partitions(SINFO)
    assert (gpu.name, gpu.default, gpu.up, gpu.max_seconds, gpu.default_seconds) == ("gpu", True, True, None, 3600.0)
    assert gpu.gpus == {"": 4}
    assert (pli.max_seconds, pli.default_seconds, pli.gpus) == (86400.0, 1800.0, {"h100": 8})
    assert (mixed.nodes, mixed.cpus_per_node, mixed.memory_mib_per_node) == (8, 128, 768000)
    assert mixed.gpus == {"a100": 4, "v100": 2}
    assert (cpu.up, cpu.default, cpu.gpus, cpu.max_seconds) == (False, False, {}, 54000.0)


@parametrize(
    "gres, gpus",
    ("gpu:4", {"": 4}),
    ("gpu", {"": 1}),
    ("gpu:a100:4(S:0-1)", {"a100": 4}),
    ("gpu:a100:4(S:0,1),gpu:v100:2", {"a100": 4, "v100": 2}),
    ("gpu:a100_1g.5gb:7", {"a100_1g.5gb": 7}),
    ("shard:8,craynetwork:4", {}),
    ("(null)", {}),
    ("", {}),
)
def test_gpus_by_type(gres: str, gpus: dict[str, int]) -> None:
    assert read_gpus(gres) == gpus


def test_the_settings_that_matter_are_kept_with_their_numbers() -> None:
    text = "Configuration data as of 2026\nMinJobAge               = 300 sec\nAuthType = auth/munge\n"
    assert read_config(text) == {"MinJobAge": "300 sec"}
    assert [first_number(text) for text in ("30 sec", "100", "UNLIMITED", "", "(null)")] == [30, 100, None, None, None]


@given(st.text(alphabet="|,:=()*gpu 0123456789\nPartionNme"))
def test_no_answer_breaks_the_readers(one: str) -> None:
    assert read_partitions(one) == read_partitions(one)
    for read in (read_gpus, read_config):
        assert read(one) == read(one)
