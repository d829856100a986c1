"""The stand-in for PBS's server signals the processes of its jobs, all of them and no others."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.pbs.fake import FakePbs, FakePbsJob

from touchline.run.processes import started


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is no job's, in a session of its own."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process
        process.kill()


def ended_job(server: FakePbs, folder: Path, text: str) -> FakePbsJob:
    """A job with this script, when it has ended."""
    (folder / "job.pbs").write_text(text)
    taken = server.run(["qsub", "job.pbs"], timeout_seconds=9, cwd=folder)
    job = server.jobs[taken.out.partition(".")[0]]
    while job.state != "F":
        time.sleep(0.05)
    return job


def test_a_process_with_the_number_of_an_ended_job_is_not_signalled(
    tmp_path: Path, other: subprocess.Popen[bytes]
) -> None:
    """The kernel gives a number again once its process has been waited for."""
    with FakePbs(tmp_path / "server") as server:
        job = ended_job(server, tmp_path, "true\n")
        assert job.process is not None
        job.process.pid = other.pid
        server.lose_node(str(job.number))
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(1)


def test_what_a_job_leaves_in_its_session_ends_with_it(tmp_path: Path) -> None:
    with FakePbs(tmp_path / "server") as server:
        job = ended_job(server, tmp_path, f"sleep 600 &\necho $! > '{tmp_path}/left'\nexit 3\n")
        assert job.exit_status == 3
        pid = int((tmp_path / "left").read_text())
        end = time.monotonic() + 10
        while started(pid) is not None:
            assert time.monotonic() < end
            time.sleep(0.02)
