"""200 or 1,000 random histories of kills, requeues, full disks and clock jumps, in simulated time on the fake SLURM.

In each: no run is lost, none is doubled, no final state is wrong, and a resume submits what is missing, no more.
A hundred take some six seconds. A failing case prints its seed and its story; `play(seed, folder)` plays it again.
"""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.slurm.histories import SUBMITTING, History, play
from tests.tiers import THOROUGH

from touchline.core.errors import SubmissionUnknownError
from touchline.run.executors import Executor
from touchline.run.jobs import Job
from touchline.run.slurm import SlurmExecutor

CHUNKS, SEEDS = 10, 100 if THOROUGH else 20
PLANTED_SEEDS = 100
SHOWN = 60
MEMORY = Path("/dev/shm")
KILLED_AT: Counter[str] = Counter()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be: thousands of small files are written, and none must outlive a power cut."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="touchline-histories-") as name:
        yield Path(name)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_nothing_is_lost_or_doubled(chunk: int, folder: Path) -> None:
    """All four properties, at every submission, at every look, and at the end."""
    for seed in range(chunk * SEEDS, (chunk + 1) * SEEDS):
        history = play(seed, folder / str(seed))
        KILLED_AT.update(history.killed_at)
        assert not history.faults, "\n".join([f"seed {seed}: {history.faults}", *history.story[-SHOWN:]])
        shutil.rmtree(folder / str(seed))


def test_kills_hit_every_step_of_submitting() -> None:
    """Before, in and after every write and every command; counted over the histories above."""
    if sum(KILLED_AT.values()) < CHUNKS * SEEDS // 2:
        pytest.skip("counts what the histories above did: run the whole file in one process")
    assert {point for point in SUBMITTING if not KILLED_AT[point]} == set()


class TriesAgainAtOnce(SlurmExecutor):
    """An answer that is not clear is taken for a refusal, and sbatch is called again; no token is looked for."""

    def start(self, job: Job, token: str, gpus: tuple[str, ...], after: Sequence[str] = ()) -> str:
        try:
            return super().start(job, token, gpus, after)
        except SubmissionUnknownError:
            return super().start(job, token, gpus, after)


def tries_again_at_once(history: History, lock: int | None) -> Executor:
    executor = TriesAgainAtOnce(history.fake, history.root / "ledger.jsonl", clock=history.clock, lock=lock)
    executor._queries.find = lambda tokens, since_unix: {}
    return executor


def test_the_properties_fail_for_a_planted_fault(folder: Path) -> None:
    """They can fail: an executor that retries without a search."""
    for seed in range(PLANTED_SEEDS):
        history = play(seed, folder / str(seed), tries_again_at_once, first_only=True)
        if any(fault.startswith("doubled") for fault in history.faults):
            return
        shutil.rmtree(folder / str(seed))
    pytest.fail("no run was doubled")
