"""Which lines prove that memory ran out, and which only look like it."""

from __future__ import annotations

import pytest

from touchline.slurm.output import out_of_memory_line

pytestmark = pytest.mark.planning


@pytest.mark.parametrize(
    "line",
    [
        "slurmstepd: error: Detected 1 oom_kill event in StepId=76.batch. Some of the step tasks have been OOM Killed.",
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=76.batch.",
        "srun: error: sim1: task 0: Out Of Memory",
        "slurmstepd: error: StepId=1.batch exceeded memory limit (419430400 > 157286400), being killed",
        "slurmstepd: error: Exceeded job memory limit",
        "Some of your processes may have been killed by the cgroup out-of-memory handler.",
        "Out of memory: Killed process 1234 (python) total-vm:1kB",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "OSError: [Errno 12] Cannot allocate memory",
    ],
)
def test_a_proof(line: str) -> None:
    assert out_of_memory_line(f"step 1\n{line}\nslurmstepd: error: *** JOB 76 ON n1 CANCELLED ***\n") == line


@pytest.mark.parametrize(
    "line",
    [
        "Killed",
        "srun: error: sim1: task 0: Killed",
        "loss 0.3, memory 12 GiB of 80 GiB",
        "room left: 3 GiB, memory limit 100 GiB",
        "slurmstepd: error: *** JOB 76 ON n1 CANCELLED AT 2026-11-21T17:08:31 DUE TO TIME LIMIT ***",
    ],
)
def test_no_proof(line: str) -> None:
    assert out_of_memory_line(f"step 1\n{line}\n") is None


def test_what_stands_before_a_requeue_is_of_another_time() -> None:
    proof = "slurmstepd: error: Detected 1 oom_kill event in StepId=9.batch."
    requeue = "slurmstepd-sim1: error: *** JOB 9 ON sim1 CANCELLED AT 2026-11-21T17:08:31 DUE TO JOB REQUEUE ***"
    assert out_of_memory_line(f"{proof}\n{requeue}\nstep 1\n") is None
    assert out_of_memory_line(f"{requeue}\nstep 1\n{proof}\n") == proof
