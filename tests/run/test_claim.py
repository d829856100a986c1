"""The second lock: one of several attempts holds a folder, whatever the file system's locks are worth."""

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from touchline.core.status import HEARTBEAT_STALE_SECONDS, AttemptExit, AttemptStart
from touchline.run.claim_file import CLAIM, drop_claim, take_claim
from touchline.run.processes import identify
from touchline.run.statusfiles import write_exit, write_heartbeat, write_start

pytestmark = pytest.mark.planning


@pytest.fixture
def status(tmp_path: Path) -> Path:
    return tmp_path / "status"


def start(job_id: str = "1", *, restart: int = 0, host: str | None = None) -> AttemptStart:
    me = identify()
    return AttemptStart(
        job_id=job_id,
        restart=restart,
        token="",
        host=me.host if host is None else host,
        boot_id=me.boot_id,
        pid=me.pid,
        pid_started=me.started,
        time_unix=time.time(),
    )


def test_of_two_attempts_one_holds_the_folder(status: Path) -> None:
    """And lets it go again."""
    assert take_claim(status, start("1"))
    assert not take_claim(status, start("2"))
    drop_claim(status)
    assert take_claim(status, start("2"))


def test_the_same_job_takes_it_again_after_a_requeue(status: Path) -> None:
    """Its node died, and SLURM started it elsewhere under the same id."""
    assert take_claim(status, start("7", host="node1"))
    assert take_claim(status, start("7", restart=1, host="node2"))


def test_a_dead_process_of_this_machine_holds_nothing(status: Path) -> None:
    """A kill leaves the claim behind."""
    assert take_claim(status, replace(start("1"), pid_started=1.0))
    assert take_claim(status, start("2"))


def test_an_attempt_that_ended_holds_nothing(status: Path) -> None:
    """Its exit file is its last word, even where its node cannot be asked."""
    other = start("1", host="elsewhere")
    assert take_claim(status, other)
    assert not take_claim(status, start("2"))
    write_exit(status, AttemptExit(job_id="1", restart=0, code=0, reason="completed", time_unix=0.0))
    assert take_claim(status, start("2"))


def test_another_node_holds_it_as_long_as_its_heart_beats(status: Path) -> None:
    """Only the file system's own clock counts: the nodes' clocks may differ."""
    other = start("1", host="elsewhere")
    assert take_claim(status, other)
    write_start(status, other)
    write_heartbeat(status, other, now_unix=0.0)
    assert not take_claim(status, start("2"))
    old = time.time() - HEARTBEAT_STALE_SECONDS - 5
    for path in status.iterdir():
        os.utime(path, (old, old))
    assert take_claim(status, start("2"))
    assert json.loads((status / CLAIM).read_text())["job_id"] == "2"


def test_a_claim_that_was_cut_off_binds_until_it_is_old(status: Path) -> None:
    """Whoever writes it may be at it."""
    status.mkdir()
    (status / CLAIM).write_text('{"job_id": "1"')
    assert not take_claim(status, start("2"))
    os.utime(status / CLAIM, (1, 1))
    assert take_claim(status, start("2"))


def test_many_who_find_it_stale_at_once_give_one_holder(status: Path) -> None:
    """Taking over is a rename, which only one of them can do."""
    for _ in range(20):
        drop_claim(status)
        assert take_claim(status, replace(start("0"), pid_started=1.0))
        held: list[bool] = []
        barrier = threading.Barrier(8)

        def take(number: int, barrier: threading.Barrier = barrier, held: list[bool] = held) -> None:
            barrier.wait()
            held.append(take_claim(status, start(str(number))))

        threads = [threading.Thread(target=take, args=(number,)) for number in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert held.count(True) == 1
    assert [path.name for path in status.iterdir()] == [CLAIM]
