"""Why an attempt ended, from what it wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from touchline.run.diagnosis import diagnose, newest_output

pytestmark = pytest.mark.planning

TRACEBACK = """\
step 3/100 loss 1.2
Traceback (most recent call last):
  File "train.py", line 9, in <module>
    main()
  File "train.py", line 4, in main
    raise ValueError("bad row {number}")
ValueError: bad row {number}
"""


def output(folder: Path, text: str, name: str = "slurm-7.out") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_an_exception_is_the_cause_and_its_line_the_proof(tmp_path: Path) -> None:
    """With the file and the line's number."""
    found = diagnose(output(tmp_path, TRACEBACK.format(number=5)), 1)
    assert found.cause.startswith("ValueError: bad row")
    assert any(line.startswith("slurm-7.out:7: ") for line in found.lines)
    assert not found.out_of_memory


def test_two_of_the_same_kind_have_the_same_cause(tmp_path: Path) -> None:
    """Numbers in the message differ from attempt to attempt."""
    first = diagnose(output(tmp_path, TRACEBACK.format(number=5)), 1)
    second = diagnose(output(tmp_path, TRACEBACK.format(number=6)), 1)
    assert first.cause == second.cause


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch. Some of the step tasks have been OOM Killed.",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 400000000000 bytes. Error code 12 (Cannot allocate memory)",
    ],
)
def test_memory_is_told_from_any_trainers_log(tmp_path: Path, line: str) -> None:
    """Whatever the exit code was."""
    text = f'step 1/9 loss 1.0\nTraceback (most recent call last):\n  File "a.py", line 1, in <module>\n{line}\n'
    assert diagnose(output(tmp_path, text), 1).out_of_memory


def test_a_fault_that_our_own_programs_tell_is_the_cause(tmp_path: Path) -> None:
    """They say what, and not only that."""
    text = "touchline: run a: 10 steps from step 0\ntouchline: error: the dataset 'x' changed since it was planned\n"
    assert diagnose(output(tmp_path, text), 3).cause == "the dataset 'x' changed since it was planned"


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe binary", b"nothing special\n"])
def test_what_says_nothing_leaves_the_exit_code(tmp_path: Path, content: bytes) -> None:
    """And none at all, a death without a word."""
    path = tmp_path / "slurm-1.out"
    path.write_bytes(content)
    assert diagnose(path, 3).cause == "exit code 3"
    assert diagnose(None, None).cause == "killed (no exit record)"


def test_the_output_of_the_job_itself_is_read(tmp_path: Path) -> None:
    """Another job's proves nothing; where the job is not known, the newest one is read."""
    old, new = output(tmp_path, "", "slurm-1.out"), output(tmp_path, "", "slurm-2.out")
    os.utime(old, (1, 1))
    assert newest_output(tmp_path, "1") == old
    assert newest_output(tmp_path, "9") is None
    assert newest_output(tmp_path) == new
    assert newest_output(tmp_path / "none") is None
